"""The verb that changes runs: lock their rows, let a decision change them, write all of it with a few statements.

Every change of a run's state after its creation passes through `apply`: reports, timers, cancels, retries, recovery. The
decision is plain code, handed in (`aiki.orchestrator.core`); this module knows tables, locks and the order of writes:
runs are locked in primary-key order, deliveries are touched only after their runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.codec import Payload
from aiki.messages import RunKey
from aiki.model import Outgoing
from aiki.states import State, may_follow
from aiki.storage.creating import DELIVERY_COLUMNS, PAYLOAD_COLUMNS, next_group
from aiki.storage.database import Database, Writes
from aiki.storage.rows import (
    EXPIRY_EPOCH,
    SELECT_RUN,
    RunRow,
    changed,
    delivery_id,
    dispatch_of,
    is_suspect,
    payload_of,
    run_row,
)

CLAIM_SECONDS = 10.0
ATTEMPT_COLUMNS = (
    "namespace",
    "run_id",
    "epoch",
    "number",
    "outcome",
    "error_type",
    "error_message",
    "traceback",
    "worker",
    "signal_name",
    "exit_code",
    "started_at",
    "finished_at",
)
AUDIT_COLUMNS = ("namespace", "id", "created_at", "actor", "action", "subject", "detail")


@dataclass(slots=True)
class Effects:
    """What a decision wants beside the changed rows. Filled by the decision, written in the same transaction."""

    results: list[tuple[bytes, Payload]] = field(default_factory=list)
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    """Rows of `ATTEMPT_COLUMNS` without the namespace."""
    forget: set[bytes] = field(default_factory=set)
    """Deliveries that are of no more use."""
    dispatch: dict[bytes, tuple[RunRow, int, bool]] = field(default_factory=dict)
    """Deliveries to make, by run: the row, when it is due, whether it is marked again (and keeps its epoch)."""
    revoke: list[tuple[RunKey, bool]] = field(default_factory=list)
    """Dispatches that may be out and must not begin; True: interrupt them where they run."""
    unrevoke: list[tuple[bytes, int]] = field(default_factory=list)
    audit: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Actor, action, subject, detail."""
    attempts_there: set[tuple[bytes, int]] = field(default_factory=set)
    """Which of the attempts that `apply` was asked about (run, epoch) are recorded already."""
    operator: bool = False
    """An operator asked: terminal states may be left."""

    def deliver(self, row: RunRow, due_at: int) -> None:
        """Have the run dispatched at `due_at`, under its next epoch."""
        self.forget.add(delivery_id(row.id, row.epoch))
        row.epoch += 1
        row.executor = None
        row.worker = None
        self.dispatch[row.id] = (row, due_at, False)

    def deliver_again(self, row: RunRow, due_at: int) -> None:
        """Publish the present epoch once more, marked, so that whoever takes it inquires."""
        self.forget.add(delivery_id(row.id, row.epoch))
        self.dispatch[row.id] = (row, due_at, True)


@dataclass(slots=True)
class Applied:
    """What came of it: the deliveries to publish now, and the revocations to tell the workers."""

    outgoing: list[Outgoing] = field(default_factory=list)
    revoke: list[RunKey] = field(default_factory=list)
    interrupt: list[RunKey] = field(default_factory=list)


Decide = Callable[[dict[bytes, RunRow], Effects], None]


