"""Ends that are not a task's own: what the end of its worker does to it, and copies of this process that it has forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Final, NoReturn

from aiki.worker.describe import describe

_BY_SIGNAL: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
_CODES: Final = frozenset(code for number in _BY_SIGNAL for code in (-number, 128 + number))
"""The exit codes of a program that one of these signals has stopped, as Python or as a shell gives them."""


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


def end_forked_copy(error: BaseException | None) -> NoReturn:
    """User code forked, and the copy came back here: it must not report, nor touch the broker's connection."""
    code = 0
    try:
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            code = 1
            sys.stderr.write(describe(error).traceback)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)
