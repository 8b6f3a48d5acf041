"""Level-triggered repair: every run that has not ended must have a cause to move. Looks every few seconds, and mends what has
none.

| found | mended by |
|---|---|
| running, but its worker lives and does not name it, or does not live | an inquiry, through the run's report partition |
| queued, no delivery, and a marker that was sent after its dispatch has come out of its queue | publishing its epoch once
more, marked `again` |
| scheduled or waiting for its retry, no delivery | a new delivery |
| stalled, and a live worker can execute it | a new delivery |

A round looks at the namespaces that have runs in such a state, a page of one state at a time: it may be stopped after each
page, so that reports never wait for long. Where a namespace has more than a round looks at, the next round goes on there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from aiki import messages as m
from aiki.broker import Session
from aiki.broker import reports as report_queue
from aiki.clock import SECOND
from aiki.lifecycle import reports
from aiki.lifecycle.deliveries import dispatch_again, restore
from aiki.lifecycle.effects import Applied, Decide, Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.reports import Rules
from aiki.messages import Report, ReportList, RunKey
from aiki.orchestrator.isolation import Failed, Isolation
from aiki.orchestrator.live import Live
from aiki.orchestrator.markers import Markers
from aiki.states import State
from aiki.storage import Store
from aiki.storage.reconciling import Queued, is_recent

PAGE: Final = 500
PAGES: Final = 20
"""Pages of a state of a namespace that a round looks at."""
BEATS_TO_TRUST: Final = 3
"""Beats of a worker, received in a row, that must not name a run before it is inquired."""

Found = Iterator[tuple[str, Applied]]
Page = Callable[[bytes], tuple[list[Applied], bytes | None]]
"""Looks at a page from a place on: what was done, and where to go on."""


class Reconciler:
    """Finds runs without a cause to move.

    :param refuse: is given a run (namespace, id) that cannot be mended, with the reason.
    :param stale_after: seconds after which a queued run without a delivery is looked at.
    """

    def __init__(
        self,
        store: Store,
        live: Live,
        rules: Callable[[str], Rules],
        markers: Markers,
        isolation: Isolation,
        refuse: Callable[[str, bytes, str], None],
        *,
        stale_after: float = 30.0,
    ) -> None:
        self._isolation = isolation
        self._refuse = refuse
        self._store = store
        self._live = live
        self._rules = rules
        self._markers = markers
        self._span = int(stale_after * SECOND)
        self._rounds = 0
        self._missed: dict[tuple[str, RunKey], int] = {}
        """Runs that their worker did not name, and in which round that was."""
        self._cursors: dict[tuple[str, str], bytes] = {}
        self._hurry: dict[str, bytes] = {}
        """Namespaces in which a worker has sent a hello, with how far their stalled runs were looked at since."""
        self._round: Found | None = None

    @property
    def resting(self) -> bool:
        """Whether no round is under way."""
        return self._round is None

    def run_once(self, session: Session, now: float) -> list[tuple[str, Applied]]:
        """A whole round; what it returns is to be followed. Raises `StorageUnavailable`, `BrokerUnavailable`."""
        out = list(self.run_some(session, now, float("inf")))
        self._markers.send(session, now)
        return out

    def run_some(self, session: Session, now: float, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> Found:
        """Go on with a round for about so long, or begin one; what it yields is to be followed."""
        until = monotonic() + seconds
        if self._round is None:
            self._round = self._look(session, now)
        while True:
            try:
                found = next(self._round, None)
            except BaseException:
                self._round = None  # the next one goes on behind what has spoilt this one
                raise
            if found is None:
                self._round = None
                return
            yield found
            if monotonic() >= until:
                return

    def _look(self, session: Session, now: float) -> Found:
        self._rounds += 1
        place: str | None = ""
        seen: set[tuple[str, str]] = set()
        while place is not None:
            pairs, place = self._store.states_there(place)
            for namespace, state in pairs:
                seen.add((namespace, state))
                yield from self._look_at(session, namespace, state, now)
        self._missed = {key: number for key, number in self._missed.items() if number == self._rounds}
        self._cursors = {key: cursor for key, cursor in self._cursors.items() if key in seen}

    def _look_at(self, session: Session, namespace: str, state: str, now: float) -> Found:
        if state == State.RUNNING:
            yield from self._pages(namespace, state, lambda after: self._running(session, namespace, after, now), None)
        elif state == State.QUEUED:
            yield from self._pages(namespace, state, lambda after: self._queued(namespace, after))
        elif state in (State.SCHEDULED, State.WAITING):
            # A page: there may be very many, and hardly ever is one without its delivery.
            yield from self._pages(namespace, state, lambda after: self._undelivered(namespace, State(state), after), 1)
        elif state == State.STALLED:
            yield from self._pages(namespace, state, lambda after: self._stalled(namespace, after))

    def _apply(self, namespace: str, run_ids: Sequence[bytes], decide: Decide, *, arrived: bool = False) -> list[Applied]:
        """Apply a decision; a run that it cannot be applied to is set apart."""
        return list(
            self._isolation.each(
                run_ids,
                lambda part: self._store.apply(namespace, part, decide, arrived=part if arrived else ()),
                lambda run_id, why: self._refuse(namespace, run_id, why),
            )
        )

    def _pages(self, namespace: str, state: str, page: Page, most: int | None = -1) -> Found:
        """Look at some pages from where the round before ended; from the beginning after the end."""
        count = 0
        most = PAGES if most == -1 else most
        while most is None or count < most:
            after = self._cursors.pop((namespace, state), b"")
            # Each by itself: what is wrong in one namespace is not to stop the repair of the others.
            done = self._isolation.attempt(page, after)
            if isinstance(done, Failed):
                self._isolation.note("reconcile", f"namespace {namespace}, runs that are {state}: {done.why}")
                return
            applied, place = done.value
            if place is not None:
                self._cursors[namespace, state] = place
            for one in applied:
                yield namespace, one
            yield namespace, Applied()  # a page was looked at: enough for a turn, perhaps
            count += 1
            if place is None:
                return

    # ------------------------------------------------------------ running
    def _running(self, session: Session, namespace: str, after: bytes, now: float) -> tuple[list[Applied], bytes | None]:
        """Runs whose worker does not name them. Asked through the report queue: a report of theirs may be on its way."""
        asked: list[tuple[RunKey, int]] = []
        found, place = self._store.running(namespace, after, PAGE)
        for key, worker_id, partition in found:
            worker = self._live.workers.get(worker_id)
            if worker is not None and (key in worker.held or worker.beats < BEATS_TO_TRUST):
                continue
            if worker is None and self._live.listened(now) < self._live.lease:
                continue
            if self._missed.get((namespace, key)) == self._rounds - 1:
                asked.append((key, partition))
            self._missed[namespace, key] = self._rounds
        inquire(session, namespace, asked)
        return [], place

    # ------------------------------------------------------------ queued
    def _queued(self, namespace: str, after: bytes) -> tuple[list[Applied], bytes | None]:
        found, place = self._store.stale_queued(namespace, self._span, after, PAGE)
        by_queue: dict[str, list[Queued]] = defaultdict(list)
        for item in found:
            by_queue[item.queue].append(item)
        lost: list[tuple[bytes, int]] = []
        for queue, items in by_queue.items():
            taken = self._store.mark(namespace, queue).taken
            lost += [(item.id, item.epoch) for item in items if item.marker is not None and item.marker <= taken]
            new = [(item.id, item.epoch) for item in items if item.marker is None]
            if not self._markers.may_prove(namespace, queue):
                continue
            if new:
                self._store.await_marker(namespace, queue, new)
            if new or any(item.marker is not None and item.marker > taken for item in items):
                self._markers.want(namespace, queue)
        return self._again(namespace, dict(lost)), place

    def _again(self, namespace: str, epochs: dict[bytes, int]) -> list[Applied]:
        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            now = self._store.clock()
            for row in rows.values():
                dispatch_again(row, epochs[row.id], effects, now)

        return self._apply(namespace, list(epochs), decide)

    # ------------------------------------------------------------ waiting
    def _undelivered(self, namespace: str, state: State, after: bytes) -> tuple[list[Applied], bytes | None]:
        found, place = self._store.stale_undelivered(namespace, state, self._span, after, 2 * PAGE)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            now = self._store.clock()
            for row in rows.values():
                if not is_recent(row.updated_at, now, self._span):
                    restore(row, effects, now)

        return self._apply(namespace, found, decide, arrived=True), place

    # ------------------------------------------------------------ stalled
    def unpark(self, namespace: str) -> list[Applied]:
        """A worker has sent a hello: dispatch a page of the stalled runs that it can execute; `unpark_more` goes on."""
        applied, place = self._stalled(namespace, b"")
        self._hurry.pop(namespace, None)
        if place is not None:
            self._hurry[namespace] = place
        return applied

    def unpark_more(self) -> Found:
        """The next page of the stalled runs of a namespace in which a worker has sent a hello."""
        for namespace, after in list(self._hurry.items())[:1]:
            del self._hurry[namespace]
            applied, place = self._stalled(namespace, after)
            if place is not None:
                self._hurry[namespace] = place
            for one in applied:
                yield namespace, one

    def _stalled(self, namespace: str, after: bytes) -> tuple[list[Applied], bytes | None]:
        found, place = self._store.stalled(namespace, self._live.skills(namespace), after, PAGE)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            rules = self._rules(namespace)
            for row in rows.values():
                reports.unpark(row, rules, effects)

        return self._apply(namespace, found, decide), place


def inquire(session: Session, namespace: str, keys: Iterable[tuple[RunKey, int]]) -> None:
    """Send inquiries of our own down the report partitions, behind everything that was confirmed."""
    by_partition: dict[int, list[Report]] = defaultdict(list)
    for key, partition in keys:
        by_partition[partition].append(Report(m.INQUIRE, key.run_id, key.epoch, {"why": "reconcile"}))
    for partition, items in by_partition.items():
        for start in range(0, len(items), 200):
            session.send(report_queue(partition), ReportList(namespace, "", "", items[start : start + 200]).encode())
