"""What time does to a run: its delivery is due, or is lost; it expires before it has started. Decisions on one locked row."""

from __future__ import annotations

from typing import Final

from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import EXPIRED, EXPIRY_EPOCH, RunRow, delivery_id
from aiki.lifecycle.waits import rearm
from aiki.lifecycle.workflows import heed
from aiki.messages import RunKey
from aiki.states import State

_DISPATCHABLE: Final = frozenset({State.SCHEDULED.value, State.QUEUED.value, State.WAITING.value})


def dispatch_due(row: RunRow | None, raw: bytes, epoch: int, effects: Effects, now: int, *, again: bool) -> None:
    """The delivery `raw` of this epoch is due: publish it, unless the run has gone on, or is gone.

    :param again: it may have been published before.
    """
    if row is None or row.epoch != epoch or row.state not in _DISPATCHABLE:
        effects.forget.add(raw)
        return
    row.state = State.QUEUED.value
    row.waiting_on = row.waits = None
    row.dispatched_at = now
    effects.publish.append((row, again))


def dispatch_again(row: RunRow, epoch: int, effects: Effects, now: int) -> None:
    """The dispatch of this epoch came out of its queue and reached nobody: publish it once more."""
    if row.state == State.QUEUED and row.epoch == epoch and row.marker is not None:
        effects.deliver_again(row, now)


def restore(row: RunRow, effects: Effects, now: int) -> None:
    """The delivery of a run that waits for its time is lost: make another one."""
    if row.waits is not None:
        heed(row, effects, now)
        rearm(row, effects.arrived.get(row.id, ()), effects, now)
    elif row.state == State.SCHEDULED and row.due_at is not None and row.due_at > now:
        effects.deliver(row, row.due_at)
    elif row.state in (State.SCHEDULED, State.WAITING):
        row.state = State.QUEUED.value
        row.waiting_on = None
        effects.deliver(row, now)


def expire(run_id: bytes, row: RunRow | None, effects: Effects, now: int) -> None:
    """Cancel a run that has not started although its time to do so is over."""
    effects.forget.add(delivery_id(run_id, EXPIRY_EPOCH))
    if row is None or row.ended or row.expires_at is None or row.expires_at > now:
        return
    if row.state == State.RUNNING.value or row.attempt > 1 or row.history:
        return
    if row.state == State.QUEUED.value and not effects.never_sent(row):
        effects.revoke.append((RunKey(row.run_id, row.epoch), False))
    row.state = State.CANCELLED.value
    row.cancel_reason = row.waiting_on = "expired before it started"
    row.error_type, row.error_message = EXPIRED, "it had not started by the time it expires"
    row.finished_at = now
