"""The clock that decides: microseconds since the Unix epoch. Handed in wherever time matters, so that tests can set it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
SECOND = 1_000_000


def now_us() -> int:
    """The time now, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000
