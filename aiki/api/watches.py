"""The topics of streams: a run, a list of runs. Each is polled once, however many listen to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Final

from aiki.api.listening import Listener, frame
from aiki.client import wire
from aiki.model import RunView
from aiki.storage import Store
from aiki.storage.watching import StepMark, Watched

STEPS_AT_ONCE: Final = 500
RECENT: Final = 500
"""The newest steps of a run, which a stream follows; for older ones ask for the history."""
OPEN_AT_ONCE: Final = 200
LIST_SECONDS: Final = 1.0
LISTENERS_A_SECOND: Final = 100
"""Limit of listeners that are sent a list in a second; a list with more of them is sent less often."""
CHILDREN_SECONDS: Final = 2.0


def to_json(data: Any) -> str:
    """JSON on one line."""
    return json.dumps(data, separators=(",", ":"))


class Watch:
    """One thing that is looked at, and those who listen to it.

    :ivar due: when it is to be looked at next, by the hub's clock.
    """

    seconds: float = LIST_SECONDS

    def __init__(self, key: Hashable, store: Store) -> None:
        self.key = key
        self.store = store
        self.due = 0.0
        self.listeners: dict[Listener, str] = {}  # and the id of the last event that each has seen

    def interval(self) -> float:
        """Seconds until it is looked at again."""
        return max(self.seconds, len(self.listeners) / LISTENERS_A_SECOND)

    def ask(self) -> Any:
        """Ask the database; raises `Unavailable`."""
        raise NotImplementedError

    def told(self, found: Any) -> None:
        """Tell those who listen what is new in an answer. The hub's lock is held."""
        raise NotImplementedError

    def greet(self, listener: Listener, seen: str) -> None:
        """Tell a newcomer what is known already. The hub's lock is held."""

    def tell(self, *frames: bytes) -> None:
        """To all who listen."""
        for listener in list(self.listeners):
            listener.put(*frames)


class ListWatch(Watch):
    """The first page of a list: who is on it, and the runs that are new or changed."""

    def __init__(self, key: Hashable, store: Store, page: Callable[[], Iterable[RunView]]) -> None:
        super().__init__(key, store)
        self._page = page
        self._known: dict[str, RunView] = {}
        self._sign = ""

    def ask(self) -> list[RunView]:
        """See `Watch`."""
        return list(self._page())

    def told(self, found: list[RunView]) -> None:
        """See `Watch`."""
        runs = {run.id: run for run in found}
        changed = [run for run in runs.values() if self._known.get(run.id) != run]
        first, moved = not self._sign, list(runs) != list(self._known)
        self._known = runs
        if first or changed or moved:
            self._sign = _sign((run.id, run.updated_at) for run in runs.values())
            told = frame("runs", self._json(changed), self._sign)
            for listener, seen in list(self.listeners.items()):
                if not (first and seen == self._sign):
                    listener.put(told)

    def greet(self, listener: Listener, seen: str) -> None:
        """See `Watch`."""
        if self._sign and seen != self._sign:
            listener.put(frame("runs", self._json(self._known.values()), self._sign))

    def _json(self, changed: Iterable[RunView]) -> str:
        return to_json({"ids": list(self._known), "changed": [wire.run_to_json(run) for run in changed]})


class NumbersWatch(Watch):
    """Numbers under a name, sent whenever they change."""

    seconds = 2.0

    def __init__(self, key: Hashable, store: Store, event: str, numbers: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(key, store)
        self._event = event
        self._numbers = numbers
        self._told = ""

    def ask(self) -> str:
        """See `Watch`."""
        return to_json(self._numbers())

    def told(self, found: str) -> None:
        """See `Watch`."""
        if found != self._told:
            self._told = data = found
            self.tell(frame(self._event, data))

    def greet(self, listener: Listener, seen: str) -> None:  # noqa: ARG002
        """See `Watch`."""
        if self._told:
            listener.put(frame(self._event, self._told))


class RunWatch(Watch):
    """A run and the steps that are new or change, as far as they are among the newest.

    The rows of all runs of a namespace are read in one statement (`Hub`); `ask` reads this one's steps.
    """

    seconds = CHILDREN_SECONDS

    def __init__(self, key: Hashable, store: Store, run_id: str) -> None:
        super().__init__(key, store)
        self.run_id = run_id
        self.dirty = False
        self._seen: Watched | None = None
        self._last = -1
        self._recent: dict[int, StepMark] = {}

    @property
    def _id(self) -> str:
        return f"{self._seen.run.updated_at if self._seen else 0}.{self._last}"

    def found(self, watched: Watched | None, now: float) -> None:
        """The run as it is now; None if it is gone."""
        before, self._seen = self._seen, watched
        if watched is None:
            self.tell(frame("end", to_json({"state": None})))
            self._end()
            return
        if before is None:
            self._last = max(-1, watched.steps - 1 - RECENT)
        if before != watched:
            self.tell(self._run())
        if watched.steps and before != watched:
            self.dirty, self.due = True, now
        elif any(step.open for step in self._recent.values()):
            self.dirty = True  # children end without their parent's row being changed
        elif watched.run.ended and not self.dirty:
            self.finish()

    def ask(self) -> list[StepMark]:
        """See `Watch`."""
        again = [ordinal for ordinal, step in self._recent.items() if step.open][:OPEN_AT_ONCE]
        return self.store.step_marks(self.run_id, after=self._last, again=again, limit=STEPS_AT_ONCE)

    def told(self, found: list[StepMark]) -> None:
        """See `Watch`."""
        told = [step for step in found if self._recent.get(step.ordinal) != step]
        more = sum(step.ordinal > self._last for step in found) == STEPS_AT_ONCE
        self._last = max((step.ordinal for step in found), default=self._last)
        self._recent.update((step.ordinal, step) for step in told)
        for ordinal in sorted(self._recent)[: max(0, len(self._recent) - RECENT)]:
            del self._recent[ordinal]
        if told:
            self.tell(self._steps(told))
        self.dirty = more
        if not more and self._seen is not None and self._seen.run.ended:
            self.finish()

    def finish(self) -> None:
        """Say that it has ended, and end the streams."""
        if self._seen is not None:
            self.tell(frame("end", to_json({"state": self._seen.run.state.value}), self._id))
        self._end()

    def _end(self) -> None:
        for listener in list(self.listeners):
            listener.end()

    def greet(self, listener: Listener, seen: str) -> None:
        """See `Watch`."""
        if self._seen is not None and seen != self._id:
            listener.put(self._run(), self._steps(self._recent.values()))

    def _run(self) -> bytes:
        assert self._seen is not None
        return frame("run", to_json({"run": wire.run_to_json(self._seen.run), "steps": self._seen.steps}), self._id)

    def _steps(self, steps: Iterable[StepMark]) -> bytes:
        return frame("steps", to_json({"steps": [step_to_json(step) for step in steps]}), self._id)


def step_to_json(step: StepMark) -> dict[str, Any]:
    """A step without what it took and gave."""
    out = step._asdict()
    for name in ("due_at", "created_at", "finished_at"):
        out[name] = wire.time_to_json(out[name])
    return out


def _sign(items: Iterable[tuple[Any, ...]]) -> str:
    return hashlib.sha256(repr(list(items)).encode()).hexdigest()[:16]
