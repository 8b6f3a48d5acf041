"""The connection to the database: transactions that are repeated when they must be, and bulk statements.

One helper runs every transaction; what an error means is the dialect's to say (`Dialect.meaning`). Verbs are written so that
running one twice is harmless: the answer to a commit can be lost, and then nobody knows whether it happened.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aiki.clock import LearntClock
from aiki.errors import ConfigurationError, StorageUnavailable
from aiki.settings import read_secret
from aiki.storage.engine.dialect import Connecting, Meaning, dialect_of
from aiki.storage.engine.statements import ROWS_A_STATEMENT, Insert, Row, RowTooLarge, chunks

T = TypeVar("T")

_thread = threading.local()
"""`primary`: what this thread reads, it reads in transactions."""

MAX_RETRIES = 8
OPERATIONS = "aiki_operations"
"""The table of what was done: see `Database.transaction`."""


class AlreadyDone(Exception):
    """What is asked for was done by an earlier call, under the same operation's id."""


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

    :param url: SQLAlchemy URL; MySQL and MariaDB through PyMySQL, PostgreSQL through psycopg, or SQLite.
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
        self.dialect = dialect_of(self.url)
        how = Connecting(timeout, idle_limit, pool_size, endless)
        self.engine = self.dialect.engine(self.url, how, self.clock)
        # Reads need no transaction: in autocommit mode they cost no COMMIT or ROLLBACK, each a round trip. The pool is shared
        # by all of them, apart from the writers', whose connections are never in that mode.
        self._reading = self.engine
        if self.dialect.has_clock and not primary:
            how = how._replace(endless=False)
            self._reading = self.dialect.engine(self.url, how, self.clock, autocommit=True)
        if password_file and self.dialect.has_password:
            _take_password_from(password_file, *{self.engine, self._reading})

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
        if self.dialect.has_clock and not self.clock.known:
            try:
                self.read(sa.Connection.in_transaction)  # to connect is to learn it
            except StorageUnavailable:
                pass  # whatever the time is for will say so
        return self.clock()

    def time_there(self) -> int:
        """What the server answers when it is asked for the time; not for SQLite. Raises `StorageUnavailable`."""
        return self.read(self.dialect.time)

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
                self.dialect.begin_writing(connection)
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
        sql = self.dialect.if_new(f"INSERT INTO {OPERATIONS} (id, created_at) VALUES (?, ?)")
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
        """Insert all rows and commit, in a single round trip where the database can; for a few rows, where round trips are what
        costs.

        :param committed: whether the rows that are there are these; asked only if the answer to a commit was lost.
        :raises IntegrityError: a key exists already; nothing was written.
        :raises StorageUnavailable: nothing was written, or the answer was lost.
        """
        inserts = [item for item in inserts if item.rows]
        if not self.dialect.gathers:

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
                self.dialect.check_size(connection, item.rows)
                statements.append(self.dialect.insert_statement(item.table, item.columns, item.rows))
            self.dialect.script(connection, statements, commit=True)

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
        meaning = self.dialect.meaning(error)
        if meaning is Meaning.TOO_LARGE:
            raise RowTooLarge(str(getattr(error, "orig", error))[:300]) from error
        if meaning is Meaning.REPEAT:
            return random.uniform(0.005, 0.02) * tries  # noqa: S311  (jitter, not a secret)
        if isinstance(error, DBAPIError) and error.connection_invalidated and lost == 1:
            return 0.0
        if meaning is Meaning.READ_ONLY:
            # After a fail-over the pooled connections lead to what is a replica now: the next ones find the new primary.
            self.engine.dispose()
            self._reading.dispose()
            return 0.0 if tries == 1 else None
        if meaning is Meaning.OUTAGE:
            return None
        raise error

    def _unavailable(self, error: SQLAlchemyError) -> StorageUnavailable:
        reason = str(getattr(error, "orig", None) or error).split("\n")[0][:300]
        return StorageUnavailable(f"the database at {safe_url(self.url)} cannot be used now: {reason}")

    # ------------------------------------------------------------ statements
    def insert(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert rows (tuples in the order of `columns`), many a statement."""
        if rows:
            self.dialect.insert(connection, table, columns, rows)

    def inserted(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> bool:
        """As `insert`; False: a key is there already. Whether others of the rows are there then is not said."""
        try:
            with self.dialect.attempt(connection):
                self.insert(connection, table, columns, rows)
        except IntegrityError as error:
            if not self.dialect.is_duplicate(error):
                raise
            return False
        return True

    def update(
        self,
        connection: sa.Connection,
        table: str,
        columns: Sequence[str],
        namespace: str,
        rows: Sequence[Row],
        key: Sequence[str] = ("id",),
        only: str = "",
    ) -> None:
        """Set `columns` of many rows, each to its own values. A row is `(*key, value, …)`; the namespace begins every key.

        :param only: a condition on a column (`state = 'open'`): rows that do not meet it stay as they are.
        """
        if rows:
            self.dialect.update(connection, table, columns, namespace, rows, key, only)

    def insert_new(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert those rows whose key is not there yet. For values that surely fit their columns."""
        sql = self.dialect.if_new(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})")
        for chunk in chunks(rows):
            connection.exec_driver_sql(self.dialect.text(sql), [tuple(row) for row in chunk])

    def where_in(
        self, connection: sa.Connection, sql: str, before: Sequence[Any], values: Sequence[Any], after: str = ""
    ) -> list[Any]:
        """Run `sql … IN (values)` in chunks and collect the rows. `sql` has `?` for `before` and ends where `IN` follows."""
        out: list[Any] = []
        for start in range(0, len(values), ROWS_A_STATEMENT):
            chunk = values[start : start + ROWS_A_STATEMENT]
            text = self.dialect.text(f"{sql} IN ({', '.join('?' * len(chunk))}) {after}")
            result = connection.exec_driver_sql(text, (*before, *chunk))
            if result.returns_rows:
                out.extend(result.fetchall())
        return out

    def execute(self, connection: sa.Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run one statement written with `?` placeholders; SQLAlchemy's `CursorResult`, untyped as raw SQL is."""
        return connection.exec_driver_sql(self.dialect.text(sql), tuple(parameters))

    def look(self, connection: sa.Connection, sql: str, parameters: Sequence[Any] = (), seconds: float = 1.0) -> list[Any]:
        """The rows of a SELECT, written with `?`, that the server itself ends after so many seconds: for what people ask."""
        return self.dialect.look(connection, self.dialect.text(sql), parameters, seconds)


def safe_url(url: sa.URL) -> str:
    """The URL without its password."""
    return url.render_as_string(hide_password=True)


def _take_password_from(file: str, *engines: sa.Engine) -> None:
    """Have each new connection use the password that the file holds by then."""

    def provide(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        try:
            parameters["password"] = read_secret(file, "AIKI_DATABASE_PASSWORD_FILE")
        except ConfigurationError as error:  # it may be there again in a moment: who rotates it replaces it
            raise StorageUnavailable(str(error)) from None

    for engine in engines:
        event.listen(engine, "do_connect", provide, insert=True)  # before what connects
