"""The schema's version: Alembic's migrations make the tables; every process checks before it starts that they are current."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiki.errors import ConfigurationError, StorageUnavailable
from aiki.storage.engine import Database, safe_url
from aiki.storage.migrations import legacy
from aiki.storage.tables import metadata

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0016"
"""The newest migration; `tests/storage` checks that it is."""
LOCK_PATIENCE = 600.0
"""Seconds that an upgrade waits for another one."""
_LOCK_STEP = 5

log = logging.getLogger(__name__)
_upgrading = threading.Lock()


def check_server(db: Database) -> None:
    """Raise `ConfigurationError` where the server's settings make it of no use; what it says is what to set.

    :raises StorageUnavailable: the database is away.
    """
    wrong = db.read(db.dialect.check_server)
    if wrong is not None:
        raise ConfigurationError(f"the database at {safe_url(db.url)} has {wrong}")


def check_schema(db: Database) -> None:
    """Raise `ConfigurationError` unless the schema is the one this code needs; SQLite files are upgraded here and now.

    :raises StorageUnavailable: the database is away.
    """
    version = db.read(_version)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise ConfigurationError(
            f"the database at {safe_url(db.url)} has schema {version}, which is newer than this Aiki's ({HEAD}); upgrade Aiki"
        )
    if db.dialect.one_writer:
        upgrade_database(db)
        return
    have = f"has schema {version}" if version else "has no Aiki tables"
    raise ConfigurationError(f"the database at {safe_url(db.url)} {have}, and {HEAD} is needed; run: aiki db upgrade")


class Status(NamedTuple):
    """The schema that is there (None: no tables) and the one that this code needs; `url` has no password.

    :ivar views: names of the views that stand for the tables' former names, for processes of the last release.
    """

    url: str
    version: str | None
    needed: str
    views: tuple[str, ...] = ()

    @property
    def current(self) -> bool:
        """Whether there is nothing to upgrade."""
        return self.version == self.needed


def status(url: str, timeout: float = 5.0, password_file: str = "") -> Status:
    """Which schema the database has; changes nothing. Raises `StorageUnavailable`, or
    `ConfigurationError` where the server is set so that it is of no use."""
    db = Database(url, timeout=timeout, password_file=password_file)
    try:
        check_server(db)
        version = db.read(_version)
        views = db.read(lambda connection: _views(db, connection)) if version else []
        return Status(safe_url(db.url), version, HEAD, tuple(views))
    finally:
        db.close()


def upgrade(url: str, password_file: str = "") -> None:
    """Bring the database to the newest schema; harmless to repeat, and several may try at once.

    :raises StorageUnavailable: the database is away, or a statement failed; what is done stays done, and to repeat is right.
    """
    db = Database(url, timeout=30.0, endless=True, password_file=password_file)
    try:
        check_server(db)
        upgrade_database(db)
    finally:
        db.close()


def upgrade_database(db: Database) -> None:
    """`upgrade`, on an open database."""
    from alembic import command  # only here: Alembic takes a moment to import

    with _locked(db) as connection:
        _take_over_version(db, connection)
        config = _config()
        config.attributes["connection"] = connection
        if _version(connection) is None and db.dialect.begins_with_head:
            metadata.create_all(connection)
            command.stamp(config, "head")
        else:
            command.upgrade(config, "head")
        connection.commit()


def finish(url: str, password_file: str = "") -> list[str]:
    """Drop the views that stand for the tables' former names; which they were. Processes of the last release cannot go on then.

    :raises ConfigurationError: the schema is not the newest one.
    """
    db = Database(url, timeout=30.0, endless=True, password_file=password_file)
    try:
        with _locked(db) as connection:
            version = _version(connection)
            if version != HEAD:
                raise ConfigurationError(
                    f"the database at {safe_url(db.url)} has schema {version}, not {HEAD}; run first: aiki db upgrade"
                )
            if _version_in(connection, legacy.OLD_VERSION_TABLE) is not None:
                connection.exec_driver_sql(f"UPDATE {legacy.OLD_VERSION_TABLE} SET version_num = '0009'")
            views = _views(db, connection)
            for view in views:
                connection.exec_driver_sql(f"DROP VIEW IF EXISTS `{view}`")
            connection.commit()
            return views
    finally:
        db.close()


# ------------------------------------------------------------ one at a time
@contextmanager
def _locked(db: Database) -> Iterator[sa.Connection]:
    """A connection that is the only one to change tables of this database."""
    with _upgrading, _readable(db), db.engine.connect() as connection:
        at_once = db.dialect.changes_tables_at_once
        if at_once:
            db.dialect.begin_writing(connection)
        if not db.dialect.one_writer:
            for name in _lock_names(db, connection):
                _take_lock(db, connection, name)
        try:
            yield connection
        finally:
            # A connection that broke has lost its locks with it, and those of one that is closed are freed by the server.
            if not at_once and not connection.invalidated:
                connection.detach()


def _lock_names(db: Database, connection: sa.Connection) -> list[str]:
    """Releases before the prefix have one name for all databases of a server."""
    mine, version = db.dialect.lock_name(connection), _version(connection)
    return [mine] if version is None or version > legacy.LAST_UNPREFIXED else [mine, "aiki.schema"]


def _take_lock(db: Database, connection: sa.Connection, name: str) -> None:
    limit = time.monotonic() + LOCK_PATIENCE
    while (holder := db.dialect.take_lock(connection, name, _LOCK_STEP)) is not None:
        who = f"connection {holder} of the database server" if holder else "another process"
        if time.monotonic() > limit:
            raise StorageUnavailable(
                f"{who} has been upgrading this database for {LOCK_PATIENCE:.0f} s; wait until it is done and repeat, "
                f"or end it: {db.dialect.end_session.format(holder)}"
            )
        log.warning("%s is upgrading this database; waiting for it", who)


@contextmanager
def _readable(db: Database) -> Iterator[None]:
    """Say of a statement that failed what to do about it."""
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).split("\n", maxsplit=1)[0][:300]
        if not error.statement:
            raise StorageUnavailable(f"the database at {safe_url(db.url)} cannot be used now: {reason}") from error
        statement = " ".join(error.statement.split())[:200]
        raise StorageUnavailable(
            f"the upgrade of the database at {safe_url(db.url)} stopped: {reason} (at: {statement}). What was done stays done; "
            "see to the cause and repeat: aiki db upgrade"
        ) from error


# ------------------------------------------------------------ what is there
def _take_over_version(db: Database, connection: sa.Connection) -> None:
    """Write an older installation's version where it is looked for now."""
    version = _version(connection)
    if version is None:
        return
    table = legacy.VERSION_TABLE
    if not sa.inspect(connection).has_table(table):
        connection.exec_driver_sql(f"CREATE TABLE {table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    if connection.exec_driver_sql(f"SELECT version_num FROM {table}").fetchone() is None:
        connection.exec_driver_sql(f"INSERT INTO {table} (version_num) VALUES ('{version}')")
        if not db.dialect.changes_tables_at_once:
            connection.commit()


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _version(connection: sa.Connection) -> str | None:
    """The schema's version, None if there is none; of an installation from before the prefix, where that has it."""
    found = _version_in(connection, legacy.VERSION_TABLE)
    if found is None:
        old = _version_in(connection, legacy.OLD_VERSION_TABLE)
        return old if old is not None and old <= legacy.LAST_UNPREFIXED else None
    return found


def _version_in(connection: sa.Connection, table: str) -> str | None:
    if not sa.inspect(connection).has_table(table):
        return None
    row = connection.exec_driver_sql(f"SELECT version_num FROM {table}").fetchone()
    return str(row[0]) if row else None


def _views(db: Database, connection: sa.Connection) -> list[str]:
    """The views that the upgrade from unprefixed tables left."""
    return sorted(
        name
        for name, definition in db.dialect.views(connection)
        if name in legacy.OLD_NAMES and f"`{legacy.PREFIX}{name}`" in definition
    )
