"""What people do to a run: retry, cancel, pause, resume or wake it, send it an event. Decisions on one locked row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from aiki import ids
from aiki.errors import RunConflict
from aiki.history import EVENT_SENT, SLEEP, Arrival, waking
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.ends import FAILED
from aiki.lifecycle.record import EXPIRED, RunRow, is_out
from aiki.lifecycle.waits import bring_on, go_on, look, pause, pause_out, waits_of
from aiki.messages import RunKey
from aiki.states import State

_RETRYABLE = frozenset({State.FAILED.value, State.DEAD.value, State.CANCELLED.value})
_STALLED = State.STALLED.value


def retry_row(row: RunRow, effects: Effects, now: int) -> None:
    """Have one locked run go on that has failed, is dead, was cancelled, or is stalled by its code. Raises `RunConflict`."""
    if row.state == _STALLED and (row.is_workflow or row.error_type):
        bring_on(row, effects, now)
        return
    if row.state not in _RETRYABLE:
        raise RunConflict(
            f"run {ids.to_text(row.id)} is {row.state}; only failed, dead and cancelled runs can be retried"
            + (" (rerun makes a new run with the same input)" if row.ended else "")
        )
    retry(row, effects, now)


def retry(row: RunRow, effects: Effects, now: int) -> None:
    """Have one locked run that has failed, is dead or was cancelled go on; a workflow from where it failed.

    Its retry policy, and those of a workflow's open steps, begin anew; the attempts that are shown go on. It expires no more.

    :raises RunConflict: what the workflow had done was undone already.
    """
    failed = json.loads(row.failed_at) if row.failed_at else {}
    if failed.get("undone") or (row.is_workflow and row.state == State.CANCELLED.value and row.history):
        raise RunConflict(
            f"run {row.run_id} was {'compensated' if failed.get('undone') else 'cancelled'}: what it had done may be "
            "undone, so it cannot go on from there; rerun makes a new run with the same input"
        )
    effects.operator = True
    if failed.get("at"):
        effects.reset[row.id] = failed["at"]
    row.state = State.QUEUED.value
    row.attempt += 1
    row.count_anew()
    if row.is_workflow:
        effects.renew.append(row.id)
    row.crashes = row.idle_dispatches = row.cancel_requested = row.pause_requested = 0
    row.error_type = row.error_message = row.waiting_on = row.cancel_reason = row.failed_at = None
    row.finished_at = row.expires_at = row.progress = row.progress_message = None
    effects.deliver(row, now)


def retry_failed(row: RunRow, effects: Effects, now: int) -> bool:
    """Have one locked run go on if it has failed, is dead or has expired, and may be retried; whether it does."""
    if row.state in FAILED or (row.state == State.CANCELLED.value and row.error_type == EXPIRED):
        with suppress(RunConflict):  # what was compensated stays as it is
            retry(row, effects, now)
            return True
    return False


def cancel(row: RunRow, effects: Effects, now: int, reason: str, *, at_once: bool = False) -> None:
    """Cancel one locked run that has not ended.

    A workflow that has begun meets its cancel in its code, at the next durable point; a second cancel ends it.

    :param at_once: end it whatever it is, without calling its code again.
    """
    again = bool(row.cancel_requested)
    row.cancel_requested = 1
    row.cancel_reason = reason[:255] or row.cancel_reason
    if row.is_workflow:
        effects.cancel_children[row.id] = row.history
        if not (at_once or again):
            _cancel_workflow(row, effects, now)
            return
    key = RunKey(row.run_id, row.epoch)
    if row.state == State.RUNNING.value:
        effects.revoke.append((key, True))
        if not row.is_workflow:
            return
    if is_out(row) and not effects.never_sent(row):
        # Its dispatch may be out, or just begun without our knowing: never begin it, stop it if it runs.
        effects.revoke.append((key, True))
    conclude_cancel(row, now)


def _cancel_workflow(row: RunRow, effects: Effects, now: int) -> None:
    key = RunKey(row.run_id, row.epoch)
    out = is_out(row) and not effects.never_sent(row)
    if not (out and row.state == State.PAUSED.value):
        row.pause_requested = 0
    if row.state == State.RUNNING.value:
        effects.soon.append(key)
    elif out:
        # Its dispatch may be out. If it is begun it meets the cancel; if not, and nothing is recorded, it never begins.
        effects.soon.append(key)
        if not row.history:
            effects.revoke.append((key, False))
        if row.state == State.PAUSED.value:
            go_on(row, effects, now)
    elif row.history == 0 and row.state != State.WAITING.value:
        conclude_cancel(row, now)
    elif row.state != State.STALLED.value:
        bring_on(row, effects, now)


def conclude_cancel(row: RunRow, now: int) -> None:
    """The run has ended, cancelled."""
    row.state = State.CANCELLED.value
    row.waiting_on = None
    row.finished_at = now


def pause_row(row: RunRow, effects: Effects) -> bool:
    """Pause one locked run that is not paused; True: who executes it is to be told `PAUSE_SOON`. Raises `RunConflict`."""
    if row.ended or row.state == State.PAUSED or (row.state == State.RUNNING and not row.is_workflow):
        raise RunConflict(f"run {ids.to_text(row.id)} is {row.state}; it cannot be paused" + _hint(row))
    if row.state == State.RUNNING:
        row.pause_requested = 1
        return True
    if row.state == State.QUEUED:
        effects.revoke.append((RunKey(row.run_id, row.epoch), False))
        pause_out(row, effects)
        return True
    pause(row, effects)
    return False


def resume_row(row: RunRow, effects: Effects, now: int) -> None:
    """Have one locked run that is paused go on. Raises `RunConflict`."""
    if row.ended or (row.state != State.PAUSED and not row.pause_requested):
        raise RunConflict(f"run {ids.to_text(row.id)} is {row.state}; only paused runs can be resumed")
    if row.state != State.PAUSED:
        row.pause_requested = 0
    elif row.due_at is not None and row.due_at > now and not row.history:
        row.pause_requested = 0
        row.state = State.SCHEDULED.value
        row.waiting_on = None
        effects.deliver(row, row.due_at)
    else:
        go_on(row, effects, now)


def _hint(row: RunRow) -> str:
    return "" if row.ended else "; a task that runs can be cancelled"


# ---------------------------------------------------------------- what people tell workflows
def wake(row: RunRow, name: str, effects: Effects, now: int) -> None:
    """End a workflow's sleep: the one of that name, or whatever it sleeps in. Raises `RunConflict`: it does not sleep."""
    waits = waits_of(row)
    sleeps = [] if waits is None else [item for item in waits.items if item.kind == SLEEP and name in ("", item.name)]
    if row.state != State.WAITING or not sleeps:
        state = f"is {row.state}" + (f", waiting on {row.waiting_on}" if row.waiting_on else "")
        which = f" ({name!r})" if name else ""
        raise RunConflict(f"run {ids.to_text(row.id)} {state}; only a workflow that sleeps can be woken{which}")
    arrival = waking(ids.new_id().hex, name, [item.first for item in sleeps])
    effects.arrivals.append((row.id, arrival, True))
    bring_on(row, effects, now)


def take_event(row: RunRow, event: Arrival, effects: Effects, now: int) -> None:
    """An event is sent to a workflow: have it go on if it waits for it. Raises `RunConflict`: the run takes no events."""
    if not row.is_workflow or row.ended:
        why = f"it is {row.state}" if row.is_workflow else "it is a task"
        raise RunConflict(f"run {ids.to_text(row.id)} takes no events: {why}")
    effects.arrivals.append((row.id, event, True))
    look(row, [*effects.arrived.get(row.id, ()), event], effects, now)


def waits_for_event(row: RunRow, name: str, there: Sequence[Arrival]) -> bool:
    """Whether a suspended run waits for an event of this name, and there is none yet."""
    waits = waits_of(row)
    named = waits is not None and any(item.kind == EVENT_SENT and item.name == name for item in waits.items)
    return named and not any(a.kind == EVENT_SENT and a.name == name and a.ordinal is None for a in there)
