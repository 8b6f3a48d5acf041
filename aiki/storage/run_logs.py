"""The verbs of what runs logged: the last `KEPT` records of each, in a ring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from aiki import ids
from aiki.clock import Clock
from aiki.errors import RunNotFound
from aiki.lifecycle.run_logs import KEPT, LogRecord
from aiki.storage.engine import Database

_COLUMNS: Final = (
    *("namespace", "run_id", "place", "number", "origin", "logged_at", "attempt", "step", "level", "logger", "message"),
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A record as people see it. `number` counts all that the run has logged, from 1; the oldest are dropped."""

    number: int
    logged_at: int
    attempt: int
    step: int | None
    level: str
    logger: str
    message: str


class RunLogs:
    """What runs of the store's namespace logged."""

    db: Database
    namespace: str
    clock: Clock

    def write_logs(self, connection: sa.Connection, namespace: str, records: Sequence[LogRecord]) -> None:
        """Keep these in the caller's transaction, which has locked the runs. What is there already is passed over."""
        by_run: dict[bytes, list[LogRecord]] = {}
        for record in records:
            by_run.setdefault(record.run_id, []).append(record)
        sql = "SELECT run_id, MAX(number), MAX(origin) FROM aiki_run_logs WHERE namespace = ? AND run_id"
        found = self.db.where_in(connection, sql, (namespace,), sorted(by_run), "GROUP BY run_id")
        known = {bytes(raw): (int(number), int(origin)) for raw, number, origin in found}
        rows: list[tuple[Any, ...]] = []
        for run_id, those in sorted(by_run.items()):
            number, newest = known.get(run_id, (0, -1))
            fresh = sorted(record for record in those if record.origin > newest)
            numbered = list(enumerate(fresh, number + 1))[-KEPT:]
            rows += [(namespace, run_id, place % KEPT, place, *record[1:]) for place, record in numbered]
        taken = [row[:3] for row in rows if row[3] > KEPT]
        if taken:
            sql = "DELETE FROM aiki_run_logs WHERE namespace = ? AND run_id = ? AND place = ?"
            connection.exec_driver_sql(self.db.dialect.text(sql), taken)
        self.db.insert(connection, "aiki_run_logs", _COLUMNS, rows)

    def run_logs(self, run_id: str, *, after: int = 0, limit: int = KEPT) -> list[LogLine]:
        """What a run logged, in order, from the record behind number `after`; raises `RunNotFound`."""
        try:
            key = (self.namespace, ids.to_bytes(run_id))
        except ValueError:
            raise RunNotFound(run_id) from None
        sql = (
            "SELECT number, logged_at, attempt, step, level, logger, message FROM aiki_run_logs WHERE "
            "namespace = ? AND run_id = ? "
            f"AND number > ? ORDER BY number LIMIT {int(limit)}"
        )

        def work(connection: sa.Connection) -> list[LogLine]:
            rows = self.db.execute(connection, sql, (*key, after)).fetchall()
            if not rows:
                there = "SELECT 1 FROM aiki_runs WHERE namespace = ? AND id = ?"
                if self.db.execute(connection, there, key).fetchone() is None:
                    raise RunNotFound(run_id)
            return [LogLine(*row) for row in rows]

        return self.db.read(work)
