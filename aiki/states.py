"""The states of a run: what each means, and which may follow which.

`TRANSITIONS` is what really happens, no more; `docs/architecture.md` draws it. A terminal state changes only by an operator's
audited action (`OPERATOR_TRANSITIONS`).
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a run is. The values are what the database, the API and the dashboard show."""

    SCHEDULED = "scheduled"
    """Accepted, to be dispatched at a later time (`countdown`, `eta`)."""

    QUEUED = "queued"
    """To be dispatched now, or dispatched and not known to be in a worker's hands yet."""

    RUNNING = "running"
    """A worker has said that it executes the run; its heartbeats keep naming it."""

    WAITING = "waiting"
    """Held by nobody until what it waits for comes: a retry's time, a sleep, an event, a child, a task."""

    PAUSED = "paused"
    """An operator stopped it; it is not dispatched until it is resumed."""

    STALLED = "stalled"
    """No worker here has its definition, or a workflow's code no longer fits what it has done; it is dispatched as soon as a
    worker that has it, started since, says hello."""

    COMPLETED = "completed"
    """Ended with a result. Terminal."""

    FAILED = "failed"
    """Ended with an error, and its retry policy allows no further attempt. Terminal."""

    CANCELLED = "cancelled"
    """Ended because it was cancelled, or expired before it started. Terminal."""

    DEAD = "dead"
    """Ended by Aiki because executing it killed its process too often, or never made progress. Terminal."""


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.DEAD})
ACTIVE = frozenset(State) - TERMINAL

_NOT_OUT = frozenset({State.QUEUED, State.PAUSED, State.FAILED, State.CANCELLED})
"""What may follow while no worker can have the run. It fails where it cannot be dispatched."""

TRANSITIONS: dict[State, frozenset[State]] = {
    State.SCHEDULED: _NOT_OUT,
    State.QUEUED: frozenset({State.RUNNING, State.WAITING, State.PAUSED, State.STALLED}) | TERMINAL,
    State.RUNNING: frozenset({State.QUEUED, State.WAITING, State.PAUSED, State.STALLED}) | TERMINAL,
    State.WAITING: _NOT_OUT,
    State.PAUSED: frozenset({State.QUEUED, State.SCHEDULED, State.RUNNING}) | TERMINAL,
    State.STALLED: _NOT_OUT,
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.DEAD: frozenset(),
}
"""What may happen without an operator's retry, from the beginning of a transaction to its end.

A run may end, wait or stall without having been seen running: a short task's first and only report is its result. One that was
paused while its dispatch was out may be executing, and what it reports counts."""

OPERATOR_TRANSITIONS: dict[State, frozenset[State]] = {
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.DEAD: frozenset({State.QUEUED}),
}
"""What `retry` may do beyond that, with an audit record."""


def may_follow(before: State, after: State, *, operator: bool = False) -> bool:
    """Whether a run in state `before` may go to `after`; staying in a state that is not terminal is allowed."""
    if before == after:
        return before not in TERMINAL
    if after in TRANSITIONS[before]:
        return True
    return operator and after in OPERATOR_TRANSITIONS.get(before, frozenset())
