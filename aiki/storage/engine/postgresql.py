"""PostgreSQL, through psycopg.

Nothing is kept in a session, so that PgBouncer may give each transaction another one (`pool_mode = transaction`): limits are
set in the transaction that they are for, locks end with it, and no statement is prepared. The driver binds parameters itself,
so that several statements go in one round trip.

The driver is in autocommit mode: a transaction begins where `begin_writing` says so. A statement outside of one, or several
that are sent at once, are a transaction of their own.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError

from aiki.clock import LearntClock
from aiki.errors import ConfigurationError
from aiki.storage.engine.dialect import Connecting, Dialect, Meaning
from aiki.storage.engine.driver import driver_cursor
from aiki.storage.engine.postgresql_errors import DUPLICATE, SERIALIZATION, error_code, meaning_of
from aiki.storage.engine.statements import Row, Statement, chunks, many_row_insert

try:
    import psycopg
    from psycopg.types.string import StrDumper
except ImportError as error:  # the driver is an extra: a library of C, which few need
    raise ConfigurationError(
        f"PostgreSQL needs the driver psycopg, which cannot be imported here ({error}): pip install 'aiki[postgresql]'"
    ) from None

if TYPE_CHECKING:
    from psycopg.abc import PQGen

OLDEST_SERVER: Final = 15
_OLDEST_CONNECTION: Final = 900
"""Seconds after which a connection is made anew: so readers, too, leave a server that was the primary once."""
_TIME_EVERY: Final = 300.0
"""Seconds after which the server's time is asked for again."""
_TIME: Final = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint"
_LOCK_WAIT: Final = 10
"""Seconds that a statement without end waits for a table that others use, before it lets them go first."""
_LOCK_TRIES: Final = 0.1
"""Seconds between two tries to take the lock of the schema."""
_NUL: Final = "\N{SYMBOL FOR NULL}"
_KEEPALIVE: Final = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 6}
"""Otherwise a firewall forgets a connection that says nothing for minutes, and this side waits for ever."""


class _Connection(psycopg.Connection[Any]):
    """A connection that does not wait for ever for a server that says nothing.

    :ivar patience: seconds of silence after which it is given up; None: never.
    """

    patience: float | None = None

    def wait(self, gen: PQGen[Any], *args: Any, **more: Any) -> Any:
        """See `psycopg.Connection.wait`."""
        if self.patience is None:
            return super().wait(gen, *args, **more)
        return super().wait(self._impatient(gen, self.patience), self.patience)

    def _impatient(self, gen: PQGen[Any], seconds: float) -> Generator[Any, Any, Any]:
        """As `gen`; it is told of nothing when the driver has waited for so long without a word."""
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready:
                    gen.close()
                    self.close()
                    raise psycopg.OperationalError(f"the server has said nothing for {seconds:g} s; the connection is given up")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value


class _Text(StrDumper):
    """Text as the server takes it: without the character U+0000, in whose place another one of the same length says so."""

    def dump(self, obj: str) -> Any:
        """See `psycopg.abc.Dumper.dump`."""
        return super().dump(_without_nul(obj))

    def quote(self, obj: str) -> Any:
        """See `psycopg.abc.Dumper.quote`."""
        return super().quote(_without_nul(obj))


def _without_nul(text: str) -> str:
    return text.replace("\0", _NUL) if "\0" in text else text


