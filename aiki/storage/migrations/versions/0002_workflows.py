"""Workflows: steps, inbox, links, and what a run's row says of them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

LONGBLOB = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
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


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


NEW_COLUMNS = (
    ("parent_id", binary(16), True, None),
    ("parent_ordinal", sa.Integer(), True, None),
    ("followers", sa.SmallInteger(), False, "0"),
    ("history", sa.Integer(), False, "0"),
    ("history_from", sa.Integer(), False, "0"),
    ("waits", LONGTEXT, True, None),
    ("pause_requested", sa.SmallInteger(), False, "0"),
    ("failed_at", LONGTEXT, True, None),
)


def upgrade() -> None:
    for name, kind, nullable, default in NEW_COLUMNS:
        op.add_column("runs", sa.Column(name, kind, nullable=nullable, server_default=default))
    op.create_table(
        "steps",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", ascii_(32), nullable=False),
        sa.Column("state", ascii_(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("input", sa.Text(), nullable=True),
        sa.Column("encoding", ascii_(16), nullable=True),
        sa.Column("data", LONGBLOB, nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("traceback", LONGTEXT, nullable=True),
        sa.Column("error_args", LONGTEXT, nullable=True),
        sa.Column("child_id", binary(16), nullable=True),
        sa.Column("abandon", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("bound", binary(16), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("millis", sa.Integer(), nullable=True),
        sa.Column("worker", binary(16), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "run_id", "ordinal"),
        **OPTIONS,
    )
    op.create_table(
        "inbox",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("kind", ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("outcome", ascii_(16), nullable=False),
        sa.Column("encoding", ascii_(16), nullable=True),
        sa.Column("data", LONGBLOB, nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("taken", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "id"),
        **OPTIONS,
    )
    op.create_index("ix_inbox_taken", "inbox", ["taken", "namespace", "run_id"], unique=False)
    op.create_table(
        "links",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("parent_id", binary(16), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "parent_id", "ordinal"),
        **OPTIONS,
    )


def downgrade() -> None:
    op.drop_table("links")
    op.drop_table("inbox")
    op.drop_table("steps")
    for name, *_ in reversed(NEW_COLUMNS):
        op.drop_column("runs", name)
