"""The verb that records new runs: run, input and delivery in one transaction, so that no run exists without a cause to move."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from aiki import ids
from aiki.ceilings import MESSAGE_ROOM
from aiki.clock import SECOND, Clock
from aiki.errors import PayloadTooLarge, ReferenceConflict, RunConflict, StorageUnavailable
from aiki.lifecycle.effects import Audited
from aiki.lifecycle.record import EXPIRY_EPOCH, delivery_id
from aiki.messages import OPT_KIND, OPT_REFERENCE, Dispatch
from aiki.model import Accepted, Created, NewRun, Outgoing
from aiki.states import State
from aiki.storage.auditing import AUDIT_COLUMNS, Origin, audit_rows
from aiki.storage.engine import Database, Insert, RowTooLarge

RUN_COLUMNS = (
    "namespace",
    "id",
    "kind",
    "name",
    "version",
    "queue",
    "state",
    "epoch",
    "partition_no",
    "reference_id",
    "options",
    "created_at",
    "due_at",
    "dispatched_at",
    "expires_at",
    "updated_at",
    "parent_id",
    "parent_ordinal",
)
PAYLOAD_COLUMNS = ("namespace", "run_id", "role", "encoding", "data")
DELIVERY_COLUMNS = ("namespace", "id", "due_at", "again")

MAX_LIST = 50
ENDED_BADLY: Final = frozenset({State.FAILED, State.DEAD, State.CANCELLED})
"""States in which a run may be that `retry_failed` retries; of those that were cancelled, only what has expired."""
SMALL = 64 * 1024
"""Bytes of input up to which a single run goes the short way."""
_DURATIONS_TTL = 5.0
_groups = itertools.count(1)


def next_group() -> int:
    """A number for runs that may share a message."""
    return next(_groups)


def list_size(mean_ms: float | None) -> int:
    """How many runs one message may carry: what is known to be short travels in long lists, what is slow alone.

    A worker gives back what a slow run holds up in a list, so a wrong guess costs little.
    """
    if mean_ms is None:
        return 20
    if mean_ms < 5:
        return MAX_LIST
    return 5 if mean_ms < 50 else 1


_written = json.JSONEncoder(separators=(",", ":")).encode
"""Options as they are recorded; made once, for it is called for each run."""


def _option_texts(runs: Iterable[NewRun]) -> Iterator[str | None]:
    """The options of each run as they are recorded. Runs that are enqueued together mostly share one object."""
    last, text = None, None
    for run in runs:
        if run.options is not last:
            last = run.options
            text = _written(last) if last else None
        yield text


class Durations:
    """The mean duration of each name, as of a few seconds ago."""

    def __init__(self, db: Database, namespace: str) -> None:
        self._db = db
        self._namespace = namespace
        self._lock = threading.Lock()
        self._known: dict[str, float | None] = {}
        self._until = 0.0

    def mean_ms(self, connection: sa.Connection, name: str) -> float | None:
        """Milliseconds that `name` takes on average, None if unknown."""
        if time.monotonic() >= self._until:
            rows = self._db.execute(
                connection, "SELECT name, mean_ms FROM aiki_definitions WHERE namespace = ?", (self._namespace,)
            ).fetchall()
            with self._lock:
                self._known = {row[0]: row[1] for row in rows}
                self._until = time.monotonic() + _DURATIONS_TTL
        return self._known.get(name)


class Creating:
    """Recording runs."""

    db: Database
    namespace: str
    partitions: int
    max_message: int
    clock: Clock
    origin: Origin
    _durations: Durations

    def create_runs(
        self,
        runs: Sequence[NewRun],
        *,
        connection: sa.Connection | None = None,
        claim: float | None = None,
        batch: int | None = None,
        actor: str = "",
    ) -> Created:
        """Record runs and their deliveries, all or none; asking again with the same ids changes nothing.

        :param connection: write in this transaction, which the caller commits; the default is one of our own.
        :param claim: seconds for which the deliveries belong to the caller, who publishes them; None leaves them to the
            sweeper.
        :param batch: runs a message at most; None leaves it to what is known of the durations.
        :param actor: who asks, to be audited; empty: services that have the database themselves are not.
        :raises ReferenceConflict: a reference id belongs to another input.
        :raises RunConflict: an id belongs to a run of another name.
        :raises PayloadTooLarge: the database refuses rows of that size.
        :raises StorageUnavailable: with `connection`, that its transaction must be rolled back and repeated.
        """
        for run in runs:
            self._check_sendable(run)
        try:
            if connection is not None:
                return self._create_within(connection, runs, claim, batch, actor)
            if len(runs) == 1 and runs[0].reference_id is None and len(runs[0].input.text) < SMALL:
                made = self._create_one(runs[0], claim, actor)
                if made is not None:
                    return made
            now = self.clock()
            return self.db.transaction(
                lambda c: self._create(c, self.namespace, runs, claim, batch, actor, now),
                repeatable=lambda c, made: self._made(c, [item.id for item in made.accepted if item.created], now),
            )
        except RowTooLarge as error:
            raise PayloadTooLarge(
                f"the database refuses a payload of that size ({error}); raise its max_allowed_packet, or lower "
                "AIKI_MAX_PAYLOAD so that callers are told earlier"
            ) from None

    def _check_sendable(self, run: NewRun) -> None:
        """Refuse an input that no message can carry. Inside of one, quotes and backslashes of its text take two bytes."""
        text, room = run.input.text, self.max_message - MESSAGE_ROOM
        if 2 * len(text) > room and (size := len(text) + text.count('"') + text.count("\\")) > room:
            raise PayloadTooLarge(
                f"the input of {run.name} takes {size:,} bytes in a message, and there is room for {room:,}; pass a reference "
                "to large data, or raise AIKI_MAX_MESSAGE and the broker's own limit (max_message_size of RabbitMQ)"
            )

    def _create_within(
        self, connection: sa.Connection, runs: Sequence[NewRun], claim: float | None, batch: int | None, actor: str
    ) -> Created:
        """As `_create`, in the caller's transaction, whose isolation level is the caller's too."""
        try:
            return self._create(connection, self.namespace, runs, claim, batch, actor, theirs=True)
        except DBAPIError as error:
            if not self.db.dialect.is_stale(error):
                raise
            raise StorageUnavailable(
                "another process has taken a reference id or a run id since this transaction began, and this server lets no "
                "transaction of this isolation level look at what is newer; roll back and repeat, or use READ COMMITTED"
            ) from error

    def _create(
        self,
        connection: sa.Connection,
        namespace: str,
        runs: Sequence[NewRun],
        claim: float | None,
        batch: int | None,
        actor: str = "",
        now: int | None = None,
        *,
        theirs: bool = False,
    ) -> Created:
        now = self.clock() if now is None else now
        answers: dict[int, Accepted] = {}
        again: dict[bytes, str] = {}
        for position in _claiming_order(runs):
            run = runs[position]
            holder = self._claim_reference(connection, namespace, run)
            if holder is not None:
                answers[position] = holder
                if run.on_conflict == "retry_failed" and holder.state in ENDED_BADLY:
                    again[ids.to_bytes(holder.id)] = run.reference_id or ""
        fresh = [(position, run) for position, run in enumerate(runs) if position not in answers]
        known = self._insert_runs(connection, namespace, [run for _, run in fresh], now, batch)
        new: list[tuple[NewRun, _Rows]] = []
        for position, run in fresh:
            made = known[run.id]
            if isinstance(made, Accepted):
                answers[position] = made
            else:
                answers[position] = Accepted(run.id, made.state, True)
                new.append((run, made))
        self._insert_rest(connection, namespace, new, now, claim)
        if actor and new:
            self.db.insert(connection, "aiki_audit", AUDIT_COLUMNS, self._audit_rows(actor, [run for run, _ in new], now))
        due_now = [(run, made) for run, made in new if made.state is State.QUEUED] if claim is not None else []
        outgoing = [self._outgoing(namespace, run, made) for run, made in due_now]
        if again:
            states, retried = self.retry_within(connection, namespace, again, actor, leave=theirs)
            outgoing += retried
            for position, answer in answers.items():
                answers[position] = answer._replace(state=states.get(answer.id, answer.state))
        return Created([answers[position] for position in range(len(runs))], outgoing)

    def retry_within(
        self, connection: sa.Connection, namespace: str, runs: Mapping[bytes, str], actor: str, *, leave: bool
    ) -> tuple[dict[str, State], list[Outgoing]]:
        """In this transaction, retry those of the runs (with the reference ids that led to them) that have ended badly; what
        state each is in then, and what to publish once it is committed. Runs that cannot be retried stay as they are.

        :param leave: publish nothing, see `Applying.apply_within`.
        """
        raise NotImplementedError

    def _create_one(self, run: NewRun, claim: float | None, actor: str) -> Created | None:
        """The short way of a single run: everything in one round trip. None: its id is taken, go the long way."""
        now = self.clock()
        raw = ids.to_bytes(run.id)
        rows = _Rows(raw, self._first_state(run, now), zlib.crc32(raw) % self.partitions, next_group())
        payloads, deliveries = self._rest_values(self.namespace, [(run, rows)], now, claim)
        try:
            self.db.write_at_once(
                [
                    Insert("aiki_runs", RUN_COLUMNS, self._runs_values(self.namespace, [run], {run.id: rows}, now)),
                    Insert("aiki_payloads", PAYLOAD_COLUMNS, payloads),
                    Insert("aiki_deliveries", DELIVERY_COLUMNS, deliveries),
                    Insert("aiki_audit", AUDIT_COLUMNS, self._audit_rows(actor, [run], now) if actor else []),
                ],
                lambda connection: self._made(connection, [run.id], now),
            )
        except IntegrityError as error:
            if self.db.dialect.is_duplicate(error):
                return None
            raise
        published = claim is not None and rows.state is State.QUEUED
        return Created([Accepted(run.id, rows.state, True)], [self._outgoing(self.namespace, run, rows)] if published else [])

    def _made(self, connection: sa.Connection, run_ids: Sequence[str], now: int) -> bool:
        """Whether these runs are there, made by a call that began at `now`."""
        sql = "SELECT created_at FROM aiki_runs WHERE namespace = ? AND id = ?"
        if not run_ids:
            return False
        row = self.db.execute(
            connection, f"{sql} {self.db.dialect.for_update}", (self.namespace, ids.to_bytes(run_ids[0]))
        ).fetchone()
        return row is not None and row[0] == now

    def _audit_rows(self, actor: str, runs: Sequence[NewRun], now: int) -> list[tuple[Any, ...]]:
        """One record for all runs of a request."""
        names = list(dict.fromkeys(run.name for run in runs))
        detail = ", ".join(names[:10]) + (f" and {len(names) - 10} more names" if len(names) > 10 else "")
        return audit_rows(self.namespace, now, self.origin, [Audited(actor, "enqueue", runs[0].id, detail, affected=len(runs))])

    # ------------------------------------------------------------ reference ids
    def _claim_reference(self, connection: sa.Connection, namespace: str, run: NewRun) -> Accepted | None:
        """Take the reference id for this run (None), or find the run that has it."""
        digest = hashlib.sha256(f"{run.input.encoding}\n{run.input.text}".encode()).digest()
        raw = ids.to_bytes(run.id)
        columns = ("namespace", "name", "reference_id", "run_id", "input_hash")
        row = (namespace, run.name, run.reference_id, raw, digest)
        if self.db.inserted(connection, "aiki_reference_ids", columns, [row]):
            return None
        found = self._holder(connection, namespace, run)
        if found is None:
            raise StorageUnavailable(
                f"the run of {run.name} with reference id {run.reference_id!r} was deleted this moment, or recorded since "
                "this transaction began, which does not see it; roll back and repeat, or use READ COMMITTED"
            )
        holder, known_digest, state = bytes(found[0]), bytes(found[1]), found[2]
        if holder == raw and state is None:
            return None
        text = ids.to_text(holder)
        # MySQL takes "job" and "job " for one key: what differs here is another reference id, which cannot be had beside it.
        other = (found[3], found[4]) != (run.name, run.reference_id)
        same = known_digest == digest or run.on_conflict != "error"
        if run.blind and run.on_conflict == "error":
            same = holder == raw  # whatever the input is: the answer must not tell a guess from the truth
        if other or not same:
            raise ReferenceConflict(run.name, run.reference_id or "", text)
        return Accepted(text, State(state or State.QUEUED), False)

    def _holder(self, connection: sa.Connection, namespace: str, run: NewRun) -> tuple[Any, ...] | None:
        """The row of the reference id of `run`: run id, hash of the input, the run's state, name, reference id.

        The refused insert shares a lock of that row with whoever was refused beside it, so that it must not be locked for
        update; the run must, where it may be retried: two that share a lock of it would each wait for the other to change it.
        """
        of = "FROM aiki_reference_ids f "
        which = f"WHERE f.namespace = ? AND f.name = ? AND f.reference_id = ? {self.db.dialect.for_share}"
        key = (namespace, run.name, run.reference_id)
        if run.on_conflict != "retry_failed":
            of += "LEFT JOIN aiki_runs r ON r.namespace = f.namespace AND r.id = f.run_id "
            sql = f"SELECT f.run_id, f.input_hash, r.state, f.name, f.reference_id {of}{which}"
            found = self.db.execute(connection, sql, key).fetchone()
            return None if found is None else tuple(found)
        found = self.db.execute(
            connection, f"SELECT f.run_id, f.input_hash, f.name, f.reference_id {of}{which}", key
        ).fetchone()
        if found is None:
            return None
        sql = f"SELECT state FROM aiki_runs WHERE namespace = ? AND id = ? {self.db.dialect.for_update}"
        held = self.db.execute(connection, sql, (namespace, found[0])).fetchone()
        return found[0], found[1], held and held[0], found[2], found[3]

    # ------------------------------------------------------------ rows
    def _insert_runs(
        self, connection: sa.Connection, namespace: str, runs: Sequence[NewRun], now: int, batch: int | None
    ) -> dict[str, _Rows | Accepted]:
        made = {run.id: rows for run, rows in zip(runs, self._group(connection, runs, now, batch), strict=True)}
        out: dict[str, _Rows | Accepted] = dict(made)
        unique = {run.id: run for run in runs}
        values = self._runs_values(namespace, list(unique.values()), made, now)
        if self.db.inserted(connection, "aiki_runs", RUN_COLUMNS, values):
            return out
        # Asked before, or the answer to our own commit was lost: keep those that exist, insert the others. What stood before
        # the first that exists was inserted just now: it has no input yet.
        found = self.db.where_in(
            connection,
            "SELECT r.id, r.name, r.state, r.created_at = ? AND p.run_id IS NULL FROM aiki_runs r LEFT JOIN aiki_payloads p "
            "ON p.namespace = r.namespace AND p.run_id = r.id AND p.role = 'input' WHERE r.namespace = ? AND r.id",
            (now, namespace),
            [made[run_id].raw for run_id in unique],
            self.db.dialect.for_share,
        )
        here: set[str] = set()
        for raw, name, state, ours in found:
            run_id = ids.to_text(bytes(raw))
            if ours:
                here.add(run_id)
                continue
            if unique[run_id].name != name:
                raise RunConflict(f"run id {run_id} belongs to a run of {name!r}, not of {unique[run_id].name!r}")
            out[run_id] = Accepted(run_id, State(state), False)
        missing = [run for run in unique.values() if isinstance(out[run.id], _Rows) and run.id not in here]
        self.db.insert(connection, "aiki_runs", RUN_COLUMNS, self._runs_values(namespace, missing, made, now))
        return out

    def _group(self, connection: sa.Connection, runs: Sequence[NewRun], now: int, batch: int | None) -> list[_Rows]:
        """Cut the runs into lists that travel together; all of one list report to one partition."""
        out: list[_Rows] = []
        sizes: dict[str, int] = {}
        key: tuple[str, str] | None = None
        group = left = partition = 0
        for run in runs:
            raw = ids.to_bytes(run.id)
            if (run.name, run.queue) != key or left == 0:
                key = (run.name, run.queue)
                if run.name not in sizes:
                    known = batch or (list_size(self._durations.mean_ms(connection, run.name)) if len(runs) > 1 else 1)
                    sizes[run.name] = min(known, MAX_LIST)
                group, left, partition = next_group(), sizes[run.name], zlib.crc32(raw) % self.partitions
            left -= 1
            out.append(_Rows(raw, self._first_state(run, now), partition, group))
        return out

    def _first_state(self, run: NewRun, now: int) -> State:
        return State.SCHEDULED if run.due_at is not None and run.due_at > now else State.QUEUED

    def _runs_values(
        self, namespace: str, runs: Sequence[NewRun], rows: Mapping[str, _Rows], now: int
    ) -> list[tuple[Any, ...]]:
        """Rows of `runs` for new runs."""
        return [
            self._run_values(namespace, run, rows[run.id], now, options)
            for run, options in zip(runs, _option_texts(runs), strict=True)
        ]

    def _run_values(self, namespace: str, run: NewRun, made: _Rows, now: int, options: str | None) -> tuple[Any, ...]:
        return (
            namespace,
            made.raw,
            run.kind,
            run.name,
            run.version,
            run.queue,
            made.state.value,
            1,
            made.partition,
            run.reference_id,
            options,
            now,
            run.due_at,
            now if made.state is State.QUEUED else None,
            run.expires_at,
            now,
            run.parent_id,
            run.parent_ordinal,
        )

    def _insert_rest(
        self, connection: sa.Connection, namespace: str, new: Sequence[tuple[NewRun, _Rows]], now: int, claim: float | None
    ) -> None:
        payloads, deliveries = self._rest_values(namespace, new, now, claim)
        self.db.insert(connection, "aiki_payloads", PAYLOAD_COLUMNS, payloads)
        self.db.insert(connection, "aiki_deliveries", DELIVERY_COLUMNS, deliveries)

    def _rest_values(
        self, namespace: str, new: Sequence[tuple[NewRun, _Rows]], now: int, claim: float | None
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Rows of `payloads` and of `deliveries` for new runs."""
        payloads: list[tuple[Any, ...]] = []
        deliveries: list[tuple[Any, ...]] = []
        for run, made in new:
            payloads.append((namespace, made.raw, "input", run.input.encoding, self.db.dialect.blob(run.input.text)))
            if made.state is State.SCHEDULED:
                due, again = run.due_at, 0
            elif claim is None:
                due, again = now, 0
            else:
                # Claimed: should this process die, the sweeper publishes it, marked, because a copy may be out.
                due, again = now + int(claim * SECOND), 1
            deliveries.append((namespace, delivery_id(made.raw, 1), due, again))
            if run.expires_at is not None:
                deliveries.append((namespace, delivery_id(made.raw, EXPIRY_EPOCH), run.expires_at, 0))
        return payloads, deliveries

    def _outgoing(self, namespace: str, run: NewRun, made: _Rows) -> Outgoing:
        options = run.options  # as it is where nothing of it differs: this runs for each run
        if "mc" in options or run.reference_id is not None or run.kind != "task":
            options = {key: value for key, value in options.items() if key != "mc"}
            if run.reference_id is not None:
                options[OPT_REFERENCE] = run.reference_id
            if run.kind != "task":
                options[OPT_KIND] = run.kind
        dispatch = Dispatch(
            made.raw.hex(), 1, run.name, run.version, 1, made.partition, run.input.encoding, run.input.text, options
        )
        return Outgoing(delivery_id(made.raw, 1), namespace, run.queue, made.group, dispatch)


def _claiming_order(runs: Sequence[NewRun]) -> list[int]:
    """The positions of runs with reference ids, in the order in which these are locked: the same for all who ask for the same
    ones, so that no two of them wait for each other."""
    named = [position for position, run in enumerate(runs) if run.reference_id is not None]
    return sorted(named, key=lambda position: (runs[position].name, runs[position].reference_id or ""))


class _Rows:
    """What a new run's rows share."""

    __slots__ = ("group", "partition", "raw", "state")

    def __init__(self, raw: bytes, state: State, partition: int, group: int) -> None:
        self.raw = raw
        self.state = state
        self.partition = partition
        self.group = group
