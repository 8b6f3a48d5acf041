"""The first schema: runs, payloads, deliveries, attempts, reference ids, definitions, workers, revocations, markers, dead
letters, audit.
"""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_table(
        "aiki_attempts",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("outcome", guards.ascii_(16), nullable=False),
        sa.Column("error_type", sa.String(length=255), nullable=False),
        sa.Column("error_message", sa.Text(), nullable=False),
        sa.Column("traceback", guards.LONGTEXT, nullable=False),
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("signal_name", guards.ascii_(16), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "epoch"),
    )
    guards.create_table(
        "aiki_audit",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("action", guards.ascii_(32), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_table(
        "aiki_dead_letters",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", guards.LONGBLOB, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_table(
        "aiki_definitions",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("kind", guards.ascii_(16), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("mean_ms", sa.Float(), nullable=True),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", "version"),
    )
    guards.create_table(
        "aiki_deliveries",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(20), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("again", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_index("ix_aiki_deliveries_due_at", "aiki_deliveries", ["due_at", "namespace", "id"])
    guards.create_table(
        "aiki_markers",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("queue", guards.ascii_(64), nullable=False),
        sa.Column("sent_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "queue"),
    )
    guards.create_table(
        "aiki_payloads",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("role", guards.ascii_(8), nullable=False),
        sa.Column("encoding", guards.ascii_(16), nullable=False),
        sa.Column("data", guards.LONGBLOB, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "role"),
    )
    guards.create_table(
        "aiki_reference_ids",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("reference_id", sa.String(length=255), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("input_hash", guards.binary(32), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name", "reference_id"),
    )
    guards.create_table(
        "aiki_revocations",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("announced", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("interrupt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "epoch"),
    )
    guards.create_index("ix_aiki_revocations_announced", "aiki_revocations", ["announced", "created_at"])
    guards.create_table(
        "aiki_runs",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("kind", guards.ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("queue", guards.ascii_(64), nullable=False),
        sa.Column("state", guards.ascii_(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("executor", guards.ascii_(80), nullable=True),
        sa.Column("worker", guards.binary(16), nullable=True),
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
    )
    guards.create_index("ix_aiki_runs_name", "aiki_runs", ["namespace", "name", "id"])
    guards.create_index("ix_aiki_runs_state", "aiki_runs", ["namespace", "state", "id"])
    guards.create_table(
        "aiki_workers",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("state", guards.ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("definitions", guards.LONGTEXT, nullable=False),
        sa.Column("version", guards.ascii_(32), nullable=False),
        sa.Column("children", guards.LONGTEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heard_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_index("ix_aiki_workers_state", "aiki_workers", ["state", "namespace", "id"])
