"""What a workflow's function gets first: `run`, the way to everything durable.

Each operation looks into the history first (`aiki.replay`). What is recorded there is returned; what is not is done and
reported, or waited for: then the function is left (`Suspended`), and called again when there is more.
"""

from __future__ import annotations

import copy
import datetime as dt
import logging
import random
import uuid
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, Protocol, TypeVar, overload

from aiki import codec, history, ids, tracing
from aiki.arguments import Arguments
from aiki.ceilings import FAN_OUT_BYTES
from aiki.classes import CLASSES, Classes, declared_beside
from aiki.closures import brought_along
from aiki.codec import Payload
from aiki.context import belongs_here, check_durable, in_own_code
from aiki.errors import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    NotDurable,
    PayloadError,
    RetryLater,
    SoftTimeLimitExceeded,
    StepFailed,
    TaskCancelled,
    TimeLimitExceeded,
    WorkflowCancelled,
    WorkflowChanged,
)
from aiki.failures import SOFT_LIMIT, arguments_of, make, step_error, work_done
from aiki.history import CANCELLED, COMPLETED, FAILED, TIMED_OUT, Arrival, Step, Wait, Waits
from aiki.model import NewRun
from aiki.options import Seconds, check_step_name, seconds
from aiki.replay import Changed, Left, Replay, Stop, Suspended, digest_of
from aiki.retry import NO_POLICY, RetryPolicy, Tries, asked_delay

if TYPE_CHECKING:
    from aiki.futures import Future
    from aiki.saga import Saga

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)

