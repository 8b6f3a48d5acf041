"""What code can see of the run that executes it: `current_run()`, and for tasks the workflow that they are called in."""

from __future__ import annotations

import gc
import logging
import math
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Final, NoReturn, Protocol

from aiki.errors import AikiError, NotDurable
from aiki.retry import NO_POLICY, Tries

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

    :ivar attempt: 1 for the first execution, and one more for each after it, whoever asked for that; inside a step of a
        workflow, the step's, which begins anew where an operator retries the workflow.
    :ivar name: the task's or workflow's name; inside a step, the step's.
    :ivar reference_id: what it was enqueued with, if anything.
    :ivar step: inside a step of a workflow, its ordinal; else None.
    :ivar kind: `task`, `workflow` or `step`.
    """

    __slots__ = ("_hex", "_logger", "_sink", "_tries", "attempt", "kind", "name", "reference_id", "step")

    def __init__(
        self,
        run_id: str,
        attempt: int,
        name: str,
        reference_id: str | None,
        sink: ProgressSink,
        kind: str = "task",
        tries: Tries | None = None,
    ) -> None:
        self._hex = run_id
        self._sink = sink
        self._tries = tries or NO_POLICY
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None
        self.attempt = attempt
        self.name = name
        self.reference_id = reference_id
        self.step: int | None = None
        self.kind = kind

    def for_step(self, ordinal: int, attempt: int, name: str, max_attempts: int = 1) -> CurrentRun:
        """What code inside that step of this run sees; for the worker."""
        tries = Tries(attempt, max_attempts)
        inner = CurrentRun(self._hex, attempt, name, self.reference_id, self._sink, "step", tries)
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
    def max_attempts(self) -> int:
        """How many attempts the retry policy allows, the first included; 1 without a policy. It is the policy of this run
        (`options(retry=...)`), or else of the task; inside a step of a workflow, that of the step."""
        return self._tries.of

    @property
    def is_last_attempt(self) -> bool:
        """Whether the retry policy allows no attempt after this one: if it raises, the run has failed (or the step).

        After an operator's retry the policy begins anew, and so does this; crashes of the process are not counted. A policy may
        give up earlier (`give_up_on`), and `RetryLater` always leads to another attempt.
        """
        return self._tries.last

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


_stand_in: ContextVar[CurrentRun | None] = ContextVar("aiki_stand_in_run", default=None)
"""What a task sees as its run where it is called as a plain function, as in its tests."""


def current_run() -> CurrentRun:
    """The run whose code calls this.

    In a task that is called as a plain function where no run is executed, as in its tests, it is a run that nobody has
    recorded: with an id of its own, in its first attempt, under the task's retry policy. Its progress goes nowhere.

    :raises NoCurrentRun: no run is being executed here: plain code, or a thread that the task started itself.
    """
    run = _current.get() or _stand_in.get()
    if run is None:
        raise NoCurrentRun(
            "current_run() was called outside of a run; it works in code that a worker executes (in threads of your own, "
            "take it before you start them). current_run_or_none() gives None instead"
        )
    return run


def current_run_or_none() -> CurrentRun | None:
    """The run whose code calls this, or None outside of any, also in a task that is called as a plain function."""
    return _current.get()


def called_directly(name: str, max_attempts: int) -> Token[CurrentRun | None] | None:
    """A task is called as a plain function: have it see a run if there is none; to be given to `return_from`."""
    if _current.get() is not None or _stand_in.get() is not None:
        return None
    return _stand_in.set(CurrentRun(uuid.uuid4().hex, 1, name, None, _nowhere, tries=Tries(1, max_attempts)))


def return_from(call: Token[CurrentRun | None] | None) -> None:
    """The function that was called directly has returned."""
    if call is not None:
        _stand_in.reset(call)


def _nowhere(_fraction: float | None, _message: str) -> None:
    """Where the progress of a run goes that nobody has recorded."""


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


MAX_REFUSALS: Final = 1000
"""How often a function that is to be left may ask for something durable before it counts as stuck."""


class Call:
    """One call of a workflow's function: this process makes one at a time, in one thread.

    :ivar in_step: code of a step runs.
    :ivar busy: a durable operation is under way.
    :ivar over: the function has been left; what it held is being freed.
    :param stuck: called once the function has asked `MAX_REFUSALS` times for something durable although it is to be left.
    """

    __slots__ = ("_refusals", "_strangers", "_stuck", "_threads", "busy", "in_step", "over", "run", "thread")

    def __init__(self, run: DurableRun, stuck: Callable[[], object] | None = None) -> None:
        self.run = run
        self.thread = threading.get_ident()
        self.in_step = self.busy = self.over = False
        self._stuck = stuck
        self._refusals = 0
        self._threads: list[threading.Thread] = []
        self._strangers: frozenset[int | None] = frozenset()
        self.step_ended()

    def end(self) -> None:
        """The function has been left: from now on everything durable is refused, and its run is no longer held."""
        self.over = True
        self.run = _NOBODY

    def refused(self) -> None:
        """Something durable was asked for although the function is to be left, or has been."""
        self._refusals += 1
        if self._refusals >= MAX_REFUSALS and self._stuck is not None:
            self._stuck()

    def step_ended(self) -> None:
        """Threads that a step has started, and that outlive it, are not the workflow's."""
        threads = threading.enumerate()
        if threads != self._threads:  # mostly they are the same as after the last step
            self._threads = threads
            self._strangers |= {thread.ident for thread in threads}

    def has_started(self, thread: int) -> bool:
        """Whether the workflow's own code may have started this thread, or have given it work."""
        return thread == self.thread or thread not in self._strangers or _in_pool()


