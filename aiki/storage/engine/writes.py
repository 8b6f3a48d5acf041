"""Statements of one transaction that return no rows, gathered where the database can take several in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from aiki.storage.engine.database import Database
from aiki.storage.engine.statements import Row, Statement


class Writes:
    """Statements of one transaction that return no rows.

    A few small ones are kept until `send`, which takes one round trip for all.

    :param keep: whether they may be: others' connections may not take several statements at once.
    """

    MAX_ROWS = 64
    MAX_BYTES = 64 * 1024

    def __init__(self, db: Database, connection: sa.Connection, *, keep: bool = True) -> None:
        self._db = db
        self._connection = connection
        self._kept: list[Statement] = []
        self._room = (self.MAX_ROWS, self.MAX_BYTES) if db.dialect.gathers and keep else (0, 0)

    @property
    def connection(self) -> sa.Connection:
        """The transaction's connection, once all that was kept is written."""
        self.send()
        return self._connection

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """As `Database.insert`."""
        if rows and self._fits(rows):
            self._db.dialect.check_size(self._connection, rows)
            used = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
            if len(used) < len(columns):
                columns, rows = [columns[at] for at in used], [[row[at] for at in used] for row in rows]
            self._kept.append(self._db.dialect.insert_statement(table, columns, rows))
        elif rows:
            self._db.insert(self._connection, table, columns, rows)

    def update(
        self,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Row],
        key: Sequence[str] = ("id",),
        only: str = "",
    ) -> None:
        """As `Database.update`."""
        if rows and self._fits(rows):
            self._kept.append(self._db.dialect.update_statement(table, columns, namespace, rows, key, only))
        elif rows:
            self._db.update(self._connection, table, columns, namespace, rows, key, only)

    def run(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run one statement, written with `?`, after those that are kept."""
        self.send()
        self._db.execute(self._connection, sql, parameters)

    def fetch(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """The rows of a SELECT, written with `?`, after the statements that are kept."""
        self.send()
        return list(self._db.execute(self._connection, sql, parameters).fetchall())

    def delete(self, sql: str, before: Sequence[Any], values: Sequence[Any]) -> None:
        """Delete by `sql … IN (values)`; as `Database.where_in`."""
        if values and self._fits([values]):
            text = self._db.dialect.text(f"{sql} IN ({', '.join('?' * len(values))})")
            self._kept.append((text, [*before, *values]))
        elif values:
            self._db.where_in(self._connection, sql, before, values)

    def send(self) -> None:
        """Run what was kept."""
        kept, self._kept = self._kept, []
        if len(kept) == 1:
            self._connection.exec_driver_sql(kept[0][0], tuple(kept[0][1]))
        elif kept:
            self._db.dialect.script(self._connection, kept)

    def _fits(self, rows: Sequence[Row]) -> bool:
        """Whether these may be kept; if not, what was kept before them is sent, so that the order stays."""
        count = max(len(rows), len(rows[0]) // 32)
        if count <= self._room[0]:
            size = sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))
            if size <= self._room[1]:
                self._room = (self._room[0] - count, self._room[1] - size)
                return True
        self.send()
        return False
