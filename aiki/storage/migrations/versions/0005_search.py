"""Search: indexes in the order of lists."""

from __future__ import annotations

from aiki.storage.migrations import guards

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_index("ix_aiki_runs_state", "aiki_runs", ["namespace", "state", "created_at", "id", "name", "queue"])
    guards.create_index("ix_aiki_runs_name", "aiki_runs", ["namespace", "name", "created_at", "id"])
    guards.create_index("ix_aiki_runs_queue", "aiki_runs", ["namespace", "queue", "created_at", "id"])
    guards.create_index("ix_aiki_runs_parent_id", "aiki_runs", ["namespace", "parent_id", "created_at", "id"])
    guards.create_index("ix_aiki_runs_created_at", "aiki_runs", ["namespace", "created_at", "id"])
    guards.create_index("ix_aiki_reference_ids_reference_id", "aiki_reference_ids", ["namespace", "reference_id"])
