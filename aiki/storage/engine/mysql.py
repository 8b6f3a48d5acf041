"""MySQL and MariaDB, through PyMySQL.

A multi-row INSERT goes as one statement only if VALUES holds nothing but placeholders; statements are built from column names,
never from values, but for numbers and names that are the same in all rows.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import time
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

import pymysql
import sqlalchemy as sa
from pymysql.constants import CLIENT
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError

from aiki.clock import LearntClock
from aiki.storage.engine.dialect import Connecting, Dialect, Meaning
from aiki.storage.engine.driver import driver_cursor
from aiki.storage.engine.mysql_errors import CHANGED_SINCE_READ, DUPLICATE, error_code, meaning_of
from aiki.storage.engine.statements import Row, RowTooLarge, Statement, chunks, many_row_insert, weight_of

_SQL_MODE: Final = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,NO_UNSIGNED_SUBTRACTION"
"""The same everywhere: what does not fit is never cut in silence, and statements mean the same on every server."""
_OLDEST_CONNECTION: Final = 900
"""Seconds after which a connection is made anew: so readers, too, leave a server that was the primary once."""
TIME_EVERY: Final = 300.0
"""Seconds after which the server's time is asked for again."""
_TIME: Final = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
LEAST_PACKET: Final = 1024 * 1024
"""Bytes: what one statement of many rows may take, and something to spare."""
LOCK_WAIT: Final = 10
"""Seconds that a statement without end waits for a table that others use, before it lets them go first."""


