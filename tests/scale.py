"""How large tests are: small in CI, as large as in real life with AIKI_TEST_FULL=1."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

FULL = bool(os.environ.get("AIKI_TEST_FULL"))


def scaled(small: T, full: T) -> T:
    """`small`, or `full` where everything is asked for."""
    return full if FULL else small
