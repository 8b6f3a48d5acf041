"""What orchestrators refused, and messages that came back after a process had ended with them."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0015"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_table(
        "aiki_refusals",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("source", guards.ascii_(64), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.Column("why", guards.ascii_(500), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "source"),
    )
    guards.create_table(
        "aiki_returns",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("digest", guards.binary(16), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "digest"),
    )
