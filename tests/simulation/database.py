"""The store's database for simulations: the real statements on one SQLite database in memory, with faults around transactions.

SQLAlchemy's engine costs several times what SQLite does; so its connection is replaced by the thin one below, which has what
the store uses of it. A test holds the two together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from aiki.clock import LearntClock
from aiki.storage.creating import Durations
from aiki.storage.engine import Database
from aiki.storage.engine.sqlite import SQLite
from aiki.storage.store import Store

T = TypeVar("T")

_TERMINAL = "('completed', 'failed', 'cancelled', 'dead')"
WATCH = f"""
CREATE TABLE watched (what TEXT NOT NULL, run_id BLOB NOT NULL, ordinal INTEGER, before TEXT, after TEXT);
CREATE TRIGGER watch_states AFTER UPDATE OF state ON aiki_runs WHEN OLD.state IN {_TERMINAL} AND NEW.state <> OLD.state
BEGIN INSERT INTO watched VALUES ('left a terminal state', NEW.id, NULL, OLD.state, NEW.state); END;
CREATE TRIGGER watch_ends AFTER UPDATE OF state ON aiki_runs WHEN NEW.state IN {_TERMINAL} AND NEW.state <> OLD.state
BEGIN INSERT INTO watched VALUES ('ended', NEW.id, NULL, OLD.state, NEW.state); END;
CREATE TRIGGER watch_steps AFTER UPDATE ON aiki_steps WHEN OLD.state <> 'open'
AND (NEW.state <> OLD.state OR NEW.data IS NOT OLD.data OR NEW.bound IS NOT OLD.bound)
BEGIN INSERT INTO watched VALUES ('recorded step changed', NEW.run_id, NEW.ordinal, OLD.state, NEW.state); END;
CREATE TRIGGER watch_lost_steps AFTER DELETE ON aiki_steps WHEN OLD.kind <> 'choice'
BEGIN INSERT INTO watched VALUES ('recorded step deleted', OLD.run_id, OLD.ordinal, OLD.state, NULL); END;
CREATE TRIGGER watch_results AFTER UPDATE ON aiki_payloads
BEGIN INSERT INTO watched VALUES ('payload changed', NEW.run_id, NULL, OLD.role, CAST(NEW.data AS TEXT)); END;
CREATE TRIGGER watch_inbox AFTER UPDATE OF ordinal ON aiki_inbox WHEN OLD.ordinal IS NOT NULL AND NEW.ordinal IS NOT OLD.ordinal
BEGIN INSERT INTO watched VALUES ('arrival taken twice', NEW.run_id, NEW.ordinal, OLD.ordinal, NEW.ordinal); END;
CREATE TRIGGER watch_executors AFTER UPDATE OF worker, executor ON aiki_runs WHEN OLD.epoch = NEW.epoch
AND OLD.worker IS NOT NULL AND (NEW.worker IS NOT OLD.worker OR NEW.executor IS NOT OLD.executor)
BEGIN INSERT INTO watched VALUES ('a second executor of an epoch counts', NEW.id, NEW.epoch, OLD.executor, NEW.executor); END;
CREATE TRIGGER watch_workers AFTER UPDATE OF state ON aiki_workers WHEN NEW.state = 'lost'
BEGIN INSERT INTO watched VALUES ('worker lost', NEW.id, NULL, OLD.state, NEW.state); END;
"""
"""Triggers that write down what must not happen, or not without an operator."""


class Result:
    """What SQLAlchemy's `CursorResult` is to the store."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    @property
    def returns_rows(self) -> bool:
        return self._cursor.description is not None

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def fetchall(self) -> list[Any]:
        return self._cursor.fetchall()

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def __iter__(self) -> Any:
        return iter(self._cursor)


