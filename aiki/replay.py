"""Replaying a workflow: which of the things that its function issues are recorded, and which are new. No I/O.

Identity is content, not position: a step's address is its kind, its name and a digest of its canonical input; each address
holds its recorded steps in order of issue. The rule: **what is not recorded may start only when no recorded step or submission
is left over.** So recorded steps may be called in another order, or be left out while nothing new runs before the end, and
new ones may follow behind all recorded ones; an insertion, or a changed name or input, is caught before it starts.

Sleeps, events and values have queues by their name alone, and are not counted by the rule: what came from outside never is.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from typing import Any, Final, NamedTuple, NoReturn

from aiki.errors import HistoryLimitExceeded, WorkflowChanged
from aiki.history import (
    CANCELLED,
    CHILD_ENDED,
    COMPLETED,
    EVENT_SENT,
    ISSUED,
    MAX_INPUT,
    OPEN,
    PATCH,
    REFUSED,
    TIMED_OUT,
    WOKEN,
    Arrival,
    History,
    Step,
    Waits,
)

WARN_SHARE: Final = 0.8
"""Share of the history's limit from which on it is told."""
_STEP_BYTES: Final = 120
_SUBMISSION: Final = 400
"""About what a submission takes beside its input."""
_MAX_MESSAGE: Final = 4000
_MAX_TRACEBACK: Final = 64 * 1024
_NAMED: Final = 5


# ---------------------------------------------------------------- leaving the function
class Stop(BaseException):
    """The function is left here, to be called again later, or never. Ours alone: user code must let it pass."""


class Suspended(Stop):
    """It waits; with nothing to wait for, it is given back (a pause, a worker that stops)."""

    def __init__(self, waits: Waits) -> None:
        super().__init__("suspended")
        self.waits = waits


class Changed(Stop):
    """The rule is broken: the code has changed. Nothing was started."""

    def __init__(self, error: WorkflowChanged) -> None:
        super().__init__(str(error))
        self.error = error


class LimitReached(Stop):
    """The history is full."""

    def __init__(self, error: HistoryLimitExceeded) -> None:
        super().__init__(str(error))
        self.error = error


class Left(Stop):
    """The worker stops: the run is given back and goes on elsewhere."""


class Limits(NamedTuple):
    """How large a history may become."""

    steps: int = 25_000
    bytes: int = 8 * 1024 * 1024


