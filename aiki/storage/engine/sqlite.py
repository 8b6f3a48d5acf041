"""SQLite: one file, one writer at a time."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError

from aiki.clock import LearntClock
from aiki.errors import ConfigurationError
from aiki.files import make_private
from aiki.storage.engine.dialect import Connecting, Dialect, Meaning
from aiki.storage.engine.statements import Row

_BUSY: Final = frozenset({5, 6})
"""Another connection has the file, or a table of it, locked."""
_OUTAGES: Final = frozenset({3, 7, 8, 9, 10, 11, 13, 14, 15, 17, 23, 26})
"""May not, no memory, read-only, interrupted, I/O error, corrupt, full, cannot open, locking protocol, schema changed, not
allowed, not a database."""


class SQLite(Dialect):
    """See `Dialect`."""

    name = "sqlite"
    placeholder = "?"
    has_clock = False
    has_password = False
    one_writer = True
    changes_tables_at_once = True
    begins_with_head = False
    gathers = False
    jumps = False
    any_like = "LIKE"
    for_update = ""
    for_share = ""
    skip_locked = ""
    end_session = ""

    # ------------------------------------------------------------ connections
    def engine(self, url: sa.URL, how: Connecting, clock: LearntClock, *, autocommit: bool = False) -> sa.Engine:  # noqa: ARG002
        """See `Dialect.engine`."""
        if url.database and url.database != ":memory:":
            folder = Path(url.database).parent
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(
                    f"the directory {folder} for the database cannot be made: {error.strerror}; set AIKI_DATABASE_URL (and "
                    "AIKI_BROKER_URL) to servers, or to files in a directory that can be written"
                ) from None
            with suppress(OSError):  # what cannot be made is told by whoever opens it
                make_private(Path(url.database))
        engine = sa.create_engine(
            url,
            pool_timeout=how.timeout,
            hide_parameters=True,
            connect_args={"timeout": how.timeout, "check_same_thread": False},
        )

        @event.listens_for(engine, "connect")
        def _prepare(raw: Any, _record: Any) -> None:
            raw.isolation_level = None  # transactions begin where we say so: BEGIN IMMEDIATE for writers
            busy = f"busy_timeout={int(how.timeout * 1000)}"
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", busy):
                raw.execute(f"PRAGMA {pragma}")

        return engine

    def begin_writing(self, connection: sa.Connection) -> None:
        """See `Dialect.begin_writing`."""
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def time(self, connection: sa.Connection) -> int:
        """See `Dialect.time`: there is no server."""
        raise NotImplementedError

    def check_server(self, connection: sa.Connection) -> str | None:  # noqa: ARG002
        """See `Dialect.check_server`."""
        return None

    # ------------------------------------------------------------ errors
    def _meaning(self, error: DBAPIError) -> Meaning:
        code = _code(error)
        if code in _BUSY:
            return Meaning.REPEAT
        away = error.connection_invalidated or code in _OUTAGES or _lacks(error, "table", "column")
        return Meaning.OUTAGE if away else Meaning.FAULT

    def is_duplicate(self, error: IntegrityError) -> bool:
        """See `Dialect.is_duplicate`."""
        return "UNIQUE constraint failed" in str(error.orig)

    # ------------------------------------------------------------ pieces of SQL
    def text(self, sql: str) -> str:
        """See `Dialect.text`."""
        return sql

    def if_new(self, insert: str) -> str:
        """See `Dialect.if_new`."""
        return insert.replace("INSERT", "INSERT OR IGNORE", 1)

    def adding(self, table: str, key: Sequence[str], columns: Sequence[str]) -> str:  # noqa: ARG002
        """See `Dialect.adding`."""
        sets = ", ".join(f"{column} = {column} + excluded.{column}" for column in columns)
        return f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}"

    def use_index(self, index: str) -> str:
        """See `Dialect.use_index`."""
        return f"INDEXED BY {index}"

    def suggest_index(self, index: str) -> str:
        """See `Dialect.suggest_index`: its planner has no statistics."""
        return f"INDEXED BY {index}"

    def look(self, connection: sa.Connection, select: str, parameters: Sequence[Any], seconds: float) -> list[Any]:  # noqa: ARG002
        """See `Dialect.look`: it has no limit."""
        return list(connection.exec_driver_sql(select, tuple(parameters)).fetchall())

    def like(self, column: str, parts: Sequence[str]) -> tuple[str, str]:
        """See `Dialect.like`: LIKE takes upper and lower case for the same here."""
        return f"{column} GLOB ?", "*".join(re.sub(r"[*?\[]", r"[\g<0>]", part) for part in parts)

    def blob(self, text: str) -> str | bytes:
        """See `Dialect.blob`."""
        return text.encode("ascii")

    # ------------------------------------------------------------ many rows
    def insert(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """See `Dialect.insert`."""
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        connection.exec_driver_sql(sql, [tuple(row) for row in rows])

    def update(
        self,
        connection: sa.Connection,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Row],
        key: Sequence[str],
        only: str,
    ) -> None:
        """See `Dialect.update`."""
        sets, where = ", ".join(f"{column} = ?" for column in columns), " AND ".join(f"{name} = ?" for name in key)
        where += f" AND {only}" if only else ""
        sql = f"UPDATE {table} SET {sets} WHERE namespace = ? AND {where}"
        connection.exec_driver_sql(sql, [(*row[len(key) :], namespace, *row[: len(key)]) for row in rows])

    def check_size(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """See `Dialect.check_size`: it says so itself."""

    # ------------------------------------------------------------ the schema
    def lock_name(self, connection: sa.Connection) -> str:
        """See `Dialect.lock_name`: writers are alone."""
        raise NotImplementedError

    def take_lock(self, connection: sa.Connection, name: str, seconds: int) -> str | None:
        """See `Dialect.take_lock`."""
        raise NotImplementedError

    def views(self, connection: sa.Connection) -> list[tuple[str, str]]:  # noqa: ARG002
        """See `Dialect.views`."""
        return []


def _code(error: DBAPIError) -> int:
    original = error.orig
    return int(getattr(original, "sqlite_errorcode", 0)) & 0xFF if isinstance(original, sqlite3.OperationalError) else 0


def _lacks(error: DBAPIError, *what: str) -> bool:
    """SQLite has one number for this and for much else."""
    beginnings = tuple(f"no such {name}" for name in what)
    return isinstance(error.orig, sqlite3.OperationalError) and str(error.orig).startswith(beginnings)
