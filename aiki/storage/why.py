"""Why a run is not moving: one sentence for people and one code for programs, from what the database has.

Looked at in the order of what would have to be mended first: nobody to move anything, a paused queue, nobody to take it, nobody
who knows it, and only then that others are before it.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.errors import RunNotFound
from aiki.history import CHILD_ENDED, EVENT_SENT, RETRY, SLEEP, Waits
from aiki.lifecycle.record import CANCEL_MET, CHANGED_ERRORS, SELECT_RUN, RunRow, delivery_id, run_row
from aiki.states import TERMINAL, State
from aiki.storage.engine import Database
from aiki.storage.queues import COUNTED, HEARD, Queues
from aiki.words import moment

SILENT: Final = 10 * SECOND
"""An orchestrator says that it lives every two seconds."""
CODES: Final = (
    "ended",
    "running",
    "cancelling",
    "pausing",
    "worker_silent",
    "no_orchestrator",
    "paused",
    "queue_paused",
    "no_worker",
    "no_definition",
    "code_changed",
    "scheduled",
    "waiting_sleep",
    "waiting_event",
    "waiting_child",
    "waiting_retry",
    "waiting",
    "queued",
)
"""All codes that there are."""


class Why(NamedTuple):
    """What a run waits for: `code` of `CODES`, a sentence, and until when (None: nobody knows)."""

    code: str
    text: str
    until: int | None = None


class _Worker(NamedTuple):
    id: bytes
    name: str
    heard_at: int
    takes: bool
    knows: bool


class Explaining(Queues):
    """Telling why."""

    db: Database
    namespace: str
    clock: Clock

    def why(self, run_id: str) -> Why:
        """Why a run is where it is. Raises `RunNotFound`."""
        try:
            raw = ids.to_bytes(run_id)
        except ValueError:
            raise RunNotFound(run_id) from None

        def work(connection: sa.Connection) -> Why:
            sql = f"SELECT {SELECT_RUN} FROM aiki_runs WHERE namespace = ? AND id = ?"
            found = self.db.execute(connection, sql, (self.namespace, raw)).fetchone()
            if found is None:
                raise RunNotFound(run_id)
            return self._why(connection, run_row(found), self.clock())

        return self.db.read(work)

    def _why(self, connection: sa.Connection, row: RunRow, now: int) -> Why:
        state = State(row.state)
        if state in TERMINAL:
            return Why("ended", _ended(row, now))
        if state is State.PAUSED:
            return Why("paused", f"{self._paused_by(connection, row, now)}; it goes on once it is resumed")
        silent = self._no_orchestrator(connection, now)
        if silent is not None:
            return silent
        if state is State.RUNNING:
            return self._running(connection, row, now)
        if state is State.STALLED:
            return _stalled(row)
        if state is State.QUEUED:
            return self._queued(connection, row, now)
        if state is State.SCHEDULED:
            due = row.due_at or now
            return Why("scheduled", f"it is to start at {moment(due, now)}", due)
        return self._waiting(connection, row, now)

    def _paused_by(self, connection: sa.Connection, row: RunRow, now: int) -> str:
        """Who paused a run, when and why, as the audit has it; those that were paused by a batch are not named there."""
        sql = (
            "SELECT actor, created_at, reason FROM aiki_audit WHERE namespace = ? AND subject = ? AND action = 'pause' "
            "ORDER BY id DESC LIMIT 1"
        )
        found = self.db.execute(connection, sql, (self.namespace, ids.to_text(row.id))).fetchone()
        if found is None:
            return f"it was {row.waiting_on or 'paused by an operator'}"
        return f"it was paused by {found[0] or 'an operator'} at {moment(found[1], now)}" + (
            f": {found[2]}" if found[2] else ""
        )

    def _no_orchestrator(self, connection: sa.Connection, now: int) -> Why | None:
        # Each orchestrator works for all namespaces, so this looks at all.
        found = self.db.execute(connection, "SELECT MAX(heard_at) FROM aiki_orchestrators").fetchone()[0]
        if found is None:
            return Why("no_orchestrator", "no orchestrator has ever been heard; start one: aiki orchestrator")
        if found < now - SILENT:
            return Why("no_orchestrator", f"no orchestrator has been heard since {moment(found, now)}")
        return None

    def _workers(self, connection: sa.Connection, row: RunRow, now: int) -> list[_Worker]:
        sql = (
            "SELECT id, name, heard_at, queues, definitions FROM aiki_workers "
            "WHERE namespace = ? AND state = 'alive' AND draining = 0 AND heard_at > ?"
        )
        out = []
        for raw, name, heard_at, queues, definitions in self.db.execute(connection, sql, (self.namespace, now - HEARD)):
            knows = any((item[0], item[1]) == (row.name, row.version) for item in json.loads(definitions))
            out.append(_Worker(bytes(raw), name, heard_at, row.queue in json.loads(queues), knows))
        return out

    def _running(self, connection: sa.Connection, row: RunRow, now: int) -> Why:
        sql = "SELECT name, state, heard_at FROM aiki_workers WHERE namespace = ? AND id = ?"
        found = self.db.execute(connection, sql, (self.namespace, row.worker)).fetchone() if row.worker else None
        name, state, heard_at = (f"worker {found[0]}", *found[1:]) if found else ("a worker", "alive", now)
        if state != "alive" or heard_at < now - HEARD:
            return Why(
                "worker_silent",
                f"{name}, which executes it, has not been heard since {moment(heard_at, now)}; once it is given up, "
                "the run is dispatched anew",
            )
        since = f" since {moment(row.started_at, now)}" if row.started_at else ""
        if row.cancel_requested and row.cancel_requested != CANCEL_MET:
            when = "at its next durable point" if row.is_workflow else "as soon as it can be interrupted"
            return Why("cancelling", f"{name} executes it{since}; it is to be cancelled {when}")
        if row.pause_requested:
            return Why("pausing", f"{name} executes it{since}; it is paused at its next durable point")
        return Why("running", f"{name} executes it{since}")

    def _queued(self, connection: sa.Connection, row: RunRow, now: int) -> Why:
        pause = self.pauses(connection).queues.get(row.queue)
        if pause is not None:
            return Why("queue_paused", pause.told(now))
        workers = self._workers(connection, row, now)
        takers = [worker for worker in workers if worker.takes]
        if not takers:
            others = f"; {_count(len(workers), 'worker takes', 'workers take')} from other queues" if workers else ""
            return Why("no_worker", f"no worker takes from queue {row.queue}{others}")
        able = [worker for worker in takers if worker.knows]
        if not able:
            where = f" that takes from queue {row.queue}" if any(worker.knows for worker in workers) else ""
            return Why("no_definition", f"no worker{where} has {row.name}@{row.version}")
        before = self._before(connection, row)
        told = _count(len(able), "worker takes from it", "workers take from it")
        if not before:
            return Why("queued", f"it is next in queue {row.queue}; {told}")
        about = f"about {_count(before, 'run', 'runs')}" if before < COUNTED else f"over {COUNTED:,} runs"
        return Why("queued", f"queued behind {about} in queue {row.queue}; {told}")

    def _before(self, connection: sa.Connection, row: RunRow) -> int:
        """How many runs of its queue were dispatched before it, of the oldest that are queued."""
        hint = self.db.dialect.suggest_index("ix_aiki_runs_state")
        sql = (
            f"SELECT COUNT(*) FROM (SELECT queue, dispatched_at FROM aiki_runs {hint} WHERE namespace = ? AND state = 'queued' "
            f"ORDER BY created_at LIMIT {COUNTED}) t WHERE queue = ? AND dispatched_at < ?"
        )
        key = (self.namespace, row.queue, row.dispatched_at or row.updated_at)
        return int(self.db.execute(connection, sql, key).fetchone()[0])

    def _waiting(self, connection: sa.Connection, row: RunRow, now: int) -> Why:
        if row.waits is None:
            sql = "SELECT due_at FROM aiki_deliveries WHERE namespace = ? AND id = ?"
            found = self.db.execute(connection, sql, (self.namespace, delivery_id(row.id, row.epoch))).fetchone()
            due = found[0] if found else None
            when = f", at {moment(due, now)}" if due else ""
            return Why("waiting_retry", f"waiting for its {row.waiting_on or 'retry'}{when}", due)
        waits = Waits.from_wire(json.loads(row.waits))
        dues = [item.due for item in waits.items if item.due is not None]
        until = (max(dues) if waits.all else min(dues)) if dues else None
        kinds = {item.kind for item in waits.items}
        code = _WAITS.get(next(iter(kinds)), "waiting") if len(kinds) == 1 else "waiting"
        return Why(code, f"waiting for {_told(waits, now)}", until)


_WAITS: Final = {
    SLEEP: "waiting_sleep",
    EVENT_SENT: "waiting_event",
    CHILD_ENDED: "waiting_child",
    RETRY: "waiting_retry",
}
_SHOWN: Final = 3


def _told(waits: Waits, now: int) -> str:
    count = sum(item.last - item.first + 1 for item in waits.items if item.kind == CHILD_ENDED)
    parts = [_item(item, now) for item in waits.items if item.kind != CHILD_ENDED][:_SHOWN]
    if count:
        names = sorted({item.name for item in waits.items if item.kind == CHILD_ENDED and item.name})
        of = f" of {names[0]}" if len(names) == 1 else ""
        parts.insert(0, f"{count:,} runs{of} to end" if count > 1 else f"a run{of} to end")
    return (" and " if waits.all else " or ").join(parts) or "nothing"


def _item(item: Any, now: int) -> str:
    until = "" if item.due is None else f" until {moment(item.due, now)}"
    words = {SLEEP: "the end of sleep", EVENT_SENT: "event", RETRY: "the retry of"}
    return f"{words.get(item.kind, item.kind)} {item.name}{until}"


def _stalled(row: RunRow) -> Why:
    text = row.waiting_on or f"no worker has {row.name}@{row.version}"
    return Why("code_changed" if row.error_type in CHANGED_ERRORS else "no_definition", text)


def _ended(row: RunRow, now: int) -> str:
    when = f" at {moment(row.finished_at, now)}" if row.finished_at else ""
    why = ""
    if row.state == State.CANCELLED:
        why = f": {row.cancel_reason}" if row.cancel_reason else ""
    elif row.error_type:
        first = (row.error_message or "").strip().splitlines()
        why = f": {row.error_type.rpartition('.')[2]}" + (f": {first[0][:200]}" if first else "")
    words = {State.COMPLETED: "it has completed", State.FAILED: "it has failed", State.DEAD: "it is dead"}
    return f"{words.get(State(row.state), 'it was cancelled')}{when}{why}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
