-- The statements by which the last release without the prefix made its tables, migration by migration. Never edited.

-- 0001
CREATE TABLE attempts (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    epoch INTEGER NOT NULL,
    number INTEGER NOT NULL,
    outcome VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    error_type VARCHAR(255) NOT NULL,
    error_message TEXT NOT NULL,
    traceback LONGTEXT NOT NULL,
    worker VARCHAR(255) NOT NULL,
    signal_name VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin,
    exit_code INTEGER,
    started_at BIGINT,
    finished_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, run_id, epoch)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE audit (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    created_at BIGINT NOT NULL,
    actor VARCHAR(255) NOT NULL,
    action VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    subject VARCHAR(255) NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE dead_letters (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    source VARCHAR(255) NOT NULL,
    reason VARCHAR(255) NOT NULL,
    headers TEXT NOT NULL,
    body LONGBLOB NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE definitions (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(200) NOT NULL,
    version VARCHAR(64) NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    options TEXT NOT NULL,
    mean_ms FLOAT,
    registered_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name, version)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE deliveries (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(20) NOT NULL,
    due_at BIGINT NOT NULL,
    again SMALLINT NOT NULL DEFAULT '0',
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_deliveries_due_at ON deliveries (due_at, namespace, id);

CREATE TABLE markers (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    queue VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    sent_at BIGINT NOT NULL,
    taken_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, queue)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE payloads (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    `role` VARCHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    encoding VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    data LONGBLOB NOT NULL,
    PRIMARY KEY (namespace, run_id, `role`)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE reference_ids (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(200) NOT NULL,
    reference_id VARCHAR(255) NOT NULL,
    run_id BINARY(16) NOT NULL,
    input_hash BINARY(32) NOT NULL,
    PRIMARY KEY (namespace, name, reference_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE revocations (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    epoch INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    announced SMALLINT NOT NULL DEFAULT '0',
    interrupt SMALLINT NOT NULL DEFAULT '0',
    PRIMARY KEY (namespace, run_id, epoch)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_revocations_announced ON revocations (announced, created_at);

CREATE TABLE runs (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(200) NOT NULL,
    version VARCHAR(64) NOT NULL,
    queue VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    epoch INTEGER NOT NULL,
    executor VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin,
    worker BINARY(16),
    attempt INTEGER NOT NULL DEFAULT '1',
    crashes INTEGER NOT NULL DEFAULT '0',
    idle_dispatches INTEGER NOT NULL DEFAULT '0',
    partition_no SMALLINT NOT NULL,
    reference_id VARCHAR(255),
    options TEXT,
    waiting_on VARCHAR(255),
    cancel_requested SMALLINT NOT NULL DEFAULT '0',
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
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_runs_name ON runs (namespace, name, id);

CREATE INDEX ix_runs_state ON runs (namespace, state, id);

CREATE TABLE workers (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(255) NOT NULL,
    host VARCHAR(255) NOT NULL,
    pid INTEGER NOT NULL,
    queues TEXT NOT NULL,
    concurrency INTEGER NOT NULL,
    definitions LONGTEXT NOT NULL,
    version VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    children LONGTEXT NOT NULL,
    started_at BIGINT NOT NULL,
    heard_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_workers_state ON workers (state, namespace, id);

-- 0002
ALTER TABLE runs ADD COLUMN parent_id BINARY(16);

ALTER TABLE runs ADD COLUMN parent_ordinal INTEGER;

ALTER TABLE runs ADD COLUMN followers SMALLINT NOT NULL DEFAULT '0';

ALTER TABLE runs ADD COLUMN history INTEGER NOT NULL DEFAULT '0';

ALTER TABLE runs ADD COLUMN history_from INTEGER NOT NULL DEFAULT '0';

ALTER TABLE runs ADD COLUMN waits LONGTEXT;

ALTER TABLE runs ADD COLUMN pause_requested SMALLINT NOT NULL DEFAULT '0';

ALTER TABLE runs ADD COLUMN failed_at LONGTEXT;

CREATE TABLE steps (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    ordinal INTEGER NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(200) NOT NULL,
    digest VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    attempt INTEGER NOT NULL,
    input TEXT,
    encoding VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin,
    data LONGBLOB,
    error_type VARCHAR(255),
    error_message TEXT,
    traceback LONGTEXT,
    error_args LONGTEXT,
    child_id BINARY(16),
    abandon SMALLINT NOT NULL DEFAULT '0',
    bound BINARY(16),
    due_at BIGINT,
    millis INTEGER,
    worker BINARY(16),
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (namespace, run_id, ordinal)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE inbox (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    id BINARY(16) NOT NULL,
    kind VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(200) NOT NULL,
    ordinal INTEGER,
    outcome VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    encoding VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin,
    data LONGBLOB,
    error_type VARCHAR(255),
    error_message TEXT,
    created_at BIGINT NOT NULL,
    taken SMALLINT NOT NULL,
    PRIMARY KEY (namespace, run_id, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_inbox_taken ON inbox (taken, namespace, run_id);

CREATE TABLE links (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    parent_id BINARY(16) NOT NULL,
    ordinal INTEGER NOT NULL,
    PRIMARY KEY (namespace, run_id, parent_id, ordinal)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

-- 0003
ALTER TABLE workers ADD COLUMN memory BIGINT;

ALTER TABLE workers ADD COLUMN draining SMALLINT NOT NULL DEFAULT '0';

ALTER TABLE workers ADD COLUMN paused TEXT;

ALTER TABLE workers ADD COLUMN wanted VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin;

ALTER TABLE workers ADD COLUMN wanted_by VARCHAR(255);

ALTER TABLE workers ADD COLUMN wanted_at BIGINT;

CREATE TABLE orchestrators (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    host VARCHAR(255) NOT NULL,
    pid INTEGER NOT NULL,
    version VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    started_at BIGINT NOT NULL,
    heard_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE queues (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    paused SMALLINT NOT NULL,
    paused_by VARCHAR(255),
    paused_at BIGINT,
    reason VARCHAR(1000),
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE batches (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    operation VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    state VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    target LONGTEXT NOT NULL,
    reason VARCHAR(1000) NOT NULL,
    actor VARCHAR(255) NOT NULL,
    expected INTEGER NOT NULL,
    matched INTEGER NOT NULL,
    done INTEGER NOT NULL,
    skipped INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    samples LONGTEXT NOT NULL,
    collected TEXT,
    reached BINARY(16),
    lease_owner VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin,
    lease_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_batches_state ON batches (state, namespace, id);

CREATE TABLE batch_items (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    batch_id BINARY(16) NOT NULL,
    run_id BINARY(16) NOT NULL,
    outcome VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin,
    detail VARCHAR(255),
    PRIMARY KEY (namespace, batch_id, run_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE failures (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    fingerprint BINARY(16) NOT NULL,
    run_id BINARY(16) NOT NULL,
    name VARCHAR(200) NOT NULL,
    failed_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, fingerprint, run_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_failures_run ON failures (namespace, run_id);

CREATE TABLE reruns (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    source_id BINARY(16) NOT NULL,
    PRIMARY KEY (namespace, run_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_reruns_source ON reruns (namespace, source_id, run_id);

-- 0004
ALTER TABLE audit ADD COLUMN reason VARCHAR(1000) NOT NULL DEFAULT '';

ALTER TABLE audit ADD COLUMN affected INTEGER NOT NULL DEFAULT '1';

ALTER TABLE audit ADD COLUMN outcome VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'done';

ALTER TABLE audit ADD COLUMN request_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '';

ALTER TABLE audit ADD COLUMN source VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '';

CREATE INDEX ix_audit_actor ON audit (namespace, actor, id);

CREATE INDEX ix_audit_action ON audit (namespace, action, id);

CREATE INDEX ix_audit_subject ON audit (namespace, subject, id);

CREATE TABLE users (
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    password VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    `role` VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    namespaces TEXT,
    disabled SMALLINT NOT NULL DEFAULT '0',
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by VARCHAR(255) NOT NULL,
    signed_in_at BIGINT,
    PRIMARY KEY (name)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE sessions (
    id BINARY(32) NOT NULL,
    user_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    generation BIGINT NOT NULL,
    csrf VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    source VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    PRIMARY KEY (id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_sessions_user_name ON sessions (user_name);

CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);

CREATE TABLE api_keys (
    id VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    hash BINARY(32) NOT NULL,
    name VARCHAR(100) NOT NULL,
    `role` VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    namespaces TEXT,
    created_at BIGINT NOT NULL,
    created_by VARCHAR(255) NOT NULL,
    expires_at BIGINT,
    used_at BIGINT,
    revoked_at BIGINT,
    PRIMARY KEY (id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE sign_in_failures (
    id BINARY(32) NOT NULL,
    failures INTEGER NOT NULL,
    last_at BIGINT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_sign_in_failures_last_at ON sign_in_failures (last_at);

-- 0005
DROP INDEX ix_runs_state ON runs;

DROP INDEX ix_runs_name ON runs;

CREATE INDEX ix_runs_state ON runs (namespace, state, created_at, id, name, queue);

CREATE INDEX ix_runs_name ON runs (namespace, name, created_at, id);

CREATE INDEX ix_runs_queue ON runs (namespace, queue, created_at, id);

CREATE INDEX ix_runs_parent_id ON runs (namespace, parent_id, created_at, id);

CREATE INDEX ix_runs_created_at ON runs (namespace, created_at, id);

CREATE INDEX ix_reference_ids_reference_id ON reference_ids (namespace, reference_id);

-- 0006
CREATE TABLE webhooks (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
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
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE webhook_deliveries (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    webhook_id BINARY(16) NOT NULL,
    run_id BINARY(16) NOT NULL,
    event TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    due_at BIGINT,
    error VARCHAR(500),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_webhook_deliveries_due_at ON webhook_deliveries (due_at, namespace, id);

CREATE INDEX ix_webhook_deliveries_webhook ON webhook_deliveries (namespace, webhook_id, created_at, id);

CREATE TABLE run_logs (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    place SMALLINT NOT NULL,
    number INTEGER NOT NULL,
    origin BIGINT NOT NULL,
    logged_at BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    step INTEGER,
    level VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    logger VARCHAR(200) NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (namespace, run_id, place)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE chores (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    holder VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    until_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, name)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE leftovers (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    run_id BINARY(16) NOT NULL,
    PRIMARY KEY (namespace, run_id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

-- 0007
CREATE TABLE tallies (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(16) NOT NULL,
    body LONGTEXT NOT NULL,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE statistics (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    width INTEGER NOT NULL,
    at BIGINT NOT NULL,
    name VARCHAR(200) NOT NULL,
    queue VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
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
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

-- 0008
CREATE TABLE idempotency (
    namespace VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    id BINARY(32) NOT NULL,
    request BINARY(32) NOT NULL,
    created_at BIGINT NOT NULL,
    claimed_at BIGINT NOT NULL,
    status SMALLINT,
    headers TEXT,
    body LONGBLOB,
    PRIMARY KEY (namespace, id)
)ENGINE=InnoDB CHARSET=utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX ix_idempotency_created_at ON idempotency (created_at);
