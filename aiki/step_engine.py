"""What durable operations of a workflow's run are made of: each looks into the history, and does and reports what is new.

`aiki.workflow_run` is what users call; futures and sagas use the same engine. Everything here happens inside of an operation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, NoReturn, TypeVar

from aiki import codec, history, ids, tracing
from aiki.arguments import Arguments
from aiki.ceilings import FAN_OUT_BYTES
from aiki.classes import CLASSES, Classes, declared_beside
from aiki.closures import brought_along
from aiki.codec import Payload
from aiki.context import check_durable
from aiki.errors import (
    DecodeError,
    EncodeError,
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
from aiki.replay import Changed, Left, Replay, Stop, Suspended, digest_of
from aiki.retry import RetryPolicy, asked_delay
from aiki.workflow_host import Host, StepCall

R = TypeVar("R")
E = TypeVar("E", bound=BaseException)

MET: Final = "error"
"""The choice how a run's error is met: true as `StepFailed`, for its class is not here; false as itself, as far as it can be.
In histories of former releases, which met each as `StepFailed` without a traceback, there is none."""
_UNCHANGING: Final = frozenset({str, int, float, bool, bytes, type(None)})


class StepEngine:
    """The steps of one call of a workflow's function.

    :param name: the workflow's name; `fn`: its function.
    :param take_limit: gives the error of the soft limit of this call of the function, once, when that is over.
    :ivar raised: the last error that a step gave the function, and which steps: what `retry` goes on from.
    """

    def __init__(
        self,
        host: Host,
        replay: Replay,
        name: str,
        fn: Callable[..., Any],
        take_limit: Callable[[], BaseException | None] | None = None,
    ) -> None:
        self.host = host
        self.replay = replay
        self.raised: tuple[BaseException, list[int]] | None = None
        self._name = name
        self._fn = fn
        self._take_limit = take_limit
        self._met: dict[int, tuple[bool, int] | None] = {}
        """How the errors of runs are met in this call of the function, by the ordinal of the step: whether as `StepFailed`, and
        the ordinal of that choice. None: as in former releases."""

    def operation(self, run: object) -> AbstractContextManager[None]:
        """Around each durable operation of this run.

        :raises NotDurable: when it is entered, if it would not be recorded in its place.
        """
        return _Operation(run, self.host, self.replay)

    # ------------------------------------------------------------ steps
    def with_closure(
        self, name: str, fn: Any, arguments: Arguments, args: tuple[Any, ...], kwargs: Mapping[str, Any], text: str
    ) -> str:
        """The input of a step with what its function brings along. Histories of former releases have it without that."""
        try:
            beside = brought_along(fn, name, self._fn)
        except EncodeError:
            if self.replay.ordinal_of(history.STEP, name, digest_of(text)) is None:
                raise
            return text
        return arguments.canonical(args, kwargs, beside) if beside else text

    def step(
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
        step = self.replay.take(kind, name, digest)
        if step is None and plain is not None and plain != text:
            step = self.replay.take(kind, name, digest_of(plain))
        if step is None:
            self.give_way()
            step = self.replay.issue(kind, name, digest, i=text)
        known = declared_beside(fn)
        if step.done:
            return self.outcome(step, known)
        if kind != history.UNDO:  # what is being undone is undone, cancelled or not
            self.interrupt(step)
        self._await_retry(step)
        while True:
            step = self._execute(step, fn, args, kwargs, policy, limits, known)
            if step.done:
                return self.outcome(step, known)
            self.give_way()
            self.interrupt(step)
            if step.more["s"] > 0:
                self.suspend([Wait(history.RETRY, step.ordinal, step.ordinal, step.name, None, step.more["s"])])

    def _await_retry(self, step: Step) -> None:
        due = step.more.get("due")
        if due is not None and self.host.now() < due:
            self.suspend([Wait(history.RETRY, step.ordinal, step.ordinal, step.name, due)])

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
            self.replay.put(step)  # should it be killed at the limit, its process can report no more than the ordinal
        self._persist()  # nothing may depend on what is not recorded
        began = self.host.now()
        error: BaseException | None = None
        call = StepCall(step, attempt, *limits, -1.0 if killed is None else killed, policy.max_attempts)
        try:
            value = self.host.execute(fn, *_own_copies(args, kwargs, known), call)
            payload = None if value is None else self._carried(value, step.name, known)
        except BaseException as raised:
            if isinstance(raised, Stop) or (isinstance(raised, TaskCancelled) and self.host.aborted):
                raise
            error = raised
        took = {"ms": max(0, self.host.now() - began) // 1000}
        if error is None:
            result = {} if payload is None else {"e": payload.encoding, "r": payload.text}
            done = step._replace(state=COMPLETED, attempt=attempt, more={**_issued(step), **took, **result})
        else:
            done = self._failed(step, error, attempt, policy, took)
        self.replay.put(done)
        self._persist()
        if error is not None and done.done:
            self.outcome(done)  # raises as in each replay
        return done

    def _carried(self, value: Any, name: str, known: Classes) -> Payload:
        """The result of a step. It raises where its work is done already; what it raises says so."""
        try:
            return codec.encode(value, limit=self.host.max_payload, what=f"result of {name}", known=known)
        except PayloadError as error:
            raise work_done(error) from None

    def _failed(self, step: Step, error: BaseException, attempt: int, policy: RetryPolicy, took: dict[str, Any]) -> Step:
        kind, message, trace = self.host.describe(error)
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

    def outcome(self, step: Step, known: Classes = CLASSES) -> Any:
        """The recorded result of a step, or its error raised."""
        self.replay.look(step)
        if step.state == COMPLETED:
            payload = step.payload
            return None if payload is None else self.decoded(payload, f"result of {step.name}", step.ordinal, known)
        self.check_interrupted(step)
        raise self.noted(self._error_of_step(step), [step.ordinal])

    def decoded(self, payload: Payload, what: str, ordinal: int, known: Classes = CLASSES) -> Any:
        """A recorded value. One that this code cannot read stops the run, and is not the function's business."""
        try:
            return codec.decode(payload, what=what, known=known)
        except DecodeError as error:
            self._unreadable(str(error), ordinal)

    def _unreadable(self, why: str, ordinal: int) -> NoReturn:
        text = (
            f"the code of {self._name} cannot read what its run has recorded as #{ordinal}: {why}. Nothing was started. "
            "Deploy code that reads it (a default for a field that is new, app.register_type for a class that has moved); the "
            "run goes on when a worker is started with the mended code, or when a retry is asked for"
        )
        self.replay.leave(Changed(WorkflowChanged(text)))

    def _error_of_step(self, step: Step) -> Exception:
        more = step.more
        kind, arguments = more.get("t", ""), more.get("a")
        if arguments is not None and kind != SOFT_LIMIT and make(kind, arguments) is None:
            self._unreadable(f"the exception {kind} that {step.name} raised cannot be made anew here", step.ordinal)
        return step_error(step.name, kind, more.get("m", ""), str(more.get("tb", "")), arguments, step.state)

    def error_of_run(self, step: Step, end: Arrival) -> tuple[Exception, list[int]]:
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
        while (found := self.replay.take(history.CHOICE, MET, digest)) is not None:
            choice = found
        here = arguments is None or kind == SOFT_LIMIT or make(kind, arguments) is not None
        if choice is None and self.replay.replaying:
            self._met[step.ordinal] = None
            return None
        foreign = not here if choice is None else choice.more.get("r") == "true"
        if not (foreign or here):
            if self.replay.replaying:  # it was met as itself
                self._unreadable(f"the exception {kind} that {step.name} raised cannot be made anew here", step.ordinal)
            foreign, choice = True, None
        if choice is None:
            issued = self.replay.issue(history.CHOICE, MET, digest)
            more = {"e": codec.JSON, "r": "true" if foreign else "false"}
            choice = self.replay.put(issued._replace(state=COMPLETED, more=more))
        self._met[step.ordinal] = foreign, choice.ordinal
        return foreign, choice.ordinal

    def noted(self, error: E, ordinals: list[int]) -> E:
        """The error that is about to be raised in the function."""
        self.raised = (error, ordinals)
        return error

    # ------------------------------------------------------------ runs of their own
    def submit(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step:
        """The step of a run that the workflow starts: recorded already, or new."""
        task = bound.task
        kind = history.CHILD if task.kind == "workflow" else history.TASK
        text = task.arguments.canonical(args, kwargs)
        digest = digest_of(text)
        self._check_submit_interrupted(kind, task.name, digest)
        step = self.replay.take(kind, task.name, digest)
        if step is None:
            self.give_way()
            self._limit_submit(kind, task.name, digest)
            child: NewRun = bound.new_child(args, kwargs, self.host.now())
            with tracing.producing("submit", task.name, [child]):
                more: dict[str, Any] = {"i": text, "c": ids.to_bytes(child.id).hex(), "run": child.to_wire()}
            if bound.abandon:
                more["ab"] = 1
            step = self.replay.issue(kind, task.name, digest, **more)
            self.interrupt(step)
            self.replay.put(step)
            if self.replay.held >= FAN_OUT_BYTES:
                self.host.report(self.replay.take_fresh())
        self.check_interrupted(step)
        return step

    def _check_submit_interrupted(self, kind: str, name: str, digest: str) -> None:
        """Raise the soft limit that was raised here instead of starting the run, if any."""
        if self.replay.interrupted:
            mark = digest_of(f"{kind} {name} {digest}")
            at, started = self.replay.ordinal_of(history.CHOICE, "submit", mark), self.replay.ordinal_of(kind, name, digest)
            if at is not None and (started is None or at < started):
                self.check_interrupted(self.replay.take(history.CHOICE, "submit", mark))

    def _limit_submit(self, kind: str, name: str, digest: str) -> None:
        """Raise a soft limit that is due before a run is started. It is a step of its own: a step that is to be a run, and
        never became one, could not be retried."""
        limit = None if self._cancel_due() else self._limit_due()
        if limit is not None:
            mark = digest_of(f"{kind} {name} {digest}")
            self._raise_limit(self.replay.issue(history.CHOICE, "submit", mark), limit)

    # ------------------------------------------------------------ waits and values
    def open(self, kind: str, name: str, **more: Any) -> Step:
        """The recorded step, or a new one that is reported as issued."""
        step = self.replay.take(kind, name)
        if step is None:
            self.give_way()
            step = self.replay.issue(kind, name, **more)
            self.interrupt(step)
            self.replay.put(step)
        self.check_interrupted(step)
        return step

    def value(self, name: str, make: Callable[[], R]) -> R:
        """A value that is the same in each replay: the recorded one, or what `make` gives."""
        step = self.replay.take(history.VALUE, name)
        if step is None:
            payload = codec.encode(make(), what=name)
            issued = self.replay.issue(history.VALUE, name)
            more = {"e": payload.encoding, "r": payload.text}
            step = self.replay.put(issued._replace(state=COMPLETED, more=more))
        return self.outcome(step)  # type: ignore[no-any-return]

    # ------------------------------------------------------------ leaving
    def give_way(self) -> None:
        """Before anything new: leave the function if the process or the run is to stop."""
        if self.host.leaving:
            self.replay.leave(Left())
        if self.host.pausing:
            self.replay.leave(Suspended(Waits(False, [])))

    def interrupt(self, step: Step) -> None:
        """Raise a cancel or a soft limit that is due, each once, at this open step: recorded, for the replays."""
        if self._cancel_due():
            self.replay.cancel_delivered = True
            self.replay.put(step._replace(state=CANCELLED, more=_issued(step)))
            self.check_interrupted(step._replace(state=CANCELLED))
        limit = self._limit_due()
        if limit is not None:
            self._raise_limit(step, limit)

    def _limit_due(self) -> BaseException | None:
        return None if self._take_limit is None else self._take_limit()

    def _raise_limit(self, step: Step, limit: BaseException) -> NoReturn:
        kind, message, _ = self.host.describe(limit)
        told = {"t": kind, "m": message, "a": codec.encode(list(limit.args)).text}
        stopped = self.replay.put(step._replace(state=TIMED_OUT, more={**_issued(step), **told}))
        self.check_interrupted(stopped)
        raise AssertionError("a step that is stopped raises")

    def interrupt_wait(self, what: str, digest: str) -> None:
        """Raise what is due at a wait for futures. It is a step of its own: what is waited for stays open, and may be waited
        for again."""
        if self._cancel_due():
            self.interrupt(self.replay.issue(history.CHOICE, what, digest))
        limit = self._limit_due()
        if limit is not None:
            self._raise_limit(self.replay.issue(history.CHOICE, what, digest), limit)

    def _cancel_due(self) -> bool:
        return self.host.cancel_requested and not self.replay.cancel_delivered

    def check_interrupted(self, step: Step | None) -> None:
        """Raise again what was raised at this recorded step, if anything was."""
        if step is None:
            return
        if step.state == CANCELLED:
            raise WorkflowCancelled(f"the workflow was cancelled at {step.name}")
        if step.state == TIMED_OUT and "t" in step.more:
            self.replay.look(step)
            raise self.noted(SoftTimeLimitExceeded(str(step.more.get("m", ""))), [step.ordinal])

    def _persist(self) -> None:
        fresh = self.replay.take_fresh()
        if fresh:
            self.host.report(fresh)
        if not self.host.confirm():
            self.replay.leave(Left())

    def suspend(self, waits: list[Wait], *, every: bool = False) -> NoReturn:
        """Leave the function until what is waited for has come: any of it, or `every`."""
        raise self.left(waits, every=every)

    def left(self, waits: list[Wait], *, every: bool = False) -> Suspended:
        """The function is left now; to be raised."""
        self.replay.stop = stop = Suspended(Waits(every, waits))
        return stop


class _Operation:
    """A durable operation: nothing interrupts it, none begins within it, and none once the function is being left."""

    __slots__ = ("_call", "_inner", "_replay", "_run")

    def __init__(self, run: object, host: Host, replay: Replay) -> None:
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
