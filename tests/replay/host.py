"""A workflow's run in memory: what it reported, what came to it, a clock that is set, and calls of its function.

It keeps steps the way the database does (keyed by ordinal, later reports set the result), and hands the function a history that
has been through JSON, as a dispatch's has.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiki import codec
from aiki.arguments import Arguments
from aiki.clock import SECOND
from aiki.context import inside_step, inside_workflow
from aiki.errors import SoftTimeLimitExceeded
from aiki.history import CHILD_ENDED, COMPLETED, EVENT_SENT, OPEN, STEP, UNDO, WOKEN, Arrival, History, Step, Waits, waking
from aiki.model import NewRun
from aiki.replay import Changed, Left, LimitReached, Limits, Replay, Suspended
from aiki.worker.describe import describe
from aiki.workflow_host import About, StepCall
from aiki.workflow_run import Continued, WorkflowRun

RUN_ID = "00" * 15 + "01"
_RESULT = ("e", "r", "t", "m", "tb", "a", "b", "due")
"""What a later report of a step sets anew; the rest stays as it was when the step was issued."""


class Died(BaseException):
    """The process is gone: nothing that it does from now on is seen by anybody."""


class Ended(NamedTuple):
    """What came of a call: `completed`, `failed`, `cancelled`, `suspended`, `changed`, `continued`, `full`, `left`, `died`."""

    kind: str
    value: Any = None
    error: BaseException | None = None
    waits: Waits | None = None
    text: str = ""


@dataclass
class World:
    """One run. `executed` tells each execution of a step: its name, its positional arguments, the attempt."""

    now: int = 1_800_000_000_000_000
    steps: dict[int, Step] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    children: dict[int, NewRun] = field(default_factory=dict)
    executed: list[tuple[str, tuple[Any, ...], int]] = field(default_factory=list)
    reports: int = 0
    cancelling: bool = False
    pausing: bool = False
    leaving: bool = False
    first: int = 0
    limits: Limits = field(default_factory=Limits)
    max_payload: int = 100_000
    die_after: int | None = None
    """Reports that are still recorded before the process dies."""
    run: WorkflowRun | None = None
    replay: Replay | None = None
    said: list[tuple[float | None, str]] = field(default_factory=list)
    name: str = "shop.flow"
    attempt: int = 1
    limits_due: int = 0
    """How many calls of the function still run into their soft limit, at their next durable point."""
    confirmed: Callable[[], None] = lambda: None
    """Called whenever what was reported is recorded while the function runs."""

    # ------------------------------------------------------------ what happens outside
    def move(self, seconds: float) -> None:
        """Let time go by."""
        self.now += int(seconds * SECOND)

    def send(self, name: str, data: Any = None) -> None:
        """Send an event."""
        payload = None if data is None else codec.encode(data)
        encoding, text = (None, None) if payload is None else payload
        self._arrive(EVENT_SENT, name, None, "", encoding, text, None, None)

    def wake(self, name: str = "", *ordinals: int) -> None:
        """Wake it from the sleeps of these ordinals; without any, as an earlier release did."""
        found = waking("", name, ordinals)
        text = (found.encoding, found.text) if ordinals else (None, None)
        self._arrive(WOKEN, name, None, "", *text, None, None)

    def end_child(self, ordinal: int, value: Any = None, *, error: str | None = None, outcome: str = "") -> None:
        """A child has ended."""
        payload = None if value is None or error else codec.encode(value)
        encoding, text = (None, None) if payload is None else payload
        kind, _, message = (error or "").partition(": ")
        told = (kind, message) if error else (None, None)
        outcome = outcome or ("failed" if error else COMPLETED)
        self._arrive(CHILD_ENDED, self.steps[ordinal].name, ordinal, outcome, encoding, text, *told)

    def _arrive(self, kind: str, name: str, ordinal: int | None, *rest: Any) -> None:
        self.arrivals.append(Arrival(f"{len(self.arrivals) + 1:032x}", kind, name, ordinal, *rest))

    def recorded(self) -> list[tuple[str, str, str]]:
        """Kind, name and state of each step, by ordinal."""
        return [(step.kind, step.name, step.state) for _, step in sorted(self.steps.items())]

    # ------------------------------------------------------------ what the orchestrator does
    def history(self) -> History:
        """What a dispatch carries now, having been through JSON."""
        steps = [step for ordinal, step in sorted(self.steps.items()) if ordinal >= self.first]
        found = History(self.now, self.first, max(self.steps, default=-1) + 1, steps, self.arrivals)
        return History.from_wire(json.loads(json.dumps(found.to_wire())))

    def record(self, steps: list[Step]) -> None:
        """Apply a report, as `aiki.storage` does."""
        for step in json.loads(json.dumps(steps)):
            self._record(Step._make(step))

    def _record(self, step: Step) -> None:
        more = dict(step.more)
        if step.kind in (STEP, UNDO) and step.state == OPEN and "s" in more:
            more["due"] = self.now + int(more["s"] * SECOND)
        if "b" in more:
            self.arrivals = [a._replace(ordinal=step.ordinal) if a.id == more["b"] else a for a in self.arrivals]
        known = self.steps.get(step.ordinal)
        child = more.pop("run", None)
        if known is None:
            more["at"] = self.now
            if child is not None:
                self.children[step.ordinal] = NewRun.from_wire(child, bytes.fromhex(RUN_ID), step.ordinal)
        else:
            more = {key: value for key, value in known.more.items() if key not in _RESULT} | {
                key: more[key] for key in _RESULT if key in more
            }
        more.pop("s", None)
        self.steps[step.ordinal] = step._replace(more=more)

    # ------------------------------------------------------------ one call of the function
    def call(self, fn: Callable[..., Any], *args: Any) -> Ended:
        """Call a workflow's function with the history so far, and record what it reports."""
        fn = getattr(fn, "fn", fn)
        host = Host(self)
        self.replay = replay = Replay(self.name, self.history(), self.limits)
        self.run = run = WorkflowRun(
            host, replay, About(RUN_ID, self.name, "1", self.attempt), Arguments(self.name, fn, 1), self.take_limit
        )
        value, error = None, None
        try:
            with inside_workflow(run):
                value = fn(run, *args)
        except BaseException as raised:
            error = raised
        if host.dead:
            return Ended("died")
        self.record(host.pending + replay.take_fresh())
        return self._ended(replay, value, error)

    def take_limit(self) -> BaseException | None:
        """The error of a soft limit that is over."""
        if self.limits_due <= 0:
            return None
        self.limits_due -= 1
        return SoftTimeLimitExceeded("the workflow ran longer than its soft time limit")

    def _ended(self, replay: Replay, value: Any, error: BaseException | None) -> Ended:
        stop = replay.stop
        if isinstance(stop, Suspended):
            return Ended("suspended", waits=Waits.from_wire(json.loads(json.dumps(stop.waits.to_wire()))))
        if isinstance(stop, Changed):
            return Ended("changed", text=str(stop))
        if isinstance(stop, LimitReached):
            return Ended("full", text=str(stop))
        if isinstance(stop, Continued):
            self.first = max(self.steps, default=-1) + 1
            return Ended("continued", codec.decode(stop.payload))
        if isinstance(stop, Left):
            return Ended("left")
        if error is None:
            return Ended("completed", value)
        if isinstance(error, Exception):
            return Ended("failed", error=error, text=f"{type(error).__name__}: {error}")
        return Ended("cancelled" if type(error).__name__ == "WorkflowCancelled" else "failed", error=error)

    def finish(
        self,
        fn: Callable[..., Any],
        *args: Any,
        tasks: Mapping[str, Any] | None = None,
        events: Mapping[str, Any] | None = None,
    ) -> Ended:
        """Call it until it ends: time goes by, children are run (`tasks`: by name), awaited events are sent."""
        for _ in range(1000):
            ended = self.call(fn, *args)
            if ended.kind != "suspended":
                return ended
            self.satisfy(ended, tasks or {}, events or {})
        raise AssertionError("the workflow never ended")

    def satisfy(self, ended: Ended, tasks: Mapping[str, Any], events: Mapping[str, Any]) -> None:
        """Have everything come that it waits for; time last."""
        assert ended.waits is not None
        due = [self.now if item.due is None else item.due for item in ended.waits.items]
        due = [at + int((item.seconds or 0) * SECOND) for at, item in zip(due, ended.waits.items, strict=True)]
        for item in ended.waits.items:
            for ordinal in range(item.first, item.last + 1):
                if item.kind == CHILD_ENDED:
                    self.run_child(ordinal, tasks)
            if item.kind == EVENT_SENT and item.name in events:
                self.send(item.name, events[item.name])
        self.now = max([self.now, *due])

    def run_child(self, ordinal: int, tasks: Mapping[str, Any]) -> None:
        """Execute a child's function, and have its end arrive."""
        child = self.children[ordinal]
        args, kwargs = codec.decode(child.input)
        try:
            self.end_child(ordinal, tasks[child.name].fn(*args, **kwargs))
        except Exception as error:
            self.end_child(ordinal, error=f"{type(error).__name__}: {error}")


