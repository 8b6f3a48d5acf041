"""Operations that are done once, markers that are numbered, and revocations that know their queue."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_table(
        "aiki_operations",
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    guards.create_index("ix_aiki_operations_created_at", "aiki_operations", ["created_at"])
    guards.add_column("aiki_runs", sa.Column("marker", sa.BigInteger()))
    guards.add_column("aiki_markers", sa.Column("sent", sa.BigInteger(), nullable=False, server_default="0"))
    guards.add_column("aiki_markers", sa.Column("taken", sa.BigInteger(), nullable=False, server_default="0"))
    guards.add_column("aiki_revocations", sa.Column("queue", guards.ascii_(64), nullable=False, server_default=""))
    guards.add_column("aiki_revocations", sa.Column("marker", sa.BigInteger(), nullable=False, server_default="-1"))
    columns = ["namespace", "queue", "marker", "run_id", "epoch"]
    guards.create_index("ix_aiki_revocations_queue", "aiki_revocations", columns)