class Connection:
    """What SQLAlchemy's `Connection` is to the store."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    def exec_driver_sql(self, sql: str, parameters: Any = ()) -> Result:
        try:
            if type(parameters) is list:
                return Result(self.raw.executemany(sql, parameters))
            return Result(self.raw.execute(sql, parameters))
        except sqlite3.IntegrityError as error:
            raise IntegrityError(sql, parameters, error) from error
        except sqlite3.OperationalError as error:
            raise OperationalError(sql, parameters, error) from error
        except sqlite3.Error as error:
            raise DBAPIError(sql, parameters, error) from error


class Engine:
    """What SQLAlchemy's `Engine` is to `Database`: the transactions, and what becomes of them.

    So the real `Database` decides what is repeated, and how it finds out whether a commit happened whose answer was lost.
    """

    def __init__(self, db: SimulatedDatabase) -> None:
        self._db = db

    @contextmanager
    def connect(self) -> Iterator[Any]:
        """For reads."""
        self._db.before()
        yield self._db.connection

    @contextmanager
    def begin(self) -> Iterator[Any]:
        """A transaction. It may end as after a deadlock; or be committed, and the connection breaks before that is said."""
        db = self._db
        db.before()
        db._inside = True
        done = False
        try:
            yield db.connection
            db.committing()
            if db.again():
                raise OperationalError("COMMIT", (), _busy())
            done = True
        finally:
            db._inside = False
            if db.raw.in_transaction:
                db.raw.execute("COMMIT" if done else "ROLLBACK")
        db.committed()
        if db.unanswered():
            raise OperationalError("COMMIT", (), sqlite3.OperationalError("connection lost"), connection_invalidated=True)
        db.after()


def _busy() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error


class SimulatedDatabase(Database):
    """`Database` with one connection. `before` and `after` each transaction may raise `StorageUnavailable`, or switch."""

    def __init__(self) -> None:
        self.timeout = 5.0
        self.url = sa.make_url("sqlite://")
        self.clock = LearntClock()
        self.dialect = SQLite()
        raw = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None, cached_statements=1000)
        raw.deserialize(_schema())
        raw.executescript(WATCH)
        raw.execute("PRAGMA synchronous=OFF")
        self.connection: Any = Connection(raw)
        self.raw = raw
        self.tables = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        self._inside = False
        self.before: Callable[[], object] = bool
        self.after: Callable[[], object] = bool
        self.committed: Callable[[], object] = bool
        self.committing: Callable[[], object] = bool
        """Called inside a transaction, when its work is done."""
        self.again: Callable[[], bool] = bool
        """Whether a transaction is rolled back, as after a deadlock."""
        self.unanswered: Callable[[], bool] = bool
        """Whether the connection breaks after a commit."""
        self.engine: Any = Engine(self)
        self._reading = self.engine

    def use_sqlalchemy(self) -> None:
        """Have the store's statements run over SQLAlchemy's own connection."""
        engine = sa.create_engine("sqlite://", creator=lambda: self.raw, poolclass=sa.StaticPool, hide_parameters=True)
        self.connection = engine.connect()

    def clear(self) -> None:
        """Empty all tables."""
        for table in self.tables:
            if table not in ("aiki_alembic_version", "aiki_schema"):
                self.raw.execute(f"DELETE FROM {table}")

    def ask(self, sql: str, *parameters: Any) -> list[Any]:
        """What a check wants to know; outside of everything that is simulated."""
        return self.raw.execute(sql, parameters).fetchall()

    def read(self, work: Callable[[Any], T]) -> T:
        if self._inside:
            return work(self.connection)
        return super().read(work)

    def close(self) -> None:
        self.raw.close()

    def after_fork(self) -> None:
        pass


@cache
def _schema() -> bytes:
    """An empty database, as the migrations make it."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "empty.db"
        store = Store(f"sqlite:///{path}")
        store.check_schema()
        store.close()
        raw = sqlite3.connect(path)
        raw.execute("PRAGMA journal_mode=DELETE")
        data = raw.serialize()
        raw.close()
    return data


def simulated_store(clock: Callable[[], int], partitions: int) -> tuple[Store, SimulatedDatabase]:
    """A store on a simulated database."""
    store = Store(f"sqlite:///{gettempdir()}/never-opened.db", clock=clock, partitions=partitions)
    store.db.close()
    db = SimulatedDatabase()
    store.db = db
    store._durations = Durations(db, store.namespace)
    return store, db
