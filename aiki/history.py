"""A workflow's history: what its function has issued (steps) and what has come to it from outside (arrivals).

Both travel in the dispatch, and new steps in reports, as JSON lists. The words are those of the database's tables
`steps` and `inbox`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki import fields as f
from aiki.codec import JSON, Payload
from aiki.errors import MessageError
from aiki.failure import Failure
from aiki.history_checks import is_history, is_waits

# ---------------------------------------------------------------- kinds of steps
STEP: Final = "step"
"""A function that ran in the workflow's own process."""
TASK: Final = "task"
"""A task that was submitted: a run of its own, on its queue."""
CHILD: Final = "child"
"""A workflow that was started: a run of its own."""
UNDO: Final = "undo"
"""A compensation of a saga, run like a step."""
SLEEP: Final = "sleep"
EVENT: Final = "event"
REFUSED: Final = "refused"
"""An event that did not fit the schema of the wait for it."""
VALUE: Final = "value"
"""The time, a random number, an id: what must be the same when the function is replayed."""
CHOICE: Final = "choice"
"""Which of several futures came first, or that a cancel was raised while they were waited for."""
PATCH: Final = "patch"
"""`run.patched(...)` said True."""
CONTINUE: Final = "continue"
"""The function asked to go on as new; the result is the new input. Steps after it belong to the next function call."""

ISSUED: Final = frozenset({STEP, TASK, CHILD, UNDO})
"""The kinds that do something: they count where code has changed (`aiki.replay`)."""
RUNS: Final = frozenset({TASK, CHILD})
"""The kinds that are runs of their own."""

# ---------------------------------------------------------------- states of steps
OPEN: Final = "open"
"""Issued, and without a result: it waits, or is to be executed (again)."""
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
"""The workflow's cancel was raised at it."""
TIMED_OUT: Final = "timed_out"

# ---------------------------------------------------------------- kinds of arrivals
CHILD_ENDED: Final = "child"
EVENT_SENT: Final = "event"
WOKEN: Final = "wake"

MAX_INPUT: Final = 500
"""Characters of a step's input that are kept for people, and to tell what has changed."""


class ValueKey(NamedTuple):
    """Names one text of a run's history. `of`: `s` (a step, `key` its ordinal) or `a` (an arrival, `key` its id); `what`: `r`
    (the result, or what the arrival carries) or `tb` (the traceback)."""

    of: str
    key: int | str
    what: str


class Outside:
    """A text of a history that its dispatch does not carry: it is fetched when it is looked at, with `str()`.

    :param size: its length.
    """

    __slots__ = ("_fetch", "key", "size")

    def __init__(self, key: ValueKey, size: int, fetch: Callable[[ValueKey], str]) -> None:
        self.key = key
        self.size = size
        self._fetch = fetch

    def __len__(self) -> int:
        return self.size

    def __str__(self) -> str:
        return self._fetch(self.key)


class Step(NamedTuple):
    """One thing that the function issued.

    :ivar ordinal: its place in the order of issue, from 0; with the run's id its key.
    :ivar digest: 32 hex digits of its canonical input, empty where the name is all.
    :ivar attempt: executions so far.
    :ivar more: sparse. `e`, `r`: payload of the result; `t`, `m`, `tb`: error type, message, traceback; `a`: its
        arguments (JSON text); `i`: the beginning of the input; `c`: the child's run id (hex); `at`: when it was issued,
        `due`: when it is to go on (server's microseconds); `s`: seconds until it is to go on, from when this is applied;
        `b`: the arrival it took (hex); `ms`: how long it took; `run`: in a report, the child to be made
        (`NewRun.to_wire`); `ab`: 1 if the child outlives a cancel of its parent; `w`: the worker
        that reported it (hex), on its way into the database.
    """

    ordinal: int
    kind: str
    name: str
    digest: str
    state: str
    attempt: int
    more: dict[str, Any]

    @property
    def payload(self) -> Payload | None:
        """The recorded result; None where there is none, or it is None."""
        return Payload(self.more["e"], str(self.more["r"])) if "r" in self.more else None

    @property
    def done(self) -> bool:
        """Whether it has a result, of whatever sort."""
        return self.state != OPEN


