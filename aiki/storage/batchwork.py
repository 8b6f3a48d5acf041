"""The verbs of orchestrators about batches: collecting their runs, and working them off a chunk at a time.

What holds, whatever crashes:

* The runs are those that matched when it was made: what has failed, or was recorded, after that is left out, and a run of it
  that has failed again since is passed over. So a retry never meets its own consequences.
* A chunk of runs, what became of each, and the batch's `reached` are written in one transaction, which holds only if the batch
  still runs, is at that place, and is leased to whoever works. So each run is done at most once, by however many orchestrators,
  and nothing is done once a stop was answered.
* A rerun is a run of an id that follows from the batch's and the old run's, so doing it again is the same run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiki import ids
from aiki.clock import SECOND
from aiki.errors import AikiError, ConfigurationError, RunConflict, StorageUnavailable, Unavailable
from aiki.filters import parse
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.operations import cancel, pause_row, resume_row, retry_row
from aiki.lifecycle.record import RunRow
from aiki.messages import RunKey
from aiki.model import Outgoing, RunView
from aiki.states import TERMINAL
from aiki.storage.batches import OPEN, Batches, BatchState, Operation, fingerprint_of
from aiki.storage.engine import RowTooLarge

LEASE: Final = 10 * SECOND
"""How long a batch belongs to the orchestrator that last worked on it."""
COLLECT: Final = 1000
"""Runs that are looked up at a time."""
LOOKS: Final = 2
"""How often a page is looked up that takes too long."""
MAX_SAMPLES: Final = 10


class Lease(NamedTuple):
    """A batch that an orchestrator works on, and who that is."""

    namespace: str
    id: bytes
    owner: str


@dataclass(slots=True)
class Worked:
    """The outcome of a chunk: what is to be published and told, how many runs it was, and whether the batch is over, or still
    collecting."""

    applied: Applied
    pause_soon: list[RunKey]
    count: int = 0
    over: bool = False
    collecting: bool = False


class _Lost(Exception):
    """The batch was stopped, or is another's by now: nothing of the transaction holds."""


