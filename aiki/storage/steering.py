"""The verbs of people for workflows: pause, resume, wake, send an event, look at the history. Each change is audited."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa

from aiki import ids
from aiki import messages as m
from aiki.codec import Payload
from aiki.errors import RunConflict, RunNotFound
from aiki.history import EVENT_SENT, SLEEP, WOKEN, Arrival
from aiki.messages import RunKey
from aiki.model import Created, NewRun, Steered, StepView
from aiki.states import State
from aiki.storage.applying import Effects
from aiki.storage.auditing import Audited
from aiki.storage.history import INBOX_COLUMNS, STEP_COLUMNS, select_arrivals, step_view
from aiki.storage.operating import Operating, _present, _raw
from aiki.storage.rows import RunRow
from aiki.storage.waking import bring_on, go_on, look, pause, pause_out, waits_of


class Steering(Operating):
    """What people do to workflows."""

    def pause_run(self, run_id: str, *, reason: str = "", actor: str = "") -> Steered:
        """Keep a run from going on until it is resumed. A workflow that runs is given back at its next durable point.

        :raises RunConflict: it has ended, or is a task that runs.
        """
        raw = _raw(run_id)
        controls: list[tuple[str, list[RunKey]]] = []

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            controls.clear()
            if row.ended or (row.state == State.RUNNING and not row.is_workflow):
                raise RunConflict(f"run {run_id} is {row.state}; it cannot be paused" + _hint(row))
            if row.state == State.PAUSED:
                return
            effects.audit.append(Audited(actor, "pause", run_id, reason=reason))
            key = RunKey(row.run_id, row.epoch)
            if row.state == State.RUNNING:
                row.pause_requested = 1
                controls.append((m.PAUSE_SOON, [key]))
            elif row.state == State.QUEUED:
                effects.revoke.append((key, False))
                controls.append((m.PAUSE_SOON, [key]))
                pause_out(row, effects)
            else:
                pause(row, effects)

        applied = self.apply(self.namespace, [raw], decide)
        return Steered(self._view(run_id), applied.outgoing, [*controls, (m.REVOKE, applied.revoke)])

    def resume_run(self, run_id: str, *, actor: str = "") -> Steered:
        """Have a paused run go on. One that is to be paused and still runs, simply runs on."""
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            if row.ended or (row.state != State.PAUSED and not row.pause_requested):
                raise RunConflict(f"run {run_id} is {row.state}; only paused runs can be resumed")
            effects.audit.append(Audited(actor, "resume", run_id, ""))
            now = self.clock()
            if row.state != State.PAUSED:
                row.pause_requested = 0
            elif row.due_at is not None and row.due_at > now and not row.history:
                row.pause_requested = 0
                row.state = State.SCHEDULED.value
                row.waiting_on = None
                effects.deliver(row, row.due_at)
            else:
                go_on(row, effects, now)

        applied = self.apply(self.namespace, [raw], decide)
        return Steered(self._view(run_id), applied.outgoing, [])

    def wake_run(self, run_id: str, *, name: str = "", actor: str = "") -> Steered:
        """End a workflow's sleep early: the one of that name, or whatever it sleeps in.

        :raises RunConflict: it does not sleep.
        """
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            waits = waits_of(row)
            sleeps = [] if waits is None else [item.name for item in waits.items if item.kind == SLEEP]
            if row.state != State.WAITING or not sleeps or (name and name not in sleeps):
                state = f"is {row.state}" + (f", waiting on {row.waiting_on}" if row.waiting_on else "")
                which = f" ({name!r})" if name else ""
                raise RunConflict(f"run {run_id} {state}; only a workflow that sleeps can be woken{which}")
            effects.audit.append(Audited(actor, "wake", run_id, name))
            arrival = Arrival(ids.new_id().hex, WOKEN, name, None, "", None, None, None, None)
            effects.arrivals.append((row.id, arrival, True))
            bring_on(row, effects, self.clock())

        applied = self.apply(self.namespace, [raw], decide)
        return Steered(self._view(run_id), applied.outgoing, [])

    def send_event(
        self, run_id: str, name: str, payload: Payload | None, *, reference_id: str | None = None, actor: str = ""
    ) -> Steered:
        """Send an event to a workflow; it is kept until the workflow waits for it.

        :param reference_id: sending the same again under it changes nothing.
        :raises RunConflict: the run has ended, or is a task.
        """
        raw = _raw(run_id)
        key = ids.new_id().bytes
        if reference_id is not None:
            key = hashlib.sha256(f"{name}\n{reference_id}".encode()).digest()[:16]

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            there = effects.arrived.get(raw, [])
            if any(arrival.id == key.hex() for arrival in there):
                return
            if not row.is_workflow or row.ended:
                why = f"it is {row.state}" if row.is_workflow else "it is a task"
                raise RunConflict(f"run {run_id} takes no events: {why}")
            effects.audit.append(Audited(actor, "event", run_id, json.dumps({"name": name, "reference_id": reference_id})))
            encoding, text = (None, None) if payload is None else payload
            arrival = Arrival(key.hex(), EVENT_SENT, name, None, "", encoding, text, None, None)
            effects.arrivals.append((raw, arrival, True))
            look(row, [*there, arrival], effects, self.clock())

        applied = self.apply(self.namespace, [raw], decide, arrived=[raw], orders=False)
        return Steered(self._view(run_id), applied.outgoing, [])

    def create_from(self, run_id: str, run: NewRun, from_step: int, *, actor: str = "") -> Created:
        """Record `run`, a copy of another, with the steps of that before `from_step` and what came for them."""
        source, raw = _raw(run_id), ids.to_bytes(run.id)

        def work(connection: sa.Connection) -> Created:
            sql = "SELECT history, history_from FROM runs WHERE namespace = ? AND id = ?"
            found = self.db.execute(connection, sql, (self.namespace, source)).fetchone()
            last, first = found or (0, 0)
            if run.kind != "workflow" or first or not 0 <= from_step < last:
                why = "it went on as new" if first else f"it has {last} steps, the first is 0"
                why = why if run.kind == "workflow" else "it is a task"
                raise RunConflict(f"run {run_id} cannot be rerun from step {from_step}: {why}")
            open_ = self.db.execute(
                connection,
                "SELECT s.ordinal, s.name FROM steps s LEFT JOIN inbox i ON i.namespace = s.namespace AND i.run_id = s.run_id "
                "AND i.ordinal = s.ordinal WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal < ? AND s.state = 'open' "
                "AND i.id IS NULL ORDER BY s.ordinal LIMIT 1",
                (self.namespace, source, from_step),
            ).fetchone()
            if open_ is not None:
                raise RunConflict(
                    f"run {run_id} cannot be rerun from step {from_step}: step {open_[0]} ({open_[1]}) has no result"
                )
            created = self._create(connection, self.namespace, [run], None, None, actor)
            if not created.accepted[0].created:
                return created
            self._copy_steps(connection, source, raw, from_step)
            self.db.execute(
                connection,
                "UPDATE runs SET history = ? WHERE namespace = ? AND id = ?",
                (from_step, self.namespace, raw),
            )
            return created

        return self.db.transaction(work)

    def _copy_steps(self, connection: sa.Connection, source: bytes, target: bytes, before: int) -> None:
        for table, columns in (("steps", STEP_COLUMNS), ("inbox", INBOX_COLUMNS)):
            rest = ", ".join(column for column in columns if column not in ("namespace", "run_id"))
            sql = f"INSERT INTO {table} (namespace, run_id, {rest}) SELECT namespace, ?, {rest} FROM {table} "
            where = "WHERE namespace = ? AND run_id = ? AND ordinal < ?"
            self.db.execute(connection, sql + where, (target, self.namespace, source, before))

    def history(self, run_id: str, *, after: int = -1, limit: int = 1000) -> list[StepView]:
        """What a workflow has issued, by ordinal, with how its children ended. Raises `RunNotFound`."""
        raw = _raw(run_id)
        sql = (
            f"SELECT {', '.join(STEP_COLUMNS)} FROM steps WHERE namespace = ? AND run_id = ? AND ordinal > ? "
            f"ORDER BY ordinal LIMIT {int(limit)}"
        )

        def work(connection: sa.Connection) -> list[StepView]:
            rows = self.db.execute(connection, sql, (self.namespace, raw, after)).fetchall()
            if not rows and self._get(connection, raw) is None:
                raise RunNotFound(run_id)
            arrivals = select_arrivals(self.db, connection, self.namespace, [raw]).get(raw, [])
            ends = {arrival.ordinal: arrival for arrival in arrivals if arrival.ordinal is not None}
            names = self._worker_names(connection, [row[STEP_COLUMNS.index("worker")] for row in rows])
            return [step_view(row, ends.get(row[2]), names) for row in rows]

        return self.db.read(work)


def _hint(row: RunRow) -> str:
    return "" if row.ended else "; a task that runs can be cancelled"