class Arrival(NamedTuple):
    """What came to the run from outside.

    :ivar id: 32 hex digits, unique for the run: the child's id, the event's, the waking's.
    :ivar ordinal: the step that it answers, or that took it; None for an event that nobody has taken.
    :ivar outcome: of a child: the state that it ended in.
    :ivar text: what it carries; of a child that has failed, a `Failure`, which former releases neither tell nor read.
    """

    id: str
    kind: str
    name: str
    ordinal: int | None
    outcome: str
    encoding: str | None
    text: str | None
    error_type: str | None
    error_message: str | None

    @property
    def payload(self) -> Payload | None:
        """The child's result or the event's data; None where it is None."""
        if self.kind == CHILD_ENDED and self.outcome != COMPLETED:
            return None
        return None if self.encoding is None or self.text is None else Payload(self.encoding, str(self.text))

    @property
    def failure(self) -> Failure | None:
        """What a child that has failed tells of its error; None where nothing is told: its end is of a former release."""
        if self.kind != CHILD_ENDED or self.outcome == COMPLETED or self.text is None:
            return None
        return Failure.from_text(str(self.text))

    def wakes(self, ordinal: int, name: str) -> bool:
        """Whether this waking is meant for that sleep. One that names no ordinals (of an earlier release) goes by the name."""
        meant = woken_ordinals(self.text)
        return ordinal in meant if meant else self.name in ("", name)


def waking(arrival_id: str, name: str, ordinals: Sequence[int]) -> Arrival:
    """What wakes the sleeps of these ordinals, and no others: those that the run waited for when somebody asked for it."""
    return Arrival(arrival_id, WOKEN, name, None, "", JSON, json.dumps(list(ordinals), separators=(",", ":")), None, None)


def woken_ordinals(text: str | None) -> frozenset[int]:
    """The ordinals that a waking names; none where it names none, or they cannot be read."""
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return frozenset()
    return frozenset(item for item in found if type(item) is int) if isinstance(found, list) else frozenset()


@dataclass(slots=True)
class History:
    """What a dispatch of a workflow carries.

    :ivar now: the server's time when it was made (microseconds), 0 if nobody has told it.
    :ivar first: the ordinal of the first step of this call of the function.
    :ivar next: the ordinal that the next step gets.
    :ivar outside: the texts that are not in here, because it would be too large, with their lengths, in the order of the steps.
    """

    now: int = 0
    first: int = 0
    next: int = 0
    steps: list[Step] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    outside: list[tuple[ValueKey, int]] = field(default_factory=list)

    def to_wire(self) -> dict[str, Any]:
        """As JSON data. `more` is 1 if there are texts outside of it: those that cannot fetch them must not read it."""
        wire = {"now": self.now, "first": self.first, "next": self.next, "more": 0, "steps": self.steps, "in": self.arrivals}
        return {**wire, "more": 1, "out": [[*key, size] for key, size in self.outside]} if self.outside else wire

    @classmethod
    def from_wire(cls, data: Mapping[str, Any] | None, fetch: Callable[[ValueKey], str] | None = None) -> History:
        """Read what `to_wire` wrote; raises `MessageError`.

        :param fetch: gives a text that is outside when it is looked at; without it there may be none.
        """
        if data is None:
            return cls()
        if type(data) is not dict:
            raise MessageError(f"a history that cannot be read: it is {f.shown(data)}")
        if data.get("more") and fetch is None:
            raise MessageError("a history with values outside of it cannot be read here; upgrade the worker first")
        wrong = is_history.wrong(data)
        if wrong is not None:
            raise MessageError(f"a history that cannot be read: {wrong}")
        steps = [Step._make(item) for item in data["steps"]]
        found = cls(data["now"], data["first"], data["next"], steps, [Arrival._make(item) for item in data["in"]])
        if data.get("more") and fetch is not None:
            found.outside = [(ValueKey(*key), size) for *key, size in data.get("out", ())]
            found._link(fetch)
        return found

    def _link(self, fetch: Callable[[ValueKey], str]) -> None:
        """Put an `Outside` where each text that was left out belongs."""
        steps = {step.ordinal: step for step in self.steps}
        places = {arrival.id: at for at, arrival in enumerate(self.arrivals)}
        for key, size in self.outside:
            if (key.key not in steps) if key.of == "s" else (key.key not in places):
                raise MessageError(
                    f"a history that cannot be read: {f.shown(list(key))} is outside, and of nothing that is inside"
                )
            text: Any = Outside(key, size, fetch)
            if key.of == "s":
                steps[int(key.key)].more[key.what] = text
            else:
                at = places[str(key.key)]
                self.arrivals[at] = self.arrivals[at]._replace(text=text)


