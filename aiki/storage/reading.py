"""The verbs that read: one run, many runs, who has ended."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from aiki import ids
from aiki.errors import ConfigurationError, RunNotFound
from aiki.model import Attempt, End, Page, RunDetail, RunFilter, RunView
from aiki.states import TERMINAL, State
from aiki.storage.queues import Pause, Queues
from aiki.storage.rows import ATTEMPT_COLUMNS, VIEW_COLUMNS, attempt_of, payload_of, run_view

_VIEW_COLUMNS_OF_R = ", ".join(f"r.{column}" for column in VIEW_COLUMNS.split(", "))
_WORKER_AT = VIEW_COLUMNS.split(", ").index("worker")

CHILDREN_AT_ONCE = 250
_HEX_ID = re.compile(r"[0-9a-f]{32}")


class Reading(Queues):
    """Looking at runs."""

    def get_run(self, run_id: str) -> RunView | None:
        """The run, or None."""
        try:
            raw = ids.to_bytes(run_id)
        except ValueError:
            return None
        return self.db.read(lambda connection: self._get(connection, raw))

    def _view(self, run_id: str) -> RunView:
        view = self.get_run(run_id)
        if view is None:
            raise RunNotFound(run_id)
        return view

    def _get(self, connection: sa.Connection, raw: bytes) -> RunView | None:
        row = self.db.execute(
            connection,
            f"SELECT {_VIEW_COLUMNS_OF_R}, w.name, q.paused_by, q.paused_at, q.reason FROM runs r "
            "LEFT JOIN workers w ON w.namespace = r.namespace AND w.id = r.worker "
            "LEFT JOIN queues q ON q.namespace = r.namespace AND q.name = r.queue AND q.paused = 1 "
            "WHERE r.namespace = ? AND r.id = ?",
            (self.namespace, raw),
        ).fetchone()
        if row is None:
            return None
        *values, worker_name, paused_by, paused_at, reason = row
        view = run_view(values, {bytes(row[_WORKER_AT]): worker_name} if worker_name else None)
        if paused_at is None:
            return view
        return self._held_up(view, {view.queue: Pause(view.queue, paused_by or "", paused_at, reason or "")})

    def _held_up(self, view: RunView, paused: dict[str, Pause]) -> RunView:
        """A run that is queued in a paused queue says so."""
        pause = paused.get(view.queue)
        if pause is None or view.state is not State.QUEUED:
            return view
        return replace(view, waiting_on=pause.told(self.clock()))

    def _worker_names(self, connection: sa.Connection, raws: Sequence[bytes | None]) -> dict[bytes, str]:
        wanted = sorted({bytes(raw) for raw in raws if raw is not None})
        if not wanted:
            return {}
        rows = self.db.where_in(
            connection, "SELECT id, name FROM workers WHERE namespace = ? AND id", (self.namespace,), wanted
        )
        return {bytes(raw): name for raw, name in rows}

    def _with_names(self, connection: sa.Connection, attempts: list[Attempt]) -> list[Attempt]:
        """Attempts with their workers' names in the place of their ids."""
        found = {item.worker: bytes.fromhex(item.worker) for item in attempts if _HEX_ID.fullmatch(item.worker)}
        names = self._worker_names(connection, list(found.values()))
        return [replace(item, worker=names.get(found.get(item.worker, b""), item.worker)) for item in attempts]

    def detail(self, run_id: str) -> RunDetail | None:
        """The run with its payloads and attempts, or None."""
        try:
            raw = ids.to_bytes(run_id)
        except ValueError:
            return None

        def work(connection: sa.Connection) -> RunDetail | None:
            view = self._get(connection, raw)
            if view is None:
                return None
            key = (self.namespace, raw)
            payloads = {
                role: payload_of(encoding, data)
                for role, encoding, data in self.db.execute(
                    connection, "SELECT role, encoding, data FROM payloads WHERE namespace = ? AND run_id = ?", key
                )
            }
            attempts = []
            if view.state is not State.COMPLETED or view.attempt > 1 or view.crashes:
                sql = f"SELECT {ATTEMPT_COLUMNS} FROM attempts WHERE namespace = ? AND run_id = ? ORDER BY epoch"
                attempts = [attempt_of(row) for row in self.db.execute(connection, sql, key)]
                attempts = self._with_names(connection, attempts)
            traceback = attempts[-1].traceback if attempts and view.state in (State.FAILED, State.DEAD) else ""
            return RunDetail(view, payloads.get("input"), payloads.get("result"), traceback, attempts)

        return self.db.read(work)

    def ended(self, run_ids: Sequence[str]) -> dict[str, State]:
        """Those of the runs that have ended, with their final state."""
        by_raw = {ids.to_bytes(run_id): run_id for run_id in run_ids}

        def work(connection: sa.Connection) -> dict[str, State]:
            rows = self.db.where_in(
                connection, "SELECT id, state FROM runs WHERE namespace = ? AND id", (self.namespace,), list(by_raw)
            )
            return {by_raw[bytes(raw)]: State(state) for raw, state in rows if state in TERMINAL}

        return self.db.read(work)

    def ends(self, run_ids: Sequence[str]) -> dict[str, End]:
        """Those of the runs that have ended, with their final state and their result."""
        by_raw = {ids.to_bytes(run_id): run_id for run_id in run_ids}
        sql = (
            "SELECT r.id, r.state, p.encoding, p.data FROM runs r LEFT JOIN payloads p "
            "ON p.namespace = r.namespace AND p.run_id = r.id AND p.role = 'result' WHERE r.namespace = ? AND r.id"
        )
        rows = self.db.read(lambda connection: self.db.where_in(connection, sql, (self.namespace,), list(by_raw)))
        return {
            by_raw[bytes(raw)]: End(State(state), None if encoding is None else payload_of(encoding, data))
            for raw, state, encoding, data in rows
            if state in TERMINAL
        }

    def list_runs(self, where: RunFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """Runs, newest first (by id, which rises with time); `after` is the `next` of the page before."""

        def work(connection: sa.Connection) -> Page:
            if where.parent_id is not None:
                found = self._children(connection, where, limit, after)
            else:
                found = self._newest(connection, where, limit, after)
            rows = heapq.nlargest(limit + 1, found, key=lambda row: bytes(row[0]))
            names = self._worker_names(connection, [row[_WORKER_AT] for row in rows[:limit]])
            views = [run_view(row, names) for row in rows[:limit]]
            if any(view.state is State.QUEUED for view in views):
                paused = self.pauses(connection).queues
                views = [self._held_up(view, paused) for view in views]
            return Page(views, views[-1].id if len(rows) > limit else None)

        return self.db.read(work)

    def _newest(self, connection: sa.Connection, where: RunFilter, limit: int, after: str | None) -> list[Any]:
        conditions, parameters = _conditions(where)
        if after is not None:
            conditions.append("id < ?")
            parameters.append(ids.to_bytes(after))
        tail = f"ORDER BY id DESC LIMIT {int(limit) + 1}"
        found: list[Any] = []
        # One state a query: each walks its index backwards, and none sorts more than a page.
        for state in where.states or (None,):
            extra = " AND state = ?" if state else ""
            index = "ix_runs_state" if state else "ix_runs_name" if where.name is not None else None
            # Without statistics SQLite walks the primary key instead, however few runs are in that state.
            hint = f"INDEXED BY {index}" if index and self.db.is_sqlite else ""
            found += self.db.execute(
                connection,
                f"SELECT {VIEW_COLUMNS} FROM runs {hint} WHERE {' AND '.join(['namespace = ?', *conditions])}{extra} {tail}",
                (self.namespace, *parameters, *((state.value,) if state else ())),
            ).fetchall()
        return found

    def _children(self, connection: sa.Connection, where: RunFilter, limit: int, after: str | None) -> list[Any]:
        """Those that a workflow started. Its steps name them, so that runs need no index by parent."""
        parent = _parent_of(where)
        sql = "SELECT child_id FROM steps WHERE namespace = ? AND run_id = ? AND child_id IS NOT NULL"
        named = {bytes(row[0]) for row in self.db.execute(connection, sql, (self.namespace, parent))}
        before = None if after is None else ids.to_bytes(after)
        left = sorted((raw for raw in named if before is None or raw < before), reverse=True)
        conditions, parameters = _conditions(where)
        # A reference id may have led a step to a run that another started.
        conditions.append("parent_id = ?")
        parameters.append(parent)
        if where.states:
            conditions.append(f"state IN ({', '.join('?' * len(where.states))})")
            parameters += [state.value for state in where.states]
        sql = f"SELECT {VIEW_COLUMNS} FROM runs WHERE {' AND '.join(conditions)} AND namespace = ? AND id"
        found: list[Any] = []
        while left and len(found) <= limit:
            chunk, left = left[:CHILDREN_AT_ONCE], left[CHILDREN_AT_ONCE:]
            found += self.db.where_in(connection, sql, (*parameters, self.namespace), chunk)
        return found

    def count_by_state(self) -> dict[State, int]:
        """How many runs there are in each state."""
        sql = "SELECT state, COUNT(*) FROM runs WHERE namespace = ? GROUP BY state"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (self.namespace,)).fetchall())
        return {State(state): count for state, count in rows}


def _parent_of(where: RunFilter) -> bytes:
    try:
        return ids.to_bytes(where.parent_id or "")
    except ValueError:
        raise ConfigurationError(f"parent_id={where.parent_id!r} is not a run id; run ids are UUIDs") from None


def _conditions(where: RunFilter) -> tuple[list[str], list[Any]]:
    """What a filter says of the runs' own columns, but for their states."""
    pairs = (
        ("kind = ?", where.kind),
        ("name = ?", where.name),
        ("queue = ?", where.queue),
        ("reference_id = ?", where.reference_id),
        ("created_at >= ?", where.created_after),
        ("created_at < ?", where.created_before),
    )
    given = [(text, value) for text, value in pairs if value is not None]
    return [text for text, _ in given], [value for _, value in given]