class MySQL(Dialect):
    """See `Dialect`."""

    name = "mysql"
    placeholder = "%s"
    has_clock = True
    has_password = True
    one_writer = False
    changes_tables_at_once = False
    begins_with_head = False
    gathers = True
    jumps = True
    any_like = "COLLATE utf8mb4_general_ci LIKE"
    for_update = "FOR UPDATE"
    for_share = "LOCK IN SHARE MODE"
    skip_locked = "FOR UPDATE SKIP LOCKED"
    end_session = "KILL {}"

    def __init__(self) -> None:
        self._max_row: int | None = None

    # ------------------------------------------------------------ connections
    def engine(self, url: sa.URL, how: Connecting, clock: LearntClock, *, autocommit: bool = False) -> sa.Engine:
        """See `Dialect.engine`."""
        if url.get_driver_name() != "pymysql":
            url = url.set(drivername=f"{url.get_backend_name()}+pymysql")
        engine = sa.create_engine(
            url,
            isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
            pool_size=how.pool_size,
            max_overflow=24,
            pool_timeout=how.timeout,
            pool_recycle=_OLDEST_CONNECTION,
            # Transactions here always commit or roll back themselves; a further ROLLBACK would be one more round trip each.
            pool_reset_on_return=None,
            hide_parameters=True,  # payloads never reach a log through an error
            connect_args={
                **dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), max(1, round(how.timeout))),
                "charset": "utf8mb4",
                "sql_mode": _SQL_MODE,  # before SQLAlchemy looks at it, to see how names are quoted
                # For `script`. Every statement here is text of ours with placeholders, one or several.
                "client_flag": CLIENT.MULTI_STATEMENTS,
            },
        )
        _prepare_each(engine, how, encrypted=any(key.startswith("ssl_") for key in url.query), clock=clock)
        _look_at_each(engine, how, clock)
        return engine

    def begin_writing(self, connection: sa.Connection) -> None:
        """See `Dialect.begin_writing`: it has begun."""

    def time(self, connection: sa.Connection) -> int:
        """See `Dialect.time`."""
        return int(connection.exec_driver_sql(_TIME).one()[0])

    def check_server(self, connection: sa.Connection) -> str | None:
        """See `Dialect.check_server`."""
        sql = "SELECT @@log_bin, @@binlog_format, @@max_allowed_packet"
        logs, how, packet = connection.exec_driver_sql(sql).one()
        if int(logs) and str(how).upper() == "STATEMENT":
            return (
                "binlog_format=STATEMENT, with which InnoDB refuses transactions of READ COMMITTED: set binlog_format to ROW "
                "or MIXED"
            )
        if int(packet) < LEAST_PACKET:
            return f"max_allowed_packet={int(packet):,}: set it to {LEAST_PACKET:,} at least, better to 64 MB"
        return None

    # ------------------------------------------------------------ errors
    def _meaning(self, error: DBAPIError) -> Meaning:
        return meaning_of(error)

    def is_duplicate(self, error: IntegrityError) -> bool:
        """See `Dialect.is_duplicate`."""
        return error_code(error) == DUPLICATE

    def is_stale(self, error: DBAPIError) -> bool:
        """See `Dialect.is_stale`. MariaDB, with innodb_snapshot_isolation, does so."""
        return error_code(error) == CHANGED_SINCE_READ

    # ------------------------------------------------------------ pieces of SQL
    def text(self, sql: str) -> str:
        """See `Dialect.text`."""
        return sql.replace("?", "%s")

    def if_new(self, insert: str) -> str:
        """See `Dialect.if_new`."""
        return insert.replace("INSERT", "INSERT IGNORE", 1)

    def adding(self, table: str, key: Sequence[str], columns: Sequence[str]) -> str:  # noqa: ARG002  (it knows the table's keys)
        """See `Dialect.adding`."""
        return "ON DUPLICATE KEY UPDATE " + ", ".join(f"{column} = {column} + VALUES({column})" for column in columns)

    def use_index(self, index: str) -> str:
        """See `Dialect.use_index`."""
        return f"FORCE INDEX ({index})"

    def suggest_index(self, index: str) -> str:  # noqa: ARG002
        """See `Dialect.suggest_index`: it is found."""
        return ""

    def look(self, connection: sa.Connection, select: str, parameters: Sequence[Any], seconds: float) -> list[Any]:
        """See `Dialect.look`."""
        if getattr(connection.dialect, "is_mariadb", False):
            text = f"SET STATEMENT max_statement_time={seconds:g} FOR {select}"
        else:
            text = select.replace("SELECT", f"SELECT /*+ MAX_EXECUTION_TIME({int(seconds * 1000)}) */", 1)
        return list(connection.exec_driver_sql(text, tuple(parameters)).fetchall())

    def like(self, column: str, parts: Sequence[str]) -> tuple[str, str]:
        """See `Dialect.like`."""
        return f"{column} LIKE ? ESCAPE '!'", "%".join(re.sub(r"[!%_]", r"!\g<0>", part) for part in parts)

    def blob(self, text: str) -> str | bytes:
        """See `Dialect.blob`. As text it takes half the SQL: PyMySQL writes bytes in hexadecimal."""
        return text

    # ------------------------------------------------------------ many rows
    def insert(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """See `Dialect.insert`."""
        for chunk in chunks(rows):
            if len(chunk) == 1 or len(rows) == 1:  # a large row stands alone in its chunk
                self.check_size(connection, chunk)
            sql, parameters = many_row_insert(table, columns, chunk)
            connection.exec_driver_sql(sql, tuple(parameters))

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
        for chunk in chunks(rows):
            sql, parameters = self.update_statement(table, columns, namespace, chunk, key, only)
            connection.exec_driver_sql(sql, tuple(parameters))

    def check_size(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """See `Dialect.check_size`: over `max_allowed_packet`."""
        if self._max_row is None:
            self._max_row = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar() or 0) - 4096
        for row in rows:
            size = weight_of(row)
            if size > self._max_row:
                raise RowTooLarge(
                    f"a row that takes {size:,} bytes of SQL is larger than max_allowed_packet ({self._max_row + 4096:,})"
                )

    # ------------------------------------------------------------ several statements at once
    def insert_statement(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> Statement:
        """See `Dialect.insert_statement`."""
        row = f"({', '.join(['%s'] * len(columns))})"
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * len(rows))}"
        return sql, [value for values in rows for value in values]

    def update_statement(
        self,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Row],
        key: Sequence[str],
        only: str,
    ) -> Statement:
        """Many rows in one round trip, on MySQL and MariaDB alike: a join with a derived table of what differs among them.

        What is the same in all rows, and that is often everything, is sent once.
        """
        first, width = rows[0], len(key)
        differ = [at for at in range(width, len(first)) if any(row[at] != first[at] for row in rows)]
        same = [at for at in range(width, len(first)) if at not in differ]
        sets = ", ".join(
            [f"t.{columns[at - width]} = %s" for at in same] + [f"t.{columns[at - width]} = v.c{at}" for at in differ]
        )
        constants = [first[at] for at in same]
        guard = f" AND t.{only}" if only else ""
        if not differ and width == 1:
            marks = ", ".join(["%s"] * len(rows))
            sql = f"UPDATE {table} t SET {sets} WHERE t.namespace = %s AND t.{key[0]} IN ({marks}){guard}"
            return sql, [*constants, namespace, *(row[0] for row in rows)]
        head = "SELECT " + ", ".join([f"%s AS {name}" for name in key] + [f"%s AS c{at}" for at in differ])
        more = " UNION ALL SELECT " + ", ".join(["%s"] * (len(differ) + width))
        match = " AND ".join(f"t.{name} = v.{name}" for name in key)
        sql = f"UPDATE {table} t JOIN ({head}{more * (len(rows) - 1)}) v ON t.namespace = %s AND {match}{guard} SET {sets}"
        varying = itemgetter(*range(width), *differ)
        return sql, [*(value for row in rows for value in varying(row)), namespace, *constants]

    def script(self, connection: sa.Connection, statements: Sequence[Statement], *, commit: bool = False) -> None:
        """See `Dialect.script`."""
        texts = [sql for sql, _ in statements] + (["COMMIT"] if commit else [])
        with driver_cursor(connection, texts[0]) as cursor:
            cursor.execute("; ".join(texts), [value for _, values in statements for value in values])
            while cursor.nextset():  # an error of a later statement is raised here
                pass

    # ------------------------------------------------------------ the schema
    def lock_name(self, connection: sa.Connection) -> str:
        """See `Dialect.lock_name`. Locks belong to the server, so the name says which database."""
        database = str(connection.exec_driver_sql("SELECT DATABASE()").scalar())
        return "aiki.schema." + hashlib.sha256(database.encode()).hexdigest()[:24]

    def take_lock(self, connection: sa.Connection, name: str, seconds: int) -> str | None:
        """See `Dialect.take_lock`."""
        if connection.exec_driver_sql("SELECT GET_LOCK(%s, %s)", (name, seconds)).scalar() == 1:
            return None
        return str(connection.exec_driver_sql("SELECT IS_USED_LOCK(%s)", (name,)).scalar() or "")

    def views(self, connection: sa.Connection) -> list[tuple[str, str]]:
        """See `Dialect.views`."""
        sql = "SELECT table_name, view_definition FROM information_schema.views WHERE table_schema = DATABASE()"
        return [(str(name), str(definition)) for name, definition in connection.exec_driver_sql(sql).fetchall()]