class _Nobody:
    """Stands for the run once its function has been left."""

    def call_task(self, *_: Any) -> Any:
        _refuse_over()

    submit_task = call_task


_NOBODY: Final = _Nobody()
_here: Call | None = None
_collector: int | None = None
"""The thread in which the garbage collector runs."""


def workflow_here() -> DurableRun | None:
    """The workflow whose own code calls this; None outside of workflows and inside steps.

    :raises NotDurable: a workflow's code runs, but what is done here would not be recorded: it is another thread, or a
        finalizer that the garbage collector runs, which may be that of any object.
    """
    if _collector is not None:
        _refuse_collected()
    here = _here
    if here is None or here.in_step:
        return None
    if here.thread != threading.get_ident():
        raise NotDurable(
            "a task was called in another thread than the workflow's own: it would not be recorded. Submit it "
            "(task.submit(...)), or start the thread inside of a step"
        )
    return here.run


def check_durable(run: object) -> Call:
    """Refuse an operation of a workflow's run that would not be recorded in its place; gives the call that it is part of.

    :raises NotDurable: this is inside of a step, not the workflow's own thread, a finalizer that the garbage collector runs,
        inside of another operation, or the run is not the one whose function is being called.
    """
    if _collector is not None:
        _refuse_collected()
    here = _here
    if here is None:
        raise NotDurable(
            "a durable operation was asked for outside of the call of the workflow's function: use `run`, and what it has "
            "given, only while the function is called with it"
        )
    if here.thread != threading.get_ident():
        raise NotDurable(
            "a durable operation was asked for in another thread than the workflow's own: it would not be recorded"
        )
    if here.over:
        _refuse_over()
    if here.in_step:
        raise NotDurable(
            "a durable operation was asked for inside of a step: a step is recorded as a whole. Do it in the workflow's own "
            "code, before or after the step"
        )
    if here.run is not run:
        raise NotDurable(
            "a durable operation was asked for through an object of another call of a workflow's function, which is over: it "
            "would be recorded in the wrong history. Do not keep `run`, futures or sagas longer than the call"
        )
    if here.busy:
        raise NotDurable(
            "a durable operation was asked for while another one is under way (by a schema, a property or a finalizer): it "
            "would not be recorded in its place"
        )
    return here


def belongs_here(run: object) -> bool:
    """Whether the function that is being called now is this run's."""
    return _here is not None and _here.run is run


def in_own_code(run: object) -> bool:
    """Whether the code that calls this is the own code of this run's workflow: in its thread, outside of steps."""
    here = _here
    return here is not None and here.run is run and not here.in_step and here.thread == threading.get_ident()


def executing_workflow() -> bool:
    """Whether this process is in the call of a workflow's function: then `refuse_in_workflow` has something to look at."""
    return _here is not None


def refuse_in_workflow(what: str, instead: str) -> None:
    """Refuse what acts or reads outside of the history, where the workflow's own code asks for it.

    :param what: the call, as people write it; `instead`: what to write in workflows.
    :raises NotDurable: a workflow's own code calls this, or a thread that it may have started. Inside of a step all is allowed.
    """
    here = _here
    if here is None or here.in_step:
        return
    if not here.has_started(threading.get_ident()):
        return
    if here.over:
        here.refused()
    raise NotDurable(
        f"{what} was called in a workflow's own code: it is not recorded in the history, so it would be done again each time "
        f"that the function is called, or answer differently. {instead}, or do it inside of a step: a task, or "
        "run.step(name, fn)"
    )


def _refuse_collected() -> None:
    if _collector == threading.get_ident():
        raise NotDurable(
            "a finalizer that the garbage collector runs has called a task or asked for something durable: it may run at any "
            "time, in the middle of another run. Close generators and files where they are used (`with`, `contextlib.closing`)"
        )


def _refuse_over() -> NoReturn:
    if _here is not None:
        _here.refused()
    raise NotDurable("something durable was asked for after the workflow's function had been left: nothing is done there")


@contextmanager
def inside_workflow(run: DurableRun, stuck: Callable[[], object] | None = None) -> Iterator[Call]:
    """While a workflow's function runs, and while what it held is freed (`Call.end`)."""
    global _here
    _watch_collector()
    before, _here = _here, Call(run, stuck)
    del run  # this frame must not hold it longer than `Call.end` says
    try:
        yield _here
    finally:
        _here = before


@contextmanager
def inside_step(ordinal: int, attempt: int, name: str = "", max_attempts: int = 1) -> Iterator[None]:
    """While a step of the workflow runs: calls of tasks are plain calls, and `current_run()` is that of the step."""
    here = _here
    if here is not None:
        here.in_step = True
    run = _current.get()
    token = None if run is None else _current.set(run.for_step(ordinal, attempt, name or run.name, max_attempts))
    try:
        yield
    finally:
        if token is not None:
            _current.reset(token)
        if here is not None:
            here.step_ended()
            here.in_step = False


@contextmanager
def beside_workflow() -> Iterator[None]:
    """While hooks around a workflow's function run: as inside of a step, calls of tasks are plain calls."""
    here = _here
    if here is None:
        yield
        return
    before, here.in_step = here.in_step, True
    try:
        yield
    finally:
        here.step_ended()
        here.in_step = before


def _in_pool() -> bool:
    """Whether this is a thread of an executor: who has given it its work cannot be told, so it counts as the workflow's."""
    module = sys.modules.get("concurrent.futures.thread")
    return module is not None and threading.current_thread() in getattr(module, "_threads_queues", ())


def _watch_collector() -> None:
    if _on_collection not in gc.callbacks:
        gc.callbacks.append(_on_collection)


def _on_collection(phase: str, _info: dict[str, int]) -> None:
    global _collector
    _collector = threading.get_ident() if phase == "start" else None
