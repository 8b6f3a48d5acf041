"""Level-triggered repair: every run that has not ended must have a cause to move. Looks every few seconds, and mends what has
none.

| found | mended by |
|---|---|
| running, but its worker lives and does not name it, or does not live | an inquiry, through the run's report partition |
| queued, no delivery, and everything published before a later marker was taken | publishing its epoch once more, marked
`again` |
| scheduled or waiting for its retry, no delivery | a new delivery |
| stalled, and a live worker has its definition | a new delivery |

It cannot see into queues. A marker is a message without runs that it sends down a work queue; queues are FIFO, so when the
marker comes back, all that was published before it has been taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from aiki import messages as m
from aiki.broker import Session, reports, work
from aiki.clock import SECOND
from aiki.messages import DispatchList, Report, ReportList, RunKey
from aiki.orchestrator import core, workflows
from aiki.orchestrator.core import Rules
from aiki.orchestrator.isolation import Isolation
from aiki.orchestrator.live import Live
from aiki.states import State
from aiki.storage import Store
from aiki.storage.applying import Applied, Decide, Effects
from aiki.storage.rows import RunRow
from aiki.storage.waking import rearm

PAGE = 1000
PAGES = 20
BEATS_TO_TRUST = 3
"""Beats of a worker, heard in a row, that must not name a run before it is inquired."""


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
        isolation: Isolation,
        refuse: Callable[[str, bytes, str], None],
        *,
        stale_after: float = 30.0,
        settle: float = 2.0,
    ) -> None:
        self._isolation = isolation
        self._refuse = refuse
        self._store = store
        self._live = live
        self._rules = rules
        self.stale_after = stale_after
        self._settle = settle
        self._missed: dict[RunKey, int] = {}
        self._cursors: dict[tuple[str, State], bytes] = {}

    def run_once(self, session: Session, now: float) -> Iterator[tuple[str, Applied]]:
        """Look at all namespaces once; what it yields is to be followed. Raises `StorageUnavailable`, `BrokerUnavailable`."""
        missed: dict[RunKey, int] = {}
        for namespace in self._store.namespaces():
            # Each by itself: what is wrong in one namespace is not to stop the repair of the others.
            what = f"namespace {namespace}"
            found: list[Applied] = []
            for step in (
                lambda name=namespace: missed.update(self._inquire_running(session, name, now)),
                lambda found=found, name=namespace: found.extend(self._revive_queued(session, name)),
                lambda found=found, name=namespace: found.extend(self._revive_waiting(name)),
                lambda found=found, name=namespace: found.extend(self.unpark(name)),
            ):
                self._isolation.do("reconcile", what, step)
            for applied in found:
                yield namespace, applied
        self._missed = missed

    def _apply(self, namespace: str, run_ids: Sequence[bytes], decide: Decide, arrived: bool = False) -> Iterator[Applied]:
        """Apply a decision; a run that it cannot be applied to is set apart."""
        return self._isolation.each(
            run_ids,
            lambda part: self._store.apply(namespace, part, decide, arrived=part if arrived else ()),
            lambda run_id, why: self._refuse(namespace, run_id, why),
        )

    # ------------------------------------------------------------ running
    def _inquire_running(self, session: Session, namespace: str, now: float) -> dict[RunKey, int]:
        """Runs whose worker does not name them. Asked through the report queue: a report of theirs may be on its way."""
        missed: dict[RunKey, int] = {}
        asked: list[tuple[RunKey, int]] = []
        for key, worker_id, partition in self._store.running(namespace):
            worker = self._live.workers.get(worker_id)
            if worker is not None and (key in worker.held or worker.beats < BEATS_TO_TRUST):
                continue
            if worker is None and self._live.listened(now) < self._live.lease:
                continue
            missed[key] = self._missed.get(key, 0) + 1
            if missed[key] >= 2:
                asked.append((key, partition))
        inquire(session, namespace, asked)
        return missed

    # ------------------------------------------------------------ queued
    def _revive_queued(self, session: Session, namespace: str) -> Iterator[Applied]:
        before = self._store.clock() - int(self.stale_after * SECOND)
        lost: list[bytes] = []
        unproven: dict[str, int] = {}
        markers: dict[str, tuple[int, int]] = {}
        after = b""
        for _ in range(PAGES):
            page = self._store.stale_queued(namespace, before, after, PAGE)
            for run_id, _epoch, queue, dispatched_at in page.runs:
                if queue not in markers:
                    markers[queue] = self._store.marker(namespace, queue)
                taken_at = markers[queue][1]
                if dispatched_at < taken_at - int(self._settle * SECOND):
                    lost.append(run_id)
                else:
                    unproven[queue] = max(unproven.get(queue, 0), dispatched_at)
            if page.next is None:
                break
            after = page.next
        self._send_markers(session, namespace, unproven, markers)
        return self._again(namespace, lost, before)

    def _send_markers(
        self, session: Session, namespace: str, queues: dict[str, int], markers: dict[str, tuple[int, int]]
    ) -> None:
        now = self._store.clock()
        paused = self._store.all_pauses().get(namespace, (0, []))[1] if queues else []
        for queue in queues:
            if queue in paused:
                continue  # nothing is taken from it, so nothing would come of it
            sent_at, taken_at = markers[queue]
            # One on its way is enough; if it does not come back for long, it may be lost itself.
            if sent_at > taken_at and sent_at > now - int(2 * self.stale_after * SECOND):
                continue
            session.send(work(namespace, queue), DispatchList(namespace, queue, [], marker=now).encode())
            self._store.save_marker(namespace, queue, sent_at=now)

    def _again(self, namespace: str, run_ids: list[bytes], before: int) -> Iterator[Applied]:
        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            now = self._store.clock()
            for row in rows.values():
                if row.state == State.QUEUED and row.updated_at < before:
                    effects.deliver_again(row, now)

        return self._apply(namespace, run_ids, decide)

    # ------------------------------------------------------------ waiting, stalled
    def _revive_waiting(self, namespace: str) -> Iterator[Applied]:
        """A page of each state a pass: there may be very many, and hardly ever is one without its delivery."""
        before = self._store.clock() - int(self.stale_after * SECOND)
        found: list[bytes] = []
        for state in (State.SCHEDULED, State.WAITING):
            cursor = self._cursors.get((namespace, state), b"")
            page, after = self._store.stale_undelivered(namespace, state, before, cursor, PAGE)
            self._cursors[namespace, state] = after or b""
            found += page

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            now = self._store.clock()
            for row in rows.values():
                if row.updated_at >= before:
                    continue
                if row.waits is not None:
                    workflows.heed(row, effects, now)
                    rearm(row, effects.arrived.get(row.id, ()), effects, now)
                elif row.state == State.SCHEDULED and row.due_at is not None and row.due_at > now:
                    effects.deliver(row, row.due_at)
                elif row.state in (State.SCHEDULED, State.WAITING):
                    row.state = State.QUEUED.value
                    row.waiting_on = None
                    effects.deliver(row, now)

        return self._apply(namespace, found, decide, arrived=True)

    def unpark(self, namespace: str, names: Iterable[tuple[str, str]] | None = None) -> Iterator[Applied]:
        """Dispatch the stalled runs whose definition a live worker has (all such definitions, or `names`)."""
        known = self._live.definitions(namespace) if names is None else names
        found = self._store.stalled(namespace, known)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            rules = self._rules(namespace)
            for row in rows.values():
                core.unpark(row, rules, effects)

        return self._apply(namespace, found, decide)


def inquire(session: Session, namespace: str, keys: Iterable[tuple[RunKey, int]]) -> None:
    """Send inquiries of our own down the report partitions, behind everything that was confirmed."""
    by_partition: dict[int, list[Report]] = defaultdict(list)
    for key, partition in keys:
        by_partition[partition].append(Report(m.INQUIRE, key.run_id, key.epoch, {"why": "reconcile"}))
    for partition, items in by_partition.items():
        for start in range(0, len(items), 200):
            session.send(reports(partition), ReportList(namespace, "", "", items[start : start + 200]).encode())
