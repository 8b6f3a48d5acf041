"""The first schema: runs, payloads, deliveries, attempts, reference ids, definitions, workers, revocations, markers, dead
letters, audit.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
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


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", ascii_(16), nullable=False),
        sa.Column("error_type", sa.String(length=255), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("traceback", LONGTEXT, nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("signal_name", ascii_(16), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "epoch"),
        **OPTIONS,
    )
    op.create_table(
        "audit",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", ascii_(32), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_table(
        "dead_letters",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", LONGBLOB, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_table(
        "definitions",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("kind", ascii_(16), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("mean_ms", sa.Float(), nullable=True),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", "version"),
        **OPTIONS,
    )
    op.create_table(
        "deliveries",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(20), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("again", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_index("ix_deliveries_due_at", "deliveries", ["due_at", "namespace", "id"], unique=False)
    op.create_table(
        "markers",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("queue", ascii_(64), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "queue"),
        **OPTIONS,
    )
    op.create_table(
        "payloads",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("role", ascii_(8), nullable=False),
        sa.Column("encoding", ascii_(16), nullable=False),
        sa.Column("data", LONGBLOB, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "role"),
        **OPTIONS,
    )
    op.create_table(
        "reference_ids",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("reference_id", sa.String(length=255), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("input_hash", binary(32), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", "reference_id"),
        **OPTIONS,
    )
    op.create_table(
        "revocations",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("announced", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("interrupt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "epoch"),
        **OPTIONS,
    )
    op.create_index("ix_revocations_announced", "revocations", ["announced", "created_at"], unique=False)
    op.create_table(
        "runs",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("kind", ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("queue", ascii_(64), nullable=False),
        sa.Column("state", ascii_(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("executor", ascii_(80), nullable=True),
        sa.Column("worker", binary(16), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("idle_dispatches", sa.Integer(), server_default="0", nullable=False),
        sa.Column("partition_no", sa.SmallInteger(), nullable=False),
        sa.Column("reference_id", sa.String(length=255), nullable=True),
        sa.Column("options", sa.Text(), nullable=True),
        sa.Column("waiting_on", sa.String(length=255), nullable=True),
        sa.Column("cancel_requested", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("cancel_reason", sa.String(length=255), nullable=True),
        sa.Column("progress", sa.Float(), nullable=True),
        sa.Column("progress_message", sa.String(length=255), nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_index("ix_runs_name", "runs", ["namespace", "name", "id"], unique=False)
    op.create_index("ix_runs_state", "runs", ["namespace", "state", "id"], unique=False)
    op.create_table(
        "workers",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("state", ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("definitions", LONGTEXT, nullable=False),
        sa.Column("version", ascii_(32), nullable=False),
        sa.Column("children", LONGTEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heard_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_index("ix_workers_state", "workers", ["state", "namespace", "id"], unique=False)


def downgrade() -> None:
    op.drop_table("attempts")
    op.drop_table("audit")
    op.drop_table("dead_letters")
    op.drop_table("definitions")
    op.drop_table("deliveries")
    op.drop_table("markers")
    op.drop_table("payloads")
    op.drop_table("reference_ids")
    op.drop_table("revocations")
    op.drop_table("runs")
    op.drop_table("workers")
