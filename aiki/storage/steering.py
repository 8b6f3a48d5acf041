"""The verbs of people for workflows: pause, resume, wake, send an event, look at the history. Each change is audited."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import sqlalchemy as sa

from aiki import ids
from aiki import messages as m
from aiki.ceilings import EVENT_BYTES, EVENTS
from aiki.codec import Payload
from aiki.errors import RunConflict, RunNotFound
from aiki.history import EVENT_SENT, SLEEP, Arrival, waking
from aiki.lifecycle.effects import Audited, Effects
from aiki.lifecycle.operations import pause_row, resume_row
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.waits import bring_on, look, waits_of
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
            waits = waits_of(row)
            sleeps = [] if waits is None else [item for item in waits.items if item.kind == SLEEP and name in ("", item.name)]
            if row.state != State.WAITING or not sleeps:
                state = f"is {row.state}" + (f", waiting on {row.waiting_on}" if row.waiting_on else "")
                which = f" ({name!r})" if name else ""
                raise RunConflict(f"run {run_id} {state}; only a workflow that sleeps can be woken{which}")
            effects.audit.append(Audited(actor, "wake", run_id, name, reason))
            arrival = waking(ids.new_id().hex, name, [item.first for item in sleeps])
            effects.arrivals.append((row.id, arrival, True))
            bring_on(row, effects, self.clock())

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
            if not row.is_workflow or row.ended:
                why = f"it is {row.state}" if row.is_workflow else "it is a task"
                raise RunConflict(f"run {run_id} takes no events: {why}")
            what = json.dumps({"name": name, "reference_id": reference_id})
            effects.audit.append(Audited(actor, "event", run_id, what, reason))
            encoding, text = (None, None) if payload is None else payload
            arrival = Arrival(key.hex(), EVENT_SENT, name, None, "", encoding, text, None, None)
            effects.arrivals.append((raw, arrival, True))
            # What the run waits for is not refused because of what it does not wait for.
            fresh = not _is_waited_for(row, name, there)
            look(row, [*there, arrival], effects, self.clock())

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


def _is_waited_for(row: RunRow, name: str, there: Sequence[Arrival]) -> bool:
    """Whether a suspended run waits for an event of this name, and there is none yet."""
    waits = waits_of(row)
    named = waits is not None and any(item.kind == EVENT_SENT and item.name == name for item in waits.items)
    return named and not any(a.kind == EVENT_SENT and a.name == name and a.ordinal is None for a in there)
