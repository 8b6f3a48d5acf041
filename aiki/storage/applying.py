"""The verb that changes runs: lock their rows, let a decision change them, write all of it with a few statements.

Every change of a run's state after its creation passes through `apply`: reports, timers, cancels, retries, recovery. The
decision is plain code, handed in (`aiki.lifecycle`); this module knows tables, locks and the order of writes:
runs are locked in primary-key order, deliveries are touched only after their runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.codec import JSON
from aiki.fingerprint import fingerprint
from aiki.lifecycle.effects import ATTEMPT_COLUMNS, TRACEBACK_AT, Applied, Decide, Effects
from aiki.lifecycle.ends import conclude
from aiki.lifecycle.record import SELECT_RUN, RunRow, changed, delivery_id, run_row
from aiki.storage import history as histories
from aiki.storage.auditing import AUDIT_COLUMNS, Auditing, Origin, audit_rows
from aiki.storage.creating import DELIVERY_COLUMNS, PAYLOAD_COLUMNS
from aiki.storage.dispatching import Dispatching, Loaded
from aiki.storage.engine import Database, Writes
from aiki.storage.marking import Marking
from aiki.storage.run_logs import RunLogs
from aiki.storage.starting import CLAIM_SECONDS, ERROR
from aiki.storage.tallying import Tally
from aiki.storage.telling import Telling
from aiki.storage.webhooks import Announcing

ATTEMPTS_KEPT = 100
"""Attempts of a run that are kept, the newest: a poll that raises RetryLater may make millions."""
ATTEMPTS_LOOKED_AT = 16
FORMER_STEPS_KEPT = 1000
"""Steps of former turns that a workflow which goes on as new keeps."""
FORMER_ROWS_DROPPED = 2000
FAILURE_COLUMNS = ("namespace", "fingerprint", "run_id", "name", "failed_at")


class Applying(Telling, Dispatching, Announcing, Auditing, Marking, RunLogs):
    """Changing runs."""

    db: Database
    clock: Clock
    origin: Origin

    def apply(
        self,
        namespace: str,
        run_ids: Sequence[bytes],
        decide: Decide,
        *,
        attempts: Sequence[tuple[bytes, int]] = (),
        arrived: Sequence[bytes] = (),
        orders: bool = True,
        also: Callable[[sa.Connection], None] | None = None,
        verb: str = "",
        unsent: bool = False,
    ) -> Applied:
        """Lock the runs that exist among `run_ids`, decide, write, commit. The whole is repeated after a deadlock.

        :param decide: gets the rows by id and the effects to fill; it may be called several times, each time with fresh rows.
        :param attempts: (run, epoch) pairs; `Effects.attempts_there` will hold those that have a recorded attempt.
        :param arrived: runs whose arrivals `Effects.arrived` will hold; they count as looked at.
        :param also: called last, in the same transaction; what it raises undoes all of it.
        :param verb: what somebody asked for, by name: done once, however often the request is sent or its commit's answer is
            lost. Reports need no such care: to apply one twice changes nothing.
        :param unsent: `Effects.unsent` is to be known.
        :param orders: what a parent has ordered counts as looked at too: the decision heeds it.
        :raises StorageUnavailable: nothing was changed, or the answer was lost; asking again is safe.
        :raises RowTooLarge: the database refuses a row of that size; nothing was changed.
        """
        wanted = sorted(set(run_ids))
        decided: dict[bytes, RunRow] = {}

        def work(connection: sa.Connection) -> Applied:
            nonlocal decided
            decided = rows = self._lock(connection, namespace, wanted)
            effects = Effects()
            for run_id, epoch in attempts:
                sql = "SELECT 1 FROM aiki_attempts WHERE namespace = ? AND run_id = ? AND epoch = ?"
                if self.db.execute(connection, sql, (namespace, run_id, epoch)).fetchone():
                    effects.attempts_there.add((run_id, epoch))
            looked = [run_id for run_id in dict.fromkeys(arrived) if run_id in rows]
            if looked:
                self._take_arrivals(connection, namespace, looked, effects, orders=orders)
            if len(looked) < len(set(arrived)):  # orders to children that were never made
                gone = sorted(set(arrived).difference(rows))
                self.db.where_in(connection, "DELETE FROM aiki_inbox WHERE namespace = ? AND run_id", (namespace,), gone)
            if unsent:
                self._find_unsent(connection, namespace, rows, effects)
            decide(rows, effects)
            applied = self._write(connection, namespace, rows, effects)
            if also is not None:
                also(connection)
            return applied

        if verb:
            return self._do(work, verb, b"".join(wanted).hex(), Applied)
        return self.db.transaction(work, repeatable=lambda connection, _: self._is_there(connection, namespace, decided))

    def apply_within(
        self, connection: sa.Connection, namespace: str, run_ids: Iterable[bytes], decide: Decide, *, leave: bool
    ) -> Applied:
        """As `apply`, in a transaction that somebody else commits, on a connection that may be the caller's own.

        :param leave: leave what is due now to whoever sweeps: a transaction of REPEATABLE READ, or one that may be rolled back
            to a savepoint, cannot say what is to be published.
        """
        rows, effects = self._lock(connection, namespace, sorted(set(run_ids))), Effects(theirs=leave)
        decide(rows, effects)
        return self._write(connection, namespace, rows, effects, keep=False, leave=leave)

    def _lock(self, connection: sa.Connection, namespace: str, run_ids: Sequence[bytes]) -> dict[bytes, RunRow]:
        """Lock the runs that exist, in the order of their ids, which is to be that of the list."""
        sql = f"SELECT {SELECT_RUN} FROM aiki_runs WHERE namespace = ? AND id"
        found = self.db.where_in(connection, sql, (namespace,), run_ids, f"ORDER BY id {self.db.dialect.for_update}")
        return {row.id: row for row in map(run_row, found)}

    def _find_unsent(self, connection: sa.Connection, namespace: str, rows: dict[bytes, RunRow], effects: Effects) -> None:
        there = sorted(delivery_id(row.id, row.epoch) for row in rows.values() if not row.ended)
        sql = "SELECT id FROM aiki_deliveries WHERE again = 0 AND namespace = ? AND id"
        found = self.db.where_in(connection, sql, (namespace,), there, f"ORDER BY id {self.db.dialect.for_update}")
        effects.unsent = {bytes(raw) for (raw,) in found}

    def _is_there(self, connection: sa.Connection, namespace: str, rows: dict[bytes, RunRow]) -> bool:
        """Whether changed rows are in the database as they were to be written: then the transaction was committed."""
        written = {row.id: (row.epoch, row.state, row.updated_at) for row in rows.values() if changed(row)}
        sql = "SELECT id, epoch, state, updated_at FROM aiki_runs WHERE namespace = ? AND id"
        found = self.db.where_in(connection, sql, (namespace,), sorted(written), f"ORDER BY id {self.db.dialect.for_update}")
        return bool(written) and {bytes(row[0]): tuple(row[1:]) for row in found} == written

    def _write(
        self,
        connection: sa.Connection,
        namespace: str,
        rows: dict[bytes, RunRow],
        effects: Effects,
        *,
        keep: bool = True,
        leave: bool = False,
    ) -> Applied:
        now = self.clock()
        writes = Writes(self.db, connection, keep=keep)
        self._update_runs(writes, namespace, rows, effects, now)
        results = [(namespace, run_id, "result", p.encoding, self.db.dialect.blob(p.text)) for run_id, p in effects.results]
        results += [
            (namespace, run_id, ERROR, JSON, self.db.dialect.blob(text)) for run_id, text in effects.error_arguments.items()
        ]
        writes.insert("aiki_payloads", PAYLOAD_COLUMNS, results)
        writes.insert("aiki_attempts", ATTEMPT_COLUMNS, [(namespace, *row) for row in effects.attempts])
        self._drop_old_attempts(writes, namespace, effects)
        writes.delete("DELETE FROM aiki_deliveries WHERE namespace = ? AND id", (namespace,), sorted(effects.forget))
        self._write_revocations(connection, writes, namespace, rows, effects, now)
        if effects.audit:
            writes.insert("aiki_audit", AUDIT_COLUMNS, audit_rows(namespace, now, self.origin, effects.audit))
        self._write_steps(writes, namespace, effects, now)
        self._drop_former_turns(writes, namespace, effects)
        due_now = self._write_deliveries(writes, namespace, effects, now) + effects.publish
        writes.send()
        if effects.logs:
            self.write_logs(connection, namespace, effects.logs)
        if effects.ended:
            self.announce_ends(connection, namespace, effects.ended, now)
        started = []
        if effects.children:
            started = self.start_children(connection, namespace, effects, claim=None if leave else CLAIM_SECONDS)
        if effects.arrivals or effects.followed or effects.told_again:
            self.write_arrivals(connection, namespace, effects, now)
        loaded = Loaded(left=due_now) if leave or not due_now else self.outgoing(connection, namespace, due_now)
        if loaded.left:
            self.leave(connection, namespace, loaded.left, now)
        return Applied(
            loaded.outgoing + started,
            [key for key, interrupt in effects.revoke if not interrupt],
            [key for key, interrupt in effects.revoke if interrupt],
            effects.soon,
            {run_id for run_id, _, taken in effects.arrivals if not taken},
            len(loaded.left),
        )

    def _update_runs(self, writes: Writes, namespace: str, rows: dict[bytes, RunRow], effects: Effects, now: int) -> None:
        changes = conclude(rows, effects, now, lambda: self.tells_failures(namespace))
        tally = Tally(now)
        for columns, found in changes.by_columns.items():
            for row in found:
                tally.add(row)
            values = [(row.id, *(getattr(row, column) for column in columns)) for row in found]
            writes.update("aiki_runs", columns, namespace, values)
        if (body := tally.body) is not None:
            writes.insert("aiki_tallies", ("namespace", "id", "body"), [(namespace, ids.new_id().bytes, body)])
        writes.delete("DELETE FROM aiki_failures WHERE namespace = ? AND run_id", (namespace,), changes.revived)
        # Services of a former release leave this row when they retry a run: it would be told of the next failure.
        stale = changes.revived + [row.id for row in changes.failed if row.attempt > 1]
        writes.delete(f"DELETE FROM aiki_payloads WHERE role = '{ERROR}' AND namespace = ? AND run_id", (namespace,), stale)
        writes.insert("aiki_failures", FAILURE_COLUMNS, failure_rows(namespace, changes.failed, effects.attempts))

    # ------------------------------------------------------------ workflows
    def _take_arrivals(
        self, connection: sa.Connection, namespace: str, run_ids: Sequence[bytes], effects: Effects, *, orders: bool
    ) -> None:
        """Mark what has come as looked at, before all of it is read: what is committed after this is looked at later."""
        but = "" if orders else "AND kind NOT IN ('cancel', 'retry') "
        sql = f"SELECT run_id, id FROM aiki_inbox WHERE taken = 0 {but}AND namespace = ? AND run_id"
        for run_id, arrival in self.db.where_in(connection, sql, (namespace,), run_ids):
            effects.fresh.setdefault(bytes(run_id), set()).add(bytes(arrival).hex())
        for run_id, found in effects.fresh.items():
            sql = "UPDATE aiki_inbox SET taken = 1 WHERE namespace = ? AND run_id = ? AND id"
            self.db.where_in(connection, sql, (namespace, run_id), sorted(map(bytes.fromhex, found)))
        effects.arrived = histories.select_signs(self.db, connection, namespace, run_ids)

    def _drop_former_turns(self, writes: Writes, namespace: str, effects: Effects) -> None:
        """Of a workflow that goes on as new, keep some of the steps before its present turn, for people, and what came to them.

        Some thousand rows go at a time: more than a turn usually makes, so that what piled up before is gone after some turns.
        """
        for run_id, begins in effects.turned.items():
            if begins <= FORMER_STEPS_KEPT:
                continue
            before = (namespace, run_id, begins - FORMER_STEPS_KEPT)
            for table, key in (("aiki_steps", "ordinal"), ("aiki_inbox", "id")):
                found = (
                    f"SELECT {key} FROM {table} WHERE namespace = ? AND run_id = ? AND ordinal < ? LIMIT {FORMER_ROWS_DROPPED}"
                )
                gone = [row[0] for row in writes.fetch(found, before)]
                writes.delete(f"DELETE FROM {table} WHERE namespace = ? AND run_id = ? AND {key}", (namespace, run_id), gone)

    def _drop_old_attempts(self, writes: Writes, namespace: str, effects: Effects) -> None:
        """Keep the newest attempts of a run that is tried again and again. Looked at now and then: to count them is a read."""
        for run_id, epoch, *_ in effects.attempts:
            if epoch >= ATTEMPTS_KEPT and epoch % ATTEMPTS_LOOKED_AT == 0:
                key = (namespace, run_id)
                of_run = "aiki_attempts WHERE namespace = ? AND run_id = ?"
                newest = f"SELECT epoch FROM {of_run} ORDER BY epoch DESC LIMIT {ATTEMPTS_KEPT}"
                writes.run(f"DELETE FROM {of_run} AND epoch < (SELECT MIN(epoch) FROM ({newest}) t)", (*key, *key))

    def _write_steps(self, writes: Writes, namespace: str, effects: Effects, now: int) -> None:
        fresh, known = [], []
        for (run_id, _), (step, new) in sorted(effects.steps.items()):
            values = histories.step_values(self.db, namespace, run_id, step, now)
            if new:
                fresh.append(tuple(values[column] for column in histories.STEP_COLUMNS))
            else:
                known.append((run_id, step.ordinal, *(values[column] for column in histories.STEP_RESULT)))
        writes.insert("aiki_steps", histories.STEP_COLUMNS, fresh)
        # An older report of a step that is done, come once more, does not open it again.
        writes.update("aiki_steps", histories.STEP_RESULT, namespace, known, ("run_id", "ordinal"), "state = 'open'")
        taken = [(run_id, arrival, ordinal) for run_id, ordinal, arrival in effects.bind]
        writes.update("aiki_inbox", ("ordinal",), namespace, taken, ("run_id", "id"))
        for run_id, ordinals in effects.reset.items():
            self.reset_steps(writes, namespace, run_id, ordinals, effects, now)
        for run_id in effects.renew:
            writes.run(
                "UPDATE aiki_steps SET attempt = 0, due_at = NULL WHERE namespace = ? AND run_id = ? AND state = 'open' "
                "AND kind IN ('step', 'undo') AND attempt > 0",
                (namespace, run_id),
            )
        for run_id, last in sorted(effects.cancel_children.items()):
            writes.run(
                self.db.dialect.if_new(
                    "INSERT INTO aiki_inbox (namespace, run_id, id, kind, name, outcome, created_at, taken) "
                    "SELECT s.namespace, s.child_id, s.run_id, 'cancel', s.name, '', ?, 0 FROM aiki_steps s "
                    "WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal <= ? AND s.child_id IS NOT NULL AND s.abandon = 0 "
                    "AND s.state = 'open'"
                ),
                (now, namespace, run_id, last),
            )

    def delete_deliveries(self, connection: sa.Connection, namespace: str, delivery_ids: Sequence[bytes]) -> None:
        """Delete deliveries by their own ids; absent ones are passed over."""
        self.db.where_in(connection, "DELETE FROM aiki_deliveries WHERE namespace = ? AND id", (namespace,), delivery_ids)

    def _write_revocations(
        self,
        connection: sa.Connection,
        writes: Writes,
        namespace: str,
        rows: dict[bytes, RunRow],
        effects: Effects,
        now: int,
    ) -> None:
        gone = [*effects.unrevoke, *((bytes.fromhex(key.run_id), key.epoch) for key, _ in effects.revoke)]
        if gone:
            writes.send()
            self.delete_revocations(connection, namespace, gone)
        columns = ("namespace", "run_id", "epoch", "created_at", "interrupt", "queue")
        revoked = {(bytes.fromhex(key.run_id), key.epoch): interrupt for key, interrupt in effects.revoke}
        values = [
            (namespace, run_id, epoch, now, int(interrupt), rows[run_id].queue)
            for (run_id, epoch), interrupt in sorted(revoked.items())
        ]
        writes.insert("aiki_revocations", columns, values)

    def _write_deliveries(self, writes: Writes, namespace: str, effects: Effects, now: int) -> list[tuple[RunRow, bool]]:
        """Record the deliveries; those that are due now, with whether they are marked again."""
        claimed = now + int(CLAIM_SECONDS * SECOND)
        rows, due_now = [], []
        for row, due_at, again in effects.dispatch.values():
            if due_at <= now:
                due_now.append((row, again))
                rows.append((namespace, delivery_id(row.id, row.epoch), claimed, 1))
            else:
                rows.append((namespace, delivery_id(row.id, row.epoch), due_at, int(again)))
        writes.insert("aiki_deliveries", DELIVERY_COLUMNS, rows)
        return due_now


def failure_rows(
    namespace: str, failed: Sequence[RunRow], attempts: Sequence[tuple[Any, ...]]
) -> list[tuple[bytes | str | int, ...]]:
    """Rows of `FAILURE_COLUMNS` for runs that have just failed, by the error of each and the traceback of its attempt."""
    tracebacks = {attempt[0]: attempt[TRACEBACK_AT] for attempt in attempts} if failed else {}
    return [
        (
            namespace,
            fingerprint(row.error_type, row.error_message, tracebacks.get(row.id, "")),
            row.id,
            row.name,
            row.finished_at or row.updated_at,
        )
        for row in failed
    ]