MET: Final = "error"
"""The choice how a run's error is met: true as `StepFailed`, for its class is not here; false as itself, as far as it can be.
In histories of former releases, which met each as `StepFailed` without a traceback, there is none."""
_UNCHANGING: Final = frozenset({str, int, float, bool, bytes, type(None)})
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step that is to be executed now.

    Limits are seconds, 0 for none; `retry_delay` is that after a hard limit, -1 for none.
    """

    step: Step
    attempt: int
    soft: float = 0.0
    hard: float = 0.0
    retry_delay: float = -1.0
    max_attempts: int = 1


@dataclass(frozen=True, slots=True)
class About:
    """What a dispatch says of the run."""

    run_id: str
    name: str
    version: str
    attempt: int
    reference_id: str | None = None
    tries: Tries = NO_POLICY
    options: Mapping[str, Any] = field(default_factory=dict)


class Host(Protocol):
    """The process that calls the function: its clock, its reports, its way to execute a step."""

    @property
    def cancel_requested(self) -> bool:
        """Whether the run is to be cancelled."""

    @property
    def pausing(self) -> bool:
        """Whether the run is to be given back and kept."""

    @property
    def leaving(self) -> bool:
        """Whether this process is to end."""

    @property
    def aborted(self) -> bool:
        """Whether what this process does is of no more use: the run was ended, or is executed elsewhere."""

    @property
    def max_payload(self) -> int:
        """The largest result, in bytes."""

    def operation(self) -> AbstractContextManager[None]:
        """Around each durable operation, so that nothing interrupts it. Raises what is to be raised in the function."""

    def now(self) -> int:
        """The server's time, microseconds since the Unix epoch; never goes back within a call of the function."""

    def report(self, steps: list[Step]) -> None:
        """Take over steps for the next report."""

    def confirm(self) -> bool:
        """Wait until all that was taken over is confirmed. False: that cannot be waited for, the process is to end."""

    def execute(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], call: StepCall) -> Any:
        """Call a step's function; raises what it raises."""

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        """An error's type, message and traceback as text."""

    def progress(self, fraction: float | None, message: str) -> None:
        """Show how far the run is."""


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
        self._take_limit = take_limit
        self._about = about
        self._arguments = arguments
        self._logger: logging.LoggerAdapter[logging.Logger] | None = None
        self._met: dict[int, tuple[bool, int] | None] = {}
        """How the errors of runs are met in this call of the function, by the ordinal of the step: whether as `StepFailed`, and
        the ordinal of that choice. None: as in former releases."""
        self.raised: tuple[BaseException, list[int]] | None = None
        """The last error that a step gave the function, and which steps: what `retry` goes on from."""

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
                return self._step(history.STEP, name, fn.fn, args, kwargs, text, fn.retry, _limits(fn))  # type: ignore[attr-defined]
            whole = self._with_closure(name, fn, arguments, args, kwargs, text)
            return self._step(history.STEP, name, fn, args, kwargs, whole, RetryPolicy.never(), plain=text)

    def _with_closure(
        self, name: str, fn: Any, arguments: Arguments, args: tuple[Any, ...], kwargs: Mapping[str, Any], text: str
    ) -> str:
        """The input of a step with what its function brings along. Histories of former releases have it without that."""
        try:
            beside = brought_along(fn, name, self._arguments.fn)
        except EncodeError:
            if self._replay.ordinal_of(history.STEP, name, digest_of(text)) is None:
                raise
            return text
        return arguments.canonical(args, kwargs, beside) if beside else text

    def call_task(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What calling a task inside the workflow does."""
        with self._operation():
            if task.kind == "workflow":
                return self._submit(task.plain, args, kwargs)._wait()
            text = task.arguments.canonical(args, kwargs)
            return self._step(history.STEP, task.name, task.fn, args, kwargs, text, task.retry, _limits(task))

    def undo(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a compensation of a saga."""
        with self._operation():
            arguments = task.arguments if hasattr(task, "arguments") else Arguments(_name_of(task), task)
            fn, policy = (task.fn, task.retry) if hasattr(task, "fn") else (task, RetryPolicy.never())
            name = task.name if hasattr(task, "arguments") else _name_of(task)
            return self._step(history.UNDO, name, fn, args, kwargs, arguments.canonical(args, kwargs), policy)

    def _step(
        self,
        kind: str,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        text: str,
        policy: RetryPolicy,
        limits: tuple[float, float] = (0.0, 0.0),
        plain: str | None = None,
    ) -> Any:
        """Look up, run, persist.

        :param text: the canonical input; `plain`: what it is in histories of former releases, if that may be something else.
        """
        digest = digest_of(text)
        step = self._replay.take(kind, name, digest)
        if step is None and plain is not None and plain != text:
            step = self._replay.take(kind, name, digest_of(plain))
        if step is None:
            self._give_way()
            step = self._replay.issue(kind, name, digest, i=text)
        known = declared_beside(fn)
        if step.done:
            return self._outcome(step, known)
        if kind != history.UNDO:  # what is being undone is undone, cancelled or not
            self._interrupt(step)
        self._await_retry(step)
        while True:
            step = self._execute(step, fn, args, kwargs, policy, limits, known)
            if step.done:
                return self._outcome(step, known)
            self._give_way()
            self._interrupt(step)
            if step.more["s"] > 0:
                self._suspend([Wait(history.RETRY, step.ordinal, step.ordinal, step.name, None, step.more["s"])])

    def _await_retry(self, step: Step) -> None:
        due = step.more.get("due")
        if due is not None and self._host.now() < due:
            self._suspend([Wait(history.RETRY, step.ordinal, step.ordinal, step.name, due)])

    def _execute(
        self,
        step: Step,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        policy: RetryPolicy,
        limits: tuple[float, float],
        known: Classes,
    ) -> Step:
        attempt = step.attempt + 1
        killed = policy.next_delay(TimeLimitExceeded(), attempt) if limits[1] else None
        if limits[1]:
            self._replay.put(step)  # should it be killed at the limit, its process can report no more than the ordinal
        self._persist()  # nothing may depend on what is not recorded
        began = self._host.now()
        error: BaseException | None = None
        call = StepCall(step, attempt, *limits, -1.0 if killed is None else killed, policy.max_attempts)
        try:
            value = self._host.execute(fn, *_own_copies(args, kwargs, known), call)
            payload = None if value is None else self._carried(value, step.name, known)
        except BaseException as raised:
            if isinstance(raised, Stop) or (isinstance(raised, TaskCancelled) and self._host.aborted):
                raise
            error = raised
        took = {"ms": max(0, self._host.now() - began) // 1000}
        if error is None:
            result = {} if payload is None else {"e": payload.encoding, "r": payload.text}
            done = step._replace(state=COMPLETED, attempt=attempt, more={**_issued(step), **took, **result})
        else:
            done = self._failed(step, error, attempt, policy, took)
        self._replay.put(done)
        self._persist()
        if error is not None and done.done:
            self._outcome(done)  # raises as in each replay
        return done

    def _carried(self, value: Any, name: str, known: Classes) -> Payload:
        """The result of a step. It raises where its work is done already; what it raises says so."""
        try:
            return codec.encode(value, limit=self._host.max_payload, what=f"result of {name}", known=known)
        except PayloadError as error:
            raise work_done(error) from None

    def _failed(self, step: Step, error: BaseException, attempt: int, policy: RetryPolicy, took: dict[str, Any]) -> Step:
        kind, message, trace = self._host.describe(error)
        if isinstance(error, PayloadError):
            delay = None
        elif isinstance(error, RetryLater):
            delay = asked_delay(error)
        else:
            delay = policy.next_delay(error, attempt)
        more = {**_issued(step), **took, "t": kind, "m": message, "tb": trace}
        if delay is not None:
            return step._replace(attempt=attempt, more={**more, "s": delay})
        arguments = arguments_of(error)
        if arguments is not None:
            more["a"] = arguments
        return step._replace(state=FAILED, attempt=attempt, more=more)

    def _outcome(self, step: Step, known: Classes = CLASSES) -> Any:
        """The recorded result of a step, or its error raised."""
        self._replay.look(step)
        if step.state == COMPLETED:
            payload = step.payload
            return None if payload is None else self._decoded(payload, f"result of {step.name}", step.ordinal, known)
        self._check_interrupted(step)
        raise self._noted(self._told(step), [step.ordinal])

    def _decoded(self, payload: Payload, what: str, ordinal: int, known: Classes = CLASSES) -> Any:
        """A recorded value. One that this code cannot read stops the run, and is not the function's business."""
        try:
            return codec.decode(payload, what=what, known=known)
        except DecodeError as error:
            self._unreadable(str(error), ordinal)

    def _unreadable(self, why: str, ordinal: int) -> NoReturn:
        text = (
            f"the code of {self.name} cannot read what its run has recorded as #{ordinal}: {why}. Nothing was started. "
            "Deploy code that reads it (a default for a field that is new, app.register_type for a class that has moved); the "
            "run goes on when a worker is started with the mended code, or when a retry is asked for"
        )
        self._replay.leave(Changed(WorkflowChanged(text)))

    def _told(self, step: Step) -> Exception:
        more = step.more
        kind, arguments = more.get("t", ""), more.get("a")
        if arguments is not None and kind != SOFT_LIMIT and make(kind, arguments) is None:
            self._unreadable(f"the exception {kind} that {step.name} raised cannot be made anew here", step.ordinal)
        return step_error(step.name, kind, more.get("m", ""), str(more.get("tb", "")), arguments, step.state)

    def _told_by(self, step: Step, end: Arrival) -> tuple[Exception, list[int]]:
        """The error of a run that the workflow has started, what a call of the same task would raise; and the steps of it."""
        kind, message, failure = end.error_type or end.outcome, end.error_message or "", end.failure
        met = None if failure is None else self._how_met(step, kind, failure.arguments)
        if failure is None or met is None:
            return StepFailed(step.name, kind, message, "", end.outcome), [step.ordinal]
        foreign, choice = met
        arguments = None if foreign else failure.arguments
        return step_error(step.name, kind, message, failure.traceback, arguments, end.outcome), [step.ordinal, choice]

    def _how_met(self, step: Step, kind: str, arguments: str | None) -> tuple[bool, int] | None:
        """See `_met`. Recorded where it is met first, so that each replay meets the same.

        An exception that the run's process can make anew may be of a class that is another application's, which executes the
        task. A worker of a former release that gets what it cannot read goes on and records nothing of it.
        """
        if step.ordinal in self._met:
            return self._met[step.ordinal]
        digest = digest_of(f"error of {step.ordinal}")
        choice = None
        while (found := self._replay.take(history.CHOICE, MET, digest)) is not None:
            choice = found
        here = arguments is None or kind == SOFT_LIMIT or make(kind, arguments) is not None
        if choice is None and self._replay.replaying:
            self._met[step.ordinal] = None
            return None
        foreign = not here if choice is None else choice.more.get("r") == "true"
        if not (foreign or here):
            if self._replay.replaying:  # it was met as itself
                self._unreadable(f"the exception {kind} that {step.name} raised cannot be made anew here", step.ordinal)
            foreign, choice = True, None
        if choice is None:
            issued = self._replay.issue(history.CHOICE, MET, digest)
            more = {"e": codec.JSON, "r": "true" if foreign else "false"}
            choice = self._replay.put(issued._replace(state=COMPLETED, more=more))
        self._met[step.ordinal] = foreign, choice.ordinal
        return foreign, choice.ordinal

    def _noted(self, error: E, ordinals: list[int]) -> E:
        """The error that is about to be raised in the function."""
        self.raised = (error, ordinals)
        return error

    # ------------------------------------------------------------ runs of their own
    def submit_task(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """What `submit` of a task or a workflow does."""
        with self._operation():
            return self._submit(bound, args, kwargs)

    def _submit(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        from aiki.futures import RunFuture  # it knows this module

        task = bound.task
        kind = history.CHILD if task.kind == "workflow" else history.TASK
        text = task.arguments.canonical(args, kwargs)
        digest = digest_of(text)
        self._check_submit_interrupted(kind, task.name, digest)
        step = self._replay.take(kind, task.name, digest)
        if step is None:
            self._give_way()
            self._limit_submit(kind, task.name, digest)
            child: NewRun = bound.new_child(args, kwargs, self._host.now())
            with tracing.producing("submit", task.name, [child]):
                more: dict[str, Any] = {"i": text, "c": ids.to_bytes(child.id).hex(), "run": child.to_wire()}
            if bound.abandon:
                more["ab"] = 1
            step = self._replay.issue(kind, task.name, digest, **more)
            self._interrupt(step)
            self._replay.put(step)
            if self._replay.held >= FAN_OUT_BYTES:
                self._host.report(self._replay.take_fresh())
        self._check_interrupted(step)
        return RunFuture(self, step, shared=bound.has_reference)

    def _check_submit_interrupted(self, kind: str, name: str, digest: str) -> None:
        """Raise the soft limit that was raised here instead of starting the run, if any."""
        if self._replay.interrupted:
            mark = digest_of(f"{kind} {name} {digest}")
            at, started = self._replay.ordinal_of(history.CHOICE, "submit", mark), self._replay.ordinal_of(kind, name, digest)
            if at is not None and (started is None or at < started):
                self._check_interrupted(self._replay.take(history.CHOICE, "submit", mark))

    def _limit_submit(self, kind: str, name: str, digest: str) -> None:
        """Raise a soft limit that is due before a run is started. It is a step of its own: a step that is to be a run, and
        never became one, could not be retried."""
        limit = None if self._cancel_due() else self._limit_due()
        if limit is not None:
            mark = digest_of(f"{kind} {name} {digest}")
            self._raise_limit(self._replay.issue(history.CHOICE, "submit", mark), limit)

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
        from aiki.futures import SleepFuture

        check_step_name(name)
        span = seconds("run.sleep", "duration", duration)
        if span is None:
            raise ConfigurationError(f"run.sleep({name!r}, None): say for how many seconds")
        return SleepFuture(self, self._open(history.SLEEP, name, s=span), span)

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
        from aiki.futures import EventFuture

        check_step_name(name)
        span = seconds("run.wait_event", "timeout", timeout)
        return EventFuture(self, self._open(history.EVENT, name), span, schema)

    def _open(self, kind: str, name: str, **more: Any) -> Step:
        """The recorded step, or a new one that is reported as issued."""
        step = self._replay.take(kind, name)
        if step is None:
            self._give_way()
            step = self._replay.issue(kind, name, **more)
            self._interrupt(step)
            self._replay.put(step)
        self._check_interrupted(step)
        return step

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
            step = self._replay.take(history.VALUE, name)
            if step is None:
                payload = codec.encode(make(), what=name)
                issued = self._replay.issue(history.VALUE, name)
                more = {"e": payload.encoding, "r": payload.text}
                step = self._replay.put(issued._replace(state=COMPLETED, more=more))
            return self._outcome(step)  # type: ignore[no-any-return]

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
        from aiki.saga import Saga

        return Saga(self)

    # ------------------------------------------------------------ inside
    def _operation(self) -> AbstractContextManager[None]:
        return _Operation(self, self._host, self._replay)

    def _give_way(self) -> None:
        """Before anything new: leave the function if the process or the run is to stop."""
        if self._host.leaving:
            self._replay.leave(Left())
        if self._host.pausing:
            self._replay.leave(Suspended(Waits(False, [])))

    def _interrupt(self, step: Step) -> None:
        """Raise a cancel or a soft limit that is due, each once, at this open step: recorded, for the replays."""
        if self._cancel_due():
            self._replay.cancel_delivered = True
            self._replay.put(step._replace(state=CANCELLED, more=_issued(step)))
            self._check_interrupted(step._replace(state=CANCELLED))
        limit = self._limit_due()
        if limit is not None:
            self._raise_limit(step, limit)

    def _limit_due(self) -> BaseException | None:
        return None if self._take_limit is None else self._take_limit()

    def _raise_limit(self, step: Step, limit: BaseException) -> NoReturn:
        kind, message, _ = self._host.describe(limit)
        told = {"t": kind, "m": message, "a": codec.encode(list(limit.args)).text}
        stopped = self._replay.put(step._replace(state=TIMED_OUT, more={**_issued(step), **told}))
        self._check_interrupted(stopped)
        raise AssertionError("a step that is stopped raises")

    def _interrupt_wait(self, what: str, digest: str) -> None:
        """Raise what is due at a wait for futures. It is a step of its own: what is waited for stays open, and may be waited
        for again."""
        if self._cancel_due():
            self._interrupt(self._replay.issue(history.CHOICE, what, digest))
        limit = self._limit_due()
        if limit is not None:
            self._raise_limit(self._replay.issue(history.CHOICE, what, digest), limit)

    def _cancel_due(self) -> bool:
        return self._host.cancel_requested and not self._replay.cancel_delivered

    def _check_interrupted(self, step: Step | None) -> None:
        """Raise again what was raised at this recorded step, if anything was."""
        if step is None:
            return
        if step.state == CANCELLED:
            raise WorkflowCancelled(f"the workflow was cancelled at {step.name}")
        if step.state == TIMED_OUT and "t" in step.more:
            self._replay.look(step)
            raise self._noted(SoftTimeLimitExceeded(str(step.more.get("m", ""))), [step.ordinal])

    def forget(self) -> BaseException | None:
        """The function has been left: let go of what refers to this run; gives the last error that a step gave it."""
        self._logger = None
        raised, self.raised = self.raised, None
        return None if raised is None else raised[0]

    def _persist(self) -> None:
        fresh = self._replay.take_fresh()
        if fresh:
            self._host.report(fresh)
        if not self._host.confirm():
            self._replay.leave(Left())

    def _suspend(self, waits: list[Wait], *, every: bool = False) -> NoReturn:
        raise self._left(waits, every=every)

    def _left(self, waits: list[Wait], *, every: bool = False) -> Suspended:
        """The function is left now; to be raised."""
        self._replay.stop = stop = Suspended(Waits(every, waits))
        return stop


class Continued(Stop):
    """The function goes on as new."""

    def __init__(self, payload: Payload) -> None:
        super().__init__("continued as new")
        self.payload = payload


class _Operation:
    """A durable operation: nothing interrupts it, none begins within it, and none once the function is being left."""

    __slots__ = ("_call", "_inner", "_replay", "_run")

    def __init__(self, run: WorkflowRun, host: Host, replay: Replay) -> None:
        self._run = run
        self._inner = host.operation()
        self._replay = replay

    def __enter__(self) -> None:
        self._call = check_durable(self._run)
        self._inner.__enter__()
        stop = self._replay.stop
        if stop is None:
            self._call.busy = True
            return
        self._call.refused()
        self._inner.__exit__(None, None, None)
        raise stop.with_traceback(None)  # or it would grow each time that it is caught

    def __exit__(self, *error: Any) -> None:
        self._call.busy = False
        self._inner.__exit__(*error)


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


def _issued(step: Step) -> dict[str, Any]:
    """Of what a step carries, that which was known when it was issued."""
    return {key: step.more[key] for key in ("i",) if key in step.more}


def _own_copies(args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Classes) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Arguments as a run of its own would get them: a step that changes what it is given changes nothing outside of it."""
    if all(type(item) in _UNCHANGING for item in (*args, *kwargs.values())):
        return args, kwargs
    try:
        payload = codec.encode([list(args), {**kwargs}], what="arguments", known=known)
        plain, named = codec.decode(payload, what="arguments", known=known)
    except PayloadError:
        return copy.deepcopy((args, kwargs))  # of a class that no definition names: this process has it
    return tuple(plain), named


def _limits(task: Any) -> tuple[float, float]:
    return task.soft_time_limit or 0.0, task.time_limit or 0.0


def _name_of(fn: Callable[..., Any]) -> str:
    return check_step_name(str(getattr(fn, "__qualname__", "")).replace("<locals>.", "") or repr(fn))
