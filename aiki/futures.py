"""Futures of a workflow: what was started and is waited for later. `gather` waits for all, `first` and `as_completed` for one.

Which one came first is recorded (a `choice`), so that a replay goes the same way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from aiki import history, ids
from aiki.clock import SECOND
from aiki.errors import ConfigurationError, EventTimeout, NotDurable
from aiki.history import CANCELLED, COMPLETED, FAILED, OPEN, TIMED_OUT, Step, Wait, ranges
from aiki.replay import digest_of
from aiki.step_engine import StepEngine

if TYPE_CHECKING:
    from aiki.workflow_run import WorkflowRun

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Future(ABC, Generic[R_co]):
    """Something that a workflow has started: a task, a child, a sleep, an event."""

    def __init__(self, run: WorkflowRun, engine: StepEngine, step: Step) -> None:
        self._run = run
        self._engine = engine
        self._step = step

    def result(self) -> R_co:
        """What came of it; waits for it, holding nothing.

        :raises StepFailed: it failed (or the original error, where that can be made anew).
        :raises EventTimeout: the event did not come in time.
        """
        with self._engine.operation(self._run):
            _check_interrupted(self._engine, "wait", [self])
            if not self._ready():
                self._engine.interrupt_wait("wait", _digest("wait", [self]))
                self._leave()
            return self._value()

    def _wait(self) -> R_co:
        """As `result`, inside of the operation that has started it and gives it to nobody else."""
        if not self._ready():
            self._engine.interrupt(self._step)
            self._leave()
        return self._value()

    def _leave(self) -> NoReturn:
        self._engine.give_way()
        self._engine.suspend(self._waits())

    @property
    def ordinal(self) -> int:
        """The ordinal of its step in the run's history."""
        return self._step.ordinal

    @property
    def name(self) -> str:
        """What it is: the name of the task, the workflow, the sleep or the event."""
        return self._step.name

    @abstractmethod
    def _ready(self) -> bool:
        """Whether it has come to an end, by all that is known now."""

    @abstractmethod
    def _value(self) -> R_co:
        """Its result, or its error raised. Only when it is ready."""

    @abstractmethod
    def _waits(self) -> list[Wait]:
        """What to wait for while it is not ready."""

    @property
    def _failed(self) -> bool:
        """Whether `_value` would raise. Only when it is ready."""
        return self._step.state in (FAILED, TIMED_OUT, CANCELLED)

    @property
    def _replay_name(self) -> str:
        """What stands for it where a step's function closes over it."""
        return f"future {self.ordinal}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} #{self._step.ordinal} {self._step.name}>"


class RunFuture(Future[R_co]):
    """A submitted task or a child workflow: a run of its own.

    :param shared: whether it has a reference id, under which another run may be known already.
    """

    def __init__(self, run: WorkflowRun, engine: StepEngine, step: Step, *, shared: bool) -> None:
        super().__init__(run, engine, step)
        self._shared = shared

    @property
    def run_id(self) -> str:
        """The run's id, canonical UUID text. Under a reference id it may be that of a run that exists: then the workflow
        is left, to be called again once that is known."""
        if self._shared and "at" not in self._step.more:
            with self._engine.operation(self._run):
                self._engine.give_way()
                self._engine.suspend([Wait(history.RETRY, self.ordinal, self.ordinal, self.name, None, 0.0)])
        return ids.to_text(bytes.fromhex(self._step.more["c"]))

    def _ready(self) -> bool:
        """See `Future._ready`."""
        return self._step.done or self._engine.replay.end_of(self._step) is not None

    def _value(self) -> R_co:
        """See `Future._value`."""
        if self._step.done:
            return cast(R_co, self._engine.outcome(self._step))
        end = self._engine.replay.end_of(self._step)
        assert end is not None
        if end.outcome == COMPLETED:
            if end.payload is None:
                return cast(R_co, None)
            return cast(R_co, self._engine.decoded(end.payload, f"result of {self._step.name}", self.ordinal))
        raise self._engine.noted(*self._engine.error_of_run(self._step, end))

    @property
    def _failed(self) -> bool:
        """See `Future._failed`."""
        end = self._engine.replay.end_of(self._step)
        return self._step.done if end is None else end.outcome != COMPLETED

    def _waits(self) -> list[Wait]:
        """See `Future._waits`."""
        return [Wait(history.CHILD_ENDED, self._step.ordinal, self._step.ordinal, self._step.name)]


