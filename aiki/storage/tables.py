"""The tables. Alembic's migrations make them; `tests/storage` checks that both agree.

Times are microseconds since the Unix epoch in BIGINT: exact, equal on every database, cheap to compare. The namespace begins
every key. Payload bytes have a table of their own, so that lists never scan them.
"""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.column_types import LONGBLOB, LONGTEXT, OPTIONS, TEXT, ascii_text, binary, string

metadata = sa.MetaData()


def _namespace() -> sa.Column[str]:
    return sa.Column("namespace", ascii_text(64), nullable=False)


runs = sa.Table(
    "aiki_runs",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("kind", ascii_text(16), nullable=False),
    sa.Column("name", string(200), nullable=False),
    sa.Column("version", string(64), nullable=False),
    sa.Column("queue", ascii_text(64), nullable=False),
    sa.Column("state", ascii_text(16), nullable=False),
    # Fencing: the epoch of the newest delivery, and who bound it with a first report.
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("executor", ascii_text(80)),
    sa.Column("worker", binary(16)),
    # Executions begun and ended otherwise than in the result, and this one; process deaths; dispatches without progress.
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("idle_dispatches", sa.Integer, nullable=False, server_default="0"),
    sa.Column("partition_no", sa.SmallInteger, nullable=False),
    sa.Column("reference_id", string(255)),
    sa.Column("options", TEXT),
    sa.Column("waiting_on", string(255)),
    sa.Column("cancel_requested", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("cancel_reason", string(255)),
    sa.Column("progress", sa.Float),
    sa.Column("progress_message", string(255)),
    sa.Column("error_type", string(255)),
    sa.Column("error_message", TEXT),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger),
    sa.Column("dispatched_at", sa.BigInteger),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    # Workflows: who started this run and as which of its steps; the next step's ordinal, the first one of this call of the
    # function; what a suspended run waits for; what an operator wants; what a failed one failed at.
    sa.Column("parent_id", binary(16)),
    sa.Column("parent_ordinal", sa.Integer),
    sa.Column("followers", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("history", sa.Integer, nullable=False, server_default="0"),
    sa.Column("history_from", sa.Integer, nullable=False, server_default="0"),
    sa.Column("waits", LONGTEXT),
    sa.Column("pause_requested", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("failed_at", LONGTEXT),
    # The marker that is to prove that this dispatch was taken out of its queue: it was sent after the dispatch.
    sa.Column("marker", sa.BigInteger),
    sa.PrimaryKeyConstraint("namespace", "id"),
    # Each ends with the order of lists (`aiki.storage.searching`). What follows it in the first decides names and queues
    # within the index.
    sa.Index("ix_aiki_runs_state", "namespace", "state", "created_at", "id", "name", "queue"),
    sa.Index("ix_aiki_runs_name", "namespace", "name", "created_at", "id"),
    sa.Index("ix_aiki_runs_queue", "namespace", "queue", "created_at", "id"),
    sa.Index("ix_aiki_runs_parent_id", "namespace", "parent_id", "created_at", "id"),
    sa.Index("ix_aiki_runs_created_at", "namespace", "created_at", "id"),
    **OPTIONS,
)
"""One row a run: all that lists, filters and the orchestrator's decisions need."""

payloads = sa.Table(
    "aiki_payloads",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("role", ascii_text(8), nullable=False),
    sa.Column("encoding", ascii_text(16), nullable=False),
    sa.Column("data", LONGBLOB, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id", "role"),
    **OPTIONS,
)
"""A run's `input` and `result`. No result row for a completed run means that the result is None. `error`: the arguments from
which the error of a failed run can be made anew."""

deliveries = sa.Table(
    "aiki_deliveries",
    metadata,
    _namespace(),
    sa.Column("id", binary(20), nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("again", sa.SmallInteger, nullable=False, server_default="0"),
    sa.PrimaryKeyConstraint("namespace", "id"),
    sa.Index("ix_aiki_deliveries_due_at", "due_at", "namespace", "id"),
    **OPTIONS,
)
"""The outbox: "publish this run, at this epoch, at this time". The id is the run's id followed by the epoch (4 bytes,
big-endian); epoch 0xFFFFFFFF is the run's expiry. `again`: a copy may have been published already."""

attempts = sa.Table(
    "aiki_attempts",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("outcome", ascii_text(16), nullable=False),
    sa.Column("error_type", string(255), nullable=False),
    sa.Column("error_message", TEXT, nullable=False),
    sa.Column("traceback", LONGTEXT, nullable=False),
    sa.Column("worker", string(255), nullable=False),
    sa.Column("signal_name", ascii_text(16)),
    sa.Column("exit_code", sa.Integer),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id", "epoch"),
    **OPTIONS,
)
"""Executions that did not end in a result."""

steps = sa.Table(
    "aiki_steps",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("kind", ascii_text(16), nullable=False),
    sa.Column("name", string(200), nullable=False),
    sa.Column("digest", ascii_text(32), nullable=False),
    sa.Column("state", ascii_text(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("input", TEXT),
    sa.Column("encoding", ascii_text(16)),
    sa.Column("data", LONGBLOB),
    sa.Column("error_type", string(255)),
    sa.Column("error_message", TEXT),
    sa.Column("traceback", LONGTEXT),
    sa.Column("error_args", LONGTEXT),
    sa.Column("child_id", binary(16)),
    sa.Column("abandon", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("bound", binary(16)),
    sa.Column("due_at", sa.BigInteger),
    sa.Column("millis", sa.Integer),
    sa.Column("worker", binary(16)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("finished_at", sa.BigInteger),
    sa.PrimaryKeyConstraint("namespace", "run_id", "ordinal"),
    **OPTIONS,
)
"""What workflows' functions have issued (`aiki.history.Step`), with the results of what ran in their own process."""

inbox = sa.Table(
    "aiki_inbox",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("kind", ascii_text(16), nullable=False),
    sa.Column("name", string(200), nullable=False),
    sa.Column("ordinal", sa.Integer),
    sa.Column("outcome", ascii_text(16), nullable=False),
    sa.Column("encoding", ascii_text(16)),
    sa.Column("data", LONGBLOB),
    sa.Column("error_type", string(255)),
    sa.Column("error_message", TEXT),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("taken", sa.SmallInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id", "id"),
    sa.Index("ix_aiki_inbox_taken", "taken", "namespace", "run_id"),
    **OPTIONS,
)
"""What came to a run from outside (`aiki.history.Arrival`), unique by its source: written with its cause, kept as history.
`taken`: its run has been looked at since."""

links = sa.Table(
    "aiki_links",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("parent_id", binary(16), nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id", "parent_id", "ordinal"),
    **OPTIONS,
)
"""Workflows that wait for a run that they did not start: a reference id led them to it. `runs.followers` tells."""

reference_ids = sa.Table(
    "aiki_reference_ids",
    metadata,
    _namespace(),
    sa.Column("name", string(200), nullable=False),
    sa.Column("reference_id", string(255), nullable=False),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("input_hash", binary(32), nullable=False),
    sa.PrimaryKeyConstraint("namespace", "name", "reference_id"),
    sa.Index("ix_aiki_reference_ids_reference_id", "namespace", "reference_id"),
    **OPTIONS,
)
"""Which run a reference id belongs to. Apart from `runs`, so that runs without one pay nothing."""

definitions = sa.Table(
    "aiki_definitions",
    metadata,
    _namespace(),
    sa.Column("name", string(200), nullable=False),
    sa.Column("version", string(64), nullable=False),
    sa.Column("kind", ascii_text(16), nullable=False),
    sa.Column("options", TEXT, nullable=False),
    sa.Column("mean_ms", sa.Float),
    sa.Column("registered_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "name", "version"),
    **OPTIONS,
)
"""Tasks and workflows that an SDK or a worker has made known."""

workers = sa.Table(
    "aiki_workers",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("state", ascii_text(16), nullable=False),
    sa.Column("name", string(255), nullable=False),
    sa.Column("host", string(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("queues", TEXT, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("definitions", LONGTEXT, nullable=False),
    sa.Column("version", ascii_text(32), nullable=False),
    sa.Column("children", LONGTEXT, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("heard_at", sa.BigInteger, nullable=False),
    # What the last beat said: KiB of the supervisor and the link, whether it stops, the queues that it holds to be paused.
    sa.Column("memory", sa.BigInteger),
    sa.Column("draining", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("paused", TEXT),
    # What an operator wants of it (drain, stop, kill), and who.
    sa.Column("wanted", ascii_text(16)),
    sa.Column("wanted_by", string(255)),
    sa.Column("wanted_at", sa.BigInteger),
    sa.PrimaryKeyConstraint("namespace", "id"),
    sa.Index("ix_aiki_workers_state", "state", "namespace", "id"),
    **OPTIONS,
)
"""Incarnations of workers: `alive`, `stopped` (said bye) or `lost` (no heartbeat for a lease)."""

orchestrators = sa.Table(
    "aiki_orchestrators",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("state", ascii_text(16), nullable=False),
    sa.Column("host", string(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("version", ascii_text(32), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("heard_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "id"),
    **OPTIONS,
)
"""Orchestrators, `alive` or `stopped`, and when each last said so. Each works for all namespaces, whatever its own is."""

queues = sa.Table(
    "aiki_queues",
    metadata,
    _namespace(),
    sa.Column("name", ascii_text(64), nullable=False),
    sa.Column("paused", sa.SmallInteger, nullable=False),
    sa.Column("paused_by", string(255)),
    sa.Column("paused_at", sa.BigInteger),
    sa.Column("reason", string(1000)),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "name"),
    **OPTIONS,
)
"""Queues that somebody has ever paused. Rows stay after a resume: the newest `changed_at` of a namespace numbers what workers
are told, so that what is older is passed over."""

batches = sa.Table(
    "aiki_batches",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("operation", ascii_text(16), nullable=False),
    sa.Column("state", ascii_text(16), nullable=False),
    sa.Column("target", LONGTEXT, nullable=False),
    sa.Column("reason", string(1000), nullable=False),
    sa.Column("actor", string(255), nullable=False),
    sa.Column("expected", sa.Integer, nullable=False),
    sa.Column("matched", sa.Integer, nullable=False),
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("skipped", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("samples", LONGTEXT, nullable=False),
    # How far the runs were collected (opaque), and up to which run they are done.
    sa.Column("collected", TEXT),
    sa.Column("reached", binary(16)),
    sa.Column("lease_owner", ascii_text(32)),
    sa.Column("lease_until", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "id"),
    sa.Index("ix_aiki_batches_state", "state", "namespace", "id"),
    **OPTIONS,
)
"""One operation on many runs: what was asked, and how far it is (`aiki.storage.batches`)."""

batch_items = sa.Table(
    "aiki_batch_items",
    metadata,
    _namespace(),
    sa.Column("batch_id", binary(16), nullable=False),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("outcome", ascii_text(16)),
    sa.Column("detail", string(255)),
    sa.PrimaryKeyConstraint("namespace", "batch_id", "run_id"),
    **OPTIONS,
)
"""The runs of a batch, fixed when it began, and what became of each: done, skipped or failed, and why."""

failures = sa.Table(
    "aiki_failures",
    metadata,
    _namespace(),
    sa.Column("fingerprint", binary(16), nullable=False),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("name", string(200), nullable=False),
    sa.Column("failed_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "fingerprint", "run_id"),
    sa.Index("ix_aiki_failures_run", "namespace", "run_id"),
    **OPTIONS,
)
"""Runs that are failed or dead, by the fingerprint of their error (`aiki.fingerprint`)."""

reruns = sa.Table(
    "aiki_reruns",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("source_id", binary(16), nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id"),
    sa.Index("ix_aiki_reruns_source", "namespace", "source_id", "run_id"),
    **OPTIONS,
)
"""Which run another one was made from. Apart from `runs`, so that runs without one pay nothing."""

revocations = sa.Table(
    "aiki_revocations",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("announced", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("interrupt", sa.SmallInteger, nullable=False, server_default="0"),
    # The queue that the dispatch is in, and the marker that is to prove that it is not (`aiki.storage.marking`).
    sa.Column("queue", ascii_text(64), nullable=False, server_default=""),
    sa.Column("marker", sa.BigInteger, nullable=False, server_default="-1"),
    sa.PrimaryKeyConstraint("namespace", "run_id", "epoch"),
    sa.Index("ix_aiki_revocations_announced", "announced", "created_at"),
    sa.Index("ix_aiki_revocations_queue", "namespace", "queue", "marker", "run_id", "epoch"),
    **OPTIONS,
)
"""Dispatches that may be out and must not begin; workers get them in the snapshot and through the control fanout. Each stays
for as long as its dispatch may come out of a queue, whatever becomes of its run."""

markers = sa.Table(
    "aiki_markers",
    metadata,
    _namespace(),
    sa.Column("queue", ascii_text(64), nullable=False),
    sa.Column("sent_at", sa.BigInteger, nullable=False),
    sa.Column("taken_at", sa.BigInteger, nullable=False),
    sa.Column("sent", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("taken", sa.BigInteger, nullable=False, server_default="0"),
    sa.PrimaryKeyConstraint("namespace", "queue"),
    **OPTIONS,
)
"""The number of the newest marker that was sent down a work queue, and of the newest that came out of it: all that was in the
queue before that one was sent has been taken. (The times are what releases before this compare.)"""

operations = sa.Table(
    "aiki_operations",
    metadata,
    sa.Column("id", binary(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("ix_aiki_operations_created_at", "created_at"),
    **OPTIONS,
)
"""What was done, by ids made before: a transaction that is repeated, or a request that is sent again, finds its own."""

dead_letters = sa.Table(
    "aiki_dead_letters",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("source", string(255), nullable=False),
    sa.Column("reason", string(255), nullable=False),
    sa.Column("headers", TEXT, nullable=False),
    sa.Column("body", LONGBLOB, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "id"),
    **OPTIONS,
)
"""Messages that nobody could read or place, kept for people."""

audit = sa.Table(
    "aiki_audit",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("actor", string(255), nullable=False),
    sa.Column("action", ascii_text(32), nullable=False),
    sa.Column("subject", string(255), nullable=False),
    sa.Column("detail", TEXT, nullable=False),
    sa.Column("reason", string(1000), nullable=False, server_default=""),
    sa.Column("affected", sa.Integer, nullable=False, server_default="1"),
    sa.Column("outcome", ascii_text(16), nullable=False, server_default="done"),
    sa.Column("request_id", ascii_text(64), nullable=False, server_default=""),
    sa.Column("source", ascii_text(64), nullable=False, server_default=""),
    sa.PrimaryKeyConstraint("namespace", "id"),
    sa.Index("ix_aiki_audit_actor", "namespace", "actor", "id"),
    sa.Index("ix_aiki_audit_action", "namespace", "action", "id"),
    sa.Index("ix_aiki_audit_subject", "namespace", "subject", "id"),
    **OPTIONS,
)
"""What people and programs did: who, what, to which, how many, why, what became of it, and by which request."""

users = sa.Table(
    "aiki_users",
    metadata,
    sa.Column("name", ascii_text(64), nullable=False),
    sa.Column("password", ascii_text(255), nullable=False),
    sa.Column("role", ascii_text(16), nullable=False),
    sa.Column("namespaces", TEXT),
    sa.Column("disabled", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", string(255), nullable=False),
    sa.Column("signed_in_at", sa.BigInteger),
    sa.PrimaryKeyConstraint("name"),
    **OPTIONS,
)
"""Who may sign in. `namespaces`: a JSON list, NULL for all. Sessions hold while `generation` is the same."""

sessions = sa.Table(
    "aiki_sessions",
    metadata,
    sa.Column("id", binary(32), nullable=False),
    sa.Column("user_name", ascii_text(64), nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("csrf", ascii_text(64), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("source", ascii_text(64), nullable=False),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("ix_aiki_sessions_user_name", "user_name"),
    sa.Index("ix_aiki_sessions_expires_at", "expires_at"),
    **OPTIONS,
)
"""Who is signed in. The id is a hash of the token that the browser has."""

api_keys = sa.Table(
    "aiki_api_keys",
    metadata,
    sa.Column("id", ascii_text(16), nullable=False),
    sa.Column("hash", binary(32), nullable=False),
    sa.Column("name", string(100), nullable=False),
    sa.Column("role", ascii_text(16), nullable=False),
    sa.Column("namespaces", TEXT),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", string(255), nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("used_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.PrimaryKeyConstraint("id"),
    **OPTIONS,
)
"""What programs ask with. The id is the part of a key that is no secret; the hash is of the whole."""

sign_in_failures = sa.Table(
    "aiki_sign_in_failures",
    metadata,
    sa.Column("id", binary(32), nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_at", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("id"),
    sa.Index("ix_aiki_sign_in_failures_last_at", "last_at"),
    **OPTIONS,
)
"""Failed sign-ins of an account or an address (the id is its hash), and until when no password is looked at."""

idempotency = sa.Table(
    "aiki_idempotency",
    metadata,
    _namespace(),
    sa.Column("id", binary(32), nullable=False),
    sa.Column("request", binary(32), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("claimed_at", sa.BigInteger, nullable=False),
    sa.Column("status", sa.SmallInteger),
    sa.Column("headers", TEXT),
    sa.Column("body", LONGBLOB),
    sa.PrimaryKeyConstraint("namespace", "id"),
    sa.Index("ix_aiki_idempotency_created_at", "created_at"),
    **OPTIONS,
)
"""Requests that carried an `Idempotency-Key`: hashes of the key (with who sent it) and of the request, and the answer."""

tallies = sa.Table(
    "aiki_tallies",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("body", LONGTEXT, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "id"),
    **OPTIONS,
)
"""What the runs of one transaction did, not yet added to `statistics` (`aiki.storage.tallying`)."""

_COUNTED = ("started", "completed", "failed", "dead", "cancelled", "retried", "waited_ms", "ran_ms")

statistics = sa.Table(
    "aiki_statistics",
    metadata,
    _namespace(),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("name", string(200), nullable=False),
    sa.Column("queue", ascii_text(64), nullable=False),
    *(sa.Column(column, sa.BigInteger, nullable=False) for column in _COUNTED),
    # Histograms of how long runs waited and ran: `aiki.storage.tallying.BOUNDS`.
    *(sa.Column(f"w{at}", sa.Integer, nullable=False) for at in range(24)),
    *(sa.Column(f"r{at}", sa.Integer, nullable=False) for at in range(24)),
    sa.PrimaryKeyConstraint("namespace", "width", "at", "name", "queue"),
    **OPTIONS,
)
"""Sums of what runs did in `width` seconds from `at` on."""

webhooks = sa.Table(
    "aiki_webhooks",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("url", string(2000), nullable=False),
    sa.Column("states", TEXT, nullable=False),
    sa.Column("names", TEXT, nullable=False),
    sa.Column("secret", string(255), nullable=False),
    sa.Column("enabled", sa.SmallInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("created_by", string(255), nullable=False),
    sa.Column("delivered_at", sa.BigInteger),
    sa.Column("failed_at", sa.BigInteger),
    sa.Column("error", string(500)),
    sa.PrimaryKeyConstraint("namespace", "id"),
    **OPTIONS,
)
"""Who is told of the ends of runs: of which states, of which names (JSON lists), signed with which secret."""

webhook_deliveries = sa.Table(
    "aiki_webhook_deliveries",
    metadata,
    _namespace(),
    sa.Column("id", binary(16), nullable=False),
    sa.Column("webhook_id", binary(16), nullable=False),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("event", TEXT, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger),
    sa.Column("error", string(500)),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "id"),
    sa.Index("ix_aiki_webhook_deliveries_due_at", "due_at", "namespace", "id"),
    sa.Index("ix_aiki_webhook_deliveries_webhook", "namespace", "webhook_id", "created_at", "id"),
    **OPTIONS,
)
"""What webhooks are still to be told, written in the transaction that ends the run. No `due_at`: it was given up."""

run_logs = sa.Table(
    "aiki_run_logs",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.Column("place", sa.SmallInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("origin", sa.BigInteger, nullable=False),
    sa.Column("logged_at", sa.BigInteger, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("step", sa.Integer),
    sa.Column("level", ascii_text(16), nullable=False),
    sa.Column("logger", string(200), nullable=False),
    sa.Column("message", TEXT, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id", "place"),
    **OPTIONS,
)
"""What runs logged: a ring of the last records of each. `number` counts all of them, `place` is where it stands in the ring,
`origin` is the epoch and the record's number in it: what is reported twice is kept once."""

chores = sa.Table(
    "aiki_chores",
    metadata,
    _namespace(),
    sa.Column("name", ascii_text(64), nullable=False),
    sa.Column("holder", ascii_text(64), nullable=False),
    sa.Column("until_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "name"),
    **OPTIONS,
)
"""Who does a chore that one process at a time shall do, and until when it is another's turn if nothing is heard."""

refusals = sa.Table(
    "aiki_refusals",
    metadata,
    _namespace(),
    sa.Column("source", ascii_text(64), nullable=False),
    sa.Column("times", sa.BigInteger, nullable=False),
    sa.Column("last_at", sa.BigInteger, nullable=False),
    sa.Column("why", ascii_text(500), nullable=False),
    sa.PrimaryKeyConstraint("namespace", "source"),
    **OPTIONS,
)
"""How often orchestrators refused something, by what it was, for metrics."""

returns = sa.Table(
    "aiki_returns",
    metadata,
    _namespace(),
    sa.Column("digest", binary(16), nullable=False),
    sa.Column("times", sa.Integer, nullable=False),
    sa.Column("noted_at", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("namespace", "digest"),
    **OPTIONS,
)
"""Messages that came back to an orchestrator, and how often one ended with them in its hands. The namespace is empty: whose a
message is, is not known before it is read."""

leftovers = sa.Table(
    "aiki_leftovers",
    metadata,
    _namespace(),
    sa.Column("run_id", binary(16), nullable=False),
    sa.PrimaryKeyConstraint("namespace", "run_id"),
    **OPTIONS,
)
"""Runs that were deleted and whose steps and arrivals, too many for one transaction, are still to be."""

installation = sa.Table(
    "aiki_installation",
    metadata,
    sa.Column("one", sa.SmallInteger, nullable=False),
    sa.Column("id", ascii_text(32), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("partitions", sa.SmallInteger, nullable=False),
    sa.Column("reading", sa.SmallInteger, nullable=False),
    sa.Column("secret", binary(32), nullable=False),
    sa.Column("other", binary(32)),
    sa.Column("switch_at", sa.BigInteger, nullable=False),
    sa.Column("signatures", ascii_text(16), nullable=False),
    sa.Column("hands_out", sa.SmallInteger, nullable=False),
    sa.PrimaryKeyConstraint("one"),
    **OPTIONS,
)
"""The one row of what the database says of itself, see `aiki.signing.Installation`. `one` is 1."""
