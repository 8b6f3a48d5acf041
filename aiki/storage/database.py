"""The connection to the database: engines, transactions that are repeated when they must be, and bulk statements.

One helper runs every transaction; which errors are expected of a database (deadlock, lock time-out, a connection that is
gone), `aiki/storage/outages.py` names. Verbs are written so that running one twice is harmless: the answer to a
commit can be lost, and then nobody knows whether it happened.

Bulk statements are built here from column names, never from values: PyMySQL sends a multi-row INSERT as one statement
only if VALUES holds nothing but placeholders.
"""

from __future__ import annotations

import itertools
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import uuid4

import pymysql
import sqlalchemy as sa
from pymysql.constants import CLIENT
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aiki.clock import LearntClock
from aiki.errors import ConfigurationError, StorageUnavailable
from aiki.files import make_private
from aiki.settings import read_secret
from aiki.storage.long_statements import allow_long_statements
from aiki.storage.outages import READ_ONLY, REPEATED, TOO_LARGE, error_code, is_outage, sqlite_busy

T = TypeVar("T")
IsolationLevel = Literal["READ COMMITTED", "AUTOCOMMIT"]

_thread = threading.local()
"""`primary`: what this thread reads, it reads in transactions."""

_SQL_MODE = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,NO_UNSIGNED_SUBTRACTION"
"""The same everywhere: what does not fit is never cut in silence, and statements mean the same on every server."""
_OLDEST_CONNECTION = 900
"""Seconds after which a connection is made anew: so readers, too, leave a server that was the primary once."""

MAX_RETRIES = 8
TIME_EVERY = 300.0
"""Seconds after which the server's time is asked for again."""
_TIME = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
ROWS_A_STATEMENT = 500
BYTES_A_STATEMENT = 512 * 1024

_NAMES = frozenset({"namespace", "kind", "name", "version", "queue", "state", "role", "encoding", "options"})
"""Columns whose text may stand in a statement, as errors and logs show it."""


_PLAIN = re.compile(r'[A-Za-z0-9_.:/@ ,"{}\[\]-]*')


def _is_plain(column: str, value: Any) -> bool:
    """Whether a value can stand in a statement as it is: a number, NULL, a name without anything that means something."""
    if type(value) in (int, NoneType):
        return True
    return column in _NAMES and type(value) is str and _PLAIN.fullmatch(value) is not None


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


OPERATIONS = "aiki_operations"
"""The table of what was done: see `Database.transaction`."""


class AlreadyDone(Exception):
    """What is asked for was done by an earlier call, under the same operation's id."""


class RowTooLarge(Exception):
    """The database refuses a row because of its size (max_allowed_packet); the statement changed nothing."""


Statement = tuple[str, list[Any]]
"""SQL in the driver's style, and its parameters."""


class Insert(NamedTuple):
    """Rows (tuples in the order of `columns`) for a table."""

    table: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(slots=True)
class _Doubt(Generic[T]):
    """What is not known of a transaction whose commit was not answered.

    :ivar latest: the answer of the last try, in a list of one; `committing`: that try came as far as its commit.
    :ivar answers: the answer of a try that may have been committed.
    """

    latest: list[T] = field(default_factory=list)
    committing: bool = False
    answers: list[T] = field(default_factory=list)