# ---------------------------------------------------------------- what a suspended run waits for
class Wait(NamedTuple):
    """One thing that a suspended run waits for; any of them brings it on, or all (`Waits.all`).

    :ivar kind: `child` (ordinals `first` to `last`), `sleep`, `event` or `retry`.
    :ivar due: when it is over by the server's clock (microseconds), or None.
    :ivar seconds: in a report, the span from when it is applied, where `due` is not known yet.
    """

    kind: str
    first: int
    last: int
    name: str
    due: int | None = None
    seconds: float | None = None


RETRY: Final = "retry"


@dataclass(slots=True)
class Waits:
    """All that a suspended run waits for."""

    all: bool
    items: list[Wait]

    def to_wire(self) -> dict[str, Any]:
        """As JSON data."""
        return {"all": int(self.all), "w": self.items}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Waits:
        """Read what `to_wire` wrote; raises `MessageError`."""
        if not is_waits(data):
            raise MessageError(f"waits that cannot be read: {f.shown(data)}")
        return cls(bool(data["all"]), [Wait._make(item) for item in data["w"]])

    def satisfied(self, arrivals: Iterable[Arrival], now: int) -> bool:
        """Whether the run is to go on. Where all are waited for, a child that failed brings it on too."""
        there = {a.ordinal: a.outcome for a in arrivals if a.kind == CHILD_ENDED}
        events = {a.name for a in arrivals if a.kind == EVENT_SENT and a.ordinal is None}
        woken = [a for a in arrivals if a.kind == WOKEN and a.ordinal is None]
        met = [self._met(wait, there, events, woken, now) for wait in self.items]
        if not self.all:
            return any(met)
        if all(met):
            return True
        failed = any(
            outcome != COMPLETED and ordinal is not None and self._names(ordinal) for ordinal, outcome in there.items()
        )
        return failed or any(w.kind == EVENT_SENT and w.due is not None and w.due <= now for w in self.items)

    def _met(self, wait: Wait, there: Mapping[int | None, str], events: set[str], woken: Sequence[Arrival], now: int) -> bool:
        if wait.due is not None and wait.due <= now:
            return True
        if wait.kind == CHILD_ENDED:
            if not self.all:
                return any(ordinal is not None and wait.first <= ordinal <= wait.last for ordinal in there)
            return all(ordinal in there for ordinal in range(wait.first, wait.last + 1))
        if wait.kind == SLEEP:
            return any(arrival.wakes(wait.first, wait.name) for arrival in woken)
        return wait.kind == EVENT_SENT and wait.name in events

    def _names(self, ordinal: int) -> bool:
        return any(w.kind == CHILD_ENDED and w.first <= ordinal <= w.last for w in self.items)

    def due(self, arrivals: Sequence[Arrival]) -> int | None:
        """When it is to be looked at without anything arriving, or None."""
        timed = [w for w in self.items if w.due is not None]
        if not self.all:
            return min((w.due for w in timed if w.due is not None), default=None)
        soonest = min((w.due for w in timed if w.due is not None and w.kind == EVENT_SENT), default=None)
        if soonest is not None:
            return soonest
        there = {a.ordinal for a in arrivals if a.kind == CHILD_ENDED}
        events = {a.name for a in arrivals if a.kind == EVENT_SENT and a.ordinal is None}
        for wait in self.items:
            if wait.kind == CHILD_ENDED and not all(o in there for o in range(wait.first, wait.last + 1)):
                return None
            if wait.kind == EVENT_SENT and wait.name not in events:
                return None
        return max((w.due for w in timed if w.due is not None), default=None)


def ranges(ordinals: Iterable[int]) -> list[tuple[int, int]]:
    """Ordinals as (first, last) of each unbroken run of them."""
    out: list[tuple[int, int]] = []
    for ordinal in sorted(ordinals):
        if out and ordinal == out[-1][1] + 1:
            out[-1] = (out[-1][0], ordinal)
        else:
            out.append((ordinal, ordinal))
    return out
