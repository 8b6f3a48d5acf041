-- Statements of processes of the last release without the prefix, as its driver sent them; {a}, {b} and {c} are ids. Never edited.

-- enqueue
INSERT INTO runs (namespace, id, kind, name, version, queue, state, epoch, partition_no, reference_id, options, created_at, due_at, dispatched_at, expires_at, updated_at, parent_id, parent_ordinal) VALUES ('default', X'{a}', 'task', 'shop.charge', '1', 'default', 'queued', 1, 0, NULL, NULL, 1800000000000000, NULL, 1800000000000000, NULL, 1800000000000000, NULL, NULL);
INSERT INTO payloads (namespace, run_id, role, encoding, data) VALUES ('default', X'{a}', 'input', 'json', '[[],{}]');
INSERT INTO deliveries (namespace, id, due_at, again) VALUES ('default', X'{a}00000001', 1800000000000000, 0);
COMMIT;
INSERT INTO runs (namespace, id, kind, name, version, queue, state, epoch, partition_no, reference_id, options, created_at, due_at, dispatched_at, expires_at, updated_at, parent_id, parent_ordinal) VALUES ('default', X'{b}', 'task', 'shop.charge', '1', 'default', 'queued', 1, 3, NULL, NULL, 1800000000000000, NULL, 1800000000000000, NULL, 1800000000000000, NULL, NULL);
INSERT INTO payloads (namespace, run_id, role, encoding, data) VALUES ('default', X'{b}', 'input', 'json', '[[],{}]');
INSERT INTO deliveries (namespace, id, due_at, again) VALUES ('default', X'{b}00000001', 1800000000000000, 0);
COMMIT;

-- claim
SELECT namespace, id, again FROM deliveries WHERE due_at <= 1800000001000000 ORDER BY due_at, namespace, id LIMIT 500 FOR UPDATE SKIP LOCKED;
UPDATE deliveries SET due_at = 1800000011000000, again = 1 WHERE namespace = 'default' AND id IN (X'{a}00000001', X'{b}00000001');
COMMIT;
SELECT id, kind, name, version, queue, state, epoch, executor, worker, attempt, crashes, idle_dispatches, partition_no, reference_id, options, waiting_on, cancel_requested, cancel_reason, progress, progress_message, error_type, error_message, due_at, dispatched_at, started_at, finished_at, expires_at, updated_at, parent_id, parent_ordinal, followers, history, history_from, waits, pause_requested, failed_at FROM runs WHERE namespace = 'default' AND id IN (X'{a}', X'{b}') ORDER BY id FOR UPDATE;
UPDATE runs t SET t.dispatched_at = 1800000001000000, t.updated_at = 1800000001000000 WHERE t.namespace = 'default' AND t.id IN (X'{a}', X'{b}');
COMMIT;
SELECT run_id, encoding, data FROM payloads WHERE role = 'input' AND namespace = 'default' AND run_id IN (X'{a}', X'{b}');
COMMIT;

-- deliver
DELETE FROM deliveries WHERE namespace = 'default' AND id IN (X'{a}00000001', X'{b}00000001');
COMMIT;

-- apply
SELECT id, kind, name, version, queue, state, epoch, executor, worker, attempt, crashes, idle_dispatches, partition_no, reference_id, options, waiting_on, cancel_requested, cancel_reason, progress, progress_message, error_type, error_message, due_at, dispatched_at, started_at, finished_at, expires_at, updated_at, parent_id, parent_ordinal, followers, history, history_from, waits, pause_requested, failed_at FROM runs WHERE namespace = 'default' AND id IN (X'{a}', X'{b}') ORDER BY id FOR UPDATE;
UPDATE runs t SET t.state = 'completed', t.finished_at = 1800000001000000 WHERE t.namespace = 'default' AND t.id IN (X'{a}', X'{b}');
INSERT INTO tallies (namespace, id, body) VALUES ('default', X'{c}', '[[1800000000000000,"shop.charge","default",1,2]]');
INSERT INTO payloads (namespace, run_id, role, encoding, data) VALUES ('default', X'{a}', 'result', 'json', '{"n":1}'), ('default', X'{b}', 'result', 'json', '{"n":1}');
DELETE FROM deliveries WHERE namespace = 'default' AND id IN (X'{a}00000001', X'{b}00000001');
SELECT id, url, states, names, enabled, created_at, created_by, delivered_at, failed_at, error FROM webhooks WHERE namespace = 'default' AND enabled = 1;
COMMIT;

-- read
SELECT r.id, r.namespace, r.kind, r.name, r.version, r.queue, r.state, r.attempt, r.crashes, r.reference_id, r.waiting_on, r.worker, r.cancel_requested, r.progress, r.progress_message, r.error_type, r.error_message, r.created_at, r.due_at, r.started_at, r.finished_at, r.expires_at, r.updated_at, r.parent_id, r.pause_requested, r.cancel_reason, w.name, q.paused_by, q.paused_at, q.reason FROM runs r LEFT JOIN workers w ON w.namespace = r.namespace AND w.id = r.worker LEFT JOIN queues q ON q.namespace = r.namespace AND q.name = r.queue AND q.paused = 1 WHERE r.namespace = 'default' AND r.id = X'{a}';
SELECT role, encoding, data FROM payloads WHERE namespace = 'default' AND run_id = X'{a}';
COMMIT;
SELECT id, state FROM runs WHERE namespace = 'default' AND id IN (X'{a}', X'{b}');
COMMIT;

-- list
SELECT created_at, id FROM runs FORCE INDEX (ix_runs_created_at) WHERE namespace = 'default' AND created_at >= 0 AND created_at < 4611686018427387904 ORDER BY created_at DESC, id DESC LIMIT 51;
SELECT id, namespace, kind, name, version, queue, state, attempt, crashes, reference_id, waiting_on, worker, cancel_requested, progress, progress_message, error_type, error_message, created_at, due_at, started_at, finished_at, expires_at, updated_at, parent_id, pause_requested, cancel_reason FROM runs WHERE namespace = 'default' AND id IN (X'{b}', X'{a}');
COMMIT;
