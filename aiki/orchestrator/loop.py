"""The orchestrator: one thread that takes reports, publishes what is due, and repairs what is stuck.

Two or more may run at once, and any may be killed at any moment: nothing is acked before its commit, every decision is made
on locked rows, and what only lives in memory (who lives, who was asked) is learnt again from heartbeats and redelivered
messages. While the database or the broker is away it holds no session and judges nobody.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from hashlib import sha256

from aiki import messages as m
from aiki.broker import DEAD, HEARTBEAT, Broker, Delivery, Kind, Session, reports
from aiki.clock import SECOND
from aiki.errors import BrokerUnavailable, MessageError, StorageUnavailable
from aiki.messages import Heartbeat, Report, ReportList, RunKey
from aiki.orchestrator import core
from aiki.orchestrator.batches import Batching
from aiki.orchestrator.core import Outcome, Rules, Source
from aiki.orchestrator.inbound import Inbound, Item, Kept, items_of
from aiki.orchestrator.indexing import Indexing
from aiki.orchestrator.judge import Carrier, Judge, Round, Verdict
from aiki.orchestrator.live import Live, Worker
from aiki.orchestrator.outbound import Outbound
from aiki.orchestrator.reconciler import Reconciler, inquire
from aiki.orchestrator.stirring import Stirring
from aiki.orchestrator.wishes import Wishes
from aiki.settings import Settings
from aiki.storage import Store
from aiki.storage.applying import Applied, Decide, Effects
from aiki.storage.roster import ALIVE, LOST, STOPPED
from aiki.storage.rows import RunRow
from aiki.storage.statistics import FOLDED_AT_ONCE

logger = logging.getLogger("aiki.orchestrator")

REPORT_PREFETCH = 250
RUNS_A_TRANSACTION = 500
SWEEP_EVERY = 0.1
STIRRED_EVERY = 0.25
RECONCILE_EVERY = 5.0
MAX_IN_FLIGHT = 2000
BROKER_HEARTBEAT = 6
"""Seconds. An orchestrator that is stopped holds the report partitions until RabbitMQ gives it up, after two of these."""
IDLE_LIMIT = 8
"""Seconds after which the database ends a session of ours that says nothing: a stopped orchestrator frees its locks."""


class Orchestrator:
    """Moves runs on.

    :param monotonic: seconds; for tests.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        settings: Settings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        stale_after: float = 30.0,
    ) -> None:
        self._store = store
        self._broker = broker
        self._settings = settings
        self._monotonic = monotonic
        self._live = Live(settings.lease)
        self._judge = Judge(random.getrandbits(40) << 20)
        self._inbound = Inbound(store, self._rules)
        self._reconciler = Reconciler(store, self._live, self._rules, stale_after=stale_after)
        self._durations: dict[tuple[str, str], float] = {}
        self._dirty: set[tuple[str, str]] = set()
        self._session: Session | None = None
        self._out: Outbound | None = None
        self._next: dict[str, float] = {}
        self._ready: dict[str, Verdict] = {}
        self._failures = 0
        self._next_breath = 0.0
        self._stirring = Stirring(store, monotonic)
        self._kept = Kept()
        self._wishes = Wishes(store)
        self._indexing = Indexing(store)
        self._batching = Batching(store, settings.batch_rate)

    # ------------------------------------------------------------ running
    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Whatever is away is waited for."""
        while not stop.is_set():
            try:
                self.run_once(0.05)
                self._failures = 0
            except (StorageUnavailable, BrokerUnavailable) as error:
                self._failures += 1
                pause = min(0.1 * 2**self._failures, 3.0) * random.uniform(0.7, 1.3)  # noqa: S311
                logger.warning("%s; next try in %.1f s", error, pause)
                self.disconnect()
                stop.wait(pause)
        self.close()

    def run_once(self, timeout: float) -> None:
        """One turn: wait at most `timeout` seconds for messages, and do all that is to be done.

        :raises StorageUnavailable, BrokerUnavailable: the session is of no more use; call `disconnect`.
        """
        session = self._session or self._connect()
        wait = 0.0
        if not self._has_work():
            if nap := self._kept.nap(self._monotonic()):
                time.sleep(nap)
            wait = self._kept.wait(self._monotonic(), timeout)
        deliveries = session.receive(wait)
        now = self._monotonic()
        self._live.tick(now)
        self._take(deliveries, now)
        self._conclude(now)
        for name, every, work in self._chores():
            if now >= self._next.get(name, 0.0):
                self._next[name] = now + every
                work(now)
        self._fail_unsendable()
        self._outbound.settle(self._monotonic())

    def disconnect(self) -> None:
        """Drop the session; what was taken and not acked comes back."""
        self._live.deaf()
        self._judge.clear()
        self._ready.clear()
        self._kept.clear()
        session, self._session, self._out = self._session, None, None
        if session is not None:
            session.close()

    def close(self) -> None:
        """Stop cleanly: confirmed deliveries are deleted, everything else is left to the next orchestrator."""
        out = self._out
        if out is not None and self._session is not None:
            try:
                deadline = time.monotonic() + 1.0
                while out.in_flight and time.monotonic() < deadline:
                    self._session.receive(0.05)
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
        self._session = session
        self._out = Outbound(self._store, session)
        session.subscribe(HEARTBEAT, 1000)
        session.subscribe(DEAD, 20)
        for partition in range(self._settings.partitions):
            session.subscribe(reports(partition), REPORT_PREFETCH)
        now = self._monotonic()
        for row in self._store.workers(ALIVE, all_namespaces=True):
            self._live.know(row.namespace, row.id, row.definitions, now)
        self._live.listen(now)
        self._next = {"reconcile": now + RECONCILE_EVERY}
        # Workers whose hello nobody heard wait for an answer; those known already only answer again.
        for namespace in {self._settings.namespace, *self._store.namespaces()}:
            self._outbound.control(namespace, m.RESEND_HELLO)
        logger.info("listening: %d report partitions, %d workers on record", self._settings.partitions, len(self._live.workers))
        return session

    @property
    def _outbound(self) -> Outbound:
        assert self._out is not None
        return self._out

    @property
    def _taken(self) -> Session:
        assert self._session is not None
        return self._session

    def _has_work(self) -> bool:
        return self._next.get("sweep", 1.0) == 0.0

    def _rules(self, namespace: str) -> Rules:
        return Rules(self._store.clock(), self._settings.max_crashes, self._live.definitions(namespace))

    # ------------------------------------------------------------ what comes in
    def _take(self, deliveries: list[Delivery], now: float) -> None:
        batches: dict[str, list[Item]] = {}
        carriers: dict[tuple[str, RunKey], list[Carrier]] = {}
        done: list[Carrier] = []
        for delivery in deliveries:
            try:
                if delivery.source.kind is Kind.REPORTS:
                    self._kept.add(delivery, ReportList.decode(delivery.body), now)
                elif delivery.source.kind is Kind.HEARTBEAT:
                    self._take_heartbeat(Heartbeat.decode(delivery.body), now)
                elif delivery.source.kind is Kind.DEAD:
                    self._bury(delivery)
                    done.append(Carrier(delivery))
            except MessageError as error:
                self._refuse(delivery, error)
        for delivery, message in self._kept.due(now):
            try:
                self._take_reports(delivery, message, batches, carriers, done)
            except MessageError as error:
                self._refuse(delivery, error)
        for namespace, items in batches.items():
            for applied, outcome in self._inbound.apply(namespace, items):
                self._follow(namespace, applied, outcome, carriers)
        # After the commits, and only then. A message with open inquiries is acked once they are settled.
        self._taken.ack([carrier.delivery for carrier in done if not carrier.open])

    def _refuse(self, delivery: Delivery, error: MessageError) -> None:
        logger.error("%s: %s", delivery.source.kind, error)
        if delivery.source.kind is Kind.REPORTS:
            self._taken.reject(delivery)

    def _take_reports(
        self,
        delivery: Delivery,
        message: ReportList,
        batches: dict[str, list[Item]],
        carriers: dict[tuple[str, RunKey], list[Carrier]],
        done: list[Carrier],
    ) -> None:
        if message.reports and message.reports[0].kind == m.SYNC:
            self._take_sync(message, delivery)
            return
        carrier = Carrier(delivery)
        for report in message.reports:
            if report.kind == m.INQUIRE:
                # Without a look at its run: what has ended or moved on is passed over at the end.
                key = RunKey(report.run_id, report.epoch)
                self._judge.add(message.namespace, key, again=report.body.get("why") == "again", carrier=carrier)
            elif report.kind == m.DROPPED:
                carriers.setdefault((message.namespace, RunKey(report.run_id, report.epoch)), []).append(carrier)
            elif report.kind == m.MARKER:
                self._store.save_marker(message.namespace, str(report.body.get("q", "")), taken_at=report.epoch)
            elif report.kind not in core.RUN_REPORTS:
                body = json.dumps(report).encode()
                self._store.save_dead_letter(
                    message.namespace, "reports", f"unknown report {report.kind!r}", {}, body, sha256(body).digest()[:16]
                )
        items = items_of(message)
        if items:
            batches.setdefault(message.namespace, []).extend(items)
        done.append(carrier)

    def _follow(
        self,
        namespace: str,
        applied: Applied,
        outcome: Outcome,
        carriers: dict[tuple[str, RunKey], list[Carrier]] | None = None,
    ) -> None:
        """Act on what a committed transaction asks for."""
        now = self._monotonic()
        if now >= self._next_breath:  # many transactions in one turn may take longer than the broker waits for a sign of life
            self._next_breath = now + 1.0
            self._taken.beat()
        self._outbound.publish(applied.outgoing)
        if applied.revoke:
            self._outbound.control(namespace, m.REVOKE, applied.revoke)
        if applied.interrupt:
            self._outbound.control(namespace, m.CANCEL, applied.interrupt)
        if applied.soon:
            self._outbound.control(namespace, m.CANCEL_SOON, applied.soon)
        if outcome.abort:
            self._outbound.control(namespace, m.ABORT, outcome.abort)
        self._stirring.note(namespace, sorted(applied.stirred))
        if applied.oversized:
            self._fail_oversized(namespace, applied.oversized)
        for key, again in outcome.inquire:
            for carrier in (carriers or {}).get((namespace, key), []):
                self._judge.add(namespace, key, again=again, carrier=carrier)
        for name, millis in outcome.durations.items():
            mean = sum(millis) / len(millis)
            known = self._durations.get((namespace, name))
            self._durations[namespace, name] = mean if known is None else 0.8 * known + 0.2 * mean
            self._dirty.add((namespace, name))

    def _take_heartbeat(self, beat: Heartbeat, now: float) -> None:
        if beat.kind == m.HELLO:
            self._store.save_worker(beat)
            self._live.hear(beat, now)
            echo = {"nonce": beat.fields["nonce"]} if "nonce" in beat.fields else {}
            revoked = self._store.revocations(beat.namespace)
            now_us = self._store.clock()
            echo |= self._wishes.paused(beat.namespace, fresh=True)
            self._outbound.control(beat.namespace, m.SNAPSHOT, revoked, worker=beat.worker, now=now_us, **echo)
            names = self._live.workers[beat.worker].definitions
            self._follow(beat.namespace, self._reconciler.unpark(beat.namespace, names), Outcome())
        elif beat.kind == m.BYE:
            self._live.leave(beat.worker)
            self._judge.gone(beat.worker)
            self._store.set_worker_state(beat.namespace, beat.worker, STOPPED)
        elif not self._live.hear(beat, now):
            self._outbound.control(beat.namespace, m.RESEND_HELLO)
        elif beat.kind == m.BEAT and self._wishes.compare(self._live.workers[beat.worker], self._outbound):
            self._next["save"] = 0.0
        if beat.kind == m.ANSWER:
            verdict = self._judge.answer(beat.worker, int(beat.fields.get("nonce", 0)), beat.held)
            if verdict is not None:
                self._bind(verdict)

    def _bury(self, delivery: Delivery) -> None:
        """Keep a dead letter for people."""
        try:
            header = json.loads(delivery.body)[2]
            namespace = str(header["ns"])[:64]
        except (ValueError, TypeError, KeyError, IndexError):
            namespace = self._settings.namespace
        reason = str(delivery.headers.get("reason", "unknown"))
        source = str(delivery.headers.get("queue", ""))
        key = sha256(delivery.body + source.encode()).digest()[:16]
        self._store.save_dead_letter(namespace, source, reason, dict(delivery.headers), delivery.body, key)

    # ------------------------------------------------------------ inquiries
    def _conclude(self, now: float) -> None:
        live: dict[str, set[str]] = {}
        for worker in self._live.workers.values():
            live.setdefault(worker.namespace, set()).add(worker.id)
        # Until a lease of listening has passed, workers on record that were not heard count as live (`Live.know`).
        for round_ in [*self._judge.ask(live, now), *self._judge.ask_again(now)]:
            self._ask(round_)
        for round_ in self._judge.answered():
            self._sync(round_)
        ready, self._ready = self._ready, {}
        for verdict in ready.values():
            self._release(verdict)
        for namespace, applied in self._stirring.run_once(now):
            self._follow(namespace, applied, Outcome())

    def _sync(self, round_: Round) -> None:
        """Send what nobody holds behind all that was reported before everybody said so."""
        for partition, inquiries in round_.by_partition().items():
            again = [key for key, inquiry in inquiries.items() if inquiry.again]
            sync = Report(m.SYNC, "", 0, {"n": round_.nonce, "runs": list(inquiries), "again": again})
            carriers = [carrier for inquiry in inquiries.values() for carrier in inquiry.carriers]
            body = ReportList(round_.namespace, "", "", [sync]).encode()
            self._outbound.report(partition, body, lambda carriers=carriers: self._settle_carriers(carriers))  # type: ignore[misc]

    def _take_sync(self, message: ReportList, delivery: Delivery) -> None:
        """What was reported before it is applied before `_conclude`, which releases what is still open."""
        carrier = Carrier(delivery)
        body = message.reports[0].body
        try:
            free = dict.fromkeys(map(RunKey._make, body["runs"]), False)
            free.update(dict.fromkeys(map(RunKey._make, body["again"]), True))
            nonce = body["n"]
        except (KeyError, TypeError) as error:
            raise MessageError(f"a sync that cannot be read: {type(error).__name__}: {error}") from None
        if self._judge.promised(nonce):
            carrier.open = 1
            verdict = self._ready.setdefault(message.namespace, Verdict(message.namespace))
            verdict.free.update(free)
            verdict.carriers.append(carrier)
            return
        for key, again in free.items():
            self._judge.add(message.namespace, key, again=again, carrier=carrier)

    def _ask(self, round_: Round) -> None:
        if round_.waiting:
            self._outbound.control(round_.namespace, m.ASK, list(round_.open), nonce=round_.nonce)

    def _bind(self, verdict: Verdict) -> None:
        found = sorted(verdict.held, key=lambda one: one[0])  # of several epochs of a run, the newest counts
        held = {bytes.fromhex(key.run_id): (key, worker, item) for key, worker, item in found}

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            rules = self._rules(verdict.namespace)
            for row in rows.values():
                key, worker, item = held[row.id]
                core.bind_holder(row, key.epoch, Source(worker, item.executor), item.ms, rules, effects)

        if held:
            self._follow(verdict.namespace, self._store.apply(verdict.namespace, list(held), decide), Outcome())
        self._settle_carriers(verdict.carriers)

    def _release(self, verdict: Verdict) -> None:
        """Nobody holds these: dispatch them anew."""
        # Of several epochs of a run, the newest counts.
        keys = {bytes.fromhex(key.run_id): (key, again) for key, again in sorted(verdict.free.items())}
        by_epoch: dict[int, list[bytes]] = {}
        for run_id, (key, again) in keys.items():
            if not again:
                by_epoch.setdefault(key.epoch, []).append(run_id)
        for epoch, run_ids in by_epoch.items():
            for part in _parts(sorted(run_ids)):
                applied, left = self._store.redispatch(verdict.namespace, epoch, part)
                for run_id in set(part).difference(left):
                    del keys[run_id]
                self._follow(verdict.namespace, applied, Outcome())
        for part in _parts(sorted(keys)):
            self._follow(
                verdict.namespace,
                self._store.apply(verdict.namespace, part, self._settling(verdict.namespace, keys)),
                Outcome(),
            )
        self._settle_carriers(verdict.carriers)

    def _settling(self, namespace: str, keys: dict[bytes, tuple[RunKey, bool]]) -> Decide:
        """The decision about runs that nobody holds."""

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            rules = self._rules(namespace)
            gone = {row.worker.hex() for row in rows.values() if row.worker is not None} - set(self._live.workers)
            states = self._store.worker_states(namespace, gone) if gone else {}
            for row in rows.values():
                key, again = keys[row.id]
                lost = self._loss(states, row)
                core.settle_inquiry(row, key.epoch, rules, effects, lost=lost, copy_may_be_out=again)

        return decide

    def _loss(self, states: dict[str, tuple[str, str]], row: RunRow) -> str | None:
        """What became of the worker that had bound a run, in words, if it was lost with the run in its hands."""
        if row.worker is None or row.worker.hex() in self._live.workers:
            return None
        state, name = states.get(row.worker.hex(), (LOST, row.worker.hex()))
        if state == STOPPED:
            return None
        return f"worker {name} was lost while executing it (no heartbeat for {self._settings.lease:g} s)"

    def _settle_carriers(self, carriers: list[Carrier]) -> None:
        done = []
        for carrier in carriers:
            carrier.open -= 1
            if carrier.open == 0:
                done.append(carrier.delivery)
        self._taken.ack(done)

    # ------------------------------------------------------------ chores
    def _chores(self) -> list[tuple[str, float, Callable[[float], None]]]:
        return [
            ("sweep", SWEEP_EVERY, self._sweep),
            ("stirred", STIRRED_EVERY, self._find_stirred),
            ("lost", 0.5, self._find_lost),
            ("announce", 0.5, self._announce),
            ("pauses", 0.5, lambda now: self._wishes.tell_pauses(self._outbound)),
            ("wanted", 1.0, lambda now: self._wishes.tell_stops(self._outbound)),
            ("batches", 0.2, self._work_batches),
            ("index", 0.25, lambda now: self._indexing.run_once()),
            ("save", 2.0, self._save),
            ("tallies", 2.0, self._fold_tallies),
            ("statistics", 300.0, self._drop_statistics),
            ("reconcile", RECONCILE_EVERY, self._reconcile),
            ("idempotency", 10.0, self._forget_requests),
        ]

    def _drop_statistics(self, now: float) -> None:
        self._store.drop_old_statistics()

    def _fold_tallies(self, now: float) -> None:
        if self._store.fold_tallies() >= FOLDED_AT_ONCE:
            self._next["tallies"] = 0.0

    def _sweep(self, now: float) -> None:
        """Publish what is due."""
        if self._outbound.in_flight > MAX_IN_FLIGHT or self._taken.blocked:
            return
        claimed = self._store.claim_due()
        self._outbound.publish(claimed.outgoing)
        expired: dict[str, list[bytes]] = {}
        for namespace, run_id in claimed.expired:
            expired.setdefault(namespace, []).append(run_id)
        for namespace, run_ids in expired.items():
            self._follow(namespace, self._store.expire(namespace, run_ids), Outcome())
        for namespace, run_id in claimed.oversized:
            self._fail_oversized(namespace, [run_id])
        if claimed.more:
            self._next["sweep"] = 0.0

    def _fail_oversized(self, namespace: str, run_ids: list[bytes]) -> None:
        """These workflows can be dispatched no more."""

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            for row in rows.values():
                core.fail_oversized(row, self._store.clock())

        self._follow(namespace, self._store.apply(namespace, run_ids, decide), Outcome())

    def _fail_unsendable(self) -> None:
        """Runs whose dispatch is larger than the broker takes."""
        while self._outbound.unsendable:
            namespace, run_id, why = self._outbound.unsendable.pop()

            def decide(rows: dict[bytes, RunRow], effects: Effects, why: str = why) -> None:
                for row in rows.values():
                    core.fail_unsendable(row, self._store.clock(), why)

            self._follow(namespace, self._store.apply(namespace, [run_id], decide), Outcome())

    def _forget_requests(self, now: float) -> None:
        """Answers that clients cannot ask for any more, some at a time."""
        self._store.purge_idempotency()

    def _find_stirred(self, now: float) -> None:
        self._stirring.find()

    def _find_lost(self, now: float) -> None:
        for worker in self._live.lost(now):
            self._lose(worker)

    def _lose(self, worker: Worker) -> None:
        self._store.set_worker_state(worker.namespace, worker.id, LOST)
        self._judge.gone(worker.id)
        keys = self._store.runs_of_worker(worker.namespace, worker.id)
        logger.warning(
            "worker %s is lost: no heartbeat for %g s; %d runs were in its hands", worker.id, self._live.lease, len(keys)
        )
        inquire(self._taken, worker.namespace, keys)

    def _announce(self, now: float) -> None:
        """Tell the workers of revocations that whoever recorded them may not have told."""
        told: list[tuple[str, RunKey]] = []
        for namespace, key, interrupt in self._store.unannounced(self._store.clock() - SECOND // 2):
            self._outbound.control(namespace, m.CANCEL if interrupt else m.REVOKE, [key])
            told.append((namespace, key))
        self._store.announced(told)

    def _work_batches(self, now: float) -> None:
        """Bring on what operators want done to many runs."""
        if self._outbound.in_flight > MAX_IN_FLIGHT:
            return
        for namespace, worked in self._batching.run_once(now):
            self._follow(namespace, worked.applied, Outcome())
            if worked.pause_soon:
                self._outbound.control(namespace, m.PAUSE_SOON, worked.pause_soon)

    def _save(self, now: float) -> None:
        """Put on record who was heard and how long runs take, and that this orchestrator lives."""
        self._wishes.say_alive(ALIVE)
        for namespace, beats in self._live.take_fresh().items():
            self._store.heard(namespace, beats)
        dirty, self._dirty = self._dirty, set()
        for namespace in {item[0] for item in dirty}:
            means = {name: self._durations[key] for key in dirty if key[0] == namespace for name in [key[1]]}
            self._store.save_durations(namespace, means)

    def _reconcile(self, now: float) -> None:
        for applied in self._reconciler.run_once(self._taken, now):
            self._outbound.publish(applied.outgoing)
        self._store.purge_revocations(self._store.clock() - 30 * 86400 * SECOND)


def _parts(run_ids: list[bytes]) -> list[list[bytes]]:
    return [run_ids[start : start + RUNS_A_TRANSACTION] for start in range(0, len(run_ids), RUNS_A_TRANSACTION)]


def main(settings: Settings, stop: threading.Event) -> int:
    """Run an orchestrator until `stop` is set: the exit code of the command.

    :raises ConfigurationError, StorageUnavailable: it cannot start.
    """
    from aiki.broker import broker_of
    from aiki.orchestrator.background import Background
    from aiki.orchestrator.retention import Retention
    from aiki.orchestrator.webhooks import Sender
    from aiki.storage import open_store

    broker = broker_of(settings, heartbeat=BROKER_HEARTBEAT, what="an orchestrator")
    settings.need("database_url", what="an orchestrator")
    store = open_store(settings, idle_limit=IDLE_LIMIT)
    background = Background(settings, {"webhooks": Sender, "retention": Retention})
    background.start()
    Orchestrator(store, broker, settings).run(stop)
    background.close()
    store.close()
    return 0
