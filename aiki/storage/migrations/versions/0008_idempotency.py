"""Requests that are done once: `Idempotency-Key`."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_table(
        "aiki_idempotency",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(32), nullable=False),
        sa.Column("request", guards.binary(32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger()),
        sa.Column("headers", sa.Text()),
        sa.Column("body", guards.LONGBLOB),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_index("ix_aiki_idempotency_created_at", "aiki_idempotency", ["created_at"])