def digest_of(text: str) -> str:
    """What stands for a canonical input in an address: 32 hex digits."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def shortened(text: str) -> str:
    """An input as it is kept for people."""
    return text if len(text) <= MAX_INPUT else text[: MAX_INPUT - 1] + "…"


class Replay:
    """One call of a workflow's function against its history.

    :param name: the workflow's, for messages.
    :ivar first: the ordinal of the first step of this call of the function.
    :ivar reported: the ordinal after the last step that is recorded or to be reported.
    """

    def __init__(self, name: str, history: History, limits: Limits) -> None:
        self._name = name
        self._limits = limits
        self.first = history.first
        self._next = self.reported = history.next
        self._left: dict[int, Step] = {}
        """Recorded and not called yet, by ordinal, oldest first; `_issued_left` of them are counted by the rule."""
        self._issued_left = 0
        self._reached = self._last = -1
        """The highest ordinal that was called so far, and that is recorded: between them lies what is being replayed."""
        self._queues: dict[tuple[str, str, str], deque[Step]] = {}
        self._patches: dict[str, int] = {}
        """The patches that said True, with the last recorded ordinal before each."""
        self._ends: dict[int, Arrival] = {}
        self._events: dict[str, deque[Arrival]] = {}
        self._wakings: deque[Arrival] = deque()
        self._fresh: dict[int, Step] = {}
        self.held = 0
        """Bytes of the submissions that are still to be reported."""
        self._weight = 0
        self._called = self._called_weight = 0
        self._looked: set[int] = set()
        self.stop: Stop | None = None
        """Why the function is being left; from then on nothing may be done."""
        self.cancel_delivered = False
        self.interrupted = False
        """Whether a cancel or a soft limit was raised at a recorded step."""
        for step in history.steps:
            self._remember(step)
        for arrival in history.arrivals:
            self._receive(arrival)

    def _remember(self, step: Step) -> None:
        self._weight += _weight(step)
        self.cancel_delivered = self.cancel_delivered or step.state == CANCELLED
        self.interrupted = self.interrupted or step.state in (CANCELLED, TIMED_OUT)
        if step.kind == PATCH:
            self._patches[step.name] = self._last
        if step.kind in (PATCH, REFUSED):
            return
        self._last = step.ordinal
        self._left[step.ordinal] = step
        self._issued_left += step.kind in ISSUED
        self._queues.setdefault((step.kind, step.name, step.digest), deque()).append(step)

    def _receive(self, arrival: Arrival) -> None:
        """What came from outside. It does not count for the limit: an event does once a step has taken it, with that step."""
        if arrival.kind == CHILD_ENDED and arrival.ordinal is not None:
            self._ends[arrival.ordinal] = arrival
        elif arrival.kind == EVENT_SENT and arrival.ordinal is None:
            self._events.setdefault(arrival.name, deque()).append(arrival)
        elif arrival.kind == WOKEN and arrival.ordinal is None:
            self._wakings.append(arrival)

    # ------------------------------------------------------------ the history's size
    @property
    def replaying(self) -> bool:
        """Whether recorded steps are still to be called. What the code calls no more does not count once it is behind."""
        return self._issued_left > 0 or self._reached < self._last

    @property
    def looked_at(self) -> tuple[int, int]:
        """Steps and bytes of history that the function has come by so far in this call. The same at the same place of the code,
        the first time and in each replay; `used` is not, for a replay knows what comes later."""
        return self._called, self._called_weight

    def look(self, step: Step) -> None:
        """The function gets the result of this step."""
        if step.ordinal not in self._looked:
            self._looked.add(step.ordinal)
            more = step.more
            self._called_weight += len(more.get("r", "")) + (_told_weight(step) if "m" in more or "tb" in more else 0)

    def _call(self, step: Step) -> None:
        self._called += 1
        self._called_weight += _STEP_BYTES + len(step.name) + len(step.more.get("i", ""))

    @property
    def used(self) -> tuple[int, int]:
        """Steps and bytes of history so far."""
        return self._next - self.first, self._weight

    @property
    def nearly_full(self) -> bool:
        """Whether it is time to continue as new."""
        steps, size = self.looked_at
        return steps >= WARN_SHARE * self._limits.steps or size >= WARN_SHARE * self._limits.bytes

    # ------------------------------------------------------------ looking up
    def take(self, kind: str, name: str, digest: str = "") -> Step | None:
        """The next recorded step of this address, or None."""
        queue = self._queues.get((kind, name, digest))
        if not queue:
            return None
        step = queue.popleft()
        del self._left[step.ordinal]
        self._issued_left -= step.kind in ISSUED
        self._reached = max(self._reached, step.ordinal)
        self._call(step)
        return step

    def ordinal_of(self, kind: str, name: str, digest: str = "") -> int | None:
        """The ordinal of the step that `take` would give, or None."""
        queue = self._queues.get((kind, name, digest))
        return queue[0].ordinal if queue else None

    def end_of(self, step: Step) -> Arrival | None:
        """How a child ended, or None."""
        return self._ends.get(step.ordinal)

    def event(self, name: str) -> Arrival | None:
        """Take the oldest event of this name that nobody has taken, or None."""
        queue = self._events.get(name)
        return queue.popleft() if queue else None

    def waking(self, step: Step) -> Arrival | None:
        """Take a waking that is meant for this sleep, or None."""
        for arrival in self._wakings:
            if arrival.wakes(step.ordinal, step.name):
                self._wakings.remove(arrival)
                return arrival
        return None

    def patched(self, name: str) -> bool:
        """Whether the code takes its new way here: True at the end of the history (recorded), False inside an old one.

        A run that met the patch in the middle (in a loop, say) stays on the old way in what was recorded before it.
        """
        before = self._patches.get(name)
        if before is not None:
            return self._reached >= before
        if self.replaying:
            return False
        self.put(self._new(PATCH, name, "", {})._replace(state=COMPLETED))
        self._patches[name] = self._reached
        return True

    # ------------------------------------------------------------ what is new
    def issue(self, kind: str, name: str, digest: str = "", **more: Any) -> Step:
        """A new step, open and not reported yet. Raises `Stop` where the rule or the limit forbids it.

        :param more: see `Step.more`; `i` is the whole canonical input.
        """
        if kind in ISSUED and self._issued_left:
            self.leave(Changed(self._changed(kind, name, more.get("i", ""))))
        steps, size = self.used
        if steps >= self._limits.steps or size >= self._limits.bytes:
            text = (
                f"the history of this run has {steps:,} steps and {size:,} bytes; at most {self._limits.steps:,} steps and "
                f"{self._limits.bytes:,} bytes are allowed. Call run.continue_as_new(...) when run.history_nearly_full says so"
            )
            self.leave(LimitReached(HistoryLimitExceeded(text)))
        if "i" in more:
            more["i"] = shortened(more["i"])
        step = self._new(kind, name, digest, more)
        if kind != REFUSED:  # a replay does not come by it
            self._call(step)
        if not self._issued_left and (kind in ISSUED or self._reached >= self._last):
            self._reached = step.ordinal
        return step

    def _new(self, kind: str, name: str, digest: str, more: dict[str, Any]) -> Step:
        step = Step(self._next, kind, name, digest, OPEN, 0, more)
        self._next += 1
        self._weight += _weight(step)
        return step

    def put(self, step: Step) -> Step:
        """Have this step, new or changed, reported; the same step."""
        self._weight += len(step.more.get("r", ""))
        self._fresh[step.ordinal] = step
        if "run" in step.more:
            self.held += _SUBMISSION + len(step.more["run"][6])
        self.reported = max(self.reported, step.ordinal + 1)
        return step

    def take_fresh(self) -> list[Step]:
        """What is to be reported since the last call, in order of issue."""
        fresh, self._fresh = self._fresh, {}
        self.held = 0
        return list(fresh.values())

    def withhold(self) -> None:
        """Start nothing that was not reported yet: the run fails, and what it would have submitted was for nothing."""
        first = min((ordinal for ordinal, step in self._fresh.items() if "run" in step.more), default=None)
        if first is not None:
            self._fresh = {ordinal: step for ordinal, step in self._fresh.items() if ordinal < first}
            self.reported = first

    def leave(self, stop: Stop) -> NoReturn:
        """Leave the function, now and at every further durable operation."""
        self.stop = stop
        raise stop

    # ------------------------------------------------------------ telling what has changed
    def _changed(self, kind: str, name: str, text: str) -> WorkflowChanged:
        left = [step for step in sorted(self._left.values()) if step.kind in ISSUED]
        told = ", ".join(f"#{step.ordinal} {_shown(step.name, step.more.get('i', ''))}" for step in left[:_NAMED])
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        same = next((step for step in left if step.name == name and step.kind == kind), None)
        difference = _difference(same.more.get("i", ""), text) if same is not None else ""
        other = next((step for step in left if step.name == name), None)
        if same is None and other is not None:
            difference = f". It was recorded as a {other.kind}, and is called as a {kind} now"
        return WorkflowChanged(
            f"the code of {self._name} no longer fits this run's history: {_shown(name, shortened(text))} is not recorded, and "
            f"was to start while recorded steps had not been called: {told}{more}{difference}. Nothing was started. Put the "
            "code back in order, or mark the change with `if run.patched(...)`; the run goes on when a worker is started with "
            "the mended code, or when a retry is asked for"
        )


def _told_weight(step: Step) -> int:
    """Of a failure. As it is kept: surrogates are told as text, and what is very long is cut."""
    sizes = ((step.more.get("m", ""), _MAX_MESSAGE), (step.more.get("tb", ""), _MAX_TRACEBACK))
    return sum(min(most, len(text.encode("utf-8", "backslashreplace"))) for text, most in sizes)


def _weight(step: Step) -> int:
    more = step.more
    return _STEP_BYTES + len(step.name) + sum(len(more[key]) for key in ("r", "m", "tb", "i") if key in more)


def _shown(name: str, text: str) -> str:
    """A call as people write it, as far as its input is known."""
    arguments = _arguments(text)
    if arguments is None:
        return f"{name}({text})"
    return f"{name}({', '.join(f'{key}={json.dumps(value)}' for key, value in arguments.items())})"


def _difference(before: str, after: str) -> str:
    old, new = _arguments(before), _arguments(after)
    if old is None or new is None:
        return ""
    parts = [
        f"{key} was {json.dumps(old[key]) if key in old else 'not given'} and is "
        f"{json.dumps(new[key]) if key in new else 'not given'}"
        for key in {**old, **new}
        if old.get(key, ...) != new.get(key, ...)
    ]
    return f". The input differs: {'; '.join(parts)}" if parts else ""


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
