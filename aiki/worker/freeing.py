"""Freeing what a workflow's function held when it was left: then and there, while nothing durable can be asked for.

A function that waits is left by an exception, and the exception, its traceback, the frames and the run refer to each other.
Left to the garbage collector, their locals would stay for long, and their finalizers (a generator's `finally`) would run in
the middle of another run.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import weakref
from collections.abc import Iterable
from typing import Any, Final

from aiki.errors import NotDurable
from aiki.replay import Stop

SLACK_KIB: Final = 12 * 1024
"""How much a child may have grown before what is left of a run is looked for."""
_PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") // 1024


def clear_frames(errors: Iterable[BaseException | None]) -> None:
    """Clear all frames that these errors, their causes and contexts refer to, and cut them from their tracebacks."""
    left = [error for error in errors if error is not None]
    seen: set[int] = set()
    while left:
        error = left.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        left += [other for other in (error.__cause__, error.__context__) if other is not None]
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
        step = error.__traceback__
        error.__traceback__ = None
        while step is not None:
            try:
                step.tb_frame.clear()
            except RuntimeError:
                pass  # it is executing: one of ours, further up; or a generator that is suspended, which its owner closes
            step = step.tb_next


def silence_refusals() -> None:
    """Say nothing of finalizers that are refused something durable: they are each time that a function is left."""
    told = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stop | NotDurable):
            told(unraisable)

    sys.unraisablehook = hook


class Memory:
    """Has the memory of what has ended given back to the system, when it is worth the time."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._least = self.resident()

    def resident(self) -> int:
        """KiB of memory that this process holds."""
        return int(os.pread(self._file, 128, 0).split()[1]) * _PAGE_KIB

    def settle(self) -> None:
        """A run has ended. If this process has grown by more than `SLACK_KIB` since it was smallest, look for what is left."""
        now = self.resident()
        if now > self._least + SLACK_KIB:
            gc.collect()
            if self._trim is not None:
                self._trim(0)
            self._least = self.resident()
        elif now < self._least:
            self._least = now
