"""Monitoring and housekeeping: webhooks and what they have to deliver, logs of runs, chores, what deleted runs left behind."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "sqlite_with_rowid": False,
}


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("states", sa.Text(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(255), nullable=False),
        sa.Column("enabled", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("delivered_at", sa.BigInteger()),
        sa.Column("failed_at", sa.BigInteger()),
        sa.Column("error", sa.String(500)),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("webhook_id", binary(16), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("error", sa.String(500)),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_index("ix_webhook_deliveries_due_at", "webhook_deliveries", ["due_at", "namespace", "id"])
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["namespace", "webhook_id", "created_at", "id"])
    op.create_table(
        "run_logs",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("origin", sa.BigInteger(), nullable=False),
        sa.Column("logged_at", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer()),
        sa.Column("level", ascii_(16), nullable=False),
        sa.Column("logger", sa.String(200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "place"),
        **OPTIONS,
    )
    op.create_table(
        "chores",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("name", ascii_(64), nullable=False),
        sa.Column("holder", ascii_(64), nullable=False),
        sa.Column("until_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name"),
        **OPTIONS,
    )
    op.create_table(
        "leftovers",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id"),
        **OPTIONS,
    )
