"""The verbs of retention: deleting what has ended, a few rows at a time, by primary key.

A run goes with all that is its own: payloads, attempts, steps, arrivals, links, logs, its reference id; not with its
revocation, which is there for as long as its dispatch may be in a queue. **A run is deleted
only if nothing that is kept refers to it**: the parent that started it and the workflows that follow it must be gone, or go in
the same transaction; a workflow that is retried later finds its children as they were. It must have ended, and long enough
ago, when its row is locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from aiki.clock import SECOND, Clock
from aiki.states import TERMINAL
from aiki.storage.engine import Database

LONG: Final = 1000
"""A workflow of more steps leaves them behind when it is deleted, to be deleted in parts."""
OWN: Final = ("aiki_payloads", "aiki_attempts", "aiki_links", "aiki_run_logs", "aiki_failures", "aiki_reruns")
"""Tables whose rows belong to one run, by `run_id`, and are few."""
LONG_OWN: Final = (("aiki_steps", "ordinal"), ("aiki_inbox", "id"))
"""The same, with what follows `run_id` in the key, where there may be very many."""


class PurgePage(NamedTuple):
    """Runs that may be deleted, and where to go on (None: the end of the state was reached)."""

    runs: list[bytes]
    next: tuple[int, bytes] | None


class Purging:
    """Deleting. Verbs name the namespace, for the chore that uses them sees to all."""

    db: Database
    clock: Clock

    # ------------------------------------------------------------ runs
    def purgeable(
        self, namespace: str, state: str, before: int, after: tuple[int, bytes] = (0, b""), limit: int = 200
    ) -> PurgePage:
        """A page of the runs in a terminal state, the oldest first; those of them that ended before `before`.

        What was made after that cannot have ended before it, so the walk ends there.
        """
        sql = (
            "SELECT id, finished_at, updated_at, created_at FROM aiki_runs WHERE namespace = ? AND state = "
            "? AND created_at >= ? "
            f"AND created_at < ? AND (created_at > ? OR id > ?) ORDER BY created_at, id LIMIT {int(limit)}"
        )
        key = (namespace, state, after[0], before, *after)
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
        found = [bytes(raw) for raw, finished, updated, _ in rows if (finished or updated) < before]
        return PurgePage(found, (rows[-1][3], bytes(rows[-1][0])) if len(rows) == limit else None)

    def purge_runs(self, namespace: str, run_ids: Sequence[bytes], before: int) -> int:
        """Delete those of these runs that have ended before `before` and that nothing refers to; how many."""

        def work(connection: sa.Connection) -> int:
            columns = "id, state, finished_at, updated_at, parent_id, followers, name, reference_id, history, parent_ordinal"
            sql = f"SELECT {columns} FROM aiki_runs WHERE namespace = ? AND id"
            wanted = sorted(set(run_ids))
            rows = self.db.where_in(connection, sql, (namespace,), wanted, f"ORDER BY id {self.db.dialect.for_update}")
            ended = {bytes(row[0]): row for row in rows if row[1] in TERMINAL and (row[2] or row[3]) < before}
            going = self._unneeded(connection, namespace, ended)
            if going:
                self._delete_runs(connection, namespace, [ended[run_id] for run_id in sorted(going)])
            return len(going)

        return self.db.transaction(work, repeatable=True)

    def _unneeded(self, connection: sa.Connection, namespace: str, ended: dict[bytes, Any]) -> set[bytes]:
        """Those of these runs that no run refers to that stays."""
        wanted: list[tuple[bytes, bytes, int | None]] = []
        for run_id, row in ended.items():
            if row[4] is not None:
                wanted.append((run_id, bytes(row[4]), row[9]))
        followed = [run_id for run_id, row in ended.items() if row[5]]
        sql = "SELECT run_id, parent_id, ordinal FROM aiki_links WHERE namespace = ? AND run_id"
        for run_id, parent, ordinal in self.db.where_in(connection, sql, (namespace,), followed):
            wanted.append((bytes(run_id), bytes(parent), ordinal))
        asked = sorted({parent for _, parent, _ in wanted} - set(ended))
        sql = "SELECT id, history_from FROM aiki_runs WHERE namespace = ? AND id"
        turns = {bytes(raw): first for raw, first in self.db.where_in(connection, sql, (namespace,), asked)}
        staying = set(turns)
        # A run that goes on as new keeps what its present turn refers to.
        needed_by: dict[bytes, set[bytes]] = {}
        for run_id, parent, ordinal in wanted:
            if ordinal is None or ordinal >= turns.get(parent, 0):
                needed_by.setdefault(run_id, set()).add(parent)
        going = set(ended)
        while True:
            # A run that stays keeps those that it refers to, and so on down.
            kept = {run_id for run_id in going if needed_by.get(run_id, set()) & staying}
            if not kept:
                return going
            going -= kept
            staying |= kept

    def _delete_runs(self, connection: sa.Connection, namespace: str, rows: Sequence[Any]) -> None:
        run_ids = [bytes(row[0]) for row in rows]
        short = [bytes(row[0]) for row in rows if row[8] <= LONG]
        for table in OWN:
            self.db.where_in(connection, f"DELETE FROM {table} WHERE namespace = ? AND run_id", (namespace,), run_ids)
        for table, _ in LONG_OWN:
            self.db.where_in(connection, f"DELETE FROM {table} WHERE namespace = ? AND run_id", (namespace,), short)
        long = [(namespace, run_id) for run_id in run_ids if run_id not in set(short)]
        if long:
            self.db.insert_new(connection, "aiki_leftovers", ("namespace", "run_id"), long)
        named = sorted((namespace, row[6], row[7], bytes(row[0])) for row in rows if row[7] is not None)
        if named:
            sql = "DELETE FROM aiki_reference_ids WHERE namespace = ? AND name = ? AND reference_id = ? AND run_id = ?"
            connection.exec_driver_sql(self.db.dialect.text(sql), named)
        self.db.where_in(connection, "DELETE FROM aiki_runs WHERE namespace = ? AND id", (namespace,), run_ids)

    def purge_leftovers(self, limit: int = 1000) -> int:
        """Delete some of what long workflows left behind, of any namespace; how many rows."""
        sql = "SELECT namespace, run_id FROM aiki_leftovers LIMIT 1"
        found = self.db.read(lambda connection: self.db.execute(connection, sql).fetchone())
        if found is None:
            return 0
        key = (found[0], bytes(found[1]))

        def work(connection: sa.Connection) -> int:
            for table, column in LONG_OWN:
                sql = f"SELECT {column} FROM {table} WHERE namespace = ? AND run_id = ? LIMIT {int(limit)}"
                some = [row[0] for row in self.db.execute(connection, sql, key).fetchall()]
                if some:
                    sql = f"DELETE FROM {table} WHERE namespace = ? AND run_id = ? AND {column}"
                    self.db.where_in(connection, sql, key, some)
                    return len(some)
            return int(
                self.db.execute(connection, "DELETE FROM aiki_leftovers WHERE namespace = ? AND run_id = ?", key).rowcount
            )

        return self.db.transaction(work, repeatable=True)

    # ------------------------------------------------------------ the rest
    def purge_table(self, table: str, namespace: str, before: int, limit: int = 500) -> int:
        """Delete some rows of `aiki_audit`, `aiki_dead_letters` or `aiki_webhook_deliveries` (given "
        "up) that were made before `before`."""
        assert table in ("aiki_audit", "aiki_dead_letters", "aiki_webhook_deliveries")
        only = " AND due_at IS NULL" if table == "aiki_webhook_deliveries" else ""
        # Ids rise with time in the audit. The others are few: they are kept for people.
        sql = f"SELECT id FROM {table} WHERE namespace = ? AND created_at < ?{only} ORDER BY id LIMIT {int(limit)}"
        key: tuple[Any, ...] = (namespace, before)
        if table == "aiki_audit":
            sql = f"SELECT id FROM aiki_audit WHERE namespace = ? AND id < ? ORDER BY id LIMIT {int(limit)}"
            key = (namespace, (before // 1000).to_bytes(6, "big") + bytes(10))

        def work(connection: sa.Connection) -> int:
            found = [bytes(raw) for (raw,) in self.db.execute(connection, sql, key).fetchall()]
            self.db.where_in(connection, f"DELETE FROM {table} WHERE namespace = ? AND id", (namespace,), found)
            return len(found)

        return self.db.transaction(work, repeatable=True)

    def purge_workers(self, before: int, limit: int = 500) -> int:
        """Delete some workers of any namespace that stopped or were lost before `before`; how many."""

        def work(connection: sa.Connection) -> int:
            found: list[tuple[Any, ...]] = []
            for state in ("stopped", "lost"):
                sql = f"SELECT namespace, id FROM aiki_workers WHERE state = ? AND heard_at < ? LIMIT {int(limit)}"
                found += [(row[0], bytes(row[1])) for row in self.db.execute(connection, sql, (state, before)).fetchall()]
            for namespace, raw in sorted(found):
                # It may have said hello again meanwhile.
                sql = "DELETE FROM aiki_workers WHERE namespace = ? AND id = ? AND heard_at < ?"
                self.db.execute(connection, sql, (namespace, raw, before))
            return len(found)

        return self.db.transaction(work, repeatable=True)

    def namespaces_in(self, *tables: str) -> list[str]:
        """See `namespaces_in`."""
        return namespaces_in(self.db, *tables)

    # ------------------------------------------------------------ whose turn it is
    def take_chore(self, name: str, holder: str, seconds: float) -> bool:
        """Whether `holder` may do a chore for so long; nobody else may meanwhile, and asking again prolongs it."""
        now = self.clock()
        until = now + int(seconds * SECOND)
        row = ("", name, holder, until)  # the whole installation's, so no namespace's

        def work(connection: sa.Connection) -> bool:
            sql = (
                "UPDATE aiki_chores SET holder = ?, until_at = ? WHERE namespace = ? AND name = ? AND (holder = "
                "? OR until_at < ?)"
            )
            if self.db.execute(connection, sql, (holder, until, "", name, holder, now)).rowcount:
                return True
            sql = "SELECT holder FROM aiki_chores WHERE namespace = ? AND name = ?"
            found = self.db.execute(connection, sql, ("", name)).fetchone()
            if found is not None:
                return bool(found[0] == holder)  # MySQL counts no row that was set to what it was
            return self.db.inserted(connection, "aiki_chores", ("namespace", "name", "holder", "until_at"), [row])

        return self.db.transaction(work, repeatable=True)


def namespaces_in(db: Database, *tables: str) -> list[str]:
    """The namespaces that have a row in any of the tables, whether or not anything is defined in them."""

    def work(connection: sa.Connection) -> set[str]:
        out: set[str] = set()
        for table in tables:
            sql = f"SELECT namespace FROM {table} WHERE namespace {{}} ? ORDER BY namespace LIMIT 1"
            row = db.execute(connection, sql.format(">="), ("",)).fetchone()
            while row is not None:  # from one to the next by the primary key, however many rows each has
                out.add(row[0])
                row = db.execute(connection, sql.format(">"), (row[0],)).fetchone()
        return out

    return sorted(db.read(work))
