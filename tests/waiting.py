"""Waiting for a condition with a deadline: the only way in which tests wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Ask `condition` until it answers with something true, and return that; fail after `timeout` seconds.

    `what` says in the failure what was waited for.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            name = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"waited {timeout:g} s in vain for {name}; the last answer was {answer!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