class PostgreSQL(Dialect):
    """See `Dialect`."""

    name = "postgresql"
    placeholder = "%s"
    has_clock = True
    has_password = True
    one_writer = False
    changes_tables_at_once = True
    begins_with_head = True
    gathers = True
    jumps = False
    any_like = 'COLLATE "default" ILIKE'
    for_update = "FOR UPDATE"
    for_share = ""  # a snapshot stays one: see `is_stale`
    skip_locked = "FOR UPDATE SKIP LOCKED"
    end_session = "SELECT pg_terminate_backend({})"

    def __init__(self) -> None:
        self._begin = "BEGIN"
        self._limit = 0

    # ------------------------------------------------------------ connections
    def engine(self, url: sa.URL, how: Connecting, clock: LearntClock, *, autocommit: bool = False) -> sa.Engine:
        """See `Dialect.engine`."""
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            pool_size=how.pool_size,
            max_overflow=24,
            pool_timeout=how.timeout,
            pool_recycle=_OLDEST_CONNECTION,
            # Transactions here always commit or roll back themselves; a further ROLLBACK would be one more round trip each.
            pool_reset_on_return=None,
            hide_parameters=True,  # payloads never reach a log through an error
            use_native_hstore=False,  # or each new engine would look for it in the server's catalogue
            connect_args={
                "connect_timeout": max(2, round(how.timeout)),
                "cursor_factory": psycopg.ClientCursor,
                "prepare_threshold": None,
                "client_encoding": "utf8",
                **_KEEPALIVE,
            },
        )
        if not autocommit:
            self._begin = _begin(how)
            self._limit = 0 if how.endless else _milliseconds(how.timeout + 1)

        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> Any:
            made = _Connection.connect(*arguments, **parameters)
            made.patience = None if how.endless else max(1.0, how.timeout)
            return made

        _look_at_each(engine, clock)
        return engine

    def begin_writing(self, connection: sa.Connection) -> None:
        """See `Dialect.begin_writing`."""
        connection.exec_driver_sql(self._begin)

    def time(self, connection: sa.Connection) -> int:
        """See `Dialect.time`."""
        return int(connection.exec_driver_sql(_TIME).one()[0])

    def check_server(self, connection: sa.Connection) -> str | None:
        """See `Dialect.check_server`."""
        version, encoding = connection.exec_driver_sql(
            "SELECT current_setting('server_version_num')::int / 10000, current_setting('server_encoding')"
        ).one()
        if version < OLDEST_SERVER:
            return f"a server of PostgreSQL {version}: version {OLDEST_SERVER} or newer is needed"
        if encoding != "UTF8":
            return (
                f"the encoding {encoding}: it must be UTF8; make another: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        return None

    @contextmanager
    def attempt(self, connection: sa.Connection) -> Iterator[None]:
        """See `Dialect.attempt`."""
        with connection.begin_nested():
            yield

    # ------------------------------------------------------------ errors
    def _meaning(self, error: DBAPIError) -> Meaning:
        return meaning_of(error)

    def is_duplicate(self, error: IntegrityError) -> bool:
        """See `Dialect.is_duplicate`."""
        return error_code(error) == DUPLICATE

    def is_stale(self, error: DBAPIError) -> bool:
        """See `Dialect.is_stale`. What is not seen is there all the same: to insert it is refused."""
        return error_code(error) in (SERIALIZATION, DUPLICATE)

    # ------------------------------------------------------------ pieces of SQL
    def text(self, sql: str) -> str:
        """See `Dialect.text`."""
        return sql.replace("?", "%s")

    def if_new(self, insert: str) -> str:
        """See `Dialect.if_new`."""
        return f"{insert} ON CONFLICT DO NOTHING"

    def adding(self, table: str, key: Sequence[str], columns: Sequence[str]) -> str:
        """See `Dialect.adding`."""
        sets = ", ".join(f"{column} = {table}.{column} + excluded.{column}" for column in columns)
        return f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}"

    def use_index(self, index: str) -> str:  # noqa: ARG002
        """See `Dialect.use_index`: it takes no such advice, and has statistics."""
        return ""

    def suggest_index(self, index: str) -> str:  # noqa: ARG002
        """See `Dialect.suggest_index`."""
        return ""

    def look(self, connection: sa.Connection, select: str, parameters: Sequence[Any], seconds: float) -> list[Any]:
        """See `Dialect.look`. The limit is set for the transaction, which may be these three statements alone."""
        limit = f"SET LOCAL statement_timeout = {_milliseconds(seconds)}"
        sql = f"{limit}; {select}; SET LOCAL statement_timeout = {self._limit}"
        with driver_cursor(connection, select) as cursor:
            cursor.execute(sql, tuple(parameters))
            cursor.nextset()
            return list(cursor.fetchall())

    def like(self, column: str, parts: Sequence[str]) -> tuple[str, str]:
        """See `Dialect.like`."""
        return f"{column} LIKE ? ESCAPE '!'", "%".join(re.sub(r"[!%_]", r"!\g<0>", part) for part in parts)

    def holds(self, column: str) -> str:
        """See `Dialect.holds`."""
        return f"POSITION(? IN {column}) > 0"

    def largest(self, column: str) -> str:
        """See `Dialect.largest`: before version 18 it has no MAX of bytes."""
        return f"DECODE(MAX(ENCODE({column}, 'hex')), 'hex')"

    def blob(self, text: str) -> str | bytes:
        """See `Dialect.blob`."""
        return text.encode("ascii")

    # ------------------------------------------------------------ many rows
    def insert(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """See `Dialect.insert`."""
        for chunk in chunks(rows):
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
        """See `Dialect.check_size`: a gigabyte, which no message carries."""

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
        """A join with a list of what differs among the rows; what is the same in all, and that is often everything, is sent
        once. The list's first row says what type its columns are of."""
        first, width = rows[0], len(key)
        differ = [at for at in range(width, len(first)) if any(row[at] != first[at] for row in rows)]
        same = [at for at in range(width, len(first)) if at not in differ]
        sets = ", ".join([f"{columns[at - width]} = %s" for at in same] + [f"{columns[at - width]} = v.c{at}" for at in differ])
        constants = [first[at] for at in same]
        guard = f" AND t.{only}" if only else ""
        if not differ and width == 1:
            marks = ", ".join(["%s"] * len(rows))
            sql = f"UPDATE {table} t SET {sets} WHERE t.namespace = %s AND t.{key[0]} IN ({marks}){guard}"
            return sql, [*constants, namespace, *(row[0] for row in rows)]
        varying = [*range(width), *differ]
        head = ", ".join(f"%s::{_type_of([row[at] for row in rows])}" for at in varying)
        more = f", ({', '.join(['%s'] * len(varying))})" * (len(rows) - 1)
        names = ", ".join([*key, *(f"c{at}" for at in differ)])
        match = " AND ".join(f"t.{name} = v.{name}" for name in key)
        sql = f"UPDATE {table} t SET {sets} FROM (VALUES ({head}){more}) v({names}) WHERE t.namespace = %s AND {match}{guard}"
        return sql, [*constants, *(row[at] for row in rows for at in varying), namespace]

    def script(self, connection: sa.Connection, statements: Sequence[Statement], *, commit: bool = False) -> None:  # noqa: ARG002
        """See `Dialect.script`. What is sent at once is a transaction of its own where none has begun."""
        sql = "; ".join(text for text, _ in statements)
        with driver_cursor(connection, statements[0][0]) as cursor:
            cursor.execute(sql, [value for _, values in statements for value in values])

    # ------------------------------------------------------------ the schema
    def lock_name(self, connection: sa.Connection) -> str:
        """See `Dialect.lock_name`. Locks belong to a database; the tables, to one of its schemas."""
        return "aiki.schema." + str(connection.exec_driver_sql("SELECT current_schema()").scalar())

    def take_lock(self, connection: sa.Connection, name: str, seconds: int) -> str | None:
        """See `Dialect.take_lock`. It ends with the transaction."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        until = time.monotonic() + seconds
        while not connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({number})").scalar():
            if time.monotonic() > until:
                holder = (
                    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM "
                    f"pg_database WHERE datname = current_database()) AND (classid::bigint << 32 | objid::bigint) = {number}"
                )
                return str(connection.exec_driver_sql(holder).scalar() or "")
            time.sleep(_LOCK_TRIES)
        return None

    def views(self, connection: sa.Connection) -> list[tuple[str, str]]:  # noqa: ARG002
        """See `Dialect.views`."""
        return []


def _begin(how: Connecting) -> str:
    """How a transaction begins. The limits are for a process that stopped, or that gave up waiting, and holds locks.

    The server ends a statement a little later than this side gives it up, so that it is this side that says so.
    """
    lock = _LOCK_WAIT if how.endless else max(1.0, how.timeout - 1)
    limits = {
        "lock_timeout": _milliseconds(lock),
        "statement_timeout": 0 if how.endless else _milliseconds(how.timeout + 1),
        "idle_in_transaction_session_timeout": 0 if how.endless else how.idle_limit * 1000,
    }
    sets = "".join(f"; SET LOCAL {name} = {value}" for name, value in limits.items())
    return f"BEGIN ISOLATION LEVEL READ COMMITTED{sets}"


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _type_of(values: Sequence[Any]) -> str:
    """The type of a column of a list; the columns of tables take what comes of it."""
    there = [value for value in values if value is not None]
    for kind, name in ((float, "double precision"), (int, "bigint"), (bytes, "bytea")):
        if any(isinstance(value, kind) for value in there):
            return name
    return "text"


def _learn_time(raw: Any, clock: LearntClock) -> None:
    """Ask for the server's time on a driver's connection."""
    asked = clock.monotonic()
    there = int(raw.execute(_TIME).fetchone()[0])
    clock.learn(there, asked, clock.monotonic())


def _look_at_each(engine: sa.Engine, clock: LearntClock) -> None:
    """The server's time is asked for on each new connection, and now and then on one that is taken out of the pool."""

    @event.listens_for(engine, "connect")
    def _prepare(raw: Any, _record: Any) -> None:
        raw.autocommit = True
        raw.adapters.register_dumper(str, _Text)
        _learn_time(raw, clock)

    @event.listens_for(engine, "checkout")
    def _take_out(raw: Any, _record: Any, _proxy: Any) -> None:
        if clock.age() > _TIME_EVERY:
            try:
                _learn_time(raw, clock)
            except psycopg.Error as error:
                raise DisconnectionError(f"it does not answer: {error}") from None
