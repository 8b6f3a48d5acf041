"""The verbs of the outbox: claim what is due, forget what was published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from aiki.clock import SECOND, Clock
from aiki.lifecycle.deliveries import dispatch_due, expire
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.record import EXPIRY_EPOCH, SUSPECT_AFTER, RunRow, delivery_id, split_delivery_id
from aiki.messages import Dispatch
from aiki.model import Outgoing
from aiki.states import TERMINAL
from aiki.storage.applying import Applying
from aiki.storage.creating import DELIVERY_COLUMNS, next_group
from aiki.storage.engine import Database
from aiki.storage.rows import dispatch_options, payload_of
from aiki.storage.starting import CLAIM_SECONDS

_PLAIN_INPUT = 32 * 1024
"""Bytes of input up to which a run is dispatched anew together with very many others."""


@dataclass(slots=True)
class Claimed:
    """Deliveries that were due and now belong to the caller for `CLAIM_SECONDS`, and how many there may be left."""

    outgoing: list[Outgoing] = field(default_factory=list)
    expired: list[tuple[str, bytes]] = field(default_factory=list)
    """Runs (namespace, id) whose expiry has come."""
    broken: list[tuple[str, bytes, str]] = field(default_factory=list)
    """Runs (namespace, id) of which no dispatch can be made, with the reason."""
    left: int = 0
    """How many were claimed, and given back because they are too much to be loaded at once."""
    more: bool = False


Part = Callable[[Sequence[bytes]], Applied]
Each = Callable[[Sequence[bytes], Part, Callable[[bytes, str], None]], Iterable[Applied]]
"""Does the work for all items, or for those that do not spoil it; the others are given to the third with the reason."""


def _together(items: Sequence[bytes], work: Part, refuse: Callable[[bytes, str], None]) -> Iterable[Applied]:  # noqa: ARG001
    return [work(items)]


class Delivering(Applying):
    """The outbox."""

    db: Database
    clock: Clock
    namespace: str

    def claim_due(self, limit: int = 500, each: Each = _together) -> Claimed:
        """Take due deliveries of all namespaces, oldest first, for publishing.

        Two transactions: the first claims deliveries and locks nothing else, the second locks the runs (always before
        deliveries, see `applying`) and marks them queued. Should the process die in between, the claim runs out.

        :param each: how the second is done for many runs of a namespace, one of which may be broken.
        """
        now = self.clock()
        until = now + int(CLAIM_SECONDS * SECOND)

        def claimed(connection: sa.Connection, due: list[tuple[str, bytes, bool]]) -> bool:
            sql = f"SELECT due_at FROM aiki_deliveries WHERE namespace = ? AND id = ? {self.db.dialect.for_update}"
            found = self.db.execute(connection, sql, due[0][:2]).fetchone() if due else None
            return found is not None and found[0] == until

        def claim(connection: sa.Connection) -> list[tuple[str, bytes, bool]]:
            found = self.db.execute(
                connection,
                "SELECT namespace, id, again FROM aiki_deliveries WHERE due_at <= ? ORDER BY due_at, namespace, id "
                f"LIMIT {int(limit)} {self.db.dialect.skip_locked}",
                (now,),
            ).fetchall()
            due = [(namespace, bytes(raw), bool(again)) for namespace, raw, again in found]
            by_namespace: dict[str, list[bytes]] = {}
            for namespace, raw, _ in due:
                by_namespace.setdefault(namespace, []).append(raw)
            for namespace, raws in by_namespace.items():
                self.db.where_in(
                    connection,
                    "UPDATE aiki_deliveries SET due_at = ?, again = 1 WHERE namespace = ? AND id",
                    (until, namespace),
                    raws,
                )
            return due

        due = self.db.transaction(claim, repeatable=claimed)
        out = Claimed(more=len(due) >= limit)
        wanted: dict[str, dict[bytes, bool]] = {}
        for namespace, raw, again in due:
            run_id, epoch = split_delivery_id(raw)
            if epoch == EXPIRY_EPOCH:
                out.expired.append((namespace, run_id))
            else:
                wanted.setdefault(namespace, {})[raw] = again
        for namespace, again_by_id in wanted.items():

            def mark(raws: Sequence[bytes], namespace: str = namespace, again: dict[bytes, bool] = again_by_id) -> Applied:
                return self._mark_queued(namespace, {raw: again[raw] for raw in raws})

            def refuse(raw: bytes, why: str, namespace: str = namespace) -> None:
                out.broken.append((namespace, raw[:16], why))

            for applied in each(list(again_by_id), mark, refuse):
                out.outgoing.extend(applied.outgoing)
                out.left += applied.left
        out.more = out.more or bool(out.left)
        return out

    def _mark_queued(self, namespace: str, again_by_id: dict[bytes, bool]) -> Applied:
        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            now = self.clock()
            for raw, again in again_by_id.items():
                run_id, epoch = split_delivery_id(raw)
                dispatch_due(rows.get(run_id), raw, epoch, effects, now, again=again)

        return self.apply(namespace, [raw[:16] for raw in again_by_id], decide)

    def redispatch(self, namespace: str, epoch: int, run_ids: Sequence[bytes]) -> tuple[Applied, list[bytes]]:
        """Have runs that nobody holds go on under the next epoch, if nothing else has happened to them.

        After a crash of the broker a whole backlog comes this way, so it is done with set statements. It is what
        `reports.settle_inquiry` does to a task that is queued and unbound, neither cancelled nor suspect; the others are left
        as they are and returned. A delivery that is left of the old epoch finds nothing to do when it is due.
        """
        wanted = sorted(set(run_ids))

        def work(connection: sa.Connection) -> tuple[Applied, list[bytes]]:
            now = self.clock()
            # The conditions stand where no index serves them: the rows are to be found, and locked, by their primary key.
            found = self.db.where_in(
                connection,
                "SELECT r.id, r.state = 'queued' AND r.epoch = ? AND r.executor IS NULL AND r.cancel_requested = 0 "
                "AND r.crashes = 0 AND r.idle_dispatches + 1 < ? AND r.kind = 'task' AND r.pause_requested = 0 "
                f"AND LENGTH(p.data) <= {_PLAIN_INPUT}, "
                "r.name, r.version, r.queue, r.attempt, r.partition_no, "
                "r.options, r.reference_id, r.kind, p.encoding, "
                f"CASE WHEN LENGTH(p.data) <= {_PLAIN_INPUT} THEN p.data END "
                "FROM aiki_runs r JOIN aiki_payloads p ON p.namespace = r.namespace AND p.run_id = r.id AND p.role = 'input' "
                "WHERE r.namespace = ? AND r.id",
                (epoch, SUSPECT_AFTER, namespace),
                wanted,
                f"ORDER BY r.id {self.db.dialect.for_update}",
            )
            plain = {bytes(row[0]): row[2:] for row in found if row[1]}
            self.db.where_in(
                connection,
                "UPDATE aiki_runs SET epoch = epoch + 1, idle_dispatches = idle_dispatches + 1, worker = NULL, "
                "started_at = NULL, waiting_on = NULL, marker = NULL, dispatched_at = ?, updated_at = ? "
                "WHERE namespace = ? AND id",
                (now, now, namespace),
                list(plain),
            )
            claimed = now + int(CLAIM_SECONDS * SECOND)
            deliveries = [(namespace, delivery_id(run_id, epoch + 1), claimed, 1) for run_id in plain]
            self.db.insert(connection, "aiki_deliveries", DELIVERY_COLUMNS, deliveries)
            outgoing = self._plain_outgoing(namespace, epoch + 1, plain)
            return Applied(outgoing), [run_id for run_id in wanted if run_id not in plain]

        return self.db.transaction(work)

    def _plain_outgoing(self, namespace: str, epoch: int, plain: dict[bytes, Any]) -> list[Outgoing]:
        groups: dict[tuple[Any, ...], int] = {}
        out = []
        for run_id, (name, version, queue, attempt, partition, recorded, reference_id, kind, encoding, data) in plain.items():
            key = (name, queue, partition)
            group = groups.get(key) or groups.setdefault(key, next_group())
            payload = payload_of(encoding, data)
            options = dispatch_options(recorded, reference_id, kind)
            dispatch = Dispatch(run_id.hex(), epoch, name, version, attempt, partition, payload.encoding, payload.text, options)
            out.append(Outgoing(delivery_id(run_id, epoch), namespace, queue, group, dispatch))
        return out

    def delivered(self, delivery_ids: Sequence[bytes], namespace: str | None = None) -> None:
        """The broker answers for these: forget them. By their own ids, so that a later epoch's delivery is not touched."""
        if not delivery_ids:
            return
        where = namespace or self.namespace
        ordered = sorted(delivery_ids)
        self.db.transaction(lambda connection: self.delete_deliveries(connection, where, ordered), repeatable=True)

    def released(self, delivery_ids: Sequence[bytes], namespace: str | None = None) -> None:
        """These were certainly never sent: due at once, unmarked, for whoever sweeps."""
        if not delivery_ids:
            return
        now = self.clock()

        def work(connection: sa.Connection) -> None:
            self.db.where_in(
                connection,
                "UPDATE aiki_deliveries SET due_at = ?, again = 0 WHERE namespace = ? AND id",
                (now, namespace or self.namespace),
                sorted(delivery_ids),
            )

        self.db.transaction(work, repeatable=True)

    def next_due(self) -> int | None:
        """When the next delivery is due, or None if there is none."""
        row = self.db.read(lambda connection: self.db.execute(connection, "SELECT MIN(due_at) FROM aiki_deliveries").fetchone())
        return row[0] if row else None

    def give_up_run(self, namespace: str, run_id: bytes, why: str) -> None:
        """A run that cannot be changed as others are: it fails, if it has not ended, and nothing is left that moves it."""
        now = self.clock()
        ended = ", ".join(f"'{state.value}'" for state in sorted(TERMINAL))

        def work(connection: sa.Connection) -> None:
            sql = (
                "UPDATE aiki_runs SET state = 'failed', error_type = 'CannotGoOn', error_message = ?, finished_at = ?, "
                f"updated_at = ?, waiting_on = NULL, waits = NULL WHERE namespace = ? AND id = ? AND state NOT IN ({ended})"
            )
            self.db.execute(connection, sql, (f"it cannot go on: {why}"[:4000], now, now, namespace, run_id))
            sql = "DELETE FROM aiki_deliveries WHERE namespace = ? AND id >= ? AND id <= ?"
            self.db.execute(connection, sql, (namespace, run_id + b"\0" * 4, run_id + b"\xff" * 4))
            sql = "UPDATE aiki_inbox SET taken = 1 WHERE namespace = ? AND run_id = ? AND taken = 0"
            self.db.execute(connection, sql, (namespace, run_id))

        self.db.transaction(work)

    def expire(self, namespace: str, run_ids: Sequence[bytes]) -> Applied:
        """Cancel those of the runs that have not started although their time to do so is over."""

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            now = self.clock()
            for run_id in run_ids:
                expire(run_id, rows.get(run_id), effects, now)

        return self.apply(namespace, run_ids, decide, unsent=True)