class Applying:
    """Changing runs."""

    db: Database
    clock: Clock

    def apply(
        self, namespace: str, run_ids: Sequence[bytes], decide: Decide, *, attempts: Sequence[tuple[bytes, int]] = ()
    ) -> Applied:
        """Lock the runs that exist among `run_ids`, decide, write, commit. The whole is repeated after a deadlock.

        :param decide: gets the rows by id and the effects to fill; it may be called several times, each time with fresh rows.
        :param attempts: (run, epoch) pairs; `Effects.attempts_there` will hold those that have a recorded attempt.
        :raises StorageUnavailable: nothing was changed, or the answer was lost; asking again is safe.
        :raises RowTooLarge: the database refuses a row of that size; nothing was changed.
        """
        wanted = sorted(set(run_ids))

        def work(connection: sa.Connection) -> Applied:
            found = self.db.where_in(
                connection,
                f"SELECT {SELECT_RUN} FROM runs WHERE namespace = ? AND id",
                (namespace,),
                wanted,
                f"ORDER BY id {self.db.for_update}",
            )
            rows = {row.id: row for row in map(run_row, found)}
            effects = Effects()
            for run_id, epoch in attempts:
                sql = "SELECT 1 FROM attempts WHERE namespace = ? AND run_id = ? AND epoch = ?"
                if self.db.execute(connection, sql, (namespace, run_id, epoch)).fetchone():
                    effects.attempts_there.add((run_id, epoch))
            decide(rows, effects)
            return self._write(connection, namespace, rows, effects)

        return self.db.transaction(work)

    def _write(self, connection: sa.Connection, namespace: str, rows: dict[bytes, RunRow], effects: Effects) -> Applied:
        now = self.clock()
        writes = Writes(self.db, connection)
        self._update_runs(writes, namespace, rows, effects, now)
        results = [(namespace, run_id, "result", p.encoding, self.db.blob(p.text)) for run_id, p in effects.results]
        writes.insert("payloads", PAYLOAD_COLUMNS, results)
        writes.insert("attempts", ATTEMPT_COLUMNS, [(namespace, *row) for row in effects.attempts])
        writes.delete("DELETE FROM deliveries WHERE namespace = ? AND id", (namespace,), sorted(effects.forget))
        self._write_revocations(connection, writes, namespace, effects, now)
        audit = [(namespace, ids.new_id().bytes, now, *entry) for entry in effects.audit]
        writes.insert("audit", AUDIT_COLUMNS, audit)
        due_now = self._write_deliveries(writes, namespace, effects, now)
        writes.send()
        return Applied(
            self.outgoing(connection, namespace, due_now),
            [key for key, interrupt in effects.revoke if not interrupt],
            [key for key, interrupt in effects.revoke if interrupt],
        )

    def _update_runs(self, writes: Writes, namespace: str, rows: dict[bytes, RunRow], effects: Effects, now: int) -> None:
        by_columns: dict[tuple[str, ...], list[tuple[Any, ...]]] = defaultdict(list)
        for row in rows.values():
            due = effects.dispatch.get(row.id)
            if due is not None and due[1] <= now:
                row.dispatched_at = now
            columns = changed(row)
            if not columns:
                continue
            before = row.before[_STATE_AT]
            if before != row.state and not may_follow(State(before), State(row.state), operator=effects.operator):
                raise AssertionError(f"run {row.run_id}: {before} may not become {row.state}")
            if row.updated_at != now:
                row.updated_at = now
                columns = (*columns, "updated_at")
            by_columns[columns].append((row.id, *(getattr(row, column) for column in columns)))
            if row.ended:
                effects.forget.add(delivery_id(row.id, row.epoch))
                if row.expires_at is not None:
                    effects.forget.add(delivery_id(row.id, EXPIRY_EPOCH))
        for columns, values in by_columns.items():
            writes.update("runs", columns, namespace, values)

    def delete_deliveries(self, connection: sa.Connection, namespace: str, delivery_ids: Sequence[bytes]) -> None:
        """Delete deliveries by their own ids; absent ones are passed over."""
        self.db.where_in(connection, "DELETE FROM deliveries WHERE namespace = ? AND id", (namespace,), delivery_ids)

    def _write_revocations(self, connection: sa.Connection, writes: Writes, namespace: str, effects: Effects, now: int) -> None:
        gone = [(namespace, run_id, epoch) for run_id, epoch in effects.unrevoke]
        gone += [(namespace, bytes.fromhex(key.run_id), key.epoch) for key, _ in effects.revoke]
        if gone:
            writes.send()
            sql = self.db.placeholders("DELETE FROM revocations WHERE namespace = ? AND run_id = ? AND epoch = ?")
            connection.exec_driver_sql(sql, sorted(gone))
        columns = ("namespace", "run_id", "epoch", "created_at", "interrupt")
        rows = [(namespace, bytes.fromhex(key.run_id), key.epoch, now, int(interrupt)) for key, interrupt in effects.revoke]
        writes.insert("revocations", columns, rows)

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
        writes.insert("deliveries", DELIVERY_COLUMNS, rows)
        return due_now

    def outgoing(self, connection: sa.Connection, namespace: str, due: Sequence[tuple[RunRow, bool]]) -> list[Outgoing]:
        """What is to be published of these runs now, with their input; runs that travel together share a group."""
        if not due:
            return []
        inputs = {
            bytes(run_id): payload_of(encoding, data)
            for run_id, encoding, data in self.db.where_in(
                connection,
                "SELECT run_id, encoding, data FROM payloads WHERE role = 'input' AND namespace = ? AND run_id",
                (namespace,),
                [row.id for row, _ in due],
            )
        }
        groups: dict[tuple[Any, ...], int] = {}
        out = []
        for row, again in due:
            # Runs of one name and partition may share a message; suspects travel alone, so that they harm nobody.
            key = (row.name, row.queue, row.partition_no, again, row.id if is_suspect(row) else b"")
            group = groups.get(key) or groups.setdefault(key, next_group())
            out.append(
                Outgoing(delivery_id(row.id, row.epoch), namespace, row.queue, group, dispatch_of(row, inputs[row.id]), again)
            )
        return out


_STATE_AT = SELECT_RUN.split(", ").index("state")
