"""What a workflow's function gets first: `run`, the way to everything durable.

Each operation looks into the history first (`aiki.replay`). What is recorded there is returned; what is not is done and
reported, or waited for: then the function is left (`Suspended`), and called again when there is more.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Final, NoReturn, ParamSpec, TypeVar, overload

from aiki import history, ids
from aiki.arguments import Arguments
from aiki.codec import Payload
from aiki.context import belongs_here, in_own_code
from aiki.errors import ConfigurationError, NotDurable
from aiki.futures import EventFuture, Future, RunFuture, SleepFuture
from aiki.options import Seconds, check_step_name, seconds
from aiki.replay import Replay, Stop
from aiki.retry import RetryPolicy
from aiki.saga import Saga
from aiki.step_engine import StepEngine
from aiki.workflow_host import About, Host

P = ParamSpec("P")
R = TypeVar("R")

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class WorkflowRun:
    """A workflow's run, seen from its function.

    Everything durable is done through it, through tasks called inside the function, or through their `submit`. Beside these
    the function must be deterministic: it is called again from the start, with the recorded results, whenever it goes on.
    """

    def __init__(
        self,
        host: Host,
        replay: Replay,
        about: About,
        arguments: Arguments,
        take_limit: Callable[[], BaseException | None] | None = None,
    ) -> None:
        """
        :param take_limit: gives the error of the soft limit of this call of the function, once, when that is over.
        """
        self._host = host
        self._replay = replay
        self._engine = StepEngine(host, replay, about.name, arguments.fn, take_limit)
        self._about = about
        self._arguments = arguments
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None

    # ------------------------------------------------------------ what it is
    @property
    def id(self) -> str:
        """The run's id, canonical UUID text."""
        return ids.to_text(bytes.fromhex(self._about.run_id))

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._about.name

    @property
    def version(self) -> str:
        """The version of the workflow that the run is pinned to."""
        return self._about.version

    @property
    def attempt(self) -> int:
        """1 at first; rises with each retry of the run, and each death of its process. Recorded where the workflow's code asks
        for it: in each replay it is what it was then."""
        if in_own_code(self):
            return self._value("attempt", lambda: self._about.attempt)
        return self._about.attempt

    @property
    def max_attempts(self) -> int:
        """How many attempts the workflow's own retry policy allows. Recorded where the workflow's code asks for it."""
        if in_own_code(self):
            return self._value("max_attempts", lambda: self._about.tries.of)
        return self._about.tries.of

    @property
    def is_last_attempt(self) -> bool:
        """Whether that policy allows no attempt after this one; it begins anew with an operator's retry. Recorded where the
        workflow's code asks for it: in each replay it is what it was then."""
        if in_own_code(self):
            return self._value("is_last_attempt", lambda: self._about.tries.last)
        return self._about.tries.last

    @property
    def reference_id(self) -> str | None:
        """What it was enqueued with, if anything."""
        return self._about.reference_id

    @property
    def replaying(self) -> bool:
        """Whether what is done now was done before: recorded steps are still ahead."""
        return self._replay.replaying

    @property
    def history_size(self) -> tuple[int, int]:
        """Steps and bytes of history that the code has come by so far; the same in each replay."""
        return self._replay.looked_at

    @property
    def history_nearly_full(self) -> bool:
        """Whether four fifths of the history's limit are used: time to `continue_as_new`."""
        return self._replay.nearly_full

    @property
    def raised(self) -> tuple[BaseException, list[int]] | None:
        """The last error that a step gave the function, and the ordinals of the steps: `retry` goes on from these."""
        return self._engine.raised

    @property
    def aborted(self) -> bool:
        """Whether nothing that is done now counts any more: the run was ended, or is executed elsewhere."""
        return self._host.aborted

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger named after the workflow that is silent while recorded steps are replayed, so that each line comes once."""
        if self._logger is None:
            self._logger = _Quiet(logging.getLogger(self.name), self)
        return self._logger

    def progress(self, fraction: float | None, message: str = "") -> None:
        """Show how far the run is: from 0 to 1, or None."""
        if not belongs_here(self):
            raise NotDurable("run.progress() was called after the function had been left, or in another run: nothing is shown")
        if not self.replaying:
            self._host.progress(None if fraction is None else float(fraction), str(message))

    def __repr__(self) -> str:
        return f"<WorkflowRun {self.name}@{self.version} {self.id}>"

    # ------------------------------------------------------------ steps
    @overload
    def step(self, name: str, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def step(self, name: str, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def step(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function as a durable step: once its result is recorded, it is never called again.

        A task as a step has the name that is given here, and its own retries and limits.
        """
        check_step_name(name)
        if getattr(fn, "kind", "") == "workflow":
            raise ConfigurationError(f"run.step({name!r}): a workflow is a run of its own; call it, or submit it")
        with self._operation():
            arguments = Arguments(name, fn)
            text = arguments.canonical(args, kwargs)
            if getattr(fn, "kind", "") == "task":
                return self._engine.step(history.STEP, name, fn.fn, args, kwargs, text, fn.retry, _limits(fn))  # type: ignore[attr-defined]
            whole = self._engine.with_closure(name, fn, arguments, args, kwargs, text)
            return self._engine.step(history.STEP, name, fn, args, kwargs, whole, RetryPolicy.never(), plain=text)

    def call_task(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What calling a task inside the workflow does."""
        with self._operation():
            if task.kind == "workflow":
                return self._submit(task.plain, args, kwargs)._wait()
            text = task.arguments.canonical(args, kwargs)
            return self._engine.step(history.STEP, task.name, task.fn, args, kwargs, text, task.retry, _limits(task))

    def undo(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a compensation of a saga."""
        with self._operation():
            arguments = task.arguments if hasattr(task, "arguments") else Arguments(_name_of(task), task)
            fn, policy = (task.fn, task.retry) if hasattr(task, "fn") else (task, RetryPolicy.never())
            name = task.name if hasattr(task, "arguments") else _name_of(task)
            return self._engine.step(history.UNDO, name, fn, args, kwargs, arguments.canonical(args, kwargs), policy)

    # ------------------------------------------------------------ runs of their own
    def submit_task(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """What `submit` of a task or a workflow does."""
        with self._operation():
            return self._submit(bound, args, kwargs)

    def _submit(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        return RunFuture(self, self._engine, self._engine.submit(bound, args, kwargs), shared=bound.has_reference)

    # ------------------------------------------------------------ waiting
    def sleep(self, name: str, duration: Seconds) -> bool:
        """Sleep for seconds or a timedelta, years too, holding nothing. Whether it was woken early (`handle.wake()`).

        When the code says another duration while it sleeps, the new one counts, from when it began to sleep.
        """
        with self._operation():
            return bool(self._timer(name, duration)._wait())

    def timer(self, name: str, duration: Seconds) -> Future[bool]:
        """A sleep as a future, for `first` and `gather`."""
        with self._operation():
            return self._timer(name, duration)

    def _timer(self, name: str, duration: Seconds) -> Future[bool]:
        check_step_name(name)
        span = seconds("run.sleep", "duration", duration)
        if span is None:
            raise ConfigurationError(f"run.sleep({name!r}, None): say for how many seconds")
        return SleepFuture(self, self._engine, self._engine.open(history.SLEEP, name, s=span), span)

    def wait_event(self, name: str, *, timeout: Seconds | None = None, schema: Any = None) -> Any:
        """Wait for an event that somebody sends (`handle.send_event(name, data)`), and return its data.

        An event sent before is waiting already; each name has its own queue.

        :param timeout: seconds or a timedelta after which `EventTimeout` is raised.
        :param schema: a marshmallow schema, or a callable that returns the data as they are to be used and raises `ValueError`
            for what is wrong. An event that does not fit is recorded as refused, and the wait goes on.
        :raises EventTimeout: it was not sent in time.
        """
        with self._operation():
            return self._event(name, timeout, schema)._wait()

    def event(self, name: str, *, timeout: Seconds | None = None, schema: Any = None) -> Future[Any]:
        """A wait for an event as a future, for `first` and `gather`."""
        with self._operation():
            return self._event(name, timeout, schema)

    def _event(self, name: str, timeout: Seconds | None, schema: Any) -> Future[Any]:
        check_step_name(name)
        span = seconds("run.wait_event", "timeout", timeout)
        return EventFuture(self, self._engine, self._engine.open(history.EVENT, name), span, schema)

    # ------------------------------------------------------------ recorded values
    def now(self) -> dt.datetime:
        """The time by the server's clock (UTC), the same in each replay."""
        return self._value("now", lambda: _EPOCH + dt.timedelta(microseconds=self._host.now()))

    def uuid4(self) -> uuid.UUID:
        """A random UUID, the same in each replay."""
        return self._value("uuid4", uuid.uuid4)

    def random(self) -> float:
        """A random number from 0 to below 1, the same in each replay. Not for secrets."""
        return self._value("random", random.random)

    def _value(self, name: str, make: Callable[[], R]) -> R:
        with self._operation():
            return self._engine.value(name, make)

    def patched(self, name: str) -> bool:
        """Whether to take the new way of a deliberate change: `if run.patched("notify-first"): …`.

        True in new runs and where a run has no history yet; False where it went on the old way before the change.
        """
        check_step_name(name)
        with self._operation():
            return self._replay.patched(name)

    # ------------------------------------------------------------ the end of a function call
    def continue_as_new(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Go on under the same run with new arguments and an empty history: for loops without an end."""
        with self._operation():
            payload = self._arguments.encode(args, kwargs, limit=self._host.max_payload, compress_above=0)
            self._replay.leave(Continued(payload))

    def saga(self) -> Saga:
        """A block whose compensations are run, in reverse and durably, if it is left by an error or a cancel."""
        return Saga(self)

    # ------------------------------------------------------------ inside
    def _operation(self) -> AbstractContextManager[None]:
        return self._engine.operation(self)

    def forget(self) -> BaseException | None:
        """The function has been left: let go of what refers to this run; gives the last error that a step gave it."""
        self._logger = None
        raised, self._engine.raised = self._engine.raised, None
        return None if raised is None else raised[0]


class Continued(Stop):
    """The function goes on as new."""

    def __init__(self, payload: Payload) -> None:
        super().__init__("continued as new")
        self.payload = payload


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """Says nothing while recorded steps are replayed."""

    def __init__(self, logger: logging.Logger, run: WorkflowRun) -> None:
        super().__init__(logger, {"run_id": run.id, "attempt": run._about.attempt})
        self._run = run

    def isEnabledFor(self, level: int) -> bool:
        """Never while replaying."""
        return not self._run.replaying and super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        """Begins each line with the run's id."""
        extra = self.extra or {}
        kwargs["extra"] = {**extra, **(kwargs.get("extra") or {})}
        return f"run {extra.get('run_id')}: {msg}", kwargs


def _limits(task: Any) -> tuple[float, float]:
    return task.soft_time_limit or 0.0, task.time_limit or 0.0


def _name_of(fn: Callable[..., Any]) -> str:
    return check_step_name(str(getattr(fn, "__qualname__", "")).replace("<locals>.", "") or repr(fn))
