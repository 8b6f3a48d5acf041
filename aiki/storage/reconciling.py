"""The verbs of the reconciler: runs that have no visible cause to move, and the markers that tell which dispatches were
taken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from aiki.clock import Clock
from aiki.history import Waits
from aiki.messages import RunKey
from aiki.states import State
from aiki.storage.database import Database, is_duplicate
from aiki.storage.rows import delivery_id


class StalePage(NamedTuple):
    """Stale runs, `(id, epoch, queue, dispatched_at)`, and where to go on (None at the end)."""

    runs: list[tuple[bytes, int, str, int]]
    next: bytes | None


class Reconciling:
    """Finding what is stuck."""

    db: Database
    clock: Clock

    def stale_queued(self, namespace: str, before: int, after: bytes = b"", limit: int = 1000) -> StalePage:
        """Runs that are queued since before `before` and have no delivery, oldest first.

        :param after: the `next` of the page before.
        """
        # The index is walked in pages of `limit`, whatever of it is stale: the cost of a page is bounded.
        columns = "id, epoch, queue, dispatched_at, updated_at"

        def work(connection: sa.Connection) -> StalePage:
            rows, place = self._in_state(connection, columns, namespace, State.QUEUED, after, limit)
            old = [(bytes(row[0]), row[1], row[2], row[3] or 0) for row in rows if max(row[3] or 0, row[4]) < before]
            there = self._with_delivery(connection, namespace, [(item[0], item[1]) for item in old])
            stale = [item for item in old if (item[0], item[1]) not in there]
            return StalePage(stale, place)

        return self.db.read(work)

    def stale_undelivered(
        self, namespace: str, state: State, before: int, after: bytes = b"", limit: int = 1000
    ) -> tuple[list[bytes], bytes | None]:
        """Scheduled or waiting runs, unchanged since `before`, that have no delivery to bring them on; and where to go on.

        A workflow that waits for nothing but what comes from outside needs none.
        """

        def work(connection: sa.Connection) -> tuple[list[bytes], bytes | None]:
            rows, place = self._in_state(connection, "id, epoch, updated_at, waits", namespace, state, after, limit)
            old = [(bytes(raw), epoch) for raw, epoch, updated_at, waits in rows if updated_at < before and _timed(waits)]
            there = self._with_delivery(connection, namespace, old)
            return [key[0] for key in old if key not in there], place

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

    def running(self, namespace: str) -> list[tuple[RunKey, str, int]]:
        """All runs recorded as running, with the worker (hex) that has them and their partition."""
        sql = "SELECT id, epoch, worker, partition_no FROM aiki_runs WHERE namespace = ? AND state = ?"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (namespace, State.RUNNING.value)).fetchall())
        return [(RunKey(bytes(raw).hex(), epoch), bytes(worker or b"").hex(), part) for raw, epoch, worker, part in rows]

    def stalled(self, namespace: str, names: Iterable[tuple[str, str]], limit: int = 1000) -> list[bytes]:
        """Stalled runs whose definition (name, version) is among `names`."""
        wanted = set(names)
        most = int(limit) * 10
        sql = f"SELECT id, name, version FROM aiki_runs WHERE namespace = ? AND state = ? ORDER BY created_at, id LIMIT {most}"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (namespace, State.STALLED.value)).fetchall())
        return [bytes(raw) for raw, name, version in rows if (name, version) in wanted][:limit]

    def stirred(self, limit: int = 500) -> list[tuple[str, bytes]]:
        """Runs (namespace, id) that something has come to and that have not been looked at since."""
        sql = f"SELECT DISTINCT namespace, run_id FROM aiki_inbox WHERE taken = 0 LIMIT {int(limit)}"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())
        return [(namespace, bytes(raw)) for namespace, raw in rows]

    def namespaces(self) -> list[str]:
        """Namespaces that have runs or workers."""
        sql = "SELECT DISTINCT namespace FROM aiki_definitions"
        return [row[0] for row in self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())]

    # ------------------------------------------------------------ markers
    def marker(self, namespace: str, queue: str) -> tuple[int, int]:
        """When the newest marker was sent down a queue, and when the newest that came out had been sent (0: never)."""
        sql = "SELECT sent_at, taken_at FROM aiki_markers WHERE namespace = ? AND queue = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (namespace, queue)).fetchone())
        return (row[0], row[1]) if row else (0, 0)

    def save_marker(self, namespace: str, queue: str, *, sent_at: int = 0, taken_at: int = 0) -> None:
        """Record that a marker was sent, or came out; neither time ever goes back."""

        def work(connection: sa.Connection) -> None:
            row = self.db.execute(
                connection,
                f"SELECT sent_at, taken_at FROM aiki_markers WHERE namespace = ? AND queue = ? {self.db.for_update}",
                (namespace, queue),
            ).fetchone()
            if row is None:
                try:
                    columns = ("namespace", "queue", "sent_at", "taken_at")
                    self.db.insert(connection, "aiki_markers", columns, [(namespace, queue, sent_at, taken_at)])
                except IntegrityError as error:
                    if not is_duplicate(error):
                        raise
                return
            self.db.execute(
                connection,
                "UPDATE aiki_markers SET sent_at = ?, taken_at = ? WHERE namespace = ? AND queue = ?",
                (max(row[0], sent_at), max(row[1], taken_at), namespace, queue),
            )

        self.db.transaction(work)


def _timed(waits: str | None) -> bool:
    """Whether a run that waits for this is brought on by a time, not only from outside."""
    return waits is None or any(item.due is not None for item in Waits.from_wire(json.loads(waits)).items)
