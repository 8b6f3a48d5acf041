"""Statistics: what transactions count, and the sums of it."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

COUNTS = ("started", "completed", "failed", "dead", "cancelled", "retried", "waited_ms", "ran_ms")
BUCKETS = tuple(f"{letter}{at}" for letter in "wr" for at in range(24))


def upgrade() -> None:
    guards.create_table(
        "aiki_tallies",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("body", guards.LONGTEXT, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_table(
        "aiki_statistics",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("queue", guards.ascii_(64), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in COUNTS),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in BUCKETS),
        sa.PrimaryKeyConstraint("namespace", "width", "at", "name", "queue"),
    )
