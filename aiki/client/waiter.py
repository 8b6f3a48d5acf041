"""Waiting for runs to end: one polling thread a process for all waiters.

Each waiter is polled at an interval that grows with how long it has waited (a tenth of it, from 1 ms to 250 ms). The first
poll comes shortly before the time at which the last waits ended, for polling in vain takes time from the processes that work
on the answer. All that are due, and those that are half way there, are polled in one query, so that many waiters soon keep
step. While the database is away, waiting goes on until each waiter's own deadline.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from aiki.errors import Unavailable

log = logging.getLogger(__name__)

MIN_INTERVAL: Final = 0.001
MAX_INTERVAL: Final = 0.25
MAX_FIRST: Final = 0.01
"""Seconds until the first look at the latest."""
MAX_IDS: Final = 500
"""Runs asked for in one query."""
LINGER: Final = 10.0
"""Seconds without waiters after which the thread ends."""
_AWAY: Final = 0.5

E = TypeVar("E")
"""The end of a run, for its waiters."""


class _Waiting(Generic[E]):
    """A waiter. `tell` is called once with the end, from the polling thread, when the run has ended."""

    __slots__ = ("due", "end", "half_way", "run_id", "since", "tell")

    def __init__(self, run_id: str, now: float, first: float, tell: Callable[[], None]) -> None:
        self.run_id = run_id
        self.since = now
        self.due = self.half_way = now + first
        self.tell = tell
        self.end: E | None = None

    def again(self, now: float, least: float) -> None:
        """Be due again after the interval."""
        interval = max(least, min((now - self.since) / 10, MAX_INTERVAL))
        self.due, self.half_way = now + interval, now + interval / 2


class Waiter(Generic[E]):
    """The polling thread and the waiters.

    :param ended: gives the ends of those of some runs that have ended; may raise `Unavailable`.
    """

    def __init__(self, ended: Callable[[Sequence[str]], Mapping[str, E]], clock: Callable[[], float] = time.monotonic) -> None:
        self._ended = ended
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: set[_Waiting[E]] = set()
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._closed = False
        self._usual = 0.0

    def wait(self, run_id: str, timeout: float | None) -> E | None:
        """How the run ended, if it does within `timeout` seconds (None: wait for ever).

        None otherwise, and at once if the waiter is closed.
        """
        told = threading.Event()
        entry = self._add(run_id, told.set)
        try:
            told.wait(timeout)
            return entry.end
        finally:
            self._discard(entry)

    async def await_end(self, run_id: str, timeout: float | None) -> bool:
        """As `wait`, for callers in an event loop; holds no thread."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(told.set)
            except RuntimeError:  # the loop is closed: nobody is left to be told
                pass

        entry = self._add(run_id, tell)
        try:
            async with asyncio.timeout(timeout):
                await told.wait()
            return not self._closed
        except TimeoutError:
            return False
        finally:
            self._discard(entry)

    def close(self) -> None:
        """Wake all waiters."""
        with self._changed:
            self._closed = True
            for entry in self._waiting:
                entry.tell()
            self._waiting.clear()
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._waiting)

    # ------------------------------------------------------------ the thread
    def _add(self, run_id: str, tell: Callable[[], None]) -> _Waiting[E]:
        first = min(max(MIN_INTERVAL, self._usual * 0.75), MAX_FIRST)
        entry: _Waiting[E] = _Waiting(run_id, self._clock(), first, tell)
        with self._changed:
            if self._closed:
                tell()
                return entry
            self._waiting.add(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="aiki-waiter", daemon=True)
                self._thread.start()
            elif entry.due < self._sleeps_until:
                self._changed.notify()
        return entry

    def _discard(self, entry: _Waiting[E]) -> None:
        with self._changed:
            self._waiting.discard(entry)

    def _work(self) -> None:
        try:
            while self._sleep():
                self.poll()
        except BaseException:
            with self._changed:
                self._thread = None  # whoever waits next starts another
            raise

    def _sleep(self) -> bool:
        """Sleep until a waiter is due; False when the thread is needed no more."""
        with self._changed:
            while True:
                if not self._waiting and not self._closed:
                    self._sleeps_until = self._clock() + LINGER
                    self._changed.wait(LINGER)
                if not self._waiting:
                    self._thread = None
                    return False
                now = self._clock()
                pause = min(entry.due for entry in self._waiting) - now
                if pause <= 0:
                    return True
                self._sleeps_until = now + pause
                self._changed.wait(pause)

    def poll(self) -> None:
        """Poll once for the waiters that are due, and wake those whose runs have ended."""
        now = self._clock()
        with self._changed:
            due = sorted((entry for entry in self._waiting if entry.half_way <= now), key=lambda entry: entry.due)
            by_id: dict[str, list[_Waiting[E]]] = {}
            for entry in due:
                if len(by_id) < MAX_IDS or entry.run_id in by_id:
                    by_id.setdefault(entry.run_id, []).append(entry)
        if not by_id:
            return
        try:
            ended = self._ended(list(by_id))
            least = MIN_INTERVAL
        except Unavailable as error:
            log.info("waiting for results goes on although they cannot be asked for: %s", error)
            ended, least = {}, _AWAY
        now = self._clock()
        with self._changed:
            for run_id, entries in by_id.items():
                for entry in entries:
                    if run_id in ended:
                        self._waiting.discard(entry)
                        self._usual += (now - entry.since - self._usual) / 4
                        entry.end = ended[run_id]
                        entry.tell()
                    else:
                        entry.again(now, least)
