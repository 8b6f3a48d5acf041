"""Event streams: one thread a process polls the database for all that is listened to, and sends the changes to all listeners.

However many listen, a turn asks the database at most `STATEMENTS` times. There are two turns a second, and up to four where
new listeners come. A list that many people look at is asked for once. If there are more topics than statements, they take
turns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Final, NamedTuple

from aiki.api.listening import Listener, Sender, frame
from aiki.api.watches import RunWatch, Watch, to_json
from aiki.errors import Unavailable
from aiki.storage import Store

log = logging.getLogger(__name__)

TURN: Final = 0.5
"""Seconds between turns; half of it where a new listener comes."""
STATEMENTS: Final = 4
RUNS_AT_ONCE: Final = 500
ASK_AGAIN: Final = 10.0
"""Seconds between two checks whether a listener may still listen."""
ASKED_AT_ONCE: Final = 20
"""Listeners that are checked in one turn."""
RETRY: Final = b"retry: 3000\n\n"
_AWAY: Final = 2.0


class Topic(NamedTuple):
    """Something that may be listened to: equal keys are one watch."""

    key: Hashable
    make: Callable[[], Watch]


class Hub:
    """All streams of a process.

    :param max_listeners: streams at a time.
    :param max_held: streams at a time that hold a thread.
    """

    def __init__(self, max_listeners: int, max_held: int) -> None:
        self._max_listeners = max_listeners
        self._max_held = max_held
        self._changed = threading.Condition()
        self._watches: dict[Hashable, Watch] = {}
        self._of: dict[Listener, list[Watch]] = {}
        self._owners: Counter[Hashable] = Counter()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._away = False
        self._runs_due: dict[str, float] = {}
        self.sender = Sender(self.leave)
        self.counted: Callable[[int], None] = lambda _count: None
        """Told how many listen, whenever that changes."""

    def __len__(self) -> int:
        return len(self._of)

    def listen(
        self,
        topics: Sequence[Topic],
        seen: str = "",
        *,
        holds: bool = False,
        allowed: Callable[[], bool] = lambda: True,
        owner: Hashable = None,
    ) -> Listener | None:
        """A new listener, or None if there are too many, or if `owner` has as many as are left to all others.

        :param seen: the id of the last event that it had.
        :param holds: it will hold a thread.
        :param allowed: whether the listener may still listen; once it is False, the stream ends.
        """
        listener = Listener(allowed)
        with self._changed:
            most = min(self._max_held, self._max_listeners) if holds else self._max_listeners
            theirs = self._owners[owner]
            if self._closed or len(self._of) >= most or (owner is not None and theirs >= max(1, most - len(self._of))):
                return None
            self._owners[owner] += 1
            listener.owner = owner
            listener.put(RETRY)
            self._of[listener] = []
            for topic in topics:
                watch = self._watches.get(topic.key)
                if watch is None:
                    watch = self._watches[topic.key] = topic.make()
                watch.listeners[listener] = seen
                self._of[listener].append(watch)
                watch.greet(listener, seen)
            if self._away:
                listener.put(_stale())
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="aiki-hub", daemon=True)
                self._thread.start()
            self._changed.notify()
            self.counted(len(self._of))
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a listener; harmless to repeat."""
        with self._changed:
            if listener in self._of:
                self._owners[listener.owner] -= 1
                self._owners = +self._owners
            for watch in self._of.pop(listener, ()):
                watch.listeners.pop(listener, None)
                if not watch.listeners:
                    self._watches.pop(watch.key, None)
            self.counted(len(self._of))

    def close(self) -> None:
        """End all streams; there will be no others."""
        with self._changed:
            self._closed = True
            listeners = list(self._of)
            self._changed.notify()
        for listener in listeners:
            listener.end()
        self.sender.close()

    # ------------------------------------------------------------ the thread
    def _work(self) -> None:
        try:
            self._turn_on()
        except BaseException:
            with self._changed:
                self._thread = None  # whoever listens next starts another; those who did begin again with it
                listeners = list(self._of)
            for listener in listeners:
                listener.end()
            raise

    def _turn_on(self) -> None:
        last = 0.0
        while True:
            with self._changed:
                if not self._of or self._closed:
                    self._thread = None
                    return
                pause = self._next() - time.monotonic()
                gap = last + TURN / 2 - time.monotonic()  # newcomers do not make it ask more often than that
                if pause > 0:
                    self._changed.wait(min(pause, TURN))
                    if self._next() > time.monotonic():
                        continue
            if gap > 0:
                time.sleep(gap)
            last = time.monotonic()
            self.turn(last)

    def _next(self) -> float:
        plain = [watch.due for watch in self._watches.values() if not isinstance(watch, RunWatch) or watch.dirty]
        runs = [self._runs_due.get(name, 0.0) for name in self._namespaces()]
        return min([*plain, *runs], default=time.monotonic() + TURN)

    def _namespaces(self) -> dict[str, Store]:
        return {watch.store.namespace: watch.store for watch in self._watches.values() if isinstance(watch, RunWatch)}

    def turn(self, now: float) -> None:
        """Poll the topics that are due, and send their changes."""
        with self._changed:
            jobs: list[tuple[float, Callable[[], None]]] = [
                (self._runs_due.get(name, 0.0), lambda store=store: self._look_at_runs(store, now))  # type: ignore[misc]
                for name, store in self._namespaces().items()
            ]
            for watch in self._watches.values():
                if not isinstance(watch, RunWatch) or watch.dirty:
                    jobs.append((watch.due, lambda watch=watch: self._look(watch, now)))  # type: ignore[misc]
        due = sorted((job for job in jobs if job[0] <= now), key=lambda job: job[0])
        try:
            for _, look in due[:STATEMENTS]:
                look()
            self._dismiss(now)
            self._there()
        except Unavailable as error:
            self._gone(error)

    def _look_at_runs(self, store: Store, now: float) -> None:
        self._runs_due[store.namespace] = now + TURN
        with self._changed:
            watches = [
                watch
                for watch in self._watches.values()
                if isinstance(watch, RunWatch) and watch.store.namespace == store.namespace
            ][:RUNS_AT_ONCE]
        found = store.watched([watch.run_id for watch in watches])
        with self._changed:
            for watch in watches:
                watch.found(found.get(watch.run_id), now)

    def _look(self, watch: Watch, now: float) -> None:
        watch.due = now + watch.interval()
        found = watch.ask()
        with self._changed:
            watch.told(found)

    def _dismiss(self, now: float) -> None:
        """End the streams of those who have been signed out, or whose key was revoked, a few a turn."""
        due = [listener for listener in list(self._of) if now - listener.asked_at >= ASK_AGAIN]
        for listener in due[:ASKED_AT_ONCE]:
            listener.asked_at = now
            if not listener.allowed():
                listener.end()

    def _gone(self, error: Unavailable) -> None:
        if not self._away:
            log.warning("streams stand still: %s", error)
            self._tell_all(_stale())
        self._away = True
        with self._changed:
            self._changed.wait(_AWAY)

    def _there(self) -> None:
        if self._away:
            self._away = False
            self._tell_all(frame("fresh", "{}"))

    def _tell_all(self, told: bytes) -> None:
        for listener in list(self._of):
            listener.put(told)


def _stale() -> bytes:
    return frame("stale", to_json({"reason": "the database cannot be used at present; what you see may be old"}))
