"""The verbs of people for workflows: pause, resume, wake, send an event, look at the history. Each change is audited."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa

from aiki import ids
from aiki import messages as m
from aiki.ceilings import EVENT_BYTES, EVENTS
from aiki.codec import Payload
from aiki.errors import RunConflict, RunNotFound
from aiki.history import EVENT_SENT, Arrival
from aiki.lifecycle.effects import Audited, Effects
from aiki.lifecycle.operations import pause_row, resume_row, take_event, waits_for_event, wake
from aiki.lifecycle.record import RunRow
from aiki.messages import RunKey
from aiki.model import Steered, StepView
from aiki.states import State
from aiki.storage.history import STEP_COLUMNS, select_arrivals, step_view
from aiki.storage.operating import Operating, _present, _raw


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
            if row.state == State.PAUSED:
                return
            if pause_row(row, effects):
                controls.append((m.PAUSE_SOON, [RunKey(row.run_id, row.epoch)]))
            effects.audit.append(Audited(actor, "pause", run_id, reason=reason))

        applied = self.apply(self.namespace, [raw], decide, verb="pause")
        return Steered(self._view(run_id), applied.outgoing, [*controls, (m.REVOKE, applied.revoke)])

    def resume_run(self, run_id: str, *, reason: str = "", actor: str = "") -> Steered:
        """Have a paused run go on. One that is to be paused and still runs, simply runs on."""
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            resume_row(_present(rows, raw, run_id), effects, self.clock())
            effects.audit.append(Audited(actor, "resume", run_id, "", reason))

        applied = self.apply(self.namespace, [raw], decide, verb="resume")
        return Steered(self._view(run_id), applied.outgoing, [])

    def wake_run(self, run_id: str, *, name: str = "", reason: str = "", actor: str = "") -> Steered:
        """End a workflow's sleep early: the one of that name, or whatever it sleeps in.

        :raises RunConflict: it does not sleep.
        """
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            wake(row, name, effects, self.clock())
            effects.audit.append(Audited(actor, "wake", run_id, name, reason))

        applied = self.apply(self.namespace, [raw], decide, verb="wake")
        return Steered(self._view(run_id), applied.outgoing, [])

    def send_event(
        self,
        run_id: str,
        name: str,
        payload: Payload | None,
        *,
        reference_id: str | None = None,
        reason: str = "",
        actor: str = "",
    ) -> Steered:
        """Send an event to a workflow; it is kept until the workflow waits for it.

        :param reference_id: sending the same again under it changes nothing.
        :raises RunConflict: the run has ended, or is a task; or as many events wait in it as may (`ceilings.EVENTS`).
        """
        raw = _raw(run_id)
        fresh = False
        key = ids.new_id().bytes
        if reference_id is not None:
            key = hashlib.sha256(f"{name}\n{reference_id}".encode()).digest()[:16]

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            nonlocal fresh
            fresh = False
            row = _present(rows, raw, run_id)
            there = effects.arrived.get(raw, [])
            if any(arrival.id == key.hex() for arrival in there):
                return
            # What the run waits for is not refused because of what it does not wait for.
            fresh = not waits_for_event(row, name, there)
            encoding, text = (None, None) if payload is None else payload
            take_event(row, Arrival(key.hex(), EVENT_SENT, name, None, "", encoding, text, None, None), effects, self.clock())
            what = json.dumps({"name": name, "reference_id": reference_id})
            effects.audit.append(Audited(actor, "event", run_id, what, reason))

        def check(connection: sa.Connection) -> None:
            if fresh:
                self._check_events(connection, raw, name)

        applied = self.apply(self.namespace, [raw], decide, arrived=[raw], orders=False, also=check, verb="event")
        return Steered(self._view(run_id), applied.outgoing, [])

    def _check_events(self, connection: sa.Connection, raw: bytes, name: str) -> None:
        """Refuse the event that was just written if more wait than may. Raises `RunConflict`."""
        sql = (
            "SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0) FROM aiki_inbox "
            "WHERE namespace = ? AND run_id = ? AND kind = 'event' AND ordinal IS NULL"
        )
        count, size = self.db.execute(connection, sql, (self.namespace, raw)).fetchone()
        if count > EVENTS or size > EVENT_BYTES:
            raise RunConflict(
                f"run {ids.to_text(raw)} does not take event {name!r}: with it, {int(count):,} events of {int(size):,} bytes "
                f"would be kept that it does not wait for yet; at most {EVENTS:,} events of {EVENT_BYTES:,} bytes in all may "
                "be. Send it when the run has taken others, or send a reference to large data"
            )

    def history(self, run_id: str, *, after: int = -1, limit: int = 1000) -> list[StepView]:
        """What a workflow has issued, by ordinal, with how its children ended. Raises `RunNotFound`."""
        raw = _raw(run_id)
        sql = (
            f"SELECT {', '.join(STEP_COLUMNS)} FROM aiki_steps WHERE namespace = ? AND run_id = ? AND ordinal > ? "
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
