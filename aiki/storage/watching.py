"""Polling queries for live views: many runs in one statement, and the new steps of a workflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from aiki import ids
from aiki.history import OPEN
from aiki.model import RunView
from aiki.states import TERMINAL
from aiki.storage.engine import Database
from aiki.storage.rows import VIEW_COLUMNS, run_view


class Watched(NamedTuple):
    """A run as it is, and how many steps its workflow has issued."""

    run: RunView
    steps: int


class StepMark(NamedTuple):
    """A step without what it took and gave: enough to draw it. Times are microseconds since the Unix epoch."""

    ordinal: int
    kind: str
    name: str
    state: str
    attempt: int
    error_type: str | None
    child_id: str | None
    due_at: int | None
    millis: int | None
    created_at: int
    finished_at: int | None

    @property
    def open(self) -> bool:
        """Whether more is to be told of it."""
        return self.state == OPEN


_MARK = (
    "s.ordinal, s.kind, s.name, s.state, s.attempt, s.error_type, s.child_id, s.due_at, s.millis, s.created_at, s.finished_at, "
    "c.state, c.error_type, c.finished_at"
)
_WORKER_AT = VIEW_COLUMNS.split(", ").index("worker")


class Watching:
    """Looking at runs again and again."""

    db: Database
    namespace: str

    def watched(self, run_ids: Sequence[str]) -> dict[str, Watched]:
        """Those of the runs that there are, in one statement."""
        raws = [ids.to_bytes(run_id) for run_id in run_ids]
        columns = ", ".join(f"r.{column}" for column in VIEW_COLUMNS.split(", "))
        sql = (
            f"SELECT r.history, w.name, {columns} FROM aiki_runs r "
            "LEFT JOIN aiki_workers w ON w.namespace = r.namespace AND w.id = r.worker WHERE r.namespace = ? AND r.id"
        )

        def work(connection: sa.Connection) -> dict[str, Watched]:
            out = {}
            for history, worker, *values in self.db.where_in(connection, sql, (self.namespace,), raws):
                run = run_view(values, {bytes(values[_WORKER_AT]): worker} if worker else None)
                out[run.id] = Watched(run, history)
            return out

        return self.db.read(work)

    def step_marks(self, run_id: str, *, after: int, again: Sequence[int] = (), limit: int = 200) -> list[StepMark]:
        """Steps behind the ordinal `after`, at most `limit`, and those of `again`, by ordinal. A child's is its run's state."""
        key = (self.namespace, ids.to_bytes(run_id))
        sql = (
            f"SELECT {_MARK} FROM aiki_steps s LEFT JOIN aiki_runs c ON c.namespace = s.namespace AND c.id = s.child_id "
            "WHERE s.namespace = ? AND s.run_id = ?"
        )

        def work(connection: sa.Connection) -> list[StepMark]:
            rows = self.db.where_in(connection, f"{sql} AND s.ordinal", key, list(again)) if again else []
            newer = f"{sql} AND s.ordinal > ? ORDER BY s.ordinal LIMIT {int(limit)}"
            rows += self.db.execute(connection, newer, (*key, after)).fetchall()
            return [_mark(row) for row in sorted(rows, key=lambda row: int(row[0]))]

        return self.db.read(work)


def _mark(row: Sequence[Any]) -> StepMark:
    ordinal, kind, name, state, attempt, error, child, due, millis, created, finished, ended_as, its_error, ended_at = row
    if state == OPEN and ended_as in TERMINAL:
        state, error, finished = ended_as, its_error, ended_at
    child_id = None if child is None else ids.to_text(bytes(child))
    return StepMark(ordinal, kind, name, state, attempt, error, child_id, due, millis, created, finished)
