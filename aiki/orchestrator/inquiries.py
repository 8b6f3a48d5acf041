"""Inquiries as they pass through an orchestrator: asked of the workers, sent behind what was reported, and acted on (see
`judge.py`, which keeps them)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aiki import messages as m
from aiki.broker import Delivery
from aiki.lifecycle import reports
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.reports import Source
from aiki.messages import Held, Report, ReportList, RunKey
from aiki.orchestrator.context import Context
from aiki.orchestrator.judge import Carrier, Judge, Round, Verdict
from aiki.storage.roster import LOST, STOPPED, WorkerEnd

RUNS_A_TRANSACTION: Final = 500


class Inquiries:
    """Brings the inquiries of one orchestrator on."""

    def __init__(self, context: Context, judge: Judge) -> None:
        self._context = context
        self._judge = judge
        self._ready: dict[str, Verdict] = {}

    def clear(self) -> None:
        """The session is gone."""
        self._judge.clear()
        self._ready.clear()

    def conclude(self, now: float) -> None:
        """Send the questions that are due, and release the runs that no worker holds."""
        live: dict[str, set[str]] = {}
        for worker in self._context.live.workers.values():
            live.setdefault(worker.namespace, set()).add(worker.id)
        # Until a lease of listening has passed, workers on record that were not heard count as live (`Live.know`).
        for round_ in [*self._judge.ask(live, now), *self._judge.ask_again(now)]:
            if round_.waiting:
                self._context.out.control(round_.namespace, m.ASK, list(round_.open), nonce=round_.nonce)
        for round_ in self._judge.answered():
            self._sync(round_)
        ready, self._ready = self._ready, {}
        for verdict in ready.values():
            self._release(verdict)

    def _sync(self, round_: Round) -> None:
        """Send the runs that no worker holds down their report partitions, behind all that was reported before the workers
        answered."""
        for partition, inquiries in round_.by_partition().items():
            again = [key for key, inquiry in inquiries.items() if inquiry.again]
            sync = Report(m.SYNC, "", 0, {"n": round_.nonce, "runs": list(inquiries), "again": again})
            carriers = [carrier for inquiry in inquiries.values() for carrier in inquiry.carriers]
            body = ReportList(round_.namespace, "", "", [sync]).encode()
            self._context.out.report(partition, body, lambda carriers=carriers: self._settle(carriers))  # type: ignore[misc]

    def take_sync(self, namespace: str, sync: Report, delivery: Delivery) -> None:
        """A `SYNC` has come back: all that was reported before it is applied before `conclude` releases what is still open."""
        carrier = Carrier(delivery)
        free = dict.fromkeys(map(RunKey._make, sync.body["runs"]), False)
        free.update(dict.fromkeys(map(RunKey._make, sync.body["again"]), True))
        if self._judge.promised(sync.body["n"]):
            carrier.open = 1
            verdict = self._ready.setdefault(namespace, Verdict(namespace))
            verdict.free.update(free)
            verdict.carriers.append(carrier)
            return
        for key, again in free.items():
            self._judge.add(namespace, key, again=again, carrier=carrier)
        if not free:
            self._context.session.ack([delivery])

    def answer(self, worker: str, nonce: int, held: Sequence[Held]) -> None:
        """A worker has answered: what it holds is recorded as its own."""
        verdict = self._judge.answer(worker, nonce, held)
        if verdict is None:
            return
        found = sorted(verdict.held, key=lambda one: one[0])  # of several epochs of a run, the newest counts
        by_id = {bytes.fromhex(key.run_id): (key, worker, item) for key, worker, item in found}

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            rules = self._context.rules(verdict.namespace)
            for row in rows.values():
                key, worker, item = by_id[row.id]
                reports.bind_holder(row, key.epoch, Source(worker, item.executor), item.ms, rules, effects)

        for part in _parts(list(by_id)):
            self._context.apply_each(verdict.namespace, part, decide)
        self._settle(verdict.carriers)

    def _release(self, verdict: Verdict) -> None:
        """Nobody holds these: dispatch them anew."""
        # Of several epochs of a run, the newest counts.
        keys = {bytes.fromhex(key.run_id): (key, again) for key, again in sorted(verdict.free.items())}
        context, namespace = self._context, verdict.namespace
        by_epoch: dict[int, list[bytes]] = {}
        for run_id, (key, again) in keys.items():
            if not again:
                by_epoch.setdefault(key.epoch, []).append(run_id)
        for epoch, run_ids in by_epoch.items():
            for part in _parts(sorted(run_ids)):
                self._redispatch(namespace, epoch, part, keys)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            rules = context.rules(namespace)
            gone = {row.worker.hex() for row in rows.values() if row.worker is not None} - set(context.live.workers)
            ends = context.store.worker_ends(namespace, gone) if gone else {}
            for row in rows.values():
                key, again = keys[row.id]
                lost = self._loss(ends, row)
                reports.settle_inquiry(row, key.epoch, rules, effects, lost=lost, copy_may_be_out=again)

        for part in _parts(sorted(keys)):
            context.apply_each(namespace, part, decide)
        self._settle(verdict.carriers)

    def _redispatch(self, namespace: str, epoch: int, run_ids: list[bytes], keys: dict[bytes, tuple[RunKey, bool]]) -> None:
        """Those to which nothing else has happened, in a few statements; they are taken out of `keys`."""
        context = self._context

        def work(part: Sequence[bytes]) -> tuple[Applied, set[bytes]]:
            applied, left = context.store.redispatch(namespace, epoch, part)
            return applied, set(part).difference(left)

        def refuse(run_id: bytes, why: str) -> None:
            keys.pop(run_id)
            context.cannot_go_on(namespace, run_id, why)

        for applied, done in context.isolation.each(run_ids, work, refuse):
            for run_id in done:
                keys.pop(run_id, None)
            context.follow(namespace, applied)

    def _loss(self, ends: dict[str, WorkerEnd], row: RunRow) -> str | None:
        """The fate of the worker that had bound a run, in words, if it was lost while it held the run.

        A worker that was draining was killed on purpose: no run is charged for a deploy.
        """
        if row.worker is None or row.worker.hex() in self._context.live.workers:
            return None
        end = ends.get(row.worker.hex(), WorkerEnd(LOST, row.worker.hex(), draining=False))
        if end.state == STOPPED or end.draining:
            return None
        return f"worker {end.name} was lost while executing it (no heartbeat for {self._context.settings.lease:g} s)"

    def _settle(self, carriers: list[Carrier]) -> None:
        done = []
        for carrier in carriers:
            carrier.open -= 1
            if carrier.open == 0:
                done.append(carrier.delivery)
        self._context.session.ack(done)


def _parts(run_ids: list[bytes]) -> list[list[bytes]]:
    return [run_ids[start : start + RUNS_A_TRANSACTION] for start in range(0, len(run_ids), RUNS_A_TRANSACTION)]