class Database:
    """One database, shared by all threads of a process.

    :param url: SQLAlchemy URL; MySQL and MariaDB through PyMySQL, or SQLite.
    :param timeout: seconds any one statement or connect may take.
    :param idle_limit: seconds after which the server ends an idle session, so that a stopped process frees its locks.
    :param primary: reads, too, are done in transactions, so that a proxy that sends single reads to replicas, which lag behind,
        sends these to the primary: for processes that act on what they read.
    :param password_file: holds the password in place of the URL; read for each connection (not for SQLite).
    :param endless: a statement may take as long as it takes, as changes of large tables do; `timeout` is for the connect alone.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        idle_limit: int = 60,
        pool_size: int = 8,
        password_file: str = "",
        endless: bool = False,
        primary: bool = False,
    ) -> None:
        self.timeout = timeout
        self.url = sa.make_url(url)
        self.clock = LearntClock()
        """The server's clock. A file has none of its own: its clock is the machine's."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = _sqlite_engine(self.url, timeout)
        elif self.url.get_backend_name() in ("mysql", "mariadb"):
            self.engine = _mysql_engine(self.url, timeout, idle_limit, pool_size, self.clock)
            if endless:
                allow_long_statements(self.engine)
        else:
            raise ConfigurationError(
                f"database URL begins with {self.url.drivername!r}; it must be mysql+pymysql:// or sqlite:///"
            )
        # Reads need no transaction: in autocommit mode they cost no COMMIT or ROLLBACK, each a round trip. The pool is shared
        # by all of them, apart from the writers', whose connections are never in that mode.
        if self.is_sqlite or primary:
            self._reading = self.engine
        else:
            self._reading = _mysql_engine(self.url, timeout, idle_limit, pool_size, self.clock, "AUTOCOMMIT")
        if password_file and not self.is_sqlite:
            _take_password_from(password_file, *{self.engine, self._reading})
        self._placeholder = "?" if self.is_sqlite else "%s"
        self._statements: dict[tuple[Any, ...], str] = {}
        self._max_row: int | None = None

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()
        self._reading.dispose()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's connections without closing them."""
        self.engine.dispose(close=False)
        self._reading.dispose(close=False)

    def now(self) -> int:
        """The time by the server's clock, microseconds since the Unix epoch; by this machine's while the server is away."""
        if not self.is_sqlite and not self.clock.known:
            try:
                self.read(sa.Connection.in_transaction)  # to connect is to learn it
            except StorageUnavailable:
                pass  # whatever the time is for will say so
        return self.clock()

    def time_there(self) -> int:
        """What the server answers when it is asked for the time; not for SQLite. Raises `StorageUnavailable`."""
        return self.read(lambda connection: int(connection.exec_driver_sql(_TIME).fetchone()[0]))  # type: ignore[index]

    # ------------------------------------------------------------ transactions
    def transaction(
        self,
        work: Callable[[sa.Connection], T],
        *,
        deadline: float | None = None,
        repeatable: bool | Callable[[sa.Connection, T], bool] = False,
        operation: bytes | None = None,
    ) -> T:
        """Run `work` in a transaction and commit; the whole is repeated after a deadlock or a lost connection.

        The answer to a commit can be lost, and then nobody knows whether it happened. So `work` leaves the id of its operation
        in the same transaction, and before it is repeated that id is looked for: what was committed is not done again, and its
        answer is the first one.

        :param deadline: `time.monotonic()` after which it is not repeated; the default is `timeout` from now.
        :param repeatable: True: to do it twice changes nothing more, and answers as well; no id is left. Or a function that
            tells, by what `work` has written, whether the transaction that gave this answer was committed.
        :param operation: the id (16 bytes), if whoever asks may ask again under it.
        :raises AlreadyDone: an earlier call has done the operation.
        :raises StorageUnavailable: the database is away, or kept refusing.
        """
        doubt = _Doubt[T]()
        raw = None if repeatable else operation or uuid4().bytes

        def once() -> T:
            doubt.committing = False
            with self.engine.begin() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                if raw is not None and not self._leave(connection, raw):
                    if doubt.answers:
                        return doubt.answers[0]
                    raise AlreadyDone
                if doubt.answers and callable(repeatable) and repeatable(connection, doubt.answers[0]):
                    return doubt.answers[0]
                answer = work(connection)
                doubt.latest, doubt.committing = [answer], True
            return answer

        return self._repeated(once, deadline, doubt)

    def _leave(self, connection: sa.Connection, operation: bytes) -> bool:
        """Leave the id of an operation in its transaction; False: it is there. Waits for a transaction that is about to."""
        sql = f"{self.insert_ignore} INTO {OPERATIONS} (id, created_at) VALUES (?, ?)"
        return int(self.execute(connection, sql, (operation, self.clock())).rowcount) == 1

    def _repeated(self, once: Callable[[], T], deadline: float | None = None, doubt: _Doubt[T] | None = None) -> T:
        limit = time.monotonic() + self.timeout if deadline is None else deadline
        lost = 0
        for tries in range(1, MAX_RETRIES + 1):
            try:
                return once()
            except IntegrityError:
                raise
            except (DBAPIError, PoolTimeout) as error:
                lost += int(isinstance(error, DBAPIError) and error.connection_invalidated)
                pause = self._pause_before_retry(error, tries, lost)
                asked = False
                if doubt is not None and doubt.committing:
                    # Only the answer is missing: to ask for it is worth one more try, however late it is.
                    asked = not doubt.answers and pause is not None
                    doubt.answers = doubt.latest
                if pause is None or (time.monotonic() + pause > limit and not asked):
                    raise self._unavailable(error) from error
                time.sleep(pause)
        raise StorageUnavailable("the database kept refusing (deadlocks)")

    def write_at_once(self, inserts: Sequence[Insert], committed: Callable[[sa.Connection], bool]) -> None:
        """Insert all rows and commit, on MySQL in a single round trip; for a few rows, where round trips are what costs.

        :param committed: whether the rows that are there are these; asked only if the answer to a commit was lost.
        :raises IntegrityError: a key exists already; nothing was written.
        :raises StorageUnavailable: nothing was written, or the answer was lost.
        """
        inserts = [item for item in inserts if item.rows]
        if self.is_sqlite:

            def work(connection: sa.Connection) -> None:
                for item in inserts:
                    self.insert(connection, *item)

            self.transaction(work, repeatable=lambda connection, _: committed(connection))
            return
        doubt = _Doubt[None](latest=[None])

        def once() -> None:
            doubt.committing = True  # the one round trip commits
            try:
                self._write_script(inserts)
            except IntegrityError:
                if not doubt.answers or not self.read(committed):
                    raise

        self._repeated(once, None, doubt)

    def _write_script(self, inserts: Sequence[Insert]) -> None:
        with self.engine.connect() as connection:
            statements = []
            for item in inserts:
                self._check_size(connection, item.rows)
                statements.append(self._insert_statement(item.table, item.columns, item.rows))
            self.script(connection, [*statements, ("COMMIT", [])])

    def script(self, connection: sa.Connection, statements: Sequence[Statement]) -> None:
        """Run statements that return no rows in a single round trip (MySQL); none after the first that fails."""
        dialect = self.engine.dialect
        error_type: type[Exception] = dialect.loaded_dbapi.Error
        raw = connection.connection
        cursor = raw.cursor()
        try:
            cursor.execute("; ".join(sql for sql, _ in statements), [value for _, values in statements for value in values])
            while cursor.nextset():  # an error of a later statement is raised here
                pass
        except error_type as error:
            gone = dialect.is_disconnect(error, raw.dbapi_connection, cursor)  # type: ignore[arg-type]
            if gone:
                connection.invalidate(error)
            else:
                raw.rollback()
            raise DBAPIError.instance(
                statements[0][0], None, error, error_type, connection_invalidated=gone, dialect=dialect, hide_parameters=True
            ) from error
        finally:
            cursor.close()

    def _insert_statement(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Statement:
        row = f"({', '.join(['%s'] * len(columns))})"
        sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * len(rows))}"
        return sql, [value for values in rows for value in values]

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work`, which only reads. Repeated like a transaction."""

        def once() -> T:
            engine = self.engine if getattr(_thread, "primary", False) else self._reading
            with engine.connect() as connection:
                return work(connection)

        return self._repeated(once)

    @contextmanager
    def from_primary(self) -> Iterator[None]:
        """What this thread reads meanwhile is as new as what it has written, even behind a proxy that splits reads and
        writes: it is read in transactions."""
        before = getattr(_thread, "primary", False)
        _thread.primary = True
        try:
            yield
        finally:
            _thread.primary = before

    def _pause_before_retry(self, error: SQLAlchemyError, tries: int, lost: int) -> float | None:
        """Seconds to wait before the transaction is repeated, or None if repeating it is of no use.

        :param lost: how many connections it has lost.
        """
        if isinstance(error, PoolTimeout):
            return None
        code = error_code(error)
        if code in TOO_LARGE:
            raise RowTooLarge(str(getattr(error, "orig", error))[:300]) from error
        if code in REPEATED or sqlite_busy(error):
            return random.uniform(0.005, 0.02) * tries  # noqa: S311  (jitter, not a secret)
        if isinstance(error, DBAPIError) and error.connection_invalidated and lost == 1:
            return 0.0
        if code in READ_ONLY:
            # After a fail-over the pooled connections lead to what is a replica now: the next ones find the new primary.
            self.engine.dispose()
            self._reading.dispose()
            return 0.0 if tries == 1 else None
        if is_outage(error):
            return None
        raise error

    def _unavailable(self, error: SQLAlchemyError) -> StorageUnavailable:
        reason = str(getattr(error, "orig", None) or error).split("\n")[0][:300]
        return StorageUnavailable(f"the database at {safe_url(self.url)} cannot be used now: {reason}")

    # ------------------------------------------------------------ bulk statements
    def insert(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows (tuples in the order of `columns`), many a statement."""
        if not rows:
            return
        if self.is_sqlite:
            sql = self._statement(
                ("insert", table, tuple(columns)),
                lambda p: f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join([p] * len(columns))})",
            )
            connection.exec_driver_sql(sql, [tuple(row) for row in rows])
            return
        for chunk in chunks(rows):
            if len(chunk) == 1 or len(rows) == 1:  # a large row stands alone in its chunk
                self._check_size(connection, chunk)
            self._send_insert(connection, table, columns, chunk)

    def _send_insert(
        self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
    ) -> None:
        """One multi-row statement. To escape each value of each row is most of what it costs: numbers and names that are the
        same in all rows are written once, and what is NULL in all is left out. All else is bound by the driver, and
        the connection may be the caller's: any driver that takes `%s` will do."""
        values = list(zip(*rows, strict=True))
        same = [
            _is_plain(column, of_all[0]) and of_all.count(of_all[0]) == len(rows) > 1
            for column, of_all in zip(columns, values, strict=True)
        ]
        used = [at for at, of_all in enumerate(values) if not (same[at] and of_all[0] is None)]
        row = ", ".join(_literal(values[at][0]) if same[at] else "%s" for at in used)
        sql = f"INSERT INTO {table} ({', '.join(columns[at] for at in used)}) VALUES {', '.join([f'({row})'] * len(rows))}"
        varying = [values[at] for at in used if not same[at]]
        connection.exec_driver_sql(sql, tuple(itertools.chain.from_iterable(zip(*varying, strict=True))))

    def update(
        self,
        connection: sa.Connection,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Sequence[Any]],
        key: Sequence[str] = ("id",),
        only: str = "",
    ) -> None:
        """Set `columns` of many rows, each to its own values. A row is `(*key, value, …)`; the namespace begins every key.

        :param only: a condition on a column (`state = 'open'`): rows that do not meet it stay as they are.
        """
        if not rows:
            return
        if self.is_sqlite:
            sets, where = ", ".join(f"{column} = ?" for column in columns), " AND ".join(f"{name} = ?" for name in key)
            where += f" AND {only}" if only else ""
            sql = f"UPDATE {table} SET {sets} WHERE namespace = ? AND {where}"
            connection.exec_driver_sql(sql, [(*row[len(key) :], namespace, *row[: len(key)]) for row in rows])
            return
        for chunk in chunks(rows):
            sql, parameters = self._update_statement(table, columns, namespace, chunk, key, only)
            connection.exec_driver_sql(sql, tuple(parameters))

    def _update_statement(
        self,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Sequence[Any]],
        key: Sequence[str],
        only: str = "",
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

    def insert_new(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert those rows whose key is not there yet. For values that surely fit their columns."""
        for chunk in chunks(rows):
            sql = f"{self.insert_ignore} INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            connection.exec_driver_sql(self.placeholders(sql), [tuple(row) for row in chunk])

    @property
    def insert_ignore(self) -> str:
        """`INSERT` that passes over rows whose key is there."""
        return "INSERT OR IGNORE" if self.is_sqlite else "INSERT IGNORE"

    def where_in(
        self, connection: sa.Connection, sql: str, before: Sequence[Any], values: Sequence[Any], after: str = ""
    ) -> list[Any]:
        """Run `sql … IN (values)` in chunks and collect the rows. `sql` has `?` for `before` and ends where `IN` follows."""
        out: list[Any] = []
        for start in range(0, len(values), ROWS_A_STATEMENT):
            chunk = values[start : start + ROWS_A_STATEMENT]
            text = self.placeholders(f"{sql} IN ({', '.join('?' * len(chunk))}) {after}")
            result = connection.exec_driver_sql(text, (*before, *chunk))
            if result.returns_rows:
                out.extend(result.fetchall())
        return out

    def execute(self, connection: sa.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run one statement written with `?` placeholders; SQLAlchemy's `CursorResult`, untyped as raw SQL is."""
        return connection.exec_driver_sql(self.placeholders(sql), tuple(parameters))

    def look(self, connection: sa.Connection, sql: str, parameters: Sequence[Any] = (), seconds: float = 1.0) -> list[Any]:
        """The rows of a SELECT, written with `?`, that the server itself ends after so many seconds: for what people ask."""
        text = self.placeholders(sql)
        if not self.is_sqlite:
            if getattr(connection.dialect, "is_mariadb", False):
                text = f"SET STATEMENT max_statement_time={seconds:g} FOR {text}"
            else:
                text = text.replace("SELECT", f"SELECT /*+ MAX_EXECUTION_TIME({int(seconds * 1000)}) */", 1)
        return list(connection.exec_driver_sql(text, tuple(parameters)).fetchall())

    def blob(self, text: str) -> str | bytes:
        """ASCII text as a value for a binary column. As text it takes half the SQL: PyMySQL writes bytes in hexadecimal."""
        return text.encode("ascii") if self.is_sqlite else text

    def placeholders(self, sql: str) -> str:
        """`sql`, written with `?`, in the driver's style. Our statements hold no `?` or `%` but placeholders."""
        return sql if self.is_sqlite else sql.replace("?", "%s")

    def _check_size(self, connection: sa.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Refuse a row over `max_allowed_packet` here: the server would cut the connection, which looks like an outage."""
        if self.is_sqlite:
            return
        if self._max_row is None:
            self._max_row = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar() or 0) - 4096
        for row in rows:
            size = _weight(row)
            if size > self._max_row:
                raise RowTooLarge(
                    f"a row that takes {size:,} bytes of SQL is larger than max_allowed_packet ({self._max_row + 4096:,})"
                )

    def _statement(self, key: tuple[Any, ...], build: Callable[[str], str]) -> str:
        sql = self._statements.get(key)
        if sql is None:
            sql = self._statements[key] = build(self._placeholder)
        return sql

    @property
    def for_update(self) -> str:
        """The clause that locks what a SELECT returns; SQLite's writers are alone anyway."""
        return "" if self.is_sqlite else "FOR UPDATE"

    @property
    def for_share(self) -> str:
        """The clause by which a SELECT reads what is committed now, also in a transaction that is REPEATABLE READ."""
        return "" if self.is_sqlite else "LOCK IN SHARE MODE"

    @property
    def skip_locked(self) -> str:
        """As `for_update`, passing over rows that another transaction has locked."""
        return "" if self.is_sqlite else "FOR UPDATE SKIP LOCKED"


class Writes:
    """Statements of one transaction that return no rows.

    On MySQL a few small ones are kept until `send`, which takes one round trip for all.

    :param keep: whether they may be: others' connections may not take several statements at once.
    """

    MAX_ROWS = 64
    MAX_BYTES = 64 * 1024

    def __init__(self, db: Database, connection: sa.Connection, *, keep: bool = True) -> None:
        self._db = db
        self._connection = connection
        self._kept: list[Statement] = []
        self._room = (0, 0) if db.is_sqlite or not keep else (self.MAX_ROWS, self.MAX_BYTES)

    @property
    def connection(self) -> sa.Connection:
        """The transaction's connection, once all that was kept is written."""
        self.send()
        return self._connection

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """As `Database.insert`."""
        if rows and self._fits(rows):
            self._db._check_size(self._connection, rows)
            used = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
            if len(used) < len(columns):
                columns, rows = [columns[at] for at in used], [[row[at] for at in used] for row in rows]
            self._kept.append(self._db._insert_statement(table, columns, rows))
        elif rows:
            self._db.insert(self._connection, table, columns, rows)

    def update(
        self,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Sequence[Any]],
        key: Sequence[str] = ("id",),
        only: str = "",
    ) -> None:
        """As `Database.update`."""
        if rows and self._fits(rows):
            self._kept.append(self._db._update_statement(table, columns, namespace, rows, key, only))
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
            text = self._db.placeholders(f"{sql} IN ({', '.join('?' * len(values))})")
            self._kept.append((text, [*before, *values]))
        elif values:
            self._db.where_in(self._connection, sql, before, values)

    def send(self) -> None:
        """Run what was kept."""
        kept, self._kept = self._kept, []
        if len(kept) == 1:
            self._connection.exec_driver_sql(kept[0][0], tuple(kept[0][1]))
        elif kept:
            self._db.script(self._connection, kept)

    def _fits(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Whether these may be kept; if not, what was kept before them is sent, so that the order stays."""
        count = max(len(rows), len(rows[0]) // 32)
        if count <= self._room[0]:
            size = sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))
            if size <= self._room[1]:
                self._room = (self._room[0] - count, self._room[1] - size)
                return True
        self.send()
        return False


def chunks(rows: Sequence[Sequence[Any]]) -> Iterable[Sequence[Sequence[Any]]]:
    """Rows in statements of bounded count and size."""
    start, size = 0, 0
    for index, row in enumerate(rows):
        weight = 60 + _weight(row)
        if index > start and (index - start >= ROWS_A_STATEMENT or size + weight > BYTES_A_STATEMENT):
            yield rows[start:index]
            start, size = index, 0
        size += weight
    if start < len(rows):
        yield rows[start:]


def _weight(row: Sequence[Any]) -> int:
    """About how many bytes of a statement a row takes: bytes go as hexadecimal digits, text is escaped."""
    size = 0
    for value in row:  # a plain loop: it runs for every value that is written
        kind = type(value)
        if kind is str:
            size += len(value)
            if len(value) > 65536:
                size += sum(map(value.count, _ESCAPED))
        elif kind is bytes:
            size += 2 * len(value)
    return size


_ESCAPED = ("'", '"', "\\", "\0", "\n", "\r", "\x1a")


def is_duplicate(error: IntegrityError) -> bool:
    """Whether a unique key was violated."""
    return error_code(error) == 1062 or "UNIQUE constraint failed" in str(error.orig)


def safe_url(url: sa.URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


def _learn_time(raw: Any, clock: LearntClock) -> None:
    """Ask for the server's time on a driver's connection."""
    with raw.cursor() as cursor:
        asked = clock.monotonic()
        cursor.execute(_TIME)
        there = int(cursor.fetchone()[0])
    clock.learn(there, asked, clock.monotonic())


def _mysql_engine(
    url: sa.URL,
    timeout: float,
    idle_limit: int,
    pool_size: int,
    clock: LearntClock,
    isolation: IsolationLevel = "READ COMMITTED",
) -> sa.Engine:
    if url.get_driver_name() not in ("pymysql",):
        url = url.set(drivername=f"{url.get_backend_name()}+pymysql")
    engine = sa.create_engine(
        url,
        isolation_level=isolation,
        pool_size=pool_size,
        max_overflow=24,
        pool_timeout=timeout,
        pool_recycle=_OLDEST_CONNECTION,
        # Transactions here always commit or roll back themselves; a further ROLLBACK would be one more round trip each.
        pool_reset_on_return=None,
        hide_parameters=True,  # payloads never reach a log through an error
        connect_args={
            "connect_timeout": max(1, round(timeout)),
            "read_timeout": max(1, round(timeout)),
            "write_timeout": max(1, round(timeout)),
            "charset": "utf8mb4",
            "sql_mode": _SQL_MODE,  # before SQLAlchemy looks at it, to see how names are quoted
            # For `write_at_once`. Every statement here is text of ours with placeholders, one or several.
            "client_flag": CLIENT.MULTI_STATEMENTS,
        },
    )

    encrypted = any(key.startswith("ssl_") for key in url.query)

    @event.listens_for(engine, "connect")
    def _prepare(raw: Any, _record: Any) -> None:
        if encrypted and not isinstance(raw._sock, ssl.SSLSocket):
            # The library goes on in the clear with a server, or somebody in between, that says it has no TLS.
            raw.close()
            raise pymysql.err.OperationalError(2026, "the server has no TLS, which the URL or AIKI_DATABASE_CA asks for")
        lock_limit = max(1, round(timeout) - 1)
        with raw.cursor() as cursor:
            # The zone: in an hour that comes twice, where summer time ends, a local time does not tell which one it is.
            cursor.execute(
                f"SET SESSION wait_timeout = {idle_limit}, innodb_lock_wait_timeout = {lock_limit}, time_zone = '+00:00'"
            )
        _learn_time(raw, clock)

    # The server ends sessions that were idle for long. One in use is kept, however old: to connect takes some 40 ms of CPU.
    @event.listens_for(engine, "checkin")
    def _put_back(_raw: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _take_out(raw: Any, record: Any, _proxy: Any) -> None:
        now = time.monotonic()
        if now - record.info.get("idle_since", now) > max(2, idle_limit - 5):
            raise DisconnectionError("it was idle for so long that the server may have ended it")
        if clock.age() > TIME_EVERY:
            try:
                _learn_time(raw, clock)
            except pymysql.err.Error as error:
                raise DisconnectionError(f"it does not answer: {error}") from None

    return engine


def _take_password_from(file: str, *engines: sa.Engine) -> None:
    """Have each new connection use the password that the file holds by then."""

    def provide(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        try:
            parameters["password"] = read_secret(file, "AIKI_DATABASE_PASSWORD_FILE")
        except ConfigurationError as error:  # it may be there again in a moment: who rotates it replaces it
            raise StorageUnavailable(str(error)) from None

    for engine in engines:
        event.listen(engine, "do_connect", provide)


def _sqlite_engine(url: sa.URL, timeout: float) -> sa.Engine:
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
        url, pool_timeout=timeout, hide_parameters=True, connect_args={"timeout": timeout, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _prepare(raw: Any, _record: Any) -> None:
        raw.isolation_level = None  # transactions begin where we say so: BEGIN IMMEDIATE for writers
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={int(timeout * 1000)}"):
            raw.execute(f"PRAGMA {pragma}")

    return engine
