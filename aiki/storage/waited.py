"""What a waiting run waits for, as people and programs read it: from its recorded waits, never from a sentence about them."""

from __future__ import annotations

import json
from typing import Final

import sqlalchemy as sa

from aiki import ids
from aiki.history import CHILD_ENDED, RETRY, Wait, Waits
from aiki.lifecycle.record import delivery_id
from aiki.model import Waiting, WaitView
from aiki.states import TERMINAL, State
from aiki.storage.engine import Database

MAX_ITEMS: Final = 50
"""Items that are told one by one."""
MAX_RUNS: Final = 20
"""Runs whose ids are told, of each item."""
LOOKED_AT: Final = 1000
"""Runs of an item among which those are looked for that have not ended."""


def waiting_of(db: Database, connection: sa.Connection, namespace: str, run_id: bytes) -> Waiting | None:
    """What the run waits for; None if it is not waiting, or not there."""
    sql = "SELECT state, name, epoch, waits FROM aiki_runs WHERE namespace = ? AND id = ?"
    found = db.execute(connection, sql, (namespace, run_id)).fetchone()
    if found is None or found[0] != State.WAITING.value:
        return None
    _, name, epoch, recorded = found
    if recorded is None:
        sql = "SELECT due_at FROM aiki_deliveries WHERE namespace = ? AND id = ?"
        due = db.execute(connection, sql, (namespace, delivery_id(run_id, epoch))).fetchone()
        return Waiting(False, (WaitView(RETRY, name, due[0] if due else None),))
    waits = Waits.from_wire(json.loads(recorded))
    items = tuple(_view(db, connection, namespace, run_id, item) for item in waits.items[:MAX_ITEMS])
    return Waiting(waits.all, items, max(0, len(waits.items) - MAX_ITEMS))


def _view(db: Database, connection: sa.Connection, namespace: str, run_id: bytes, wait: Wait) -> WaitView:
    if wait.kind != CHILD_ENDED:
        return WaitView(wait.kind, wait.name, wait.due)
    ended = ", ".join(f"'{state.value}'" for state in sorted(TERMINAL))
    sql = (
        "SELECT s.name, s.child_id FROM aiki_steps s LEFT JOIN aiki_runs r ON r.namespace = s.namespace AND r.id = s.child_id "
        "WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal BETWEEN ? AND ? AND s.child_id IS NOT NULL "
        f"AND (r.state IS NULL OR r.state NOT IN ({ended})) ORDER BY s.ordinal LIMIT {MAX_RUNS}"
    )
    last = min(wait.last, wait.first + LOOKED_AT - 1)
    found = db.execute(connection, sql, (namespace, run_id, wait.first, last)).fetchall()
    names = {wait.name} if wait.name else {name for name, _ in found}
    runs = tuple(ids.to_text(bytes(child)) for _, child in found)
    return WaitView("run", names.pop() if len(names) == 1 else "", wait.due, wait.last - wait.first + 1, runs)
