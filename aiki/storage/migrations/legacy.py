"""Tables of installations that were made before tables were called `aiki_…`, and how they are recognised.

An application's own tables may have the same names (`users`, `sessions`). A table is Aiki's if it has the columns that Aiki
gave it, and no others.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

PREFIX: Final = "aiki_"
VERSION_TABLE: Final = "aiki_alembic_version"
"""Where the schema's version stands. Alembic's own name would be that of an application that uses Alembic."""
OLD_VERSION_TABLE: Final = "aiki_schema"
"""Where releases before the prefix look for the schema's version."""
LAST_UNPREFIXED: Final = "0008"
"""The schema of the last release whose tables had no prefix."""

_COUNTS = "started completed failed dead cancelled retried waited_ms ran_ms"
_BUCKETS = " ".join(f"{letter}{at}" for letter in "wr" for at in range(24))
_TABLES: Final = {
    "api_keys": "id hash name role namespaces created_at created_by expires_at used_at revoked_at",
    "attempts": "namespace run_id epoch number outcome error_type error_message traceback worker signal_name exit_code "
    "started_at finished_at",
    "audit": "namespace id created_at actor action subject detail",
    "batch_items": "namespace batch_id run_id outcome detail",
    "batches": "namespace id operation state target reason actor expected matched done skipped failed samples collected "
    "reached lease_owner lease_until created_at started_at finished_at updated_at",
    "chores": "namespace name holder until_at",
    "dead_letters": "namespace id source reason headers body created_at",
    "definitions": "namespace name version kind options mean_ms registered_at",
    "deliveries": "namespace id due_at again",
    "failures": "namespace fingerprint run_id name failed_at",
    "idempotency": "namespace id request created_at claimed_at status headers body",
    "inbox": "namespace run_id id kind name ordinal outcome encoding data error_type error_message created_at taken",
    "leftovers": "namespace run_id",
    "links": "namespace run_id parent_id ordinal",
    "markers": "namespace queue sent_at taken_at",
    "orchestrators": "namespace id state host pid version started_at heard_at",
    "payloads": "namespace run_id role encoding data",
    "queues": "namespace name paused paused_by paused_at reason changed_at",
    "reference_ids": "namespace name reference_id run_id input_hash",
    "reruns": "namespace run_id source_id",
    "revocations": "namespace run_id epoch created_at announced interrupt",
    "run_logs": "namespace run_id place number origin logged_at attempt step level logger message",
    "runs": "namespace id kind name version queue state epoch executor worker attempt crashes idle_dispatches partition_no "
    "reference_id options waiting_on cancel_requested cancel_reason progress progress_message error_type error_message "
    "created_at due_at dispatched_at started_at finished_at expires_at updated_at",
    "sessions": "id user_name generation csrf created_at seen_at expires_at source",
    "sign_in_failures": "id failures last_at until",
    "statistics": f"namespace width at name queue {_COUNTS} {_BUCKETS}",
    "steps": "namespace run_id ordinal kind name digest state attempt input encoding data error_type error_message traceback "
    "error_args child_id abandon bound due_at millis worker created_at finished_at",
    "tallies": "namespace id body",
    "users": "name password role namespaces disabled generation created_at created_by signed_in_at",
    "webhook_deliveries": "namespace id webhook_id run_id event attempts due_at error created_at",
    "webhooks": "namespace id url states names secret enabled created_at created_by delivered_at failed_at error",
    "workers": "namespace id state name host pid queues concurrency definitions version children started_at heard_at",
}
"""The columns that each table was created with."""
_ADDED: Final = {
    "audit": "reason affected outcome request_id source",
    "runs": "parent_id parent_ordinal followers history history_from waits pause_requested failed_at",
    "workers": "memory draining paused wanted wanted_by wanted_at",
}
"""The columns that later migrations added to them."""

OLD_NAMES: Final = tuple(sorted(_TABLES))


def old_name(table: str) -> str | None:
    """What a table was called before it had the prefix; None if it never was without."""
    bare = table.removeprefix(PREFIX)
    return bare if bare != table and bare in _TABLES else None


def is_ours(old: str, columns: Collection[str]) -> bool:
    """Whether a table of that name with these columns was made by Aiki."""
    made = set(_TABLES[old].split())
    return made <= set(columns) <= made | set(_ADDED.get(old, "").split())
