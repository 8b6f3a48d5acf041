"""Whose database this is: the installation's id, partitions and secret. The row is made by whoever opens it first."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_table(
        "aiki_installation",
        sa.Column("one", sa.SmallInteger(), nullable=False),
        sa.Column("id", guards.ascii_(32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("partitions", sa.SmallInteger(), nullable=False),
        sa.Column("reading", sa.SmallInteger(), nullable=False),
        sa.Column("secret", guards.binary(32), nullable=False),
        sa.Column("other", guards.binary(32)),
        sa.Column("switch_at", sa.BigInteger(), nullable=False),
        sa.Column("signatures", guards.ascii_(16), nullable=False),
        sa.Column("hands_out", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("one"),
    )
