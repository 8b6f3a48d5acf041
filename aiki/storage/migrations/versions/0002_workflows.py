"""Workflows: steps, inbox, links, and what a run's row says of them."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


NEW_COLUMNS = (
    ("parent_id", guards.binary(16), True, None),
    ("parent_ordinal", sa.Integer(), True, None),
    ("followers", sa.SmallInteger(), False, "0"),
    ("history", sa.Integer(), False, "0"),
    ("history_from", sa.Integer(), False, "0"),
    ("waits", guards.LONGTEXT, True, None),
    ("pause_requested", sa.SmallInteger(), False, "0"),
    ("failed_at", guards.LONGTEXT, True, None),
)


def upgrade() -> None:
    for name, kind, nullable, default in NEW_COLUMNS:
        guards.add_column("aiki_runs", sa.Column(name, kind, nullable=nullable, server_default=default))
    guards.create_table(
        "aiki_steps",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kind", guards.ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("digest", guards.ascii_(32), nullable=False),
        sa.Column("state", guards.ascii_(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("input", sa.Text(), nullable=True),
        sa.Column("encoding", guards.ascii_(16), nullable=True),
        sa.Column("data", guards.LONGBLOB, nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("traceback", guards.LONGTEXT, nullable=True),
        sa.Column("error_args", guards.LONGTEXT, nullable=True),
        sa.Column("child_id", guards.binary(16), nullable=True),
        sa.Column("abandon", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("bound", guards.binary(16), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("millis", sa.Integer(), nullable=True),
        sa.Column("worker", guards.binary(16), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("namespace", "run_id", "ordinal"),
    )
    guards.create_table(
        "aiki_inbox",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("kind", guards.ascii_(16), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("outcome", guards.ascii_(16), nullable=False),
        sa.Column("encoding", guards.ascii_(16), nullable=True),
        sa.Column("data", guards.LONGBLOB, nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("taken", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "id"),
    )
    guards.create_index("ix_aiki_inbox_taken", "aiki_inbox", ["taken", "namespace", "run_id"])
    guards.create_table(
        "aiki_links",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("parent_id", guards.binary(16), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "parent_id", "ordinal"),
    )
