"""Operating: pauses of queues, orchestrators that are heard, batches, failures by their error, reruns."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


WORKER_COLUMNS = (
    ("memory", sa.BigInteger(), True, None),
    ("draining", sa.SmallInteger(), False, "0"),
    ("paused", sa.Text(), True, None),
    ("wanted", guards.ascii_(16), True, None),
    ("wanted_by", sa.String(length=255), True, None),
    ("wanted_at", sa.BigInteger(), True, None),
)


def upgrade() -> None:
    for name, kind, nullable, default in WORKER_COLUMNS:
        guards.add_column("aiki_workers", sa.Column(name, kind, nullable=nullable, server_default=default))
    guards.create_table(
        "aiki_orchestrators",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("state", guards.ascii_(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", guards.ascii_(32), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heard_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_table(
        "aiki_queues",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("name", guards.ascii_(64), nullable=False),
        sa.Column("paused", sa.SmallInteger(), nullable=False),
        sa.Column("paused_by", sa.String(255)),
        sa.Column("paused_at", sa.BigInteger()),
        sa.Column("reason", sa.String(1000)),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name"),
    )
    guards.create_table(
        "aiki_batches",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("operation", guards.ascii_(16), nullable=False),
        sa.Column("state", guards.ascii_(16), nullable=False),
        sa.Column("target", guards.LONGTEXT, nullable=False),
        sa.Column("reason", sa.String(1000), nullable=False),
        sa.Column("actor", sa.String(255), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("matched", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("samples", guards.LONGTEXT, nullable=False),
        sa.Column("collected", sa.Text()),
        sa.Column("reached", guards.binary(16)),
        sa.Column("lease_owner", guards.ascii_(32)),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("finished_at", sa.BigInteger()),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_index("ix_aiki_batches_state", "aiki_batches", ["state", "namespace", "id"])
    guards.create_table(
        "aiki_batch_items",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("batch_id", guards.binary(16), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("outcome", guards.ascii_(16)),
        sa.Column("detail", sa.String(255)),
        sa.PrimaryKeyConstraint("namespace", "batch_id", "run_id"),
    )
    guards.create_table(
        "aiki_failures",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("fingerprint", guards.binary(16), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("failed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "fingerprint", "run_id"),
    )
    guards.create_index("ix_aiki_failures_run", "aiki_failures", ["namespace", "run_id"])
    guards.create_table(
        "aiki_reruns",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("source_id", guards.binary(16), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id"),
    )
    guards.create_index("ix_aiki_reruns_source", "aiki_reruns", ["namespace", "source_id", "run_id"])
