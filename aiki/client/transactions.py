"""Enqueueing inside the caller's own transaction: the run exists if, and only if, that transaction commits.

The rows are written on the caller's connection. When SQLAlchemy says that it commits, the deliveries are handed to the
publisher, which sends them once it can see them from a connection of its own: what an event says is a hint (it is heard
before the commit), what the database shows is true. After a rollback they are dropped. If the process dies in between, the
claim runs out and the sweeper publishes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pymysql import converters
from sqlalchemy import event

from aiki.client.publisher import Pending
from aiki.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session  # a third of what importing SQLAlchemy takes; whoever hands one in has it


def connection_of(session: Session | None, connection: sa.Connection | None, url: sa.URL) -> sa.Connection | None:
    """The connection to write on, None for one of our own.

    :raises ConfigurationError: it leads to another database, is asynchronous, its driver will not do, or both are given.
    """
    if session is None and connection is None:
        return None
    if session is not None and connection is not None:
        raise ConfigurationError("give session= or connection=, not both")
    for given, name in ((session, "session"), (connection, "connection")):
        if given is not None and hasattr(given, f"sync_{name}"):
            raise ConfigurationError(f"{name}= is asynchronous; use `await {name}.run_sync(lambda s: task.options({name}=s)…)`")
    if session is not None:
        if not callable(getattr(session, "connection", None)):
            raise ConfigurationError(f"session= must be a sqlalchemy.orm.Session, not {type(session).__name__}")
        connection = session.connection()
    if not isinstance(connection, sa.Connection):
        raise ConfigurationError(f"connection= must be a sqlalchemy.Connection, not {type(connection).__name__}")
    if connection.dialect.driver == "aiomysql" and not callable(getattr(converters, "escape_bytes_prefixed", None)):
        raise ConfigurationError(
            "the transaction's driver, aiomysql, cannot send binary values beside PyMySQL 1.2 and newer, and runs are written "
            "with such: use mysql+asyncmy, or install pymysql<1.2"
        )
    if _place(connection.engine.url) != _place(url):
        raise ConfigurationError(
            f"the transaction is one of {connection.engine.url.render_as_string()}, but runs are kept in "
            f"{url.render_as_string()}: a transaction spans one database; point AIKI_DATABASE_URL there, or enqueue after "
            "your commit, without it"
        )
    if url.get_backend_name() == "postgresql" and connection.dialect.driver != "psycopg":
        raise ConfigurationError(
            f"the transaction's driver, {connection.dialect.driver}, cannot run the statements by which runs are written; use "
            "postgresql+psycopg, which does asyncio, too"
        )
    return connection


def _place(url: sa.URL) -> tuple[Any, ...]:
    """The parts of a URL that distinguish databases: not the user, the driver, or the spelling of the local host."""
    backend = url.get_backend_name()
    if backend == "sqlite":
        return (backend, os.path.realpath(url.database or ":memory:"))
    backend = "mysql" if backend == "mariadb" else backend
    port = 5432 if backend == "postgresql" else 3306
    host = (url.host or "localhost").lower()
    return (backend, "localhost" if host in ("127.0.0.1", "::1") else host, url.port or port, url.database)


def on_commit(connection: sa.Connection, pending: Pending, hand_over: Callable[[Pending], None]) -> None:
    """Call `hand_over` when the connection's present transaction commits; drop the deliveries when it rolls back."""
    open_ = [pending]

    def commit(_connection: sa.Connection) -> None:
        if open_:
            hand_over(open_.pop())

    def rollback(_connection: sa.Connection) -> None:
        open_.clear()

    event.listen(connection, "commit", commit, once=True)
    event.listen(connection, "rollback", rollback, once=True)
