"""The orchestrator: one thread that takes reports, publishes what is due, and repairs what is stuck.

Two or more may run at once, and any may be killed at any moment: nothing is acked before its commit, every decision is made
on locked rows, and what only lives in memory (who lives, who was asked) is learnt again from heartbeats and redelivered
messages. While the database or the broker is away it holds no session and declares no worker lost.

A turn takes what has come (`intake`), brings inquiries on (`inquiries`) and does the duties that are due (`duties`). Each unit
of work is tried by itself (`isolation`).
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable

from aiki import logs, vitals
from aiki import messages as m
from aiki.broker import DEAD, HEARTBEAT, Broker, BrokerMisconfigured, Session, reports
from aiki.broker.signed import SignedBroker
from aiki.clock import SECOND
from aiki.errors import BrokerUnavailable, StorageUnavailable
from aiki.messages import RunKey
from aiki.orchestrator.batches import Batching
from aiki.orchestrator.context import Context
from aiki.orchestrator.duties import Duties, Duty
from aiki.orchestrator.indexing import Indexing
from aiki.orchestrator.inquiries import Inquiries
from aiki.orchestrator.intake import Intake
from aiki.orchestrator.isolation import Isolation, words
from aiki.orchestrator.judge import Judge
from aiki.orchestrator.letters import Letters
from aiki.orchestrator.live import Live, Worker
from aiki.orchestrator.markers import Markers, Revoking
from aiki.orchestrator.reconciler import Reconciler, inquire
from aiki.orchestrator.snapshots import Snapshots
from aiki.orchestrator.trust import Trust
from aiki.orchestrator.wishes import Wishes
from aiki.owning import InstallationRing
from aiki.settings import Settings
from aiki.storage import Store
from aiki.storage.roster import ALIVE, LOST, STOPPED
from aiki.storage.statistics import FOLDED_AT_ONCE
from aiki.vitals import Vitals

logger = logging.getLogger("aiki.orchestrator")

REPORT_PREFETCH = 250
CLAIMED_AT_ONCE = 500
FEW_CLAIMED = 10
"""Deliveries that are claimed at once, and the fewest where they are large."""
RECONCILE_EVERY = 5.0
"""Seconds from the end of a round of repair to the next."""
REPAIR_EVERY = 0.1
REPAIR_SECONDS = 0.004
"""How long repair may go on at a time, but for the page that it is at: reports wait meanwhile."""
MAX_IN_FLIGHT = 2000
SAY_AGAIN = 3600.0
HEARD_AT_ONCE = 1000
BROKER_HEARTBEAT = 6
"""Seconds. An orchestrator that is stopped holds the report partitions until RabbitMQ gives it up, after two of these."""
IDLE_LIMIT = 8
"""Seconds of silence after which the database ends a session: so the locks of a stopped orchestrator are freed."""


class Orchestrator:
    """Moves runs on.

    :param monotonic: seconds; for tests.
    :param ring: the keys of whoever made `broker` with them; None: messages are not signed.
    :param page: where it says how it does.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        stale_after: float = 30.0,
        ring: InstallationRing | None = None,
        page: Vitals | None = None,
    ) -> None:
        self._page = Vitals("orchestrator", seen=False) if page is None else page
        self._store = store
        self._broker = broker
        self._settings = settings
        self._monotonic = monotonic
        self._failures = 0
        self._sound = True
        """Whether the session, if it ends now, ends for a cause that has nothing to do with what was received."""
        self._live = Live(settings.lease)
        store.can_fetch = self._live.can_fetch
        store.read_failures = self._live.read_failures
        self._claim = CLAIMED_AT_ONCE
        self._judge = Judge(random.getrandbits(40) << 20)
        self.isolation = Isolation(store, monotonic)
        self._context = Context(store, settings, self._live, self.isolation, monotonic, self._judge.add)
        self._inquiries = Inquiries(self._context, self._judge)
        self._wishes = Wishes(store)
        self._markers = Markers(store, self._live, self._wishes.paused_queues)
        self._revoking = Revoking(store, self._markers, settle=2 * stale_after, monotonic=monotonic)
        self._reconciler = Reconciler(
            *(store, self._live, self._context.rules, self._markers, self.isolation, self._context.cannot_go_on),
            stale_after=stale_after,
        )
        self._snapshots = Snapshots(store)
        self._indexing = Indexing(store)
        self._batching = Batching(store, settings.batch_rate, self.isolation)
        self.duties = Duties(self.isolation, self._table())
        self._reading = 0
        """How many report partitions are subscribed to."""
        self._misconfigured = ("", 0.0)
        """The note about it, and until when that counts."""
        trust = Trust(ring, store.clock)
        letters = Letters(store, self.isolation, settings.namespace, trust.why_refused)
        self._intake = Intake(
            *(self._context, self._judge, self._inquiries, self._reconciler, self._wishes, letters, self.duties, trust),
            self._snapshots,
        )

    def _table(self) -> list[Duty]:
        """The duties: name, period in seconds, what is done."""
        return [
            Duty("sweep", 0.1, self._sweep),
            Duty("stirred", 0.25, lambda now: self._context.stirring.find()),
            Duty("lost", 0.5, self._find_lost),
            Duty("announce", 0.5, self._announce),
            Duty("pauses", 0.5, lambda now: self._wishes.tell_pauses(self._context.out)),
            Duty("heard", 2.0, self._tell_heard),
            Duty("wanted", 1.0, lambda now: self._wishes.tell_stops(self._context.out)),
            Duty("batches", 0.2, self._work_batches),
            Duty("index", 0.25, lambda now: self._indexing.run_once()),
            Duty("save", 2.0, self._save),
            Duty("tallies", 2.0, self._fold_tallies),
            Duty("statistics", 300.0, lambda now: self._store.drop_old_statistics()),
            Duty("reconcile", REPAIR_EVERY, self._reconcile),
            Duty("unpark", REPAIR_EVERY, self._unpark),
            Duty("markers", 0.5, lambda now: self._markers.send(self._context.session, now)),
            Duty("revocations", REPAIR_EVERY, lambda now: self._revoking.run_some(now, REPAIR_SECONDS)),
            Duty("partitions", 5.0, self._read_partitions),
            Duty("idempotency", 10.0, lambda now: self._store.purge_idempotency()),
            Duty("refusals", 2.0, self._count_refusals),
            Duty("returns", 600.0, lambda now: self._store.purge_returns(self._store.clock() - 86400 * SECOND)),
            Duty("operations", 10.0, lambda now: self._store.purge_operations()),
        ]

    @property
    def session(self) -> Session | None:
        """The session with the broker, while there is one."""
        return self._context.session if self._context.connected else None

    # ------------------------------------------------------------ running
    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Whatever is away is waited for."""
        page = self._page
        page.now(vitals.STARTED)
        while not stop.is_set():
            page.now(vitals.TURNED)
            try:
                self.run_once(0.05)
                self._failures = 0
            except (StorageUnavailable, BrokerUnavailable) as error:
                self._failures += 1
                pause = min(0.1 * 2**self._failures, 3.0) * random.uniform(0.7, 1.3)  # noqa: S311
                self._say_why(error, pause)
                self.disconnect()
                stop.wait(pause)
        self.close()

    def _say_why(self, error: StorageUnavailable | BrokerUnavailable, pause: float) -> None:
        """A fault that a person has to mend is logged once, and then once in a while, however often it is tried again."""
        self._page.tell(vitals.BROKER, logs.masked(str(error)))
        if not isinstance(error, BrokerMisconfigured):
            self._misconfigured = ("", 0.0)
            logger.warning("%s; next try in %.1f s", error, pause)
            return
        now = self._monotonic()
        said, until = self._misconfigured
        if said != str(error) or now >= until:
            self._misconfigured = (str(error), now + SAY_AGAIN)
            logger.error("%s; it is tried again until that is mended", error)

    def run_once(self, timeout: float) -> None:
        """One turn: wait at most `timeout` seconds for messages, and do all that is to be done.

        :raises StorageUnavailable, BrokerUnavailable: the session is of no more use; call `disconnect`.
        """
        try:
            self._turn(timeout)
        except (StorageUnavailable, BrokerUnavailable):
            raise
        except Exception as error:
            self._sound = False
            # Between the units of work there is the session itself: whatever it raises, what it was doing is not known.
            self.isolation.note("loop", words(error))
            logger.exception("the session with the broker is given up")
            raise BrokerUnavailable(f"the session is given up: {words(error)}") from error

    def _turn(self, timeout: float) -> None:
        session = self._context.session if self._context.connected else self._connect()
        kept = self._intake.kept
        wait = 0.0
        if not (self.duties.at_once("sweep") or self._intake.fetching or len(self._snapshots)):
            if nap := kept.nap(self._monotonic()):
                time.sleep(nap)
            wait = kept.wait(self._monotonic(), timeout)
        deliveries = session.receive(wait)
        now = self._monotonic()
        self._live.tick(now)
        self._intake.take(deliveries, now)
        self._inquiries.conclude(now)
        self._snapshots.send(session)
        for namespace, applied in self._context.stirring.run_once(now):
            self._context.follow(namespace, applied)
        self.duties.run(now)
        if self._intake.fetching:
            self.isolation.do("fetch", "questions of workflows", self._intake.fetching.answer, session)
        self._context.fail_unsendable()
        self._context.out.settle(self._monotonic())

    def disconnect(self) -> None:
        """Drop the session; what was taken and not acked comes back."""
        self._page.put(vitals.SESSION, 0)
        self._live.deaf()
        self._inquiries.clear()
        self._intake.fetching.clear()
        self._intake.disconnected(sound=self._sound)
        self._sound = True
        self._snapshots.clear()
        self._markers.forget()
        session = self._context.use(None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """Stop cleanly: confirmed deliveries are deleted, everything else is left to the next orchestrator."""
        self._page.put(vitals.DRAINING, 1)
        if self._context.connected:
            out = self._context.out
            try:
                deadline = time.monotonic() + 1.0
                while out.in_flight and time.monotonic() < deadline:
                    self._context.session.receive(0.05)
                    out.settle(self._monotonic())
                out.flush()
                self._batching.release()
                self._wishes.say_alive(STOPPED)
            except (StorageUnavailable, BrokerUnavailable) as error:
                logger.warning("stopping: %s", error)
        self.disconnect()

    def _connect(self) -> Session:
        self._store.ping()
        session = self._broker.connect(f"aiki orchestrator {os.getpid()}", self._settings.timeout)
        self._context.use(session)
        session.subscribe(HEARTBEAT, 1000)
        session.subscribe(DEAD, 20)
        self._reading = 0
        self._read_partitions(0.0)
        now = self._monotonic()
        for row in self._store.workers(ALIVE, all_namespaces=True, limit=None):
            self._live.know(row.namespace, row.id, row.triples, row.queues, now)
        self._live.listen(now)
        self.duties.restart(now, later=("reconcile", "revocations"))
        self.duties.later("reconcile", now + RECONCILE_EVERY)
        # Workers whose hello nobody heard wait for an answer; those known already only answer again.
        for namespace in sorted({self._settings.namespace, *self._store.namespaces()}):
            self._context.out.control(namespace, m.RESEND_HELLO)
        self._page.now(vitals.SESSION)
        self._page.now(vitals.DATABASE)
        self._page.tell(vitals.BROKER, "")
        logger.info("listening: %d report partitions, %d workers on record", self._reading, len(self._live.workers))
        return session

    # ------------------------------------------------------------ duties
    def _read_partitions(self, now: float) -> None:
        """Take reports from all partitions that there are: their number may have been raised."""
        reading = self._store.installation().reading
        for partition in range(self._reading, reading):
            self._context.session.subscribe(reports(partition), REPORT_PREFETCH)
        self._reading = max(self._reading, reading)

    def _sweep(self, now: float) -> None:
        """Publish what is due."""
        context = self._context
        if context.out.in_flight > MAX_IN_FLIGHT or context.session.blocked:
            return
        claimed = self._store.claim_due(self._claim, each=self.isolation.each)
        context.out.publish(claimed.outgoing)
        # What is too much to be loaded at once is not claimed time and again.
        self._claim = max(FEW_CLAIMED, len(claimed.outgoing)) if claimed.left else min(CLAIMED_AT_ONCE, 2 * self._claim)
        expired: dict[str, list[bytes]] = {}
        for namespace, run_id in claimed.expired:
            expired.setdefault(namespace, []).append(run_id)
        for namespace, run_ids in expired.items():
            self._expire(namespace, run_ids)
        for namespace, run_id, why in claimed.broken:
            context.cannot_go_on(namespace, run_id, why)
        if claimed.more:
            self.duties.soon("sweep")

    def _expire(self, namespace: str, run_ids: list[bytes]) -> None:
        for applied in self.isolation.each(
            run_ids,
            lambda part: self._store.expire(namespace, part),
            lambda run_id, why: self._context.cannot_go_on(namespace, run_id, why),
        ):
            self._context.follow(namespace, applied)

    def _find_lost(self, now: float) -> None:
        for worker in self._live.lost(now):
            self.isolation.do("lost", f"worker {worker.id}", self._lose, worker)

    def _lose(self, worker: Worker) -> None:
        self._judge.gone(worker.id)
        self._store.set_worker_state(worker.namespace, worker.id, LOST, draining=worker.said.draining)
        keys = self._store.runs_of_worker(worker.namespace, worker.id)
        logger.warning(
            "worker %s is lost: no heartbeat for %g s; %d runs were in its hands", worker.id, self._live.lease, len(keys)
        )
        inquire(self._context.session, worker.namespace, keys)

    def _announce(self, now: float) -> None:
        """Send the workers the revocations that the process which recorded them may not have sent."""
        told = self._context.take_told()
        if told:
            self._store.announced(told)
            self.duties.soon("announce")
            return
        found: dict[tuple[str, str], list[RunKey]] = {}
        for namespace, key, interrupt in self._store.unannounced(self._store.clock() - SECOND // 2):
            found.setdefault((namespace, m.CANCEL if interrupt else m.REVOKE), []).append(key)
        for (namespace, kind), keys in found.items():
            self._context.out.control(namespace, kind, keys)
            self._context.note_told(namespace, keys)
        if found:
            self.duties.soon("announce")

    def _tell_heard(self, now: float) -> None:
        """Answer the workers that ask whether their beats are received, many in a message: all workers receive each."""
        for namespace, workers in self._live.take_asking().items():
            for at in range(0, len(workers), HEARD_AT_ONCE):
                names = [m.called(worker) for worker in workers[at : at + HEARD_AT_ONCE]]
                self._context.out.control(namespace, m.HEARD, (), workers=names)

    def _work_batches(self, now: float) -> None:
        """Bring on what operators want done to many runs."""
        if self._context.out.in_flight > MAX_IN_FLIGHT:
            return
        for namespace, worked in self._batching.run_once(now):
            self._context.follow(namespace, worked.applied)
            if worked.pause_soon:
                self._context.out.control(namespace, m.PAUSE_SOON, worked.pause_soon)

    def _save(self, now: float) -> None:
        """Record the workers whose heartbeats have come, the durations of runs, and that this orchestrator lives."""
        failing = (f"duty {name} fails again and again: {why}" for name, why in self.duties.broken.items())
        self._page.tell(vitals.INSIDE, logs.masked(next(failing, "")))
        self._wishes.say_alive(ALIVE)
        self._page.now(vitals.DATABASE)
        if isinstance(self._broker, SignedBroker):
            self.isolation.counted.update({f"{kind}, not believed": n for kind, n in self._broker.take_refused().items()})
        for namespace, beats in self._live.take_fresh().items():
            what = f"heartbeats of namespace {namespace}"
            self.isolation.do("save", what, self._store.heard, namespace, beats)
        for namespace, means in self._context.take_durations().items():
            what = f"durations of namespace {namespace}"
            self.isolation.do("save", what, self._store.save_durations, namespace, means)

    def _fold_tallies(self, now: float) -> None:
        if self._store.fold_tallies() >= FOLDED_AT_ONCE:
            self.duties.soon("tallies")

    def _reconcile(self, now: float) -> None:
        """A little of a round of repair; a new one begins a while after the one before is done."""
        found = self._reconciler.run_some(self._context.session, now, REPAIR_SECONDS, self._monotonic)
        for namespace, applied in found:
            self._context.follow(namespace, applied)
        if self._reconciler.resting:
            self.duties.later("reconcile", now + RECONCILE_EVERY)

    def _unpark(self, now: float) -> None:
        for namespace, applied in self._reconciler.unpark_more():
            self._context.follow(namespace, applied)

    def _count_refusals(self, now: float) -> None:
        counted = Counter(self.isolation.counted)
        if counted:
            self._store.count_refusals(counted, self.isolation.last)
            self.isolation.counted -= counted


def main(settings: Settings, stop: threading.Event) -> int:
    """Run an orchestrator until `stop` is set: the exit code of the command.

    :raises ConfigurationError, StorageUnavailable: it cannot start.
    """
    from aiki.broker import broker_of
    from aiki.orchestrator.background import Background
    from aiki.orchestrator.retention import Retention
    from aiki.orchestrator.webhooks import Sender
    from aiki.owning import owned_broker
    from aiki.storage import open_store

    broker_of(settings, what="an orchestrator")  # what is wrong with its URL is told first
    settings.need("database_url", what="an orchestrator")
    page = Vitals("orchestrator", name=socket.gethostname())
    store = open_store(settings, idle_limit=IDLE_LIMIT, primary=True)
    broker, ring = owned_broker(settings, store, heartbeat=BROKER_HEARTBEAT)
    background = Background(settings, {"webhooks": Sender, "retention": Retention})
    background.start()
    Orchestrator(store, broker, settings, ring=ring, page=page).run(stop)
    background.close()
    store.close()
    return 0
