"""Writing what comes to runs. Who is told of the end of a run, and what, is decided by `aiki.lifecycle.ends`."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from aiki.codec import JSON
from aiki.lifecycle.effects import Effects
from aiki.storage import history as histories
from aiki.storage.starting import Starting, sign


class Telling(Starting):
    """Writing what comes to runs."""

    def write_arrivals(self, connection: sa.Connection, namespace: str, effects: Effects, now: int) -> None:
        """Write what this transaction tells runs, and tell of the ends of runs that are followed, or asked for once more."""
        rows = [
            histories.arrival_row(self.db, namespace, run_id, arrival, now, taken=taken)
            for run_id, arrival, taken in effects.arrivals
        ]
        if rows:
            self.db.insert_new(
                connection, "aiki_inbox", histories.INBOX_COLUMNS, sorted(rows, key=lambda row: (row[1], row[2]))
            )
        into = f"INSERT INTO aiki_inbox ({', '.join(histories.INBOX_COLUMNS)}) SELECT r.namespace, "
        end = "r.state, p.encoding, p.data, r.error_type, r.error_message, ?, 0 FROM aiki_runs r "
        result = "LEFT JOIN aiki_payloads p ON p.namespace = r.namespace AND p.run_id = r.id AND p.role = 'result' "
        of = "WHERE r.namespace = ? AND r.id = ?"
        for run_id in (*effects.followed, *effects.told_again):
            sql = "SELECT parent_id, ordinal FROM aiki_links WHERE namespace = ? AND run_id = ?"
            followers = self.db.execute(connection, sql, (namespace, run_id)).fetchall()
            for parent, ordinal in followers:
                sql = self.db.dialect.if_new(f"{into} ?, ?, 'child', r.name, ?, {end} {result} {of}")
                told = bytes.fromhex(sign(run_id, ordinal))
                self.db.execute(connection, sql, (parent, told, ordinal, now, namespace, run_id))
            signs = [(bytes(parent), bytes.fromhex(sign(run_id, ordinal))) for parent, ordinal in followers]
            self._tell_failure(connection, namespace, run_id, signs)
        for run_id in effects.told_again:
            sql = self.db.dialect.if_new(
                f"{into} r.parent_id, r.id, 'child', r.name, r.parent_ordinal, {end} {result} {of} AND r.parent_id IS NOT NULL"
            )
            self.db.execute(connection, sql, (now, namespace, run_id))
            sql = "SELECT parent_id FROM aiki_runs WHERE namespace = ? AND id = ? AND parent_id IS NOT NULL"
            parents = self.db.execute(connection, sql, (namespace, run_id)).fetchall()
            self._tell_failure(connection, namespace, run_id, [(bytes(parent), run_id) for (parent,) in parents])

    def _tell_failure(
        self, connection: sa.Connection, namespace: str, run_id: bytes, told: Sequence[tuple[bytes, bytes]]
    ) -> None:
        """Add a run's error to the arrivals (run, id) that have just told of its end."""
        text = self.failure_of(connection, namespace, run_id) if told else None
        if text is None:
            return
        sql = (
            "UPDATE aiki_inbox SET encoding = ?, data = ? WHERE namespace = ? AND run_id = ? AND id = ? AND kind = 'child' "
            "AND taken = 0 AND data IS NULL AND outcome <> 'completed'"
        )
        for parent, arrival in told:
            self.db.execute(connection, sql, (JSON, self.db.dialect.blob(text), namespace, parent, arrival))
