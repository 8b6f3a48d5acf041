"""Statistics: what transactions count, and the sums of it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LONGTEXT = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "sqlite_with_rowid": False,
}
COUNTS = ("started", "completed", "failed", "dead", "cancelled", "retried", "waited_ms", "ran_ms")
BUCKETS = tuple(f"{letter}{at}" for letter in "wr" for at in range(24))


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("body", LONGTEXT, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_table(
        "statistics",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("queue", ascii_(64), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in BUCKETS),
        sa.PrimaryKeyConstraint("namespace", "width", "at", "name", "queue"),
        **OPTIONS,
    )
