-- The statements by which the last release without the prefix made its tables, migration by migration. Never edited.

-- 0001
CREATE TABLE attempts (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome VARCHAR(16) NOT NULL,
    error_type VARCHAR(255) NOT NULL,
    error_message TEXT NOT NULL,
    traceback TEXT NOT NULL,
    worker VARCHAR(255) NOT NULL,
    signal_name VARCHAR(16),
    exit_code INTEGER,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, run_id, epoch)
)
 WITHOUT ROWID;

CREATE TABLE audit (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    actor VARCHAR(255) NOT NULL,
    action VARCHAR(32) NOT NULL,
    subject VARCHAR(255) NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE TABLE dead_letters (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    source VARCHAR(255) NOT NULL,
    reason VARCHAR(255) NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE TABLE definitions (
    namespace VARCHAR(64) NOT NULL,
    name VARCHAR(200) NOT NULL,
    version VARCHAR(64) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    options TEXT NOT NULL,
    mean_ms FLOAT,
    registered_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name, version)
)
 WITHOUT ROWID;

CREATE TABLE deliveries (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    due_at BIGINT NOT NULL,
    again SMALLINT DEFAULT '0' NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_deliveries_due_at ON deliveries (due_at, namespace, id);

CREATE TABLE markers (
    namespace VARCHAR(64) NOT NULL,
    queue VARCHAR(64) NOT NULL,
    sent_at BIGINT NOT NULL,
    taken_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, queue)
)
 WITHOUT ROWID;

CREATE TABLE payloads (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    role VARCHAR(8) NOT NULL,
    encoding VARCHAR(16) NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (namespace, run_id, role)
)
 WITHOUT ROWID;

CREATE TABLE reference_ids (
    namespace VARCHAR(64) NOT NULL,
    name VARCHAR(200) NOT NULL,
    reference_id VARCHAR(255) NOT NULL,
    run_id BLOB NOT NULL,
    input_hash BLOB NOT NULL,
    PRIMARY KEY (namespace, name, reference_id)
)
 WITHOUT ROWID;

CREATE TABLE revocations (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    announced SMALLINT DEFAULT '0' NOT NULL,
    interrupt SMALLINT DEFAULT '0' NOT NULL,
    PRIMARY KEY (namespace, run_id, epoch)
)
 WITHOUT ROWID;

CREATE INDEX ix_revocations_announced ON revocations (announced, created_at);

CREATE TABLE runs (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    kind VARCHAR(16) NOT NULL,
    name VARCHAR(200) NOT NULL,
    version VARCHAR(64) NOT NULL,
    queue VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    epoch INTEGER NOT NULL,
    executor VARCHAR(80),
    worker BLOB,
    attempt INTEGER DEFAULT '1' NOT NULL,
    crashes INTEGER DEFAULT '0' NOT NULL,
    idle_dispatches INTEGER DEFAULT '0' NOT NULL,
    partition_no SMALLINT NOT NULL,
    reference_id VARCHAR(255),
    options TEXT,
    waiting_on VARCHAR(255),
    cancel_requested SMALLINT DEFAULT '0' NOT NULL,
    cancel_reason VARCHAR(255),
    progress FLOAT,
    progress_message VARCHAR(255),
    error_type VARCHAR(255),
    error_message TEXT,
    created_at BIGINT NOT NULL,
    due_at BIGINT,
    dispatched_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    expires_at BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_runs_name ON runs (namespace, name, id);

CREATE INDEX ix_runs_state ON runs (namespace, state, id);

CREATE TABLE workers (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    state VARCHAR(16) NOT NULL,
    name VARCHAR(255) NOT NULL,
    host VARCHAR(255) NOT NULL,
    pid INTEGER NOT NULL,
    queues TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    definitions TEXT NOT NULL,
    version VARCHAR(32) NOT NULL,
    children TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    heard_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_workers_state ON workers (state, namespace, id);

-- 0002
ALTER TABLE runs ADD COLUMN parent_id BLOB;

ALTER TABLE runs ADD COLUMN parent_ordinal INTEGER;

ALTER TABLE runs ADD COLUMN followers SMALLINT DEFAULT '0' NOT NULL;

ALTER TABLE runs ADD COLUMN history INTEGER DEFAULT '0' NOT NULL;

ALTER TABLE runs ADD COLUMN history_from INTEGER DEFAULT '0' NOT NULL;

ALTER TABLE runs ADD COLUMN waits TEXT;

ALTER TABLE runs ADD COLUMN pause_requested SMALLINT DEFAULT '0' NOT NULL;

ALTER TABLE runs ADD COLUMN failed_at TEXT;

CREATE TABLE steps (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    ordinal INTEGER NOT NULL,
    kind VARCHAR(16) NOT NULL,
    name VARCHAR(200) NOT NULL,
    digest VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    attempt INTEGER NOT NULL,
    input TEXT,
    encoding VARCHAR(16),
    data BLOB,
    error_type VARCHAR(255),
    error_message TEXT,
    traceback TEXT,
    error_args TEXT,
    child_id BLOB,
    abandon SMALLINT DEFAULT '0' NOT NULL,
    bound BLOB,
    due_at BIGINT,
    millis INTEGER,
    worker BLOB,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (namespace, run_id, ordinal)
)
 WITHOUT ROWID;

CREATE TABLE inbox (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    id BLOB NOT NULL,
    kind VARCHAR(16) NOT NULL,
    name VARCHAR(200) NOT NULL,
    ordinal INTEGER,
    outcome VARCHAR(16) NOT NULL,
    encoding VARCHAR(16),
    data BLOB,
    error_type VARCHAR(255),
    error_message TEXT,
    created_at BIGINT NOT NULL,
    taken SMALLINT NOT NULL,
    PRIMARY KEY (namespace, run_id, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_inbox_taken ON inbox (taken, namespace, run_id);

CREATE TABLE links (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    parent_id BLOB NOT NULL,
    ordinal INTEGER NOT NULL,
    PRIMARY KEY (namespace, run_id, parent_id, ordinal)
)
 WITHOUT ROWID;

-- 0003
ALTER TABLE workers ADD COLUMN memory BIGINT;

ALTER TABLE workers ADD COLUMN draining SMALLINT DEFAULT '0' NOT NULL;

ALTER TABLE workers ADD COLUMN paused TEXT;

ALTER TABLE workers ADD COLUMN wanted VARCHAR(16);

ALTER TABLE workers ADD COLUMN wanted_by VARCHAR(255);

ALTER TABLE workers ADD COLUMN wanted_at BIGINT;

CREATE TABLE orchestrators (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    state VARCHAR(16) NOT NULL,
    host VARCHAR(255) NOT NULL,
    pid INTEGER NOT NULL,
    version VARCHAR(32) NOT NULL,
    started_at BIGINT NOT NULL,
    heard_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE TABLE queues (
    namespace VARCHAR(64) NOT NULL,
    name VARCHAR(64) NOT NULL,
    paused SMALLINT NOT NULL,
    paused_by VARCHAR(255),
    paused_at BIGINT,
    reason VARCHAR(1000),
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
)
 WITHOUT ROWID;

CREATE TABLE batches (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    operation VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    target TEXT NOT NULL,
    reason VARCHAR(1000) NOT NULL,
    actor VARCHAR(255) NOT NULL,
    expected INTEGER NOT NULL,
    matched INTEGER NOT NULL,
    done INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    samples TEXT NOT NULL,
    collected TEXT,
    reached BLOB,
    lease_owner VARCHAR(32),
    lease_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_batches_state ON batches (state, namespace, id);

CREATE TABLE batch_items (
    namespace VARCHAR(64) NOT NULL,
    batch_id BLOB NOT NULL,
    run_id BLOB NOT NULL,
    outcome VARCHAR(16),
    detail VARCHAR(255),
    PRIMARY KEY (namespace, batch_id, run_id)
)
 WITHOUT ROWID;

CREATE TABLE failures (
    namespace VARCHAR(64) NOT NULL,
    fingerprint BLOB NOT NULL,
    run_id BLOB NOT NULL,
    name VARCHAR(200) NOT NULL,
    failed_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, fingerprint, run_id)
)
 WITHOUT ROWID;

CREATE INDEX ix_failures_run ON failures (namespace, run_id);

CREATE TABLE reruns (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    source_id BLOB NOT NULL,
    PRIMARY KEY (namespace, run_id)
)
 WITHOUT ROWID;

CREATE INDEX ix_reruns_source ON reruns (namespace, source_id, run_id);

-- 0004
ALTER TABLE audit ADD COLUMN reason VARCHAR(1000) DEFAULT '' NOT NULL;

ALTER TABLE audit ADD COLUMN affected INTEGER DEFAULT '1' NOT NULL;

ALTER TABLE audit ADD COLUMN outcome VARCHAR(16) DEFAULT 'done' NOT NULL;

ALTER TABLE audit ADD COLUMN request_id VARCHAR(64) DEFAULT '' NOT NULL;

ALTER TABLE audit ADD COLUMN source VARCHAR(64) DEFAULT '' NOT NULL;

CREATE INDEX ix_audit_actor ON audit (namespace, actor, id);

CREATE INDEX ix_audit_action ON audit (namespace, action, id);

CREATE INDEX ix_audit_subject ON audit (namespace, subject, id);

CREATE TABLE users (
    name VARCHAR(64) NOT NULL,
    password VARCHAR(255) NOT NULL,
    role VARCHAR(16) NOT NULL,
    namespaces TEXT,
    disabled SMALLINT DEFAULT '0' NOT NULL,
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by VARCHAR(255) NOT NULL,
    signed_in_at BIGINT,
    PRIMARY KEY (name)
)
 WITHOUT ROWID;

CREATE TABLE sessions (
    id BLOB NOT NULL,
    user_name VARCHAR(64) NOT NULL,
    generation BIGINT NOT NULL,
    csrf VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    source VARCHAR(64) NOT NULL,
    PRIMARY KEY (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_sessions_user_name ON sessions (user_name);

CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);

CREATE TABLE api_keys (
    id VARCHAR(16) NOT NULL,
    hash BLOB NOT NULL,
    name VARCHAR(100) NOT NULL,
    role VARCHAR(16) NOT NULL,
    namespaces TEXT,
    created_at BIGINT NOT NULL,
    created_by VARCHAR(255) NOT NULL,
    expires_at BIGINT,
    used_at BIGINT,
    revoked_at BIGINT,
    PRIMARY KEY (id)
)
 WITHOUT ROWID;

CREATE TABLE sign_in_failures (
    id BLOB NOT NULL,
    failures INTEGER NOT NULL,
    last_at BIGINT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (id)
)
 WITHOUT ROWID;

CREATE INDEX ix_sign_in_failures_last_at ON sign_in_failures (last_at);

-- 0005
DROP INDEX ix_runs_state;

DROP INDEX ix_runs_name;

CREATE INDEX ix_runs_state ON runs (namespace, state, created_at, id, name, queue);

CREATE INDEX ix_runs_name ON runs (namespace, name, created_at, id);

CREATE INDEX ix_runs_queue ON runs (namespace, queue, created_at, id);

CREATE INDEX ix_runs_parent_id ON runs (namespace, parent_id, created_at, id);

CREATE INDEX ix_runs_created_at ON runs (namespace, created_at, id);

CREATE INDEX ix_reference_ids_reference_id ON reference_ids (namespace, reference_id);

-- 0006
CREATE TABLE webhooks (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    url VARCHAR(2000) NOT NULL,
    states TEXT NOT NULL,
    names TEXT NOT NULL,
    secret VARCHAR(255) NOT NULL,
    enabled SMALLINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by VARCHAR(255) NOT NULL,
    delivered_at BIGINT,
    failed_at BIGINT,
    error VARCHAR(500),
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE TABLE webhook_deliveries (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    webhook_id BLOB NOT NULL,
    run_id BLOB NOT NULL,
    event TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at BIGINT,
    error VARCHAR(500),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_webhook_deliveries_due_at ON webhook_deliveries (due_at, namespace, id);

CREATE INDEX ix_webhook_deliveries_webhook ON webhook_deliveries (namespace, webhook_id, created_at, id);

CREATE TABLE run_logs (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    place SMALLINT NOT NULL,
    number INTEGER NOT NULL,
    origin BIGINT NOT NULL,
    logged_at BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER,
    level VARCHAR(16) NOT NULL,
    logger VARCHAR(200) NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (namespace, run_id, place)
)
 WITHOUT ROWID;

CREATE TABLE chores (
    namespace VARCHAR(64) NOT NULL,
    name VARCHAR(64) NOT NULL,
    holder VARCHAR(64) NOT NULL,
    until_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
)
 WITHOUT ROWID;

CREATE TABLE leftovers (
    namespace VARCHAR(64) NOT NULL,
    run_id BLOB NOT NULL,
    PRIMARY KEY (namespace, run_id)
)
 WITHOUT ROWID;

-- 0007
CREATE TABLE tallies (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE TABLE statistics (
    namespace VARCHAR(64) NOT NULL,
    width INTEGER NOT NULL,
    at BIGINT NOT NULL,
    name VARCHAR(200) NOT NULL,
    queue VARCHAR(64) NOT NULL,
    started BIGINT NOT NULL,
    completed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    dead BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    retried BIGINT NOT NULL,
    waited_ms BIGINT NOT NULL,
    ran_ms BIGINT NOT NULL,
    w0 INTEGER NOT NULL,
    w1 INTEGER NOT NULL,
    w2 INTEGER NOT NULL,
    w3 INTEGER NOT NULL,
    w4 INTEGER NOT NULL,
    w5 INTEGER NOT NULL,
    w6 INTEGER NOT NULL,
    w7 INTEGER NOT NULL,
    w8 INTEGER NOT NULL,
    w9 INTEGER NOT NULL,
    w10 INTEGER NOT NULL,
    w11 INTEGER NOT NULL,
    w12 INTEGER NOT NULL,
    w13 INTEGER NOT NULL,
    w14 INTEGER NOT NULL,
    w15 INTEGER NOT NULL,
    w16 INTEGER NOT NULL,
    w17 INTEGER NOT NULL,
    w18 INTEGER NOT NULL,
    w19 INTEGER NOT NULL,
    w20 INTEGER NOT NULL,
    w21 INTEGER NOT NULL,
    w22 INTEGER NOT NULL,
    w23 INTEGER NOT NULL,
    r0 INTEGER NOT NULL,
    r1 INTEGER NOT NULL,
    r2 INTEGER NOT NULL,
    r3 INTEGER NOT NULL,
    r4 INTEGER NOT NULL,
    r5 INTEGER NOT NULL,
    r6 INTEGER NOT NULL,
    r7 INTEGER NOT NULL,
    r8 INTEGER NOT NULL,
    r9 INTEGER NOT NULL,
    r10 INTEGER NOT NULL,
    r11 INTEGER NOT NULL,
    r12 INTEGER NOT NULL,
    r13 INTEGER NOT NULL,
    r14 INTEGER NOT NULL,
    r15 INTEGER NOT NULL,
    r16 INTEGER NOT NULL,
    r17 INTEGER NOT NULL,
    r18 INTEGER NOT NULL,
    r19 INTEGER NOT NULL,
    r20 INTEGER NOT NULL,
    r21 INTEGER NOT NULL,
    r22 INTEGER NOT NULL,
    r23 INTEGER NOT NULL,
    PRIMARY KEY (namespace, width, at, name, queue)
)
 WITHOUT ROWID;

-- 0008
CREATE TABLE idempotency (
    namespace VARCHAR(64) NOT NULL,
    id BLOB NOT NULL,
    request BLOB NOT NULL,
    created_at BIGINT NOT NULL,
    claimed_at BIGINT NOT NULL,
    status SMALLINT,
    headers TEXT,
    body BLOB,
    PRIMARY KEY (namespace, id)
)
 WITHOUT ROWID;

CREATE INDEX ix_idempotency_created_at ON idempotency (created_at);
