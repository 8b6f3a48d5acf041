"""A workflow's history as people look at it: equal steps in a row folded into a line, a page at a time, in a bounded time.

Nothing here grows with the history: folds are read in windows of ordinals until the page is full or the time is up, and then
the page says where to go on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from aiki import ids
from aiki.codec import Payload
from aiki.errors import RunNotFound
from aiki.history import EVENT_SENT, OPEN
from aiki.storage.engine import Database
from aiki.storage.reading import Reading
from aiki.storage.rows import payload_of

FIRST_WINDOW: Final = 1_000
WINDOW: Final = 10_000
FOLD_SECONDS: Final = 0.5
"""How long folds are read for a page."""
ENDS: Final = ("completed", "failed", "cancelled", "timed_out", "dead")
_STATE: Final = "CASE WHEN s.state = 'open' THEN COALESCE(c.state, s.state) ELSE s.state END"
_CHILD: Final = "LEFT JOIN aiki_runs c ON c.namespace = s.namespace AND c.id = s.child_id"


class Fold(NamedTuple):
    """Steps that follow each other, of one kind and name.

    :ivar states: how many are in each state; of steps that are runs it is the run's.
    :ivar bad: the ordinal of the first that went wrong, or None.
    :ivar ended_at: when the last of them ended; None while one has not.
    """

    first: int
    last: int
    kind: str
    name: str
    steps: int
    states: dict[str, int]
    began_at: int
    ended_at: int | None
    bad: int | None


class Outline(NamedTuple):
    """A page of folds, in order of issue.

    :ivar total: steps that the workflow has issued so far.
    :ivar next: the ordinal at which the next page begins, or None.
    """

    folds: list[Fold]
    total: int
    next: int | None


class StepLine(NamedTuple):
    """A step with what is known of the run that it started, if it did; without its result (`Outlining.step_payload`)."""

    ordinal: int
    kind: str
    name: str
    state: str
    attempt: int
    input: str | None
    has_result: bool
    error_type: str | None
    error_message: str | None
    traceback: str
    child_id: str | None
    due_at: int | None
    millis: int | None
    worker: str | None
    created_at: int
    started_at: int | None
    finished_at: int | None


class EventLine(NamedTuple):
    """An event that was sent to a workflow; `ordinal` is the step that took it, None while nobody has."""

    id: str
    name: str
    ordinal: int | None
    created_at: int
    size: int
    payload: Payload | None


class Outlining(Reading):
    """Looking at histories."""

    db: Database
    namespace: str

    def outline(self, run_id: str, *, first: int = 0, limit: int = 60) -> Outline:
        """The folds from an ordinal on. Raises `RunNotFound`."""
        raw = _raw(run_id)
        return self.db.read(lambda connection: self._outline(connection, raw, run_id, first, limit))

    def _outline(self, connection: sa.Connection, raw: bytes, run_id: str, first: int, limit: int) -> Outline:
        found = self.db.execute(
            connection, "SELECT history FROM aiki_runs WHERE namespace = ? AND id = ?", (self.namespace, raw)
        ).fetchone()
        if found is None:
            raise RunNotFound(run_id)
        total, at, size = int(found[0]), min(max(0, first), _FAR), FIRST_WINDOW
        folds: list[Fold] = []
        until = time.monotonic() + FOLD_SECONDS
        while at < total and len(folds) <= limit and time.monotonic() < until:
            for fold in self._folds(connection, raw, at, at + size, limit + 1):
                if folds and (folds[-1].kind, folds[-1].name, folds[-1].last + 1) == (fold.kind, fold.name, fold.first):
                    folds[-1] = _joined(folds[-1], fold)
                else:
                    folds.append(fold)
            at = min(total, at + size)
            size = WINDOW
        if len(folds) > limit:
            # The last one may go on beyond the window: it opens the next page.
            return Outline(folds[:limit], total, folds[limit].first)
        return Outline(folds, total, at if at < total else None)

    def _folds(self, connection: sa.Connection, raw: bytes, first: int, end: int, limit: int) -> list[Fold]:
        sums = ", ".join(f"SUM(CASE WHEN state = '{state}' THEN 1 ELSE 0 END)" for state in (*_LIVE, *ENDS))
        sql = (
            f"SELECT MIN(ordinal), MAX(ordinal), kind, name, COUNT(*), MIN(created_at), MAX(ended), "
            f"MIN(CASE WHEN state IN ('failed', 'dead', 'timed_out') THEN ordinal END), {sums} FROM ("
            f"SELECT s.ordinal, s.kind, s.name, s.created_at, {_STATE} AS state, "
            "COALESCE(s.finished_at, c.finished_at) AS ended, "
            # To MySQL a row's number is unsigned, and so is a difference with it, which may not be below zero.
            "s.ordinal - CAST(ROW_NUMBER() OVER (PARTITION BY s.kind, s.name ORDER BY s.ordinal) AS DECIMAL) AS island "
            f"FROM aiki_steps s {_CHILD} WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal >= ? AND s.ordinal < ?"
            f") t GROUP BY kind, name, island ORDER BY 1 LIMIT {int(limit)}"
        )
        rows = self.db.execute(connection, sql, (self.namespace, raw, first, end)).fetchall()
        return [_fold(row) for row in rows]

    def step_lines(self, run_id: str, *, first: int = 0, end: int | None = None, limit: int = 100) -> list[StepLine]:
        """Steps one by one, from ordinal `first` to before `end`."""
        raw = _raw(run_id)
        sql = (
            f"SELECT s.ordinal, s.kind, s.name, {_STATE}, s.attempt, s.input, s.encoding, "
            "COALESCE(s.error_type, c.error_type), "
            "COALESCE(s.error_message, c.error_message), s.traceback, s.child_id, s.due_at, s.millis, "
            "COALESCE(s.worker, c.worker), s.created_at, c.started_at, COALESCE(s.finished_at, c.finished_at), c.id "
            f"FROM aiki_steps s {_CHILD} WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal >= ? AND s.ordinal < ? "
            f"ORDER BY s.ordinal LIMIT {int(limit)}"
        )

        def work(connection: sa.Connection) -> list[StepLine]:
            key = (self.namespace, raw, min(first, _FAR), min(_FAR if end is None else end, _FAR))
            rows = self.db.execute(connection, sql, key).fetchall()
            names = self._worker_names(connection, [row[13] for row in rows])
            return [_line(row, names) for row in rows]

        return self.db.read(work)

    def step_payload(self, run_id: str, ordinal: int) -> Payload | None:
        """The result of a step; of one that is a run, the run's."""
        key = (self.namespace, _raw(run_id), ordinal)

        def work(connection: sa.Connection) -> Payload | None:
            sql = "SELECT encoding, data, child_id FROM aiki_steps WHERE namespace = ? AND run_id = ? AND ordinal = ?"
            found = self.db.execute(connection, sql, key).fetchone()
            if found is None or (found[0] is None and found[2] is None):
                return None
            if found[0] is not None:
                return payload_of(found[0], found[1])
            sql = "SELECT encoding, data FROM aiki_payloads WHERE namespace = ? AND run_id = ? AND role = 'result'"
            result = self.db.execute(connection, sql, (self.namespace, found[2])).fetchone()
            return None if result is None else payload_of(*result)

        return self.db.read(work)

    def events(self, run_id: str, *, limit: int = 50, largest: int = 16_384) -> list[EventLine]:
        """Events that were sent to a workflow, oldest first; of those over `largest` bytes the size alone."""
        sql = (
            "SELECT id, name, ordinal, created_at, COALESCE(LENGTH(data), 0), encoding, "
            "CASE WHEN LENGTH(data) <= ? THEN data END FROM aiki_inbox "
            f"WHERE namespace = ? AND run_id = ? AND kind = '{EVENT_SENT}' ORDER BY created_at, id LIMIT {int(limit)}"
        )
        rows = self.db.read(
            lambda connection: self.db.execute(connection, sql, (largest, self.namespace, _raw(run_id))).fetchall()
        )
        return [
            EventLine(
                bytes(raw).hex(),
                name,
                ordinal,
                at,
                size,
                None if encoding is None or data is None else payload_of(encoding, data),
            )
            for raw, name, ordinal, at, size, encoding, data in rows
        ]

    def event_payload(self, run_id: str, event_id: str) -> Payload | None:
        """What an event carries."""
        sql = "SELECT encoding, data FROM aiki_inbox WHERE namespace = ? AND run_id = ? AND id = ?"
        key = (self.namespace, _raw(run_id), bytes.fromhex(event_id))
        found = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchone())
        return None if found is None or found[0] is None else payload_of(*found)


