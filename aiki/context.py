"""What code can see of the run that executes it: `current_run()`, and for tasks the workflow that they are called in."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from aiki.errors import AikiError, NotDurable

ProgressSink = Callable[[float | None, str], None]

MAX_PROGRESS_MESSAGE = 500


class NoCurrentRun(AikiError, LookupError):
    """`current_run()` was called where no run is executed."""


class _RunLogger(logging.LoggerAdapter[logging.Logger]):
    """Begins each line with the run's id, and puts it into the record's `run_id` for formatters."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"run {extra.get('run_id')}: {msg}", kwargs


class CurrentRun:
    """The run whose code is executing now.

    :ivar attempt: 1 for the first execution; inside a step of a workflow, the step's.
    :ivar name: the task's or workflow's name; inside a step, the step's.
    :ivar reference_id: what it was enqueued with, if anything.
    :ivar step: inside a step of a workflow, its ordinal; else None.
    """

    __slots__ = ("_hex", "_logger", "_sink", "attempt", "name", "reference_id", "step")

    def __init__(self, run_id: str, attempt: int, name: str, reference_id: str | None, sink: ProgressSink) -> None:
        self._hex = run_id
        self._sink = sink
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None
        self.attempt = attempt
        self.name = name
        self.reference_id = reference_id
        self.step: int | None = None

    def for_step(self, ordinal: int, attempt: int, name: str) -> CurrentRun:
        """What code inside that step of this run sees; for the worker."""
        inner = CurrentRun(self._hex, attempt, name, self.reference_id, self._sink)
        inner.step = ordinal
        return inner

    @property
    def id(self) -> str:
        """The run's id, canonical UUID text."""
        h = self._hex.replace("-", "")
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    @property
    def key(self) -> str:
        """Names this piece of work, and is the same over all its attempts: an idempotency key for those that it calls.

        The run's id; inside a step of a workflow, which is one of several, the id and the step's ordinal.
        """
        return self.id if self.step is None else f"{self.id}:{self.step}"

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the task; its lines carry the run's id."""
        if self._logger is None:
            self._logger = _RunLogger(logging.getLogger(self.name), {"run_id": self.id, "attempt": self.attempt})
        return self._logger

    def progress(self, fraction: float | None, message: str = "") -> None:
        """Show how far the run is: `fraction` from 0 to 1, or None when that is not known. Cheap; sent about 4 times a second.

        :raises ValueError: the fraction is not from 0 to 1.
        """
        if fraction is not None:
            fraction = float(fraction)
            if not (math.isfinite(fraction) and 0 <= fraction <= 1):
                raise ValueError(f"progress({fraction!r}): the fraction must be from 0 to 1, or None")
        self._sink(fraction, str(message)[:MAX_PROGRESS_MESSAGE])

    def __repr__(self) -> str:
        return f"<CurrentRun {self.name} {self.id} attempt {self.attempt}>"


_current: ContextVar[CurrentRun | None] = ContextVar("aiki_current_run", default=None)


def current_run() -> CurrentRun:
    """The run whose code calls this.

    :raises NoCurrentRun: no run is being executed here: plain code, a test, or a thread that the task started itself.
    """
    run = _current.get()
    if run is None:
        raise NoCurrentRun(
            "current_run() was called outside of a run; it works in code that a worker executes (in threads of your own, "
            "take it before you start them). current_run_or_none() gives None instead"
        )
    return run


def current_run_or_none() -> CurrentRun | None:
    """The run whose code calls this, or None outside of any."""
    return _current.get()


def set_current_run(run: CurrentRun | None) -> None:
    """Set the current run of this context; for the worker."""
    _current.set(run)


# ---------------------------------------------------------------- workflows
class DurableRun(Protocol):
    """What a task that is called inside a workflow asks of it (`aiki.WorkflowRun`)."""

    def call_task(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a task as a durable step, or a workflow as a child, and return its result."""

    def submit_task(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Start a run of its own; gives a future."""


class _Here:
    """The workflow that this process is executing: one at a time, in one thread."""

    __slots__ = ("in_step", "run", "thread")

    def __init__(self, run: DurableRun) -> None:
        self.run = run
        self.thread = threading.get_ident()
        self.in_step = False


_here: _Here | None = None


def workflow_here() -> DurableRun | None:
    """The workflow whose own code calls this; None outside of workflows and inside steps.

    :raises NotDurable: a workflow's code runs, but not in this thread: nothing done here would be recorded.
    """
    here = _here
    if here is None or here.in_step:
        return None
    if here.thread != threading.get_ident():
        raise NotDurable(
            "a task was called in another thread than the workflow's own: it would not be recorded. Submit it "
            "(task.submit(...)), or start the thread inside of a step"
        )
    return here.run


def check_durable() -> None:
    """Refuse an operation of a workflow that would not be recorded in its place.

    :raises NotDurable: this is inside of a step, or not the workflow's own thread.
    """
    here = _here
    if here is None:
        return
    if here.thread != threading.get_ident():
        raise NotDurable(
            "a durable operation was asked for in another thread than the workflow's own: it would not be recorded"
        )
    if here.in_step:
        raise NotDurable(
            "a durable operation was asked for inside of a step: a step is recorded as a whole. Do it in the workflow's own "
            "code, before or after the step"
        )


@contextmanager
def inside_workflow(run: DurableRun) -> Iterator[None]:
    """While a workflow's function runs."""
    global _here
    before, _here = _here, _Here(run)
    try:
        yield
    finally:
        _here = before


@contextmanager
def inside_step(ordinal: int, attempt: int, name: str = "") -> Iterator[None]:
    """While a step of the workflow runs: calls of tasks are plain calls, and `current_run()` is that of the step."""
    here = _here
    if here is not None:
        here.in_step = True
    run = _current.get()
    token = None if run is None else _current.set(run.for_step(ordinal, attempt, name or run.name))
    try:
        yield
    finally:
        if token is not None:
            _current.reset(token)
        if here is not None:
            here.in_step = False
