"""The types of columns, and the options of tables, as each kind of database has them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql


def string(length: int) -> sa.types.TypeEngine[str]:
    """Text that is compared by its characters, whatever language the database is set to."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def ascii_text(length: int) -> sa.types.TypeEngine[str]:
    """Text that programs compare: bytes, not words."""
    return string(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    """So many bytes, such as ids are."""
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


LONGBLOB: sa.types.TypeEngine[bytes] = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
TEXT: sa.types.TypeEngine[str] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
LONGTEXT: sa.types.TypeEngine[str] = TEXT.with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "sqlite_with_rowid": False,
}
