"""Interrupting user code: the one place where a signal turns into an exception, and only while user code runs.

The supervisor writes whom it wants to interrupt into the slot (entry index and reason), then sends SIGUSR1. The handler
compares the index with the entry being executed, so that an interrupt never hits another task, and raises only while the
gate is open. A cancel is raised once an execution, a soft limit again after `AGAIN_SECONDS`; so at most two exceptions can
arrive beside the task's own within a moment, and three nested `except` (see `Executor`) hold them all, wherever between two
bytecodes they come.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what `signal` wraps
import asyncio
import signal
from types import FrameType
from typing import Any, Final

from aiki.errors import SoftTimeLimitExceeded, TaskCancelled
from aiki.worker.slots import Slot

AGAIN_SECONDS: Final = 10.0
"""A task that runs on after its soft limit was raised in it meets it again after so long."""
SOFT: Final = 1
CANCEL: Final = 2


class Gate:
    """Open while user code runs. Afterwards `raised` has the interrupts that were delivered (bits `SOFT`, `CANCEL`)."""

    __slots__ = ("_loop", "_slot", "_soft", "_task", "index", "open", "raised", "soft_limit", "softened")

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self.index = -1
        self.open = False
        self._soft = True
        self.raised = 0
        self.soft_limit = 0.0
        self.softened = 0
        """How often the soft limit of this entry was raised."""

    def install(self) -> None:
        """Handle SIGUSR1 in this process from now on."""
        signal.signal(signal.SIGUSR1, self._on_signal)

    def installed(self) -> bool:
        """Whether the handler is still there: user code can replace it."""
        # Bound methods are made anew at each access, so equality and not identity.
        # The wrapper would first look whether the handler is a member of an enum, which takes longer than all else here.
        return bool(_signal.getsignal(signal.SIGUSR1) == self._on_signal)

    def arm(self, index: int, soft_limit: float) -> None:
        """Entry `index` is executed next."""
        self.index = index
        self.raised = self.softened = 0
        self.soft_limit = soft_limit

    def enter(self) -> None:
        """Open for sync code; raises at once if an interrupt came before. A workflow's soft limit is raised in one step."""
        self._soft = not self.raised & SOFT
        self.open = True
        self.check()

    def enter_durable(self) -> None:
        """Open for a workflow's own code, between its steps. A soft limit is not raised there but at its next durable point,
        where that is recorded (`take_soft_limit`): a replay could not raise it at the same place."""
        self._soft = False
        self.open = True
        self.check()

    def _soft_limit_due(self) -> bool:
        return self._slot.softened == self.index and self._slot.softened_times > self.softened

    def take_soft_limit(self) -> SoftTimeLimitExceeded | None:
        """The error of a soft limit that has passed and was not raised; the caller raises it. Given once: compensations, for
        example, take their time."""
        if self.raised & SOFT or not self._soft_limit_due():
            return None
        return self._take()

    def _take(self) -> SoftTimeLimitExceeded:
        self.raised |= SOFT
        self.softened = self._slot.softened_times
        return self.soft_error()

    def enter_async(self) -> None:
        """Open for the current asyncio task, which is cancelled instead of being raised into."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._soft = not self.raised & SOFT
        self.open = True
        self.check()

    def leave(self) -> None:
        """Close."""
        self.open = False
        self._task = self._loop = None

    def check(self) -> None:
        """Deliver an interrupt that is due and was not delivered yet."""
        index, _ = self._slot.cancelled
        if index == self.index and not self.raised & CANCEL:
            self.raised |= CANCEL
            self._deliver(TaskCancelled("the run was cancelled"))
        elif self._soft and self._soft_limit_due():
            self._deliver(self._take())

    def soft_error(self) -> SoftTimeLimitExceeded:
        """The error of a soft limit."""
        return SoftTimeLimitExceeded(f"the task ran longer than its soft time limit of {self.soft_limit:g} s")

    def _deliver(self, error: BaseException) -> None:
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            loop.call_soon_threadsafe(task.cancel)
            return
        raise error

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self.open:
            self.check()