class BatchWork(Batches):
    """Working on batches."""

    def claim_batches(self, owner: str, limit: int = 4) -> list[Lease]:
        """Take batches of all namespaces to work on: those that are nobody's, and one's own again.

        They take turns, so that many of one namespace keep no other waiting.
        """

        def work(connection: sa.Connection) -> list[Lease]:
            now = self.clock()
            rows = self.db.execute(
                connection,
                f"SELECT namespace, id FROM aiki_batches WHERE state IN ('{OPEN[0]}', '{OPEN[1]}') "
                "AND (lease_owner = ? OR lease_until < ?) "
                f"ORDER BY lease_until, namespace, id LIMIT {int(limit)} {self.db.dialect.skip_locked}",
                (owner, now),
            ).fetchall()
            for namespace, raw in rows:
                self.db.execute(
                    connection,
                    "UPDATE aiki_batches SET lease_owner = ?, lease_until = ? WHERE namespace = ? AND id = ?",
                    (owner, now + LEASE, namespace, bytes(raw)),
                )
            return [Lease(namespace, bytes(raw), owner) for namespace, raw in rows]

        sql = f"SELECT 1 FROM aiki_batches WHERE state IN ('{OPEN[0]}', '{OPEN[1]}') LIMIT 1"
        if self.db.read(lambda connection: self.db.execute(connection, sql).fetchone()) is None:
            return []  # the usual case takes no lock
        return self.db.transaction(work, repeatable=True)

    def release_batches(self, owner: str) -> None:
        """Let others have the batches of an orchestrator that stops."""
        sql = f"UPDATE aiki_batches SET lease_until = 0 WHERE state IN ('{OPEN[0]}', '{OPEN[1]}') AND lease_owner = ?"
        self.db.transaction(lambda connection: self.db.execute(connection, sql, (owner,)).rowcount, repeatable=True)

    def purge_batches(self, before: int, limit: int = 1000) -> int:
        """Delete some of what batches of any namespace that ended before `before` left; how many rows."""
        ended = ", ".join(f"'{state}'" for state in BatchState if state not in OPEN)

        def work(connection: sa.Connection) -> int:
            sql = f"SELECT namespace, id FROM aiki_batches WHERE state IN ({ended}) AND finished_at < ? LIMIT 1"
            found = self.db.execute(connection, sql, (before,)).fetchone()
            if found is None:
                return 0
            key = (found[0], bytes(found[1]))
            sql = f"SELECT run_id FROM aiki_batch_items WHERE namespace = ? AND batch_id = ? LIMIT {int(limit)}"
            items = sorted(bytes(row[0]) for row in self.db.execute(connection, sql, key).fetchall())
            if items:
                sql = "DELETE FROM aiki_batch_items WHERE namespace = ? AND batch_id = ? AND run_id"
                self.db.where_in(connection, sql, key, items)
                return len(items)
            return int(self.db.execute(connection, "DELETE FROM aiki_batches WHERE namespace = ? AND id = ?", key).rowcount)

        return self.db.transaction(work, repeatable=True)

    def work_batch(self, lease: Lease, limit: int) -> Worked:
        """Bring a batch of this store's namespace on: collect some runs, or do the operation to at most `limit`."""
        row = self._leased(lease)
        if row is None:
            return Worked(Applied(), [], over=True)
        state, operation, reached, collected, target, created_at, reason = row
        try:
            if state == BatchState.COLLECTING:
                return self._collect(lease, json.loads(target), collected, created_at)
            wanted = self._next_items(lease, bytes(reached or b""), limit)
            if not wanted:
                return self._finish(lease)
            if operation == Operation.RERUN:
                return self._rerun(lease, reached, wanted)
            return self._operate(lease, Operation(operation), reached, wanted, created_at, reason)
        except _Lost:
            return Worked(Applied(), [], over=True)

    def _leased(self, lease: Lease) -> Any:
        sql = (
            "SELECT state, operation, reached, collected, target, created_at, reason FROM aiki_batches WHERE namespace = ? "
            f"AND id = ? AND lease_owner = ? AND state IN ('{OPEN[0]}', '{OPEN[1]}')"
        )
        return self.db.read(lambda c: self.db.execute(c, sql, (lease.namespace, lease.id, lease.owner)).fetchone())

    # ------------------------------------------------------------ collecting
    def _collect(self, lease: Lease, target: Mapping[str, Any], collected: str | None, created_at: int) -> Worked:
        try:
            found, after = self._page_in_time(target, collected, created_at)
        except ConfigurationError as error:  # it was read when it was made, but the next release may read it otherwise
            return self._give_up(lease, str(error))

        def work(connection: sa.Connection) -> None:
            items = sorted((lease.namespace, lease.id, raw) for raw in found)
            self.db.insert_new(connection, "aiki_batch_items", ("namespace", "batch_id", "run_id"), items)
            now = self.clock()
            state, matched = BatchState.COLLECTING, "matched + ?"
            values: list[Any] = [len(items)]
            if after is None:
                state, matched = BatchState.RUNNING, "?"
                sql = "SELECT COUNT(*) FROM aiki_batch_items WHERE namespace = ? AND batch_id = ?"
                values = [self.db.execute(connection, sql, (lease.namespace, lease.id)).fetchone()[0]]
            self._hold(
                connection,
                lease,
                f"state = ?, matched = {matched}, collected = ?, started_at = ?",
                (state.value, *values, after, now if after is None else None),
                "AND COALESCE(collected, '') = ?",
                (collected or "",),
            )

        self.db.transaction(work)
        return Worked(Applied(), [], count=1, collecting=True)

    def _page_in_time(
        self, target: Mapping[str, Any], collected: str | None, created_at: int
    ) -> tuple[list[bytes], str | None]:
        """As `_page`. Raises `ConfigurationError` for a filter that takes too long: nobody else is to wait for it."""
        for _ in range(LOOKS):
            try:
                return self._page(target, collected, created_at)
            except StorageUnavailable as error:
                late = error
                self.db.read(lambda connection: self.db.execute(connection, "SELECT 1").fetchone())  # it may be away
        raise ConfigurationError(f"its filter takes too long ({late}); narrow it by name, queue, status or time") from late

    def _page(self, target: Mapping[str, Any], collected: str | None, created_at: int) -> tuple[list[bytes], str | None]:
        """The next runs that are of the batch, and where to go on (None: that was all)."""
        if target["fingerprint"] is not None:
            sql = (
                "SELECT run_id, failed_at FROM aiki_failures WHERE namespace = ? AND fingerprint = ? AND run_id > ? "
                f"ORDER BY run_id LIMIT {COLLECT}"
            )
            key = (self.namespace, fingerprint_of(target["fingerprint"]), bytes.fromhex(collected or ""))
            rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
            found = [bytes(raw) for raw, failed_at in rows if failed_at <= created_at]
            return found, bytes(rows[-1][0]).hex() if len(rows) == COLLECT else None
        page = self.search(parse(target["q"]), limit=COLLECT, after=collected)
        return [ids.to_bytes(run.id) for run in page.runs if _was_there(run, created_at)], page.next

    def _give_up(self, lease: Lease, why: str) -> Worked:
        def work(connection: sa.Connection) -> None:
            sample = json.dumps([{"run": "", "outcome": "failed", "detail": why[:255]}])
            self._hold(connection, lease, "state = 'failed', finished_at = ?, samples = ?", (self.clock(), sample), "", ())
            self._audit_end(connection, lease.id, "failed", reason=why)

        self.db.transaction(work)
        return Worked(Applied(), [], over=True)

    # ------------------------------------------------------------ working
    def _next_items(self, lease: Lease, reached: bytes, limit: int) -> list[bytes]:
        sql = (
            "SELECT run_id FROM aiki_batch_items WHERE namespace = ? AND batch_id = ? AND run_id > ? "
            f"ORDER BY run_id LIMIT {int(limit)}"
        )
        rows = self.db.read(lambda c: self.db.execute(c, sql, (lease.namespace, lease.id, reached)).fetchall())
        return [bytes(row[0]) for row in rows]

    def _operate(
        self,
        lease: Lease,
        operation: Operation,
        reached: bytes | None,
        wanted: Sequence[bytes],
        created_at: int,
        reason: str,
    ) -> Worked:
        outcomes: dict[bytes, tuple[str, str]] = {}
        soon: list[RunKey] = []

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            outcomes.clear()
            soon.clear()
            for raw in wanted:
                row = rows.get(raw)
                if row is None:
                    outcomes[raw] = ("skipped", "it is gone")
                    continue
                try:
                    if row.ended and (row.finished_at or 0) > created_at:
                        raise RunConflict("it has ended since the batch began")
                    if _operate_on(row, operation, effects, self.clock(), reason):
                        soon.append(RunKey(row.run_id, row.epoch))
                    outcomes[raw] = ("done", "")
                except RunConflict as error:
                    outcomes[raw] = ("skipped", str(error))

        def record(connection: sa.Connection) -> None:
            self._record(connection, lease, reached, wanted, outcomes)

        try:
            applied = self.apply(lease.namespace, wanted, decide, also=record, verb="batch", unsent=True)
        except (RowTooLarge, DBAPIError, AssertionError, ValueError, TypeError, KeyError) as error:
            # One run spoils the chunk: halve it until that one stands alone.
            if len(wanted) > 1:
                return self._operate(lease, operation, reached, wanted[: len(wanted) // 2], created_at, reason)
            why = f"{type(error).__name__}: {error}"
            spoilt = {wanted[0]: ("failed", why)}
            self.db.transaction(lambda connection: self._record(connection, lease, reached, wanted, spoilt))
            return Worked(Applied(), [], 1)
        return Worked(applied, list(soon), len(wanted))

    def _rerun(self, lease: Lease, reached: bytes | None, wanted: Sequence[bytes]) -> Worked:
        outcomes: dict[bytes, tuple[str, str]] = {}
        outgoing: list[Outgoing] = []
        for raw in wanted:
            try:
                created = self.rerun(ids.to_text(raw), new_id=rerun_id(lease.id, raw), claim=LEASE / SECOND)
                outgoing += created.outgoing
                outcomes[raw] = ("done", "")
            except Unavailable:
                raise
            except (AikiError, DBAPIError, ValueError, TypeError) as error:
                outcomes[raw] = ("skipped" if isinstance(error, RunConflict) else "failed", str(error))
        self.db.transaction(lambda connection: self._record(connection, lease, reached, wanted, outcomes))
        return Worked(Applied(outgoing), [], len(wanted))

    def _record(
        self,
        connection: sa.Connection,
        lease: Lease,
        reached: bytes | None,
        wanted: Sequence[bytes],
        outcomes: Mapping[bytes, tuple[str, str]],
    ) -> None:
        """What became of a chunk, in the transaction that does it. Raises `_Lost` if the batch is not ours any more."""
        counts = Counter(outcome for outcome, _ in outcomes.values())
        self._hold(
            connection,
            lease,
            "done = done + ?, skipped = skipped + ?, failed = failed + ?, reached = ?",
            (counts["done"], counts["skipped"], counts["failed"], wanted[-1]),
            "AND (reached IS NULL OR reached = ?)" if reached is None else "AND reached = ?",
            (b"" if reached is None else bytes(reached),),
        )
        told = [(raw, *outcomes[raw]) for raw in wanted]
        for outcome, detail in sorted({(outcome, detail) for _, outcome, detail in told}):
            self.db.where_in(
                connection,
                "UPDATE aiki_batch_items SET outcome = ?, detail = ? WHERE namespace = ? AND batch_id = ? AND run_id",
                (outcome, detail[:255] or None, lease.namespace, lease.id),
                [raw for raw, *other in told if other == [outcome, detail]],
            )
        spoilt = [item for item in told if item[1] != "done"][:MAX_SAMPLES]
        if spoilt:
            self._add_samples(connection, lease, spoilt)

    def _add_samples(self, connection: sa.Connection, lease: Lease, spoilt: Sequence[tuple[bytes, str, str]]) -> None:
        key = (lease.namespace, lease.id)
        sql = "SELECT samples FROM aiki_batches WHERE namespace = ? AND id = ?"
        there = json.loads(self.db.execute(connection, sql, key).fetchone()[0])
        if len(there) < MAX_SAMPLES:
            there += [{"run": ids.to_text(raw), "outcome": outcome, "detail": detail[:255]} for raw, outcome, detail in spoilt]
            sql = "UPDATE aiki_batches SET samples = ? WHERE namespace = ? AND id = ?"
            self.db.execute(connection, sql, (json.dumps(there[:MAX_SAMPLES]), *key))

    def _finish(self, lease: Lease) -> Worked:
        def work(connection: sa.Connection) -> None:
            self._hold(connection, lease, "state = 'done', finished_at = ?", (self.clock(),), "", ())
            self._audit_end(connection, lease.id, "done")

        self.db.transaction(work)
        return Worked(Applied(), [], over=True)

    def _hold(
        self, connection: sa.Connection, lease: Lease, sets: str, values: Sequence[Any], only: str, more: Sequence[Any]
    ) -> None:
        """Write to the batch's row, if it is still worked on and ours. Raises `_Lost`."""
        now = self.clock()
        changed = self.db.execute(
            connection,
            f"UPDATE aiki_batches SET updated_at = ?, lease_until = ?, {sets} WHERE namespace = ? AND id = ? "
            "AND lease_owner = ? "
            f"AND state IN ('{OPEN[0]}', '{OPEN[1]}') {only}",
            (now, now + LEASE, *values, lease.namespace, lease.id, lease.owner, *more),
        ).rowcount
        if not changed:
            raise _Lost


def _operate_on(row: RunRow, operation: Operation, effects: Effects, now: int, reason: str) -> bool:
    """Do it to one locked run; True: whoever executes it is to pause soon. Raises `RunConflict`."""
    if operation is Operation.RETRY:
        retry_row(row, effects, now)
    elif operation is Operation.PAUSE:
        return pause_row(row, effects)
    elif operation is Operation.RESUME:
        resume_row(row, effects, now)
    else:
        if row.ended:
            raise RunConflict(f"it is {row.state}")
        cancel(row, effects, now, reason, at_once=operation is Operation.TERMINATE)
    return False


def rerun_id(batch: bytes, run: bytes) -> str:
    """The id of the run that a batch makes of another: always the same one, of the batch's time."""
    rest = bytearray(hashlib.sha256(batch + run).digest()[:10])
    rest[0] = 0x70 | rest[0] & 0x0F
    rest[2] = 0x80 | rest[2] & 0x3F
    return ids.to_text(batch[:6] + bytes(rest))


def _was_there(run: RunView, created_at: int) -> bool:
    """Whether a run that matches now did so when the batch was made, as far as can be told."""
    if run.state in TERMINAL:
        return (run.finished_at or run.created_at) <= created_at
    return run.created_at <= created_at
