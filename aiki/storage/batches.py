"""The verbs of people about batches: one operation on many runs, looked at before, begun, watched and stopped.

A batch is a row; its runs are rows of `batch_items`. It goes `collecting` → `running` → `done`, or `stopped`, or `failed` (its
filter cannot be looked up). Orchestrators work on it: see `batchwork`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from aiki import ids
from aiki.clock import SECOND
from aiki.errors import ConfigurationError, RunConflict
from aiki.filters import parse
from aiki.lifecycle.effects import Audited
from aiki.model import RunView
from aiki.storage.rerunning import Rerunning
from aiki.storage.rows import VIEW_COLUMNS, run_view
from aiki.storage.searching import Searching

LOOKED: Final = 500
"""Runs of which a preview tells states and names."""
MAX_IDS: Final = 10_000
"""Runs that may be named one by one."""
COUNT_CAP: Final = 1_000_000


class Operation(StrEnum):
    """What a batch does to each of its runs."""

    RETRY = "retry"
    CANCEL = "cancel"
    TERMINATE = "terminate"
    PAUSE = "pause"
    RESUME = "resume"
    RERUN = "rerun"


class BatchState(StrEnum):
    """Where a batch is; the first two are worked on."""

    COLLECTING = "collecting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


OPEN: Final = (BatchState.COLLECTING.value, BatchState.RUNNING.value)


@dataclass(frozen=True, slots=True)
class Target:
    """Which runs: all that match a filter, those of an error's fingerprint (32 hex digits), or these."""

    q: str | None = None
    fingerprint: str | None = None
    ids: tuple[str, ...] | None = None

    def to_json(self) -> str:
        """As it is kept; of ids, only how many."""
        return json.dumps(
            {"q": self.q, "fingerprint": self.fingerprint, "ids": None if self.ids is None else len(self.ids)}, sort_keys=True
        )


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch as people see it.

    :ivar target: `q`, `fingerprint` or `ids` (how many), the others None.
    :ivar expected: how many matched when it was asked for; `matched` how many it has, rising while it is collecting.
    :ivar samples: some runs that were skipped or failed: `run`, `outcome`, `detail`.
    """

    id: str
    operation: str
    state: str
    target: Mapping[str, Any]
    reason: str
    actor: str
    expected: int
    matched: int
    done: int
    skipped: int
    failed: int
    samples: list[dict[str, str]]
    created_at: int
    started_at: int | None
    finished_at: int | None
    updated_at: int

    @property
    def processed(self) -> int:
        """How many runs were dealt with."""
        return self.done + self.skipped + self.failed

    @property
    def open(self) -> bool:
        """Whether it is being worked on, or waits to be."""
        return self.state in OPEN

    def rate(self) -> float | None:
        """Runs a second since it began, or None before the first."""
        if self.started_at is None or not self.processed:
            return None
        return self.processed / max(0.001, ((self.finished_at or self.updated_at) - self.started_at) / SECOND)

    def eta(self) -> float | None:
        """Seconds until it is done at that rate, or None."""
        rate = self.rate()
        return (self.matched - self.processed) / rate if rate and self.state == BatchState.RUNNING else None


class BatchItem(NamedTuple):
    """A run of a batch, and what became of it: None for nothing yet."""

    run_id: str
    outcome: str | None
    detail: str | None


class Preview(NamedTuple):
    """What an operation would be done to. `states` and `names` count those of the newest `looked` runs."""

    number: int
    exact: bool
    sample: list[RunView]
    states: dict[str, int]
    names: dict[str, int]
    looked: int


_COLUMNS: Final = (
    "id, operation, state, target, reason, actor, expected, matched, done, skipped, failed, samples, created_at, started_at, "
    "finished_at, updated_at"
)


class Batches(Searching, Rerunning):
    """Batches."""

    # ------------------------------------------------------------ people
    def preview(self, target: Target, *, sample: int = 10) -> Preview:
        """How many runs there are, and some of them. Raises `FilterError`."""
        if target.q is not None:
            count = self.count(parse(target.q), COUNT_CAP)
            found = self.search(parse(target.q), limit=LOOKED)
            return _preview(count.number, found.runs, sample, exact=count.exact)
        if target.fingerprint is not None:
            number, raws = self._offingerprint_of(target.fingerprint)
            return _preview(number, self._views(raws), sample)
        views = self._views([ids.to_bytes(run_id) for run_id in target.ids or ()])
        return _preview(len(views), views, sample)

    def _offingerprint_of(self, fingerprint: str) -> tuple[int, list[bytes]]:
        key = (self.namespace, fingerprint_of(fingerprint))

        def work(connection: sa.Connection) -> tuple[int, list[bytes]]:
            sql = "SELECT COUNT(*) FROM aiki_failures WHERE namespace = ? AND fingerprint = ?"
            number = self.db.execute(connection, sql, key).fetchone()[0]
            sql = (
                f"SELECT run_id FROM aiki_failures WHERE namespace = ? AND fingerprint = ? ORDER BY run_id DESC LIMIT {LOOKED}"
            )
            return number, [bytes(row[0]) for row in self.db.execute(connection, sql, key).fetchall()]

        return self.db.read(work)

    def _views(self, raws: Sequence[bytes]) -> list[RunView]:
        """These runs, as far as they are there, newest first."""

        def work(connection: sa.Connection) -> list[RunView]:
            sql = f"SELECT {VIEW_COLUMNS} FROM aiki_runs WHERE namespace = ? AND id"
            return [run_view(row) for row in self.db.where_in(connection, sql, (self.namespace,), sorted(raws))]

        return sorted(self.db.read(work), key=lambda run: run.id, reverse=True)

    def create_batch(
        self, batch_id: str, operation: Operation, target: Target, *, expected: int, reason: str = "", actor: str = ""
    ) -> tuple[BatchView, bool]:
        """Have an operation done to runs; False: a batch of this id was there, asked for in the same way.

        :raises RunConflict: the id is another batch's.
        :raises FilterError: the filter cannot be read.
        """
        if target.q is not None:
            parse(target.q)
        raw = ids.to_bytes(batch_id)
        named = sorted({ids.to_bytes(run_id) for run_id in target.ids or ()})
        columns = (
            *("namespace", "id", "operation", "state", "target", "reason", "actor", "expected", "matched", "done", "skipped"),
            *("failed", "samples", "lease_until", "created_at", "started_at", "updated_at"),
        )

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            state = BatchState.COLLECTING if target.ids is None else BatchState.RUNNING
            begun = now if target.ids is not None else None
            told = (operation.value, state.value, target.to_json(), reason[:1000], actor[:255], expected)
            counts = (len(named), 0, 0, 0, "[]")
            self.db.insert(connection, "aiki_batches", columns, [(self.namespace, raw, *told, *counts, 0, now, begun, now)])
            items = [(self.namespace, raw, run_id) for run_id in named]
            self.db.insert(connection, "aiki_batch_items", ("namespace", "batch_id", "run_id"), items)
            entry = Audited(
                actor, f"batch_{operation}", f"batch {batch_id}", target.to_json(), reason, affected=expected, outcome="begun"
            )
            self.write_audit(connection, [entry])

        try:
            self.db.transaction(work)
        except IntegrityError as error:
            if not self.db.dialect.is_duplicate(error):
                raise
            there = self.batch(batch_id)
            if there is None or (there.operation, there.target) != (operation, json.loads(target.to_json())):
                raise RunConflict(f"the id {batch_id} belongs to another batch") from None
            return there, False
        made = self.batch(batch_id)
        assert made is not None
        return made, True

    def batch(self, batch_id: str) -> BatchView | None:
        """The batch of this id, or None."""
        try:
            key = (self.namespace, ids.to_bytes(batch_id))
        except ValueError:
            return None
        sql = f"SELECT {_COLUMNS} FROM aiki_batches WHERE namespace = ? AND id = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchone())
        return _view(row) if row else None

    def batches(self, *, limit: int = 50, after: str | None = None) -> list[BatchView]:
        """Batches, newest first; `after`: the id of the last one of the page before."""
        sql = f"SELECT {_COLUMNS} FROM aiki_batches WHERE namespace = ? AND id < ? ORDER BY id DESC LIMIT {int(limit)}"
        key = (self.namespace, ids.to_bytes(after) if after else b"\xff" * 16)
        return [_view(row) for row in self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())]

    def batch_items(self, batch_id: str, *, limit: int = 200, after: str | None = None) -> list[BatchItem]:
        """The runs of a batch, by id."""
        sql = (
            "SELECT run_id, outcome, detail FROM aiki_batch_items WHERE namespace = ? AND batch_id = ? AND run_id > ? "
            f"ORDER BY run_id LIMIT {int(limit)}"
        )
        key = (self.namespace, ids.to_bytes(batch_id), ids.to_bytes(after) if after else b"")
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
        return [BatchItem(ids.to_text(bytes(raw)), outcome, detail) for raw, outcome, detail in rows]

    def stop_batch(self, batch_id: str, *, reason: str = "", actor: str = "") -> BatchView | None:
        """Have nothing more done; None: there is no such batch. Once it returns, nothing more is. Raises `RunConflict`."""
        found = self.batch(batch_id)
        if found is None:
            return None

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            stopped = self.db.execute(
                connection,
                f"UPDATE aiki_batches SET state = 'stopped', finished_at = ?, updated_at = ? WHERE namespace = ? AND id = ? "
                f"AND state IN ('{OPEN[0]}', '{OPEN[1]}')",
                (now, now, self.namespace, ids.to_bytes(batch_id)),
            ).rowcount
            if not stopped:
                raise RunConflict(f"batch {batch_id} is over: it is {found.state}")
            self._audit_end(connection, ids.to_bytes(batch_id), "stopped", actor=actor, reason=reason)

        self._do(work, "stop_batch", batch_id, lambda: None)
        return self.batch(batch_id)

    def _audit_end(
        self, connection: sa.Connection, raw: bytes, outcome: str, *, actor: str | None = None, reason: str = ""
    ) -> None:
        sql = f"SELECT {_COLUMNS} FROM aiki_batches WHERE namespace = ? AND id = ?"
        view = _view(self.db.execute(connection, sql, (self.namespace, raw)).fetchone())
        detail = f"{view.done:,} done, {view.skipped:,} skipped, {view.failed:,} failed of {view.matched:,}"
        who = view.actor if actor is None else actor
        entry = Audited(who, f"batch_{view.operation}", f"batch {view.id}", detail, reason, affected=view.done, outcome=outcome)
        self.write_audit(connection, [entry])


def fingerprint_of(text: str) -> bytes:
    """A fingerprint as it is kept, of 32 hex digits; raises `ConfigurationError`."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 16:
        raise ConfigurationError(f"fingerprint {text[:60]!r} is not 32 hexadecimal digits")
    return raw


def _preview(number: int, runs: Sequence[RunView], sample: int, *, exact: bool = True) -> Preview:
    states = dict(Counter(run.state.value for run in runs))
    names = dict(Counter(run.name for run in runs).most_common(50))
    return Preview(number, exact, list(runs[:sample]), states, names, len(runs))


def _view(row: Any) -> BatchView:
    raw, operation, state, target, reason, actor, expected, matched, done, skipped, failed, samples, *times = row
    return BatchView(
        ids.to_text(bytes(raw)),
        operation,
        state,
        json.loads(target),
        reason,
        actor,
        expected,
        matched,
        done,
        skipped,
        failed,
        json.loads(samples),
        *times,
    )
