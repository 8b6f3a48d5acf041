"""Runs on a real store, with an orchestrator's hands and no worker: reports in, dispatches out, one transaction at a time."""

from __future__ import annotations

import json
from typing import Any

from aiki import codec, ids
from aiki import messages as m
from aiki.codec import Payload
from aiki.history import OPEN, History, Step, Wait, Waits
from aiki.lifecycle import reports, workflows
from aiki.lifecycle.batch import Item
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.record import SELECT_RUN, RunRow
from aiki.lifecycle.reports import Outcome, Rules, Source
from aiki.lifecycle.skills import Skill, Skills
from aiki.messages import Dispatch, Report, RunKey
from aiki.model import NewRun, OnConflict, Outgoing
from aiki.orchestrator.inbound import Inbound
from aiki.states import State
from aiki.storage import Store
from tests.storage.conftest import SetClock

ONE = Source("a" * 32, "a/0.1")
OTHER = Source("b" * 32, "b/0.1")
FLOW = Skill("workflow", frozenset({"default"}))
"""That a worker can execute a workflow."""


def step(ordinal: int, kind: str, name: str = "x", state: str = OPEN, attempt: int = 0, digest: str = "", **more: Any) -> Step:
    """A step as a report carries it."""
    return Step(ordinal, kind, name, digest, state, attempt, more)


def child(
    name: str = "shop.part", kind: str = "task", reference: str | None = None, n: int = 0, on: OnConflict = "error"
) -> NewRun:
    """A run that a workflow starts."""
    payload = codec.encode([[n], {}])
    return NewRun(str(ids.new_id()), name, payload, kind=kind, reference_id=reference, on_conflict=on)


def submission(ordinal: int, run: NewRun, **more: Any) -> Step:
    """The step that starts a run."""
    kind = "child" if run.kind == "workflow" else "task"
    return step(ordinal, kind, run.name, c=ids.to_bytes(run.id).hex(), run=run.to_wire(), i="{}", **more)


