"""Search: indexes in the order of lists."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_runs_state", "runs")
    op.drop_index("ix_runs_name", "runs")
    op.create_index("ix_runs_state", "runs", ["namespace", "state", "created_at", "id", "name", "queue"])
    op.create_index("ix_runs_name", "runs", ["namespace", "name", "created_at", "id"])
    op.create_index("ix_runs_queue", "runs", ["namespace", "queue", "created_at", "id"])
    op.create_index("ix_runs_parent_id", "runs", ["namespace", "parent_id", "created_at", "id"])
    op.create_index("ix_runs_created_at", "runs", ["namespace", "created_at", "id"])
    op.create_index("ix_reference_ids_reference_id", "reference_ids", ["namespace", "reference_id"])
