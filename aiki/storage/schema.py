"""The schema's version: Alembic's migrations make the tables; every process checks before it starts that they are current."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiki.errors import ConfigurationError
from aiki.storage.database import Database, safe_url

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0008"
"""The newest migration; `tests/storage` checks that it is."""

_upgrading = threading.Lock()


def check_schema(db: Database) -> None:
    """Raise `ConfigurationError` unless the schema is the one this code needs; SQLite files are upgraded here and now.

    :raises StorageUnavailable: the database is away.
    """
    version = _version(db)
    if version == HEAD:
        return
    if version is not None and version > HEAD:
        raise ConfigurationError(
            f"the database at {safe_url(db.url)} has schema {version}, which is newer than this Aiki's ({HEAD}); upgrade Aiki"
        )
    if db.is_sqlite:
        upgrade_database(db)
        return
    have = f"has schema {version}" if version else "has no Aiki tables"
    raise ConfigurationError(f"the database at {safe_url(db.url)} {have}, and {HEAD} is needed; run: aiki db upgrade")


class Status(NamedTuple):
    """The schema that is there (None: no tables) and the one that this code needs; `url` has no password."""

    url: str
    version: str | None
    needed: str

    @property
    def current(self) -> bool:
        """Whether there is nothing to upgrade."""
        return self.version == self.needed


def status(url: str, timeout: float = 5.0, password_file: str = "") -> Status:
    """Which schema the database has; changes nothing. Raises `StorageUnavailable`."""
    db = Database(url, timeout=timeout, password_file=password_file)
    try:
        return Status(safe_url(db.url), _version(db), HEAD)
    finally:
        db.close()


def upgrade(url: str, password_file: str = "") -> None:
    """Bring the database to the newest schema; harmless to repeat, and several may try at once."""
    db = Database(url, timeout=30.0, password_file=password_file)
    try:
        upgrade_database(db)
    finally:
        db.close()


def upgrade_database(db: Database) -> None:
    """`upgrade`, on an open database."""
    from alembic import command  # only here: Alembic takes a moment to import

    with _upgrading, db.engine.connect() as connection:
        if db.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            # Two `aiki db upgrade` at once: the second waits, then finds nothing to do.
            connection.exec_driver_sql("SELECT GET_LOCK('aiki.schema', 60)")
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        if not db.is_sqlite:
            connection.exec_driver_sql("SELECT RELEASE_LOCK('aiki.schema')")
            connection.commit()


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _version(db: Database) -> str | None:
    def work(connection: sa.Connection) -> str | None:
        try:
            row = connection.exec_driver_sql("SELECT version_num FROM aiki_schema").fetchone()
        except DBAPIError as error:
            if "1146" in str(error.orig) or "no such table" in str(error.orig):
                return None
            raise
        return row[0] if row else None

    return db.read(work)