_FAR: Final = 2**31 - 1
_LIVE: Final = (OPEN, "scheduled", "queued", "running", "waiting", "paused", "stalled")


def _raw(run_id: str) -> bytes:
    try:
        return ids.to_bytes(run_id)
    except ValueError:
        raise RunNotFound(run_id) from None


def _fold(row: Sequence[Any]) -> Fold:
    first, last, kind, name, count, began, ended, bad, *counts = row
    states = {state: int(number) for state, number in zip((*_LIVE, *ENDS), counts, strict=True) if number}
    alive = any(state in states for state in _LIVE)
    return Fold(first, last, kind, name, int(count), states, began, None if alive else ended, bad)


def _joined(a: Fold, b: Fold) -> Fold:
    states = dict(a.states)
    for state, number in b.states.items():
        states[state] = states.get(state, 0) + number
    ended = None if a.ended_at is None or b.ended_at is None else max(a.ended_at, b.ended_at)
    bad = b.bad if a.bad is None else a.bad
    return Fold(a.first, b.last, a.kind, a.name, a.steps + b.steps, states, min(a.began_at, b.began_at), ended, bad)


def _line(row: Sequence[Any], names: dict[bytes, str]) -> StepLine:
    ordinal, kind, name, state, attempt, shown, encoding, error_type, message, trace, child, due, millis, worker, *times = row
    created, started, finished, _ = times
    who = None if worker is None else names.get(bytes(worker), bytes(worker).hex())
    child_id = None if child is None else ids.to_text(bytes(child))
    has = encoding is not None or (child is not None and state == "completed")
    return StepLine(
        *(ordinal, kind, name, state, attempt, shown, has, error_type, message, trace or "", child_id, due, millis, who),
        *(created, started, finished),
    )
