"""The verbs of the reconciler: runs that have no visible cause to move, and the markers that tell which dispatches were taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from aiki.clock import Clock
from aiki.messages import RunKey
from aiki.states import State
from aiki.storage.database import Database, is_duplicate
from aiki.storage.rows import delivery_id


class Reconciling:
    """Finding what is stuck."""

    db: Database
    clock: Clock

    def stale_queued(
        self, namespace: str, before: int, after: bytes = b"", limit: int = 1000
    ) -> list[tuple[bytes, int, str, int]]:
        """Runs that are queued since before `before` and have no delivery: `(id, epoch, queue, dispatched_at)`, by id.

        :param after: the id behind which to go on looking.
        """
        sql = (
            "SELECT id, epoch, queue, dispatched_at FROM runs WHERE namespace = ? AND state = ? AND id > ? "
            f"AND updated_at < ? AND (dispatched_at IS NULL OR dispatched_at < ?) ORDER BY id LIMIT {int(limit)}"
        )

        def work(connection: sa.Connection) -> list[tuple[bytes, int, str, int]]:
            rows = self.db.execute(connection, sql, (namespace, State.QUEUED.value, after, before, before)).fetchall()
            found = [(bytes(row[0]), row[1], row[2], row[3] or 0) for row in rows]
            there = self._with_delivery(connection, namespace, [(item[0], item[1]) for item in found])
            return [item for item in found if (item[0], item[1]) not in there]

        return self.db.read(work)

    def stale_waiting(self, namespace: str, before: int, limit: int = 1000) -> list[tuple[bytes, int]]:
        """Runs that are scheduled or wait for a retry, and have no delivery to bring them on: `(id, epoch)`."""
        out = []
        for state in (State.SCHEDULED.value, State.WAITING.value):
            sql = f"SELECT id, epoch FROM runs WHERE namespace = ? AND state = ? AND updated_at < ? LIMIT {int(limit)}"

            def work(connection: sa.Connection, sql: str = sql, state: str = state) -> list[tuple[bytes, int]]:
                rows = self.db.execute(connection, sql, (namespace, state, before)).fetchall()
                found = [(bytes(row[0]), row[1]) for row in rows]
                there = self._with_delivery(connection, namespace, found)
                return [item for item in found if item not in there]

            out.extend(self.db.read(work))
        return out

    def _with_delivery(
        self, connection: sa.Connection, namespace: str, keys: Sequence[tuple[bytes, int]]
    ) -> set[tuple[bytes, int]]:
        by_id = {delivery_id(raw, epoch): (raw, epoch) for raw, epoch in keys}
        sql = "SELECT id FROM deliveries WHERE namespace = ? AND id"
        return {by_id[bytes(row[0])] for row in self.db.where_in(connection, sql, (namespace,), list(by_id))}

    def running(self, namespace: str) -> list[tuple[RunKey, str]]:
        """All runs recorded as running, with the worker (hex) that has them."""
        sql = "SELECT id, epoch, worker FROM runs WHERE namespace = ? AND state = ?"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (namespace, State.RUNNING.value)).fetchall())
        return [(RunKey(bytes(raw).hex(), epoch), bytes(worker or b"").hex()) for raw, epoch, worker in rows]

    def stalled(self, namespace: str, names: Iterable[tuple[str, str]], limit: int = 1000) -> list[bytes]:
        """Stalled runs whose definition (name, version) is among `names`."""
        wanted = set(names)
        sql = f"SELECT id, name, version FROM runs WHERE namespace = ? AND state = ? ORDER BY id LIMIT {int(limit) * 10}"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (namespace, State.STALLED.value)).fetchall())
        return [bytes(raw) for raw, name, version in rows if (name, version) in wanted][:limit]

    def namespaces(self) -> list[str]:
        """Namespaces that have runs or workers."""
        sql = "SELECT DISTINCT namespace FROM definitions"
        return [row[0] for row in self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())]

    # ------------------------------------------------------------ markers
    def marker(self, namespace: str, queue: str) -> tuple[int, int]:
        """When the newest marker was sent down a queue, and when the newest that came out had been sent (0: never)."""
        sql = "SELECT sent_at, taken_at FROM markers WHERE namespace = ? AND queue = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (namespace, queue)).fetchone())
        return (row[0], row[1]) if row else (0, 0)

    def save_marker(self, namespace: str, queue: str, *, sent_at: int = 0, taken_at: int = 0) -> None:
        """Record that a marker was sent, or came out; neither time ever goes back."""

        def work(connection: sa.Connection) -> None:
            row = self.db.execute(
                connection,
                f"SELECT sent_at, taken_at FROM markers WHERE namespace = ? AND queue = ? {self.db.for_update}",
                (namespace, queue),
            ).fetchone()
            if row is None:
                try:
                    columns = ("namespace", "queue", "sent_at", "taken_at")
                    self.db.insert(connection, "markers", columns, [(namespace, queue, sent_at, taken_at)])
                except IntegrityError as error:
                    if not is_duplicate(error):
                        raise
                return
            self.db.execute(
                connection,
                "UPDATE markers SET sent_at = ?, taken_at = ? WHERE namespace = ? AND queue = ?",
                (max(row[0], sent_at), max(row[1], taken_at), namespace, queue),
            )

        self.db.transaction(work)
