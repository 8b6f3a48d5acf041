"""Telling a task's own failure from what the end of its worker has done to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

_BY_SIGNAL: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
_CODES: Final = frozenset(code for number in _BY_SIGNAL for code in (-number, 128 + number))
"""How a program ended that one of these signals has stopped: told by Python, or by a shell."""


def fell_with_the_worker(error: BaseException) -> bool:
    """Whether a task failed because a process that it had started was stopped by a signal. Asked only while the worker drains:
    service managers send their signal to all processes of a unit, whosever they are."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    pools = sys.modules.get("concurrent.futures.process")  # most tasks need none
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if pools is not None and isinstance(one, pools.BrokenProcessPool):
            return True
        if isinstance(one, subprocess.CalledProcessError) and one.returncode in _CODES:
            return True
        left += [one.__cause__, one.__context__]
    return False