class Bench:
    """One namespace of one store. `out` holds the newest dispatch of each run."""

    def __init__(self, store: Store, clock: SetClock) -> None:
        self.store = store
        self.clock = clock
        self.known: Skills = {}
        self.inbound = Inbound(store, lambda namespace: Rules(clock.now, 3, self.known))
        self.out: dict[str, Dispatch] = {}
        self.soon: list[RunKey] = []
        self.aborts: list[RunKey] = []
        self.parked: set[tuple[str, str]] = set()

    # ------------------------------------------------------------ runs
    def start(self, name: str = "shop.flow", *args: Any, kind: str = "workflow", **options: Any) -> str:
        """Enqueue; the run's id as messages write it."""
        run = NewRun(str(ids.new_id()), name, codec.encode([list(args), {}]), kind=kind, **options)
        self._take(self.store.create_runs([run], claim=5).outgoing)
        return ids.to_bytes(run.id).hex()

    def row(self, run: str) -> dict[str, Any]:
        """The run as it is recorded."""
        sql = f"SELECT {SELECT_RUN} FROM aiki_runs WHERE id = ?"
        found = self.store.db.read(lambda c: self.store.db.execute(c, sql, (bytes.fromhex(run),)).fetchone())
        return dict(zip(SELECT_RUN.split(", "), found, strict=True))

    def state(self, run: str) -> str:
        return str(self.row(run)["state"])

    def everything(self) -> dict[str, list[Any]]:
        """All rows of all tables that runs are in, to compare."""

        def read(connection: Any) -> dict[str, list[Any]]:
            names = ("runs", "steps", "inbox", "deliveries", "attempts", "payloads", "links", "revocations")
            return {
                table: sorted(
                    [tuple(row) for row in self.store.db.execute(connection, f"SELECT * FROM aiki_{table}", ()).fetchall()],
                    key=repr,
                )
                for table in names
            }

        return self.store.db.read(read)

    def id(self, run: NewRun) -> str:
        return ids.to_bytes(run.id).hex()

    def text(self, run: str) -> str:
        """The id as people write it."""
        return ids.to_text(bytes.fromhex(run))

    def history(self, run: str) -> History:
        """What the newest dispatch of the run carries."""
        wire = self.out[run].options.get(m.OPT_HISTORY)
        return History.from_wire(None if wire is None else json.loads(json.dumps(wire)))

    def delivery(self, run: str) -> int | None:
        """When the run's present delivery is due, or None."""
        sql = "SELECT id, due_at FROM aiki_deliveries"
        rows = self.store.db.read(lambda c: self.store.db.execute(c, sql, ()).fetchall())
        wanted = bytes.fromhex(run) + self.row(run)["epoch"].to_bytes(4, "big")
        return next((due for raw, due in rows if bytes(raw) == wanted), None)

    def inbox(self, run: str) -> list[tuple[Any, ...]]:
        """Kind, ordinal, outcome and `taken` of what came to a run."""
        sql = "SELECT kind, ordinal, outcome, taken FROM aiki_inbox WHERE run_id = ? ORDER BY created_at, id"
        return [tuple(r) for r in self.store.db.read(lambda c: self.store.db.execute(c, sql, (bytes.fromhex(run),)).fetchall())]

    # ------------------------------------------------------------ reports
    def report(self, run: str, *reports: tuple[str, dict[str, Any]], epoch: int | None = None, source: Source = ONE) -> None:
        """Apply reports of a run's present epoch (or another) in one transaction, as they come out of the queue."""
        at = self.row(run)["epoch"] if epoch is None else epoch
        # Each has been through JSON, and is never the object that the sender still has.
        items = [Item(Report(k, run, at, json.loads(json.dumps(body))), source, bytes.fromhex(run)) for k, body in reports]
        for applied, outcome in self.inbound.apply("default", items):
            self.follow(applied, outcome)

    def steps(self, run: str, *steps: Step, epoch: int | None = None) -> None:
        self.report(run, (m.STEPS, {"s": list(steps)}), epoch=epoch)

    def suspend(
        self, run: str, *waits: Wait, every: bool = False, epoch: int | None = None, steps: tuple[Step, ...] = ()
    ) -> None:
        """Report steps and that the run is suspended."""
        before = [(m.STEPS, {"s": list(steps)})] if steps else []
        self.report(run, *before, (m.SUSPENDED, {"ms": 1, **Waits(every, list(waits)).to_wire()}), epoch=epoch)

    def complete(self, run: str, value: Any = None) -> None:
        body = {"ms": 1} if value is None else dict(zip(("e", "r"), codec.encode(value), strict=True))
        self.report(run, (m.COMPLETED, body))

    def fail(self, run: str, *at: int, kind: str = "ValueError", message: str = "no", **body: Any) -> None:
        extra = {"at": list(at)} if at else {}
        self.report(run, (m.FAILED, {"type": kind, "message": message, "tb": "", **extra, **body}))

    def follow(self, applied: Applied, outcome: Outcome | None = None) -> None:
        self._take(applied.outgoing)
        self.soon += applied.soon
        if outcome is not None:
            self.aborts += outcome.abort
            self.parked |= outcome.parked

    def _take(self, outgoing: list[Outgoing]) -> None:
        for item in outgoing:
            self.out[item.dispatch.run_id] = item.dispatch

    # ------------------------------------------------------------ what the orchestrator does beside
    def stir(self) -> int:
        """Look at all runs that something has come to, until there are none; how many looks it took."""
        for round_ in range(20):
            found = [run_id for _, run_id in self.store.stirred()]
            if not found:
                return round_

            def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
                for row in rows.values():
                    workflows.stir(row, effects, self.clock.now)

            self.follow(self.store.apply("default", found, decide, arrived=found))
        raise AssertionError(f"something is never looked at: {self.store.stirred()}")

    def sweep(self) -> list[str]:
        """Dispatch what is due; the runs."""
        claimed = self.store.claim_due()
        self._take(claimed.outgoing)
        for namespace, run_id in claimed.expired:
            self.follow(self.store.expire(namespace, [run_id]))
        return [item.dispatch.run_id for item in claimed.outgoing]

    def decide(self, run: str, what: Any) -> None:
        """Any decision on one run: `what(row, rules, effects, outcome)`."""
        outcome = Outcome()

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            what(rows[bytes.fromhex(run)], Rules(self.clock.now, 3, self.known), effects, outcome)

        self.follow(self.store.apply("default", [bytes.fromhex(run)], decide), outcome)

    def nobody_has_it(self, run: str) -> None:
        """The present epoch is settled: nobody executes it, and nobody will."""
        epoch = self.row(run)["epoch"]
        self.decide(
            run,
            lambda row, rules, effects, out: reports.settle_inquiry(
                row, epoch, rules, effects, lost=None, copy_may_be_out=True
            ),
        )

    # ------------------------------------------------------------ people
    def cancel(self, run: str, **options: Any) -> None:
        done = self.store.cancel_run(self.text(run), **options)
        self._take(done.outgoing)
        self.soon += done.soon

    def retry(self, run: str) -> None:
        self._take(self.store.retry_run(self.text(run)).outgoing)

    def pause(self, run: str) -> list[str]:
        """Pause it; the kinds of control messages that go out."""
        done = self.store.pause_run(self.text(run))
        self._take(done.outgoing)
        return [kind for kind, keys in done.controls if keys]

    def resume(self, run: str) -> None:
        self._take(self.store.resume_run(self.text(run)).outgoing)

    def wake(self, run: str, name: str = "") -> None:
        self._take(self.store.wake_run(self.text(run), name=name).outgoing)

    def send(self, run: str, name: str, data: Any = None, reference: str | None = None) -> None:
        payload: Payload | None = None if data is None else codec.encode(data)
        self._take(self.store.send_event(self.text(run), name, payload, reference_id=reference).outgoing)


QUEUED, RUNNING, WAITING = State.QUEUED.value, State.RUNNING.value, State.WAITING.value
PAUSED, STALLED, COMPLETED = State.PAUSED.value, State.STALLED.value, State.COMPLETED.value
FAILED, CANCELLED, DEAD = State.FAILED.value, State.CANCELLED.value, State.DEAD.value
