"""What differs between databases, in one class for each (`mysql.py`, `postgresql.py`, `sqlite.py`); all else is the same SQL.

Statements elsewhere are written with `?` for a parameter, and hold no other `?` and no `%`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from importlib import import_module
from typing import Any, ClassVar, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aiki.clock import LearntClock
from aiki.errors import ConfigurationError
from aiki.storage.engine.statements import Row, Statement


class Meaning(Enum):
    """What an error of the database means for whoever ran the transaction."""

    OUTAGE = "it cannot be used now, by anybody"
    REPEAT = "the same transaction may succeed: a deadlock, a lock that was held for too long"
    READ_ONLY = "the server takes no writes: after a fail-over it is a replica now"
    TOO_LARGE = "a value or a row is over a limit of the server's"
    FAULT = "the statement is wrong, or its values are"


class Connecting(NamedTuple):
    """How to connect.

    :ivar timeout: seconds any one statement or connect may take.
    :ivar idle_limit: seconds after which the server ends an idle session, so that a stopped process frees its locks.
    :ivar endless: statements may take as long as they take, as changes of large tables do; `timeout` is for the connect alone.
    """

    timeout: float
    idle_limit: int
    pool_size: int
    endless: bool = False


class Dialect(ABC):
    """One kind of database. An instance belongs to one `Database`."""

    name: ClassVar[str]
    placeholder: ClassVar[str]
    """How the driver writes a parameter."""
    has_clock: ClassVar[bool]
    """Whether the server has a clock of its own; a file's is the machine's."""
    has_password: ClassVar[bool]
    """Whether connecting takes a user and a password."""
    one_writer: ClassVar[bool]
    """Whether writers are alone, so that nothing needs a lock."""
    changes_tables_at_once: ClassVar[bool]
    """Whether changes of tables are part of a transaction: then all are made, or none."""
    begins_with_head: ClassVar[bool]
    """Whether a new database gets the newest tables at once, not by the migrations that old releases' tables need."""
    gathers: ClassVar[bool]
    """Whether several statements can go in one round trip (`script`)."""
    jumps: ClassVar[bool]
    """Whether GROUP BY over the first columns of an index reads one entry a group, not all."""
    any_like: ClassVar[str]
    """Stands between a column and a pattern in place of LIKE: upper and lower case are the same."""
    for_update: ClassVar[str]
    """The clause that locks what a SELECT returns."""
    for_share: ClassVar[str]
    """The clause by which a SELECT reads what is committed now, also in a transaction that is REPEATABLE READ."""
    skip_locked: ClassVar[str]
    """As `for_update`, passing over rows that another transaction has locked."""
    end_session: ClassVar[str]
    """A statement that ends the session whose name stands for `{}`."""

    # ------------------------------------------------------------ connections
    @abstractmethod
    def engine(self, url: sa.URL, how: Connecting, clock: LearntClock, *, autocommit: bool = False) -> sa.Engine:
        """An engine. On each connection the server's time is learnt, if it has one."""

    @abstractmethod
    def begin_writing(self, connection: sa.Connection) -> None:
        """Begin a transaction that is going to write."""

    @abstractmethod
    def time(self, connection: sa.Connection) -> int:
        """What the server answers when it is asked for the time, in microseconds since the Unix epoch."""

    @abstractmethod
    def check_server(self, connection: sa.Connection) -> str | None:
        """What must be set otherwise on the server for it to be of use, and how; None: nothing."""

    def attempt(self, connection: sa.Connection) -> AbstractContextManager[object]:  # noqa: ARG002
        """Statements that may fail: the transaction goes on as if they had never been, where they would end it otherwise."""
        return nullcontext()

    # ------------------------------------------------------------ errors
    def meaning(self, error: SQLAlchemyError) -> Meaning:
        """What an error means."""
        if isinstance(error, PoolTimeout):
            return Meaning.OUTAGE
        if not isinstance(error, DBAPIError):
            return Meaning.FAULT
        return self._meaning(error)

    @abstractmethod
    def _meaning(self, error: DBAPIError) -> Meaning:
        """As `meaning`, of an error that the driver raised; whether the connection is lost is known by SQLAlchemy."""

    @abstractmethod
    def is_duplicate(self, error: IntegrityError) -> bool:
        """Whether a unique key was violated."""

    def is_stale(self, error: DBAPIError) -> bool:  # noqa: ARG002
        """Whether a transaction met what is newer than its snapshot: a caller's, of REPEATABLE READ, is to be repeated."""
        return False

    # ------------------------------------------------------------ pieces of SQL
    @abstractmethod
    def text(self, sql: str) -> str:
        """A statement that is written with `?`, in the driver's style."""

    @abstractmethod
    def if_new(self, insert: str) -> str:
        """An INSERT that passes over rows whose key is there."""

    @abstractmethod
    def adding(self, table: str, key: Sequence[str], columns: Sequence[str]) -> str:
        """What follows an INSERT into a table so that rows whose key is there are added to, column by column."""

    @abstractmethod
    def use_index(self, index: str) -> str:
        """Follows a table: it is read by this index, in its order. For walks that stop early, which planners underrate."""

    @abstractmethod
    def suggest_index(self, index: str) -> str:
        """As `use_index`, where the planner would not find it by itself."""

    @abstractmethod
    def look(self, connection: sa.Connection, select: str, parameters: Sequence[Any], seconds: float) -> list[Any]:
        """The rows of a SELECT, in the driver's style, that the server itself ends after so many seconds, where it can."""

    @abstractmethod
    def like(self, column: str, parts: Sequence[str]) -> tuple[str, str]:
        """A condition, and its parameter: a column's text is these parts with anything between them; case differs."""

    def holds(self, column: str) -> str:
        """A condition: a column of bytes holds the parameter's bytes."""
        return f"INSTR({column}, ?) > 0"

    def largest(self, column: str) -> str:
        """The largest value of a column of ids, of those in a group."""
        return f"MAX({column})"

    @abstractmethod
    def blob(self, text: str) -> str | bytes:
        """ASCII text as a value for a binary column."""

    # ------------------------------------------------------------ many rows
    @abstractmethod
    def insert(self, connection: sa.Connection, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert rows, many a statement."""

    @abstractmethod
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
        """See `Database.update`."""

    @abstractmethod
    def check_size(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Raise `RowTooLarge` for a row that the server would cut the connection for, which looks like an outage."""

    # ------------------------------------------------------------ several statements at once, where `gathers`
    def insert_statement(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> Statement:
        """One INSERT, for `script`."""
        raise NotImplementedError

    def update_statement(
        self, table: str, columns: Sequence[str], namespace: str, rows: Sequence[Row], key: Sequence[str], only: str
    ) -> Statement:
        """One UPDATE, for `script`."""
        raise NotImplementedError

    def script(self, connection: sa.Connection, statements: Sequence[Statement], *, commit: bool = False) -> None:
        """Run statements that return no rows in a single round trip; none after the first that fails.

        :param commit: they are a whole transaction.
        """
        raise NotImplementedError

    # ------------------------------------------------------------ the schema
    @abstractmethod
    def lock_name(self, connection: sa.Connection) -> str:
        """The name of the lock of whoever changes this database's tables; not where writers are alone."""

    @abstractmethod
    def take_lock(self, connection: sa.Connection, name: str, seconds: int) -> str | None:
        """Take a lock that ends with the connection, waiting for so long; None: taken, else who holds it, as a statement
        that ends it would name it."""

    @abstractmethod
    def views(self, connection: sa.Connection) -> list[tuple[str, str]]:
        """The database's views: their names and definitions; none where no release has made any."""


_KINDS: Final = {
    "sqlite": ("aiki.storage.engine.sqlite", "SQLite"),
    "mysql": ("aiki.storage.engine.mysql", "MySQL"),
    "mariadb": ("aiki.storage.engine.mysql", "MySQL"),
    "postgresql": ("aiki.storage.engine.postgresql", "PostgreSQL"),
    "postgres": ("aiki.storage.engine.postgresql", "PostgreSQL"),
}
"""By the beginning of the URL: each brings its driver, which the others do not need."""


def dialect_of(url: sa.URL) -> Dialect:
    """The dialect for a URL. Raises `ConfigurationError`."""
    kind = _KINDS.get(url.get_backend_name())
    if kind is None:
        raise ConfigurationError(
            f"database URL begins with {url.drivername!r}; it must be mysql+pymysql://, postgresql:// or sqlite:///"
        )
    module, name = kind
    made: Dialect = getattr(import_module(module), name)()
    return made
