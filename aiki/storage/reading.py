"""The verbs that read: one run, many runs, who has ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa

from aiki import ids
from aiki.errors import RunNotFound
from aiki.model import Attempt, End, RunDetail, RunView, Waiting
from aiki.states import TERMINAL, State
from aiki.storage.queues import Pause, Queues
from aiki.storage.rows import ATTEMPT_COLUMNS, VIEW_COLUMNS, attempt_of, payload_of, run_view
from aiki.storage.waited import waiting_of

_VIEW_COLUMNS_OF_R = ", ".join(f"r.{column}" for column in VIEW_COLUMNS.split(", "))
_WORKER_AT = VIEW_COLUMNS.split(", ").index("worker")

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
        """The run as a verb has just left it."""
        with self.db.from_primary():
            view = self.get_run(run_id)
        if view is None:
            raise RunNotFound(run_id)
        return view

    def _get(self, connection: sa.Connection, raw: bytes) -> RunView | None:
        row = self.db.execute(
            connection,
            f"SELECT {_VIEW_COLUMNS_OF_R}, w.name, q.paused_by, q.paused_at, q.reason FROM aiki_runs r "
            "LEFT JOIN aiki_workers w ON w.namespace = r.namespace AND w.id = r.worker "
            "LEFT JOIN aiki_queues q ON q.namespace = r.namespace AND q.name = r.queue AND q.paused = 1 "
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
            connection, "SELECT id, name FROM aiki_workers WHERE namespace = ? AND id", (self.namespace,), wanted
        )
        return {bytes(raw): name for raw, name in rows}

    def _with_names(self, connection: sa.Connection, attempts: list[Attempt]) -> list[Attempt]:
        """Attempts with their workers' names in the place of their ids."""
        found = {item.worker: bytes.fromhex(item.worker) for item in attempts if _HEX_ID.fullmatch(item.worker)}
        names = self._worker_names(connection, list(found.values()))
        return [replace(item, worker=names.get(found.get(item.worker, b""), item.worker)) for item in attempts]

    def epoch_of(self, run_id: str) -> int:
        """How often a run was delivered; 0: there is none."""
        sql = "SELECT epoch FROM aiki_runs WHERE namespace = ? AND id = ?"
        row = self.db.read(lambda c: self.db.execute(c, sql, (self.namespace, ids.to_bytes(run_id))).fetchone())
        return int(row[0]) if row else 0

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
                    connection, "SELECT role, encoding, data FROM aiki_payloads WHERE namespace = ? AND run_id = ?", key
                )
            }
            attempts = []
            if view.state is not State.COMPLETED or view.attempt > 1 or view.crashes:
                sql = f"SELECT {ATTEMPT_COLUMNS} FROM aiki_attempts WHERE namespace = ? AND run_id = ? ORDER BY epoch"
                attempts = [attempt_of(row) for row in self.db.execute(connection, sql, key)]
                attempts = self._with_names(connection, attempts)
            traceback = attempts[-1].traceback if attempts and view.state in (State.FAILED, State.DEAD) else ""
            waiting = waiting_of(self.db, connection, self.namespace, raw) if view.state is State.WAITING else None
            return RunDetail(view, payloads.get("input"), payloads.get("result"), traceback, attempts, waiting=waiting)

        return self.db.read(work)

    def waiting(self, run_id: str) -> Waiting | None:
        """What a run waits for; None if it is not waiting, or not there."""
        raw = ids.to_bytes(run_id)
        return self.db.read(lambda connection: waiting_of(self.db, connection, self.namespace, raw))

    def ended(self, run_ids: Sequence[str]) -> dict[str, State]:
        """Those of the runs that have ended, with their final state."""
        by_raw = {ids.to_bytes(run_id): run_id for run_id in run_ids}

        def work(connection: sa.Connection) -> dict[str, State]:
            rows = self.db.where_in(
                connection, "SELECT id, state FROM aiki_runs WHERE namespace = ? AND id", (self.namespace,), list(by_raw)
            )
            return {by_raw[bytes(raw)]: State(state) for raw, state in rows if state in TERMINAL}

        return self.db.read(work)

    def ends(self, run_ids: Sequence[str]) -> dict[str, End]:
        """Those of the runs that have ended, with their final state and their result."""
        by_raw = {ids.to_bytes(run_id): run_id for run_id in run_ids}
        sql = (
            "SELECT r.id, r.state, p.encoding, p.data FROM aiki_runs r LEFT JOIN aiki_payloads p "
            "ON p.namespace = r.namespace AND p.run_id = r.id AND p.role = 'result' WHERE r.namespace = ? AND r.id"
        )
        rows = self.db.read(lambda connection: self.db.where_in(connection, sql, (self.namespace,), list(by_raw)))
        return {
            by_raw[bytes(raw)]: End(State(state), None if encoding is None else payload_of(encoding, data))
            for raw, state, encoding, data in rows
            if state in TERMINAL
        }

    def count_by_state(self) -> dict[State, int]:
        """How many runs there are in each state."""
        sql = "SELECT state, COUNT(*) FROM aiki_runs WHERE namespace = ? GROUP BY state"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (self.namespace,)).fetchall())
        return {State(state): count for state, count in rows}
