"""Markers: one at a time is sent down each queue about which something is to be proven (`aiki.storage.marking`).

Only a queue that workers consume from gets a marker, so that a queue without workers, or a paused one, is not filled. A marker
that does not come back counts as lost once its queue was seen empty: then the next one is sent in its place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from aiki import ids
from aiki.broker import Session, work
from aiki.messages import DispatchList
from aiki.orchestrator.live import Live
from aiki.storage import Store
from aiki.storage.marking import SEEN, UNSEEN

EMPTY_FOR: Final = 10.0
"""Seconds for which a queue is seen empty before its marker is taken for lost: it may be in a worker's hands."""
LOST_AFTER: Final = 900.0
"""Seconds after which a marker counts as lost though its queue, which workers consume from, is never seen empty."""
SETTLE: Final = 60.0
"""Seconds after which no process publishes a dispatch that was revoked: much longer than the claim on a delivery."""
CHORE: Final = "revocations"
HELD: Final = 30.0
EVERY: Final = 5.0


class Markers:
    """The markers that one orchestrator sends.

    :param paused: the paused queues of a namespace.
    """

    def __init__(self, store: Store, live: Live, paused: Callable[[str], frozenset[str]]) -> None:
        self._store = store
        self._live = live
        self._paused = paused
        self._wanted: dict[tuple[str, str], None] = {}
        self._out: dict[tuple[str, str], tuple[int, float, float | None]] = {}
        """Markers that are awaited: the number, since when, and since when the queue was seen empty."""

    def forget(self) -> None:
        """The session is gone: nothing is known of the queues any more."""
        self._out.clear()

    def may_prove(self, namespace: str, queue: str) -> bool:
        """Whether a marker would come out of the queue."""
        return queue in self._live.queues(namespace) and queue not in self._paused(namespace)

    def want(self, namespace: str, queue: str) -> None:
        """Something in the queue awaits a marker."""
        self._wanted[namespace, queue] = None

    def send(self, session: Session, now: float, most: int = 20) -> None:
        """Send the markers that are wanted, some at a time. Raises `StorageUnavailable`, `BrokerUnavailable`."""
        for key in list(self._wanted)[:most]:
            del self._wanted[key]
            if self.may_prove(*key):
                self._send(session, key, now)

    def _send(self, session: Session, key: tuple[str, str], now: float) -> None:
        namespace, queue = key
        mark = self._store.mark(namespace, queue)
        if mark.out and not self._is_lost(session, key, mark.sent, now):
            return
        depth = session.depth(work(namespace, queue))
        if depth is not None and depth.consumers == 0:
            return
        number = self._store.next_marker(namespace, queue, lost=mark.sent if mark.out else 0)
        if number is None:
            return
        session.send(work(namespace, queue), DispatchList(namespace, queue, [], marker=number).encode())
        self._out[key] = (number, now, None)

    def _is_lost(self, session: Session, key: tuple[str, str], number: int, now: float) -> bool:
        known, since, empty = self._out.get(key, (number, now, None))
        if known != number:
            since, empty = now, None
        depth = session.depth(work(*key))
        is_empty = depth is None or depth.ready == 0
        empty = (now if empty is None else empty) if is_empty else None
        self._out[key] = (number, since, empty)
        return (empty is not None and now - empty >= EMPTY_FOR) or now - since >= LOST_AFTER


class Revoking:
    """Drops revocations whose dispatch is known to be gone, however long that takes. One orchestrator at a time does it.

    :param settle: seconds, see `SETTLE`.
    """

    def __init__(
        self,
        store: Store,
        markers: Markers,
        *,
        settle: float = SETTLE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._markers = markers
        self._settle = settle
        self._monotonic = monotonic
        self._holder = ids.new_id().hex
        self._next = 0.0
        self._stepped: float | None = None
        """When all that had been revoked by then was noted; None: not since this orchestrator does it."""
        self._walk: Iterator[None] | None = None

    def run_some(self, now: float, seconds: float) -> None:
        """Go on for about so long. Raises `StorageUnavailable`."""
        until = self._monotonic() + seconds
        if self._walk is None:
            if now < self._next:
                return
            self._next = now + EVERY
            if not self._store.take_chore(CHORE, self._holder, HELD):
                self._stepped = None
                return
            self._walk = self._look(now)
        while True:
            try:
                more = next(self._walk, True)
            except BaseException:
                self._walk = None
                raise
            if more is True:
                self._walk = None
                return
            if self._monotonic() >= until:
                return

    def _look(self, now: float) -> Iterator[None]:
        step = self._stepped is None or now - self._stepped >= self._settle
        known = self._stepped is not None
        place = ("", "")
        while found := self._store.revoked_queues(place):
            for namespace, queue in found:
                if queue == "":
                    while self._store.place_revocations(namespace):
                        yield
                else:
                    yield from self._look_at(namespace, queue, step=step, known=known)
            place = found[-1]
            yield
        if step:
            self._stepped = now

    def _look_at(self, namespace: str, queue: str, *, step: bool, known: bool) -> Iterator[None]:
        while True:
            dropped, awaited = self._store.drop_proven(namespace, queue)
            if not dropped:
                break
            yield
        if step and known and self._markers.may_prove(namespace, queue):
            while self._store.prove_revocations(namespace, queue, SEEN):
                awaited = True
                yield
        if step:
            while self._store.prove_revocations(namespace, queue, UNSEEN):
                yield
        if awaited:
            self._markers.want(namespace, queue)
