"""How the database server must be set: looked at when a process starts, so that it says so once instead of failing later."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.errors import ConfigurationError
from aiki.storage.database import Database, safe_url

LEAST_PACKET = 1024 * 1024
"""Bytes: what one statement of many rows may take, and something to spare."""


def check_server(db: Database) -> None:
    """Raise `ConfigurationError` where the server's settings make it of no use; what it says is what to set.

    :raises StorageUnavailable: the database is away.
    """
    if db.is_sqlite:
        return

    def work(connection: sa.Connection) -> tuple[int, str, int]:
        sql = "SELECT @@log_bin, @@binlog_format, @@max_allowed_packet"
        logs, how, packet = connection.exec_driver_sql(sql).one()
        return int(logs), str(how), int(packet)

    logs, how, packet = db.read(work)
    if logs and how.upper() == "STATEMENT":
        raise ConfigurationError(
            f"the database at {safe_url(db.url)} has binlog_format=STATEMENT, with which InnoDB refuses transactions of READ "
            "COMMITTED: set binlog_format to ROW or MIXED"
        )
    if packet < LEAST_PACKET:
        raise ConfigurationError(
            f"the database at {safe_url(db.url)} has max_allowed_packet={packet:,}: set it to {LEAST_PACKET:,} at least, "
            "better to 64 MB"
        )
