"""Receives messages from the broker's queues. Each is read and handled by itself, so that none can spoil another's turn."""

from __future__ import annotations

import json
from typing import Final, TypeVar

from aiki import messages as m
from aiki.broker import Delivery, Kind
from aiki.errors import MessageError
from aiki.lifecycle import reports
from aiki.lifecycle.batch import Item
from aiki.messages import Heartbeat, Report, ReportList, RunKey
from aiki.orchestrator.context import Carriers, Context
from aiki.orchestrator.discarded import Discarded
from aiki.orchestrator.draining import Draining
from aiki.orchestrator.duties import Duties
from aiki.orchestrator.fetching import Fetching
from aiki.orchestrator.inbound import Inbound, Kept, items_of
from aiki.orchestrator.inquiries import Inquiries
from aiki.orchestrator.isolation import Failed
from aiki.orchestrator.judge import Carrier, Judge
from aiki.orchestrator.letters import Letters
from aiki.orchestrator.quarantine import ENOUGH, Quarantine
from aiki.orchestrator.reconciler import Reconciler
from aiki.orchestrator.snapshots import Snapshots
from aiki.orchestrator.trust import Trust, see_whose
from aiki.orchestrator.wishes import Wishes
from aiki.storage.roster import STOPPED

MAX_SHOWN: Final = 64 * 1024
"""Bytes of a part of a message that are kept as a dead letter."""


