"""What follows of a decision for every run that it changed: whether the move is legal, and who is told of an end, and what.

A run's end is told to the workflow that has started it, and to those that follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from aiki.codec import JSON, Payload
from aiki.failure import Failure
from aiki.history import CHILD_ENDED, COMPLETED, Arrival
from aiki.lifecycle.effects import TRACEBACK_AT, Effects
from aiki.lifecycle.record import EXPIRY_EPOCH, RUN_FIELDS, RunRow, changed, delivery_id
from aiki.states import State, may_follow

FAILED: Final = frozenset({State.FAILED.value, State.DEAD.value})
_STATE_AT: Final = RUN_FIELDS.index("state")


@dataclass(slots=True)
class Changes:
    """The runs that a decision changed.

    :ivar by_columns: by the columns that are to be written.
    :ivar failed: those that fail or die of it; :ivar revived: the ids of those that had failed, and go on.
    """

    by_columns: dict[tuple[str, ...], list[RunRow]] = field(default_factory=dict)
    failed: list[RunRow] = field(default_factory=list)
    revived: list[bytes] = field(default_factory=list)


def conclude(rows: dict[bytes, RunRow], effects: Effects, now: int, told: Callable[[], bool]) -> Changes:
    """Find out what a decision has changed, and add to its effects what follows of it.

    :param told: whether those who wait for a run that fails are told of its error.
    :raises AssertionError: a run would make a move that is none (`aiki.states`).
    """
    out = Changes()
    results = dict(effects.results)
    failures = Failures(effects, told)
    for row in rows.values():
        due = effects.dispatch.get(row.id)
        if due is not None and due[1] <= now:
            row.dispatched_at = now
        columns = changed(row)
        if not columns:
            continue
        before = row.before[_STATE_AT]
        if before != row.state:
            known = State.QUEUED if row.id in effects.was_out else State(before)
            if not may_follow(known, State(row.state), operator=effects.operator):
                raise AssertionError(f"run {row.run_id}: {before} may not become {row.state}")
            if row.state in FAILED:
                out.failed.append(row)
            elif before in FAILED:
                out.revived.append(row.id)
        if row.ended:
            row.waits = None
            columns = changed(row)
            effects.forget.add(delivery_id(row.id, row.epoch))
            if row.expires_at is not None:
                effects.forget.add(delivery_id(row.id, EXPIRY_EPOCH))
            if before != row.state:
                effects.ended.append(row)
                tell_parent(row, results, failures, effects)
        if row.updated_at != now:
            row.updated_at = now
            columns = (*columns, "updated_at")
        out.by_columns.setdefault(columns, []).append(row)
    return out


class Failures:
    """What is told of the errors of runs that fail in this transaction.

    :param told: whether anything is; asked only if a run has failed.
    """

    def __init__(self, effects: Effects, told: Callable[[], bool]) -> None:
        self._effects = effects
        self._told = told
        self._tells = True
        self._tracebacks: dict[bytes, str] | None = None

    def of(self, row: RunRow) -> str | None:
        """A `Failure` as text; None: nothing, or it has not failed."""
        if row.state not in FAILED:
            return None
        if self._tracebacks is None:
            self._tells = self._told()
            self._tracebacks = {attempt[0]: attempt[TRACEBACK_AT] for attempt in self._effects.attempts}
        if not self._tells:
            return None
        return Failure(self._effects.error_arguments.get(row.id), self._tracebacks.get(row.id, "")).to_text()


def tell_parent(row: RunRow, results: dict[bytes, Payload], failures: Failures, effects: Effects) -> None:
    """A run has ended: what its parent is told."""
    if row.followers:
        effects.followed.append(row.id)
    if row.parent_id is None:
        return
    failed = row.state != COMPLETED
    encoding, text = results.get(row.id) or (None, None)
    if failed:
        text = failures.of(row)
        encoding = None if text is None else JSON
    error = (row.error_type, row.error_message) if failed else (None, None)
    arrival = Arrival(row.run_id, CHILD_ENDED, row.name, row.parent_ordinal, row.state, encoding, text, *error)
    effects.arrivals.append((bytes(row.parent_id), arrival, False))