class SleepFuture(Future[bool]):
    """A sleep; its result tells whether it was woken early."""

    def __init__(self, run: WorkflowRun, engine: StepEngine, step: Step, seconds: float) -> None:
        super().__init__(run, engine, step)
        self._seconds = seconds

    def _ready(self) -> bool:
        """See `Future._ready`."""
        if self._step.state != OPEN:
            return True
        replay, due = self._engine.replay, self._due()
        waking = replay.waking(self._step)
        if waking is not None:
            self._step = replay.put(self._step._replace(state=COMPLETED, more={"b": waking.id, "e": "json", "r": "true"}))
        elif self._seconds == 0 or (due is not None and self._engine.host.now() >= due):
            self._step = replay.put(self._step._replace(state=COMPLETED, more={"e": "json", "r": "false"}))
        return self._step.done

    def _value(self) -> bool:
        """See `Future._value`."""
        return bool(self._engine.outcome(self._step))

    def _waits(self) -> list[Wait]:
        """See `Future._waits`."""
        due = self._due()
        return [
            Wait(history.SLEEP, self._step.ordinal, self._step.ordinal, self._step.name, due, None if due else self._seconds)
        ]

    def _due(self) -> int | None:
        at = self._step.more.get("at")
        return None if at is None else int(at + self._seconds * SECOND)


class EventFuture(Future[Any]):
    """A wait for an event."""

    def __init__(self, run: WorkflowRun, engine: StepEngine, step: Step, timeout: float | None, schema: Any) -> None:
        super().__init__(run, engine, step)
        self._timeout = timeout
        self._schema = schema
        self._at = step.more.get("at")

    def _ready(self) -> bool:
        """See `Future._ready`. Events that do not fit the schema are recorded on the way, as steps of their own."""
        if self._step.state != OPEN:
            return True
        replay, name = self._engine.replay, self._step.name
        while (arrival := replay.event(name)) is not None:
            payload = arrival.payload
            more = {"b": arrival.id} if payload is None else {"b": arrival.id, "e": payload.encoding, "r": payload.text}
            wrong = self._refusal(None if payload is None else self._engine.decoded(payload, f"event {name}", self.ordinal))
            if wrong is None:
                self._step = replay.put(self._step._replace(state=COMPLETED, more=more))
                return True
            refused = replay.issue(history.REFUSED, name)
            replay.put(refused._replace(state=FAILED, more={**more, "t": "EventRefused", "m": wrong}))
        due = self._due()
        if due is None or self._engine.host.now() < due:
            return False
        self._step = replay.put(self._step._replace(state=TIMED_OUT))
        return True

    def _refusal(self, data: Any) -> str | None:
        try:
            self._checked(data)
        except NotDurable:
            raise  # not the event's fault
        except Exception as error:  # noqa: BLE001  the user's schema
            return self._engine.host.describe(error)[1][:1000]
        return None

    def _checked(self, data: Any) -> Any:
        schema = self._schema
        if schema is None:
            return data
        if isinstance(schema, type) and hasattr(schema, "load"):
            schema = schema()
        return schema.load(data) if hasattr(schema, "load") else schema(data)

    def _value(self) -> Any:
        """See `Future._value`."""
        if self._step.state == TIMED_OUT and "t" not in self._step.more:
            span = "" if self._timeout is None else f" within {self._timeout:g} s"
            error = EventTimeout(f"event {self._step.name!r} was not sent{span}")
            raise self._engine.noted(error, [self._step.ordinal])
        return self._checked(self._engine.outcome(self._step))

    def _waits(self) -> list[Wait]:
        """See `Future._waits`."""
        due = self._due()
        ordinal = self._step.ordinal
        return [Wait(history.EVENT_SENT, ordinal, ordinal, self._step.name, due, self._timeout if due is None else None)]

    def _due(self) -> int | None:
        if self._at is None or self._timeout is None:
            return None
        return int(self._at + self._timeout * SECOND)


