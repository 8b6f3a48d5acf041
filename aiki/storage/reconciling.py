"""The verbs of the reconciler: runs that have no visible cause to move, in pages that go on where the last one ended.

Nothing here asks for "the oldest so many": what cannot be mended at present must not hide what comes after it.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from aiki.clock import Clock
from aiki.history import Waits
from aiki.lifecycle.record import delivery_id
from aiki.messages import RunKey
from aiki.states import State
from aiki.storage.engine import Database

NAMESPACES_A_PAGE = 50


class Queued(NamedTuple):
    """A queued run without a delivery. `marker`: the one that is to prove that its dispatch was taken, None for none yet."""

    id: bytes
    epoch: int
    queue: str
    marker: int | None


class Running(NamedTuple):
    """A run that is recorded as running, with the worker (hex) that has it and its partition."""

    key: RunKey
    worker: str
    partition: int


class Reconciling:
    """Finding what is stuck."""

    db: Database
    clock: Clock

    # ------------------------------------------------------------ where to look
    def states_there(self, after: str = "", limit: int = NAMESPACES_A_PAGE) -> tuple[list[tuple[str, str]], str | None]:
        """The pairs of namespace and state that have runs, of so many namespaces; and where to go on (None: that was all).

        It costs by the pairs, not by the runs: the index is entered once for each.
        """

        def work(connection: sa.Connection) -> tuple[list[tuple[str, str]], str | None]:
            names = self._next_values(connection, "namespace", "", (), after, limit)
            if not names:
                return [], None
            pairs = [
                (name, state)
                for name in names
                for state in self._next_values(connection, "state", "namespace = ? AND ", (name,), "", len(State))
            ]
            return pairs, names[-1] if len(names) == limit else None

        return self.db.read(work)

    def _next_values(
        self, connection: sa.Connection, column: str, where: str, values: tuple[str, ...], after: str, limit: int
    ) -> list[str]:
        """The next distinct values of a column in the index by state, `after` excluded."""
        if self.db.dialect.jumps:
            sql = (
                f"SELECT {column} FROM aiki_runs {self.db.dialect.use_index('ix_aiki_runs_state')} WHERE {where}{column} > ? "
                f"GROUP BY {column} ORDER BY {column} LIMIT {int(limit)}"
            )
            return [row[0] for row in self.db.execute(connection, sql, (*values, after)).fetchall()]
        sql = f"SELECT {column} FROM aiki_runs WHERE {where}{column} > ? ORDER BY {column} LIMIT 1"
        found: list[str] = []
        while len(found) < limit:
            row = self.db.execute(connection, sql, (*values, after)).fetchone()
            if row is None:
                break
            after = row[0]
            found.append(after)
        return found

    def namespaces(self) -> list[str]:
        """Namespaces in which anything is defined."""
        sql = "SELECT DISTINCT namespace FROM aiki_definitions"
        return [row[0] for row in self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())]

    # ------------------------------------------------------------ pages
    def stale_queued(
        self, namespace: str, span: int, after: bytes = b"", limit: int = 1000
    ) -> tuple[list[Queued], bytes | None]:
        """Queued runs that nothing has happened to for `span` microseconds and that have no delivery; and where to go on.

        :param after: the place that the page before ended at.
        """
        # The index is walked in pages of `limit`, whatever of it is stale: the cost of a page is bounded.
        columns = "id, epoch, queue, dispatched_at, updated_at, marker"

        def work(connection: sa.Connection) -> tuple[list[Queued], bytes | None]:
            now = self.clock()
            rows, place = self._in_state(connection, columns, namespace, State.QUEUED, after, limit)
            old = [
                Queued(bytes(raw), epoch, queue, marker)
                for raw, epoch, queue, sent, at, marker in rows
                if not is_recent(max(sent or 0, at), now, span)
            ]
            there = self._with_delivery(connection, namespace, [(item.id, item.epoch) for item in old])
            return [item for item in old if (item.id, item.epoch) not in there], place

        return self.db.read(work)

    def stale_undelivered(
        self, namespace: str, state: State, span: int, after: bytes = b"", limit: int = 1000
    ) -> tuple[list[bytes], bytes | None]:
        """Scheduled or waiting runs, unchanged for `span`, that have no delivery to bring them on; and where to go on.

        A workflow that waits for nothing but what comes from outside needs none.
        """

        def work(connection: sa.Connection) -> tuple[list[bytes], bytes | None]:
            now = self.clock()
            rows, place = self._in_state(connection, "id, epoch, updated_at, waits", namespace, state, after, limit)
            old = [(bytes(raw), epoch) for raw, epoch, at, waits in rows if not is_recent(at, now, span) and _timed(waits)]
            there = self._with_delivery(connection, namespace, old)
            return [key[0] for key in old if key not in there], place

        return self.db.read(work)

    def running(self, namespace: str, after: bytes = b"", limit: int = 1000) -> tuple[list[Running], bytes | None]:
        """Runs recorded as running, and where to go on."""

        def work(connection: sa.Connection) -> tuple[list[Running], bytes | None]:
            columns = "id, epoch, worker, partition_no"
            rows, place = self._in_state(connection, columns, namespace, State.RUNNING, after, limit)
            found = [Running(RunKey(bytes(raw).hex(), epoch), bytes(who or b"").hex(), part) for raw, epoch, who, part in rows]
            return found, place

        return self.db.read(work)

    def stalled(
        self, namespace: str, names: Container[tuple[str, str]], after: bytes = b"", limit: int = 1000
    ) -> tuple[list[bytes], bytes | None]:
        """Stalled runs whose definition (name, version) is among `names`, and where to go on."""

        def work(connection: sa.Connection) -> tuple[list[bytes], bytes | None]:
            rows, place = self._in_state(connection, "id, name, version", namespace, State.STALLED, after, limit)
            return [bytes(raw) for raw, name, version in rows if (name, version) in names], place

        return self.db.read(work)

    def _in_state(
        self, connection: sa.Connection, columns: str, namespace: str, state: State, after: bytes, limit: int
    ) -> tuple[list[Any], bytes | None]:
        """A page of the runs in a state, in the order of their index, oldest first; and the place where the next begins."""
        moment, run_id = int.from_bytes(after[:8], "big"), after[8:]
        sql = (
            f"SELECT {columns}, created_at FROM aiki_runs WHERE namespace = ? AND state = ? AND created_at >= ? "
            f"AND (created_at > ? OR id > ?) ORDER BY created_at, id LIMIT {int(limit)}"
        )
        rows = self.db.execute(connection, sql, (namespace, state.value, moment, moment, run_id)).fetchall()
        place = rows[-1][-1].to_bytes(8, "big") + bytes(rows[-1][0]) if len(rows) >= limit else None
        return [row[:-1] for row in rows], place

    def _with_delivery(
        self, connection: sa.Connection, namespace: str, keys: Sequence[tuple[bytes, int]]
    ) -> set[tuple[bytes, int]]:
        by_id = {delivery_id(raw, epoch): (raw, epoch) for raw, epoch in keys}
        sql = "SELECT id FROM aiki_deliveries WHERE namespace = ? AND id"
        return {by_id[bytes(row[0])] for row in self.db.where_in(connection, sql, (namespace,), list(by_id))}

    def stirred(self, after: tuple[str, bytes] = ("", b""), limit: int = 500) -> list[tuple[str, bytes]]:
        """Runs (namespace, id) after that place to which something has come that was not looked at; in that order."""
        sql = (
            "SELECT DISTINCT namespace, run_id FROM aiki_inbox WHERE taken = 0 "
            "AND (namespace > ? OR (namespace = ? AND run_id > ?)) "
            f"ORDER BY namespace, run_id LIMIT {int(limit)}"
        )
        key = (after[0], after[0], after[1])
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
        return [(namespace, bytes(raw)) for namespace, raw in rows]


def is_recent(at: int, now: int, span: int) -> bool:
    """Whether a time that is on record is less than `span` away from now.

    On either side: what bears a time far ahead was written by a clock that was wrong, and says nothing of its age.
    """
    return abs(now - at) < span


def _timed(waits: str | None) -> bool:
    """Whether a run that waits for this is brought on by a time, not only from outside."""
    return waits is None or any(item.due is not None for item in Waits.from_wire(json.loads(waits)).items)
