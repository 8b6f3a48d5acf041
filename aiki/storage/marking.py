"""The verbs of markers, and of what they prove.

A marker is a message without runs that is sent down a work queue; queues are first in, first out, so when it has come out, all
that was in the queue before it has been taken. Markers are numbered by the database, one row a queue: `sent` is the number of
the newest one, `taken` that of the newest that came out. There is one in a queue at most: the next is sent once the one before
has come out, or is known to be lost.

**What is to be proven bears the number of the marker that is sent next** (`runs.marker`, `revocations.marker`), written while
the queue's row is locked and while its dispatch has no delivery: so the dispatch was in its queue before that marker is. No
clock is looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from aiki.clock import SECOND, Clock
from aiki.messages import RunKey
from aiki.storage.engine import Database

UNSEEN: Final = -1
SEEN: Final = 0
"""`revocations.marker` before there is one: see `Marking.prove_revocations`."""
FORGOTTEN: Final = 30 * 86400 * SECOND
"""Microseconds for which a revocation is kept whose queue is not known any more: those of releases before this."""


class Mark(NamedTuple):
    """The numbers of the newest marker that was sent down a queue, and of the newest that came out."""

    sent: int = 0
    taken: int = 0

    @property
    def out(self) -> bool:
        """Whether one is on its way."""
        return self.sent > self.taken


class Marking:
    """Markers, and revocations that they prove to be of no more use."""

    db: Database
    clock: Clock

    # ------------------------------------------------------------ markers
    def mark(self, namespace: str, queue: str) -> Mark:
        """How far a queue's markers are."""
        return self.db.read(lambda connection: self._mark(connection, namespace, queue))

    def _mark(self, connection: sa.Connection, namespace: str, queue: str, lock: str = "") -> Mark:
        sql = f"SELECT sent, taken FROM aiki_markers WHERE namespace = ? AND queue = ? {lock}"
        row = self.db.execute(connection, sql, (namespace, queue)).fetchone()
        return Mark() if row is None else Mark(*row)

    def _locked(self, connection: sa.Connection, namespace: str, queue: str) -> Mark:
        """The queue's row, locked; it is made if it is not there."""
        columns, row = ("namespace", "queue", "sent_at", "taken_at"), (namespace, queue, 0, 0)
        sql = "SELECT 1 FROM aiki_markers WHERE namespace = ? AND queue = ?"
        if self.db.execute(connection, sql, row[:2]).fetchone() is None:
            self.db.inserted(connection, "aiki_markers", columns, [row])
        return self._mark(connection, namespace, queue, self.db.dialect.for_update)

    def marked_queues(self, namespace: str | None = None) -> set[tuple[str, str]]:
        """The queues (namespace, name) of that namespace, or of all, in which there is a marker."""
        sql = "SELECT namespace, queue FROM aiki_markers WHERE sent > taken"
        where, values = ("", ()) if namespace is None else (" AND namespace = ?", (namespace,))
        rows = self.db.read(lambda connection: self.db.execute(connection, sql + where, values).fetchall())
        return {(row[0], row[1]) for row in rows}

    def next_marker(self, namespace: str, queue: str, *, lost: int = 0) -> int | None:
        """The number of a marker that is to be sent now; None if one is on its way.

        :param lost: the number of one that is known to be in the queue no more.
        """

        def work(connection: sa.Connection) -> int | None:
            mark = self._locked(connection, namespace, queue)
            if mark.out and mark.sent != lost:
                return None
            sql = "UPDATE aiki_markers SET sent = ?, sent_at = ? WHERE namespace = ? AND queue = ?"
            self.db.execute(connection, sql, (mark.sent + 1, self.clock(), namespace, queue))
            return mark.sent + 1

        return self.db.transaction(work)

    def marker_taken(self, namespace: str, queue: str, number: int) -> None:
        """A marker came out of its queue. Numbers that were never sent are passed over."""
        sql = "UPDATE aiki_markers SET taken = ? WHERE namespace = ? AND queue = ? AND taken < ? AND sent >= ?"
        values = (number, namespace, queue, number, number)
        self.db.transaction(lambda connection: self.db.execute(connection, sql, values).rowcount, repeatable=True)

    # ------------------------------------------------------------ queued runs
    def await_marker(self, namespace: str, queue: str, keys: Sequence[tuple[bytes, int]]) -> None:
        """Have the next marker of the queue prove that these (run, epoch), which have no delivery, were taken."""
        by_epoch: dict[int, list[bytes]] = defaultdict(list)
        for run_id, epoch in keys:
            by_epoch[epoch].append(run_id)

        def work(connection: sa.Connection) -> None:
            number = self._locked(connection, namespace, queue).sent + 1
            still = "marker IS NULL AND epoch = ? AND state = 'queued'"
            sql = f"UPDATE aiki_runs SET marker = ? WHERE {still} AND namespace = ? AND id"
            for epoch, run_ids in sorted(by_epoch.items()):
                self.db.where_in(connection, sql, (number, epoch, namespace), sorted(run_ids))

        self.db.transaction(work, repeatable=True)

    # ------------------------------------------------------------ revocations
    def revoked_queues(self, after: tuple[str, str] = ("", ""), limit: int = 100) -> list[tuple[str, str]]:
        """The queues (namespace, name) after that one that have revocations, in that order."""

        def work(connection: sa.Connection) -> list[tuple[str, str]]:
            found: list[tuple[str, str]] = []
            place = after
            # One step into the index for each: it costs by the queues, not by the revocations.
            sql = "SELECT namespace, queue FROM aiki_revocations WHERE {} ORDER BY namespace, queue LIMIT 1"
            while len(found) < limit:
                row = self.db.execute(connection, sql.format("namespace = ? AND queue > ?"), place).fetchone()
                row = row or self.db.execute(connection, sql.format("namespace > ?"), place[:1]).fetchone()
                if row is None:
                    break
                place = (row[0], row[1])
                found.append(place)
            return found

        return self.db.read(work)

    def drop_proven(self, namespace: str, queue: str, limit: int = 1000) -> tuple[int, bool]:
        """Drop some revocations whose dispatch was taken out of its queue: how many; and whether others await a marker."""

        def work(connection: sa.Connection) -> tuple[int, bool]:
            taken = self._mark(connection, namespace, queue).taken
            sql = (
                "SELECT run_id, epoch FROM aiki_revocations WHERE namespace = ? AND queue = ? AND marker >= 1 AND marker <= ? "
                f"ORDER BY marker, run_id LIMIT {int(limit)}"
            )
            gone = [
                (bytes(raw), epoch) for raw, epoch in self.db.execute(connection, sql, (namespace, queue, taken)).fetchall()
            ]
            self.delete_revocations(connection, namespace, gone)
            sql = "SELECT 1 FROM aiki_revocations WHERE namespace = ? AND queue = ? AND marker > ? LIMIT 1"
            return len(gone), self.db.execute(connection, sql, (namespace, queue, taken)).fetchone() is not None

        return self.db.transaction(work, repeatable=True)

    def prove_revocations(self, namespace: str, queue: str, state: int, limit: int = 1000) -> int:
        """Bring some revocations one step on; how many.

        A dispatch may be published for a while after it was revoked: whoever had claimed it may still have it. So a
        revocation is first noted as `SEEN`, and only a good while later it is to await a marker.

        :param state: those that are `UNSEEN` become `SEEN`; those that are `SEEN` await the next marker.
        """

        def work(connection: sa.Connection) -> int:
            number = SEEN if state == UNSEEN else self._locked(connection, namespace, queue).sent + 1
            sql = (
                "SELECT run_id, epoch FROM aiki_revocations WHERE namespace = ? AND queue = ? AND marker = ? "
                f"ORDER BY run_id LIMIT {int(limit)}"
            )
            found = [
                (bytes(raw), epoch) for raw, epoch in self.db.execute(connection, sql, (namespace, queue, state)).fetchall()
            ]
            sql = "UPDATE aiki_revocations SET marker = ? WHERE epoch = ? AND namespace = ? AND run_id"
            for epoch, run_ids in _by_epoch(found):
                self.db.where_in(connection, sql, (number, epoch, namespace), run_ids)
            return len(found)

        return self.db.transaction(work, repeatable=True)

    def place_revocations(self, namespace: str, limit: int = 1000) -> int:
        """Find the queue of revocations that were recorded without one; what is old and cannot be placed is dropped."""

        def work(connection: sa.Connection) -> int:
            sql = (
                "SELECT v.run_id, v.epoch, r.queue FROM aiki_revocations v LEFT JOIN aiki_runs r ON r.namespace = v.namespace "
                "AND r.id = v.run_id WHERE v.namespace = ? AND v.queue = '' AND (r.queue IS NOT NULL OR v.created_at < ?) "
                f"ORDER BY v.run_id LIMIT {int(limit)}"
            )
            rows = self.db.execute(connection, sql, (namespace, self.clock() - FORGOTTEN)).fetchall()
            self.delete_revocations(
                connection, namespace, [(bytes(raw), epoch) for raw, epoch, queue, _ in rows if queue is None]
            )
            for raw, epoch, queue, _ in rows:
                if queue is not None:
                    sql = "UPDATE aiki_revocations SET queue = ? WHERE namespace = ? AND run_id = ? AND epoch = ?"
                    self.db.execute(connection, sql, (queue, namespace, bytes(raw), epoch))
            return len(rows)

        return self.db.transaction(work, repeatable=True)

    def delete_revocations(self, connection: sa.Connection, namespace: str, keys: Sequence[tuple[bytes, int]]) -> None:
        """Delete these (run, epoch), many a statement; absent ones are passed over."""
        for epoch, run_ids in _by_epoch(keys):
            sql = "DELETE FROM aiki_revocations WHERE epoch = ? AND namespace = ? AND run_id"
            self.db.where_in(connection, sql, (epoch, namespace), run_ids)

    def revocations(
        self, namespace: str, queue: str, after: tuple[int, bytes] = (UNSEEN, b""), limit: int = 2000
    ) -> tuple[list[RunKey], tuple[int, bytes] | None]:
        """A page of the dispatches of a queue that may be out and must not begin, and where to go on.

        Revocations only ever move forward in this order, so a walk misses none; it may meet one twice.
        """

        def work(connection: sa.Connection) -> tuple[list[RunKey], tuple[int, bytes] | None]:
            marker, run_id = after
            sql = (
                "SELECT run_id, epoch FROM aiki_revocations WHERE namespace = ? AND queue = ? AND marker = ? AND run_id >= ? "
                f"ORDER BY run_id, epoch LIMIT {int(limit)}"
            )
            rows = self.db.execute(connection, sql, (namespace, queue, marker, run_id)).fetchall()
            keys = [RunKey(bytes(raw).hex(), epoch) for raw, epoch in rows]
            if len(rows) == limit and bytes(rows[-1][0]) != run_id:
                return keys, (marker, bytes(rows[-1][0]))
            sql = "SELECT marker FROM aiki_revocations WHERE namespace = ? AND queue = ? AND marker > ? ORDER BY marker LIMIT 1"
            row = self.db.execute(connection, sql, (namespace, queue, marker)).fetchone()
            return keys, None if row is None else (row[0], b"")

        return self.db.read(work)

    def unannounced(self, before: int, limit: int = 5000) -> list[tuple[str, RunKey, bool]]:
        """Revocations that were recorded before `before` and may not have been told to the workers."""
        # A time far ahead was written by a clock that was wrong.
        sql = (
            "SELECT namespace, run_id, epoch, interrupt FROM aiki_revocations WHERE announced = 0 AND {} "
            f"ORDER BY created_at LIMIT {int(limit)}"
        )

        def work(connection: sa.Connection) -> list[tuple[str, RunKey, bool]]:
            rows = self.db.execute(connection, sql.format("created_at <= ?"), (before,)).fetchall()
            rows = rows or self.db.execute(connection, sql.format("created_at > ?"), (before + 10 * SECOND,)).fetchall()
            return [(row[0], RunKey(bytes(row[1]).hex(), row[2]), bool(row[3])) for row in rows]

        return self.db.read(work)

    def announced(self, told: Sequence[tuple[str, RunKey]]) -> None:
        """These were told."""
        by_namespace: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
        for namespace, key in told:
            by_namespace[namespace].append((bytes.fromhex(key.run_id), key.epoch))

        def work(connection: sa.Connection) -> None:
            sql = "UPDATE aiki_revocations SET announced = 1 WHERE epoch = ? AND namespace = ? AND run_id"
            for namespace, keys in sorted(by_namespace.items()):
                for epoch, run_ids in _by_epoch(keys):
                    self.db.where_in(connection, sql, (epoch, namespace), run_ids)

        if told:
            self.db.transaction(work, repeatable=True)


def _by_epoch(keys: Sequence[tuple[bytes, int]]) -> list[tuple[int, list[bytes]]]:
    """Keys by their epoch, in the order in which rows are locked: most have the same, and so go in few statements."""
    found: dict[int, list[bytes]] = defaultdict(list)
    for run_id, epoch in sorted(set(keys)):
        found[epoch].append(run_id)
    return sorted(found.items())