# ---------------------------------------------------------------- several at once
def gather(*futures: Future[R], return_exceptions: bool = False) -> list[R]:
    """The results of all, in their order. Waits for all, holding nothing; the first error that is seen is raised at once.

    :param return_exceptions: errors stand among the results instead, and all are waited for.
    """
    if not futures:
        return []
    engine, operation = _shared(futures)
    with operation:
        what = "gather all" if return_exceptions else "gather"
        if return_exceptions:
            _check_interrupted(engine, what, futures)
        else:
            _raise_failed(engine, futures)
        open_ = [future for future in futures if not future._ready()]
        if open_:
            engine.interrupt_wait(what, _digest(what, futures))
            engine.give_way()
            engine.suspend(_together(open_), every=True)
        return [_value(future) for future in futures] if return_exceptions else [future._value() for future in futures]


def _raise_failed(engine: StepEngine, futures: Sequence[Future[Any]]) -> None:
    """Raise the error of a future that has failed: the one that was chosen, or the first by now. A retry does all of them."""
    replay = engine.replay
    digest = _digest("gather", futures)
    choice = replay.take(history.CHOICE, "gather", digest)
    if choice is None:
        failed = [position for position, future in enumerate(futures) if future._ready() and future._failed]
        if not failed:
            return
        choice = _choose(engine, "gather", digest, failed[0])
    engine.check_interrupted(choice)
    try:
        futures[int(choice.more["r"])]._value()
    except Exception as error:
        its = engine.raised[1] if engine.raised is not None and engine.raised[0] is error else []
        others = [future._step.ordinal for future in futures if future._ready() and future._failed]
        engine.noted(error, [*dict.fromkeys([*others, *its, choice.ordinal])])
        raise


def first(*futures: Future[R]) -> Future[R]:
    """The future that is ready first; waits for any, holding nothing. Which one is recorded."""
    engine, operation = _shared(futures)
    with operation:
        return _first(engine, futures)


def as_completed(*futures: Future[R]) -> Iterator[Future[R]]:
    """The futures in the order in which they become ready."""
    left = list(futures)
    while left:
        ready = first(*left)
        left.remove(ready)
        yield ready


def _first(engine: StepEngine, futures: Sequence[Future[R]]) -> Future[R]:
    digest = _digest("first", futures)
    known = engine.replay.take(history.CHOICE, "first", digest)
    if known is not None:
        engine.check_interrupted(known)
        return futures[int(known.more["r"])]
    for position, future in enumerate(futures):
        if future._ready():
            _choose(engine, "first", digest, position)
            return future
    engine.interrupt_wait("first", digest)
    engine.give_way()
    raise engine.left(_together(futures))


def _check_interrupted(engine: StepEngine, what: str, futures: Sequence[Future[Any]]) -> None:
    """Raise the cancel or the soft limit that is recorded at this wait, if any."""
    if not engine.replay.interrupted:
        return
    choice = engine.replay.take(history.CHOICE, what, _digest(what, futures))
    if choice is not None:
        engine.check_interrupted(choice)


def _choose(engine: StepEngine, name: str, digest: str, position: int) -> Step:
    step = engine.replay.issue(history.CHOICE, name, digest)
    return engine.replay.put(step._replace(state=COMPLETED, more={"e": "json", "r": str(position)}))


def _together(futures: Sequence[Future[Any]]) -> list[Wait]:
    """The waits of several; children as ranges, for there may be very many."""
    children = [future._step.ordinal for future in futures if isinstance(future, RunFuture)]
    found = [Wait(history.CHILD_ENDED, low, high, "") for low, high in ranges(children)]
    for future in futures:
        if not isinstance(future, RunFuture):
            found += future._waits()
    return found


def _digest(name: str, futures: Sequence[Future[Any]]) -> str:
    return digest_of(f"{name} {','.join(str(future.ordinal) for future in futures)}")


def _shared(futures: Sequence[Future[Any]]) -> tuple[StepEngine, AbstractContextManager[None]]:
    """The engine of the run that all of them belong to, and the operation that waits for them."""
    if not futures or not all(isinstance(future, Future) for future in futures):
        raise ConfigurationError(
            "gather, first and as_completed take futures: what task.submit(...), run.timer(...) and run.event(...) return"
        )
    run, engine = futures[0]._run, futures[0]._engine
    if any(future._run is not run for future in futures):
        raise NotDurable("gather, first and as_completed take futures of one run; these are of several")
    return engine, engine.operation(run)


def _value(future: Future[R]) -> R:
    try:
        return future._value()
    except Exception as error:  # noqa: BLE001  asked for: errors stand among the results
        return cast(R, error)