def _learn_time(raw: Any, clock: LearntClock) -> None:
    """Ask for the server's time on a driver's connection."""
    with raw.cursor() as cursor:
        asked = clock.monotonic()
        cursor.execute(_TIME)
        there = int(cursor.fetchone()[0])
    clock.learn(there, asked, clock.monotonic())


def _prepare_each(engine: sa.Engine, how: Connecting, *, encrypted: bool, clock: LearntClock) -> None:
    """What is set on each connection when it is made."""

    @event.listens_for(engine, "connect")
    def _prepare(raw: Any, _record: Any) -> None:
        if encrypted and not isinstance(raw._sock, ssl.SSLSocket):
            # The library goes on in the clear with a server, or somebody in between, that says it has no TLS.
            raw.close()
            raise pymysql.err.OperationalError(2026, "the server has no TLS, which the URL or AIKI_DATABASE_CA asks for")
        lock_limit = max(1, round(how.timeout) - 1)
        with raw.cursor() as cursor:
            # The zone: in an hour that comes twice, where summer time ends, a local time does not tell which one it is.
            cursor.execute(
                f"SET SESSION wait_timeout = {how.idle_limit}, innodb_lock_wait_timeout = {lock_limit}, time_zone = '+00:00'"
            )
        _learn_time(raw, clock)
        if how.endless:
            _allow_hours(raw)


def _allow_hours(raw: Any) -> None:
    """Let statements take hours: neither this side nor the server ends one, and a connection that is lost is noticed."""
    raw._read_timeout = raw._write_timeout = None
    raw._sock.settimeout(None)
    if raw._sock.family in (socket.AF_INET, socket.AF_INET6):
        # Otherwise a firewall forgets a connection that says nothing for minutes, and this side waits for ever.
        raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, option):
                raw._sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    with raw.cursor() as cursor:
        # A table's lock is asked for again and again, so that others are not held up behind the one that waits.
        limits = f"lock_wait_timeout = {LOCK_WAIT}, innodb_lock_wait_timeout = {LOCK_WAIT}"
        cursor.execute(f"SET SESSION wait_timeout = 28800, {limits}")
        if "MariaDB" in raw.get_server_info():
            cursor.execute("SET SESSION max_statement_time = 0")


def _look_at_each(engine: sa.Engine, how: Connecting, clock: LearntClock) -> None:
    """What is seen to when a connection is taken out of the pool.

    The server ends sessions that were idle for long; one in use is kept, however old: to connect takes some 40 ms of CPU.
    """

    @event.listens_for(engine, "checkin")
    def _put_back(_raw: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _take_out(raw: Any, record: Any, _proxy: Any) -> None:
        now = time.monotonic()
        if now - record.info.get("idle_since", now) > max(2, how.idle_limit - 5):
            raise DisconnectionError("it was idle for so long that the server may have ended it")
        if clock.age() > TIME_EVERY:
            try:
                _learn_time(raw, clock)
            except pymysql.err.Error as error:
                raise DisconnectionError(f"it does not answer: {error}") from None
