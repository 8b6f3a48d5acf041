"""Operating: pauses of queues, orchestrators that are heard, batches, failures by their error, reruns."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
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


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


WORKER_COLUMNS = (
    ("memory", sa.BigInteger(), True, None),
    ("draining", sa.SmallInteger(), False, "0"),
    ("paused", sa.Text(), True, None),
    ("wanted", ascii_(16), True, None),
    ("wanted_by", sa.String(length=255), True, None),
    ("wanted_at", sa.BigInteger(), True, None),
)


def upgrade() -> None:
    for name, kind, nullable, default in WORKER_COLUMNS:
        op.add_column("workers", sa.Column(name, kind, nullable=nullable, server_default=default))
    op.create_table(
        "orchestrators",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("state", ascii_(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", ascii_(32), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heard_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_table(
        "queues",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("name", ascii_(64), nullable=False),
        sa.Column("paused", sa.SmallInteger(), nullable=False),
        sa.Column("paused_by", sa.String(255)),
        sa.Column("paused_at", sa.BigInteger()),
        sa.Column("reason", sa.String(1000)),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name"),
        **OPTIONS,
    )
    op.create_table(
        "batches",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("id", binary(16), nullable=False),
        sa.Column("operation", ascii_(16), nullable=False),
        sa.Column("state", ascii_(16), nullable=False),
        sa.Column("target", LONGTEXT, nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("samples", LONGTEXT, nullable=False),
        sa.Column("collected", sa.Text()),
        sa.Column("reached", binary(16)),
        sa.Column("lease_owner", ascii_(32)),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
        **OPTIONS,
    )
    op.create_index("ix_batches_state", "batches", ["state", "namespace", "id"])
    op.create_table(
        "batch_items",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("batch_id", binary(16), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("outcome", ascii_(16)),
        sa.Column("detail", sa.String(255)),
        sa.PrimaryKeyConstraint("namespace", "batch_id", "run_id"),
        **OPTIONS,
    )
    op.create_table(
        "failures",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("fingerprint", binary(16), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("failed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "fingerprint", "run_id"),
        **OPTIONS,
    )
    op.create_index("ix_failures_run", "failures", ["namespace", "run_id"])
    op.create_table(
        "reruns",
        sa.Column("namespace", ascii_(64), nullable=False),
        sa.Column("run_id", binary(16), nullable=False),
        sa.Column("source_id", binary(16), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id"),
        **OPTIONS,
    )
    op.create_index("ix_reruns_source", "reruns", ["namespace", "source_id", "run_id"])


def downgrade() -> None:
    for table in ("reruns", "failures", "batch_items", "batches", "queues", "orchestrators"):
        op.drop_table(table)
    for name, *_ in reversed(WORKER_COLUMNS):
        op.drop_column("workers", name)