class Host:
    """See `aiki.workflow_host.Host`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.pending: list[Step] = []
        self.dead = False

    @property
    def cancel_requested(self) -> bool:
        return self._world.cancelling

    @property
    def pausing(self) -> bool:
        return self._world.pausing

    @property
    def leaving(self) -> bool:
        return self._world.leaving

    @property
    def aborted(self) -> bool:
        return self.dead

    @property
    def max_payload(self) -> int:
        return self._world.max_payload

    def operation(self) -> AbstractContextManager[None]:
        return self._operation()

    @contextmanager
    def _operation(self) -> Iterator[None]:
        if self.dead:
            raise Died
        yield

    def now(self) -> int:
        return self._world.now

    def report(self, steps: list[Step]) -> None:
        self.pending += steps

    def confirm(self) -> bool:
        world = self._world
        if self.pending:
            if world.die_after == world.reports:
                self.dead = True
                raise Died
            world.reports += 1
        world.record(self.pending)
        self.pending = []
        world.confirmed()
        return True

    def execute(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], call: StepCall) -> Any:
        self._world.executed.append((call.step.name, args, call.attempt))
        with inside_step(call.step.ordinal, call.attempt):
            value = fn(*args, **kwargs)
            return asyncio.run(value) if inspect.iscoroutine(value) else value

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        return describe(error)

    def progress(self, fraction: float | None, message: str) -> None:
        self._world.said.append((fraction, message))