class Intake:
    """Takes reports, heartbeats and dead letters."""

    def __init__(
        self,
        context: Context,
        judge: Judge,
        inquiries: Inquiries,
        reconciler: Reconciler,
        wishes: Wishes,
        letters: Letters,
        duties: Duties,
        trust: Trust,
        snapshots: Snapshots,
    ) -> None:
        self._context = context
        self._judge = judge
        self._inquiries = inquiries
        self._reconciler = reconciler
        self._wishes = wishes
        self._letters = letters
        self._discarded = Discarded(context.store, context.isolation, trust.why_refused)
        self._duties = duties
        self._trust = trust
        self._snapshots = snapshots
        self._draining = Draining(context)
        self.quarantine = Quarantine(context.store)
        self._inbound = Inbound(
            context.store,
            context.rules,
            context.isolation,
            refused=self._keep_report,
            cannot_go_on=context.cannot_go_on,
        )
        self.kept = Kept()
        self.fetching = Fetching(context.store)

    def take(self, deliveries: list[Delivery], now: float) -> None:
        """Act on what was received, and on reports that were kept for company until now."""
        usual, alone, refused = self.quarantine.sort(deliveries)
        for delivery in refused:
            why = f"an orchestrator ended {ENOUGH} times while it worked on this message; none reads it any more"
            self._letters.keep(self._letters.namespace_of(delivery.body), _source(delivery), why, delivery.body)
            self._context.session.ack([delivery])
        for delivery in alone:
            self.quarantine.begin(delivery)
            self._take([delivery], now, at_once=True)
            self.quarantine.end()
        self._take(usual, now)
        if refused or not self.kept:
            self.quarantine.end(*refused)

    def disconnected(self, *, sound: bool) -> None:
        """The session is gone; `sound`: because the broker or the database went away."""
        self.kept.clear()
        self.quarantine.interrupted(sound=sound)

    def _take(self, deliveries: list[Delivery], now: float, *, at_once: bool = False) -> None:
        done: list[Carrier] = []
        for delivery in deliveries:
            if delivery.source.kind is Kind.REPORTS:
                self._read(delivery, now, done)
            elif delivery.source.kind is Kind.HEARTBEAT:
                self._hear(delivery, now)
            elif delivery.source.kind is Kind.DEAD:
                self._take_dead(delivery, now, done)
        batches: dict[str, list[Item]] = {}
        carriers: Carriers = {}
        for delivery, message in self.kept.due(now, at_once=at_once):
            found = self._context.isolation.attempt(self._take_reports, delivery, message, batches, carriers, done)
            if isinstance(found, Failed):
                self._letters.keep(message.namespace, _source(delivery), found.why, message.encode())
                done.append(Carrier(delivery))
            delivery.body = b""  # it may wait for its ack for long, and be large
        for namespace, items in batches.items():
            for applied, outcome in self._inbound.apply(namespace, items):
                self._context.follow(namespace, applied, outcome, carriers)
        # After the commits, and only then. A message with open inquiries is acked once they are settled.
        self._context.session.ack([carrier.delivery for carrier in done if not carrier.open])

    def _take_dead(self, delivery: Delivery, now: float, done: list[Carrier]) -> None:
        attempt = self._context.isolation.attempt
        kind = self._discarded.kind(delivery)
        if kind is Kind.REPORTS:
            self._read(delivery, now, done)
            return
        if kind is None or isinstance(attempt(self._discarded.take, delivery), Failed):
            found = attempt(self._letters.bury, delivery)
            if isinstance(found, Failed):
                self._context.isolation.note("dead", f"a dead letter is thrown away: {found.why}")
        done.append(Carrier(delivery))

    # ------------------------------------------------------------ reports
    def _read(self, delivery: Delivery, now: float, done: list[Carrier]) -> None:
        found = self._context.isolation.attempt(_decoded, ReportList, delivery)
        why = found.why if isinstance(found, Failed) else found.value
        if isinstance(why, ReportList):
            self.kept.add(delivery, why, now)
            return
        self._letters.keep(self._letters.namespace_of(delivery.body), _source(delivery), why, delivery.body)
        done.append(Carrier(delivery))

    def _take_reports(
        self, delivery: Delivery, message: ReportList, batches: dict[str, list[Item]], carriers: Carriers, done: list[Carrier]
    ) -> None:
        if message.reports and message.reports[0].kind == m.SYNC and not message.refused:
            self._inquiries.take_sync(message.namespace, message.reports[0], delivery)
            return
        carrier = Carrier(delivery)
        if message.draining and message.worker:
            self._draining.note(message.namespace, message.worker)
        for refused in message.unreadable:
            self._keep_part(message.namespace, delivery, refused.why, refused.item)
        for position, why in message.refused.items():
            report = message.reports[position]
            self._keep_part(message.namespace, delivery, f"{report.kind} report of run {report.run_id}: {why}", report)
        for position, report in enumerate(message.reports):
            if position in message.refused:
                continue
            if report.kind == m.INQUIRE:
                # Without a look at its run: what has ended or moved on is passed over at the end.
                key = RunKey(report.run_id, report.epoch)
                self._judge.add(message.namespace, key, again=report.body.get("why") == "again", carrier=carrier)
            elif report.kind == m.FETCH:
                what = f"a question of run {report.run_id}"
                self._context.isolation.do("reports", what, self.fetching.ask, message.namespace, message.executor, report)
            elif report.kind == m.DROPPED:
                carriers.setdefault((message.namespace, RunKey(report.run_id, report.epoch)), []).append(carrier)
            elif report.kind == m.MARKER:
                what = f"a marker of queue {report.body.get('q')!r}"
                self._context.isolation.do("reports", what, self._take_marker, message.namespace, report)
            elif report.kind == m.REFUSED:
                body, queue = report.body["b"].encode("ascii"), f"work/{message.namespace}/{report.body['q']}"
                self._letters.keep(message.namespace, queue, report.body["why"], body)
            elif report.kind not in reports.RUN_REPORTS:
                self._keep_part(message.namespace, delivery, f"unknown report {report.kind!r}", report)
        items = items_of(message, len(delivery.body))
        if items:
            batches.setdefault(message.namespace, []).extend(items)
        done.append(carrier)

    def _take_marker(self, namespace: str, report: Report) -> None:
        self._context.store.marker_taken(namespace, str(report.body.get("q", "")), report.epoch)

    def _keep_part(self, namespace: str, delivery: Delivery, why: str, part: object) -> None:
        """Keep a part of a message that does not pass, while the others are taken."""
        self._letters.keep(namespace, _source(delivery), why, _shown(part) or delivery.body[:MAX_SHOWN])

    def _keep_report(self, namespace: str, report: Report, why: str) -> None:
        """Keep a report that cannot be applied, while its run fails."""
        what = f"the {report.kind} report of run {report.run_id} cannot be recorded: {why}"
        self._letters.keep(namespace, "reports", what, _shown(report) or report.run_id.encode())

    # ------------------------------------------------------------ heartbeats
    def _hear(self, delivery: Delivery, now: float) -> None:
        def work() -> str | None:
            beat = _decoded(Heartbeat, delivery)
            if isinstance(beat, str):
                return beat
            if self._trust.admits(delivery, beat, self._context.out):
                self._take_heartbeat(beat, now)
            return None

        found = self._context.isolation.attempt(work)
        why = found.why if isinstance(found, Failed) else found.value
        if why is not None:
            self._letters.keep(self._letters.namespace_of(delivery.body), "heartbeat", why, delivery.body[:MAX_SHOWN])

    def _take_heartbeat(self, beat: Heartbeat, now: float) -> None:
        live, context = self._context.live, self._context
        before = live.workers.get(beat.worker)
        if beat.kind == m.BEAT and beat.fields.get("draining") and (before is None or not before.said.draining):
            self._duties.soon("save")  # on record before the platform kills it: what is lost then is not charged
        if beat.kind == m.HELLO:
            context.store.save_worker(beat)
            live.hear(beat, now)
            self._answer_hello(beat)
            for applied in self._reconciler.unpark(beat.namespace):
                context.follow(beat.namespace, applied)
        elif beat.kind == m.BYE:
            live.leave(beat.worker)
            self._judge.gone(beat.worker)
            context.store.set_worker_state(beat.namespace, beat.worker, STOPPED)
        elif not live.hear(beat, now):
            context.out.control(beat.namespace, m.RESEND_HELLO)
        elif beat.kind == m.BEAT and self._wishes.compare(live.workers[beat.worker], context.out):
            self._duties.soon("save")
        if beat.kind == m.ANSWER:
            self._inquiries.answer(beat.worker, beat.fields.get("nonce", 0), beat.held)

    def _answer_hello(self, beat: Heartbeat) -> None:
        echo = {"nonce": beat.fields["nonce"]} if "nonce" in beat.fields else {}
        echo |= self._wishes.paused(beat.namespace, fresh=True) | {"hears": 1}
        queues = sorted(self._context.live.workers[beat.worker].queues)
        self._snapshots.begin(beat.namespace, beat.worker, queues, echo)


def _shown(part: object) -> bytes:
    """The beginning of a part of a message; empty if it cannot be written."""
    try:
        body = json.dumps(part).encode("ascii")
    except (ValueError, TypeError, RecursionError):
        return b""
    return body if len(body) <= MAX_SHOWN else body[:MAX_SHOWN] + b" (cut)"


M = TypeVar("M", ReportList, Heartbeat)


def _decoded(kind: type[M], delivery: Delivery) -> M | str:
    """The message, or what is wrong with it."""
    try:
        message = kind.decode(delivery.body)
        see_whose(delivery, message.namespace)
        return message
    except MessageError as error:
        return str(error)


def _source(delivery: Delivery) -> str:
    return f"{delivery.source.kind.value}/{delivery.source.key}".rstrip("/")
