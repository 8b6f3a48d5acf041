"""Suspended workflows and what brings them on: plain decisions on locked rows, shared by operators' verbs and orchestrators."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Final

from aiki.clock import SECOND
from aiki.history import CHILD_ENDED, EVENT_SENT, RETRY, SLEEP, Arrival, Wait, Waits
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import CANCEL_ASKED, PAUSED_OUT, RunRow, delivery_id
from aiki.states import State

MAX_SHOWN: Final = 3


def waits_of(row: RunRow) -> Waits | None:
    """What a suspended run waits for, or None."""
    return Waits.from_wire(json.loads(row.waits)) if row.waits else None


def suspend(row: RunRow, waits: Waits, arrivals: Sequence[Arrival], effects: Effects, now: int) -> None:
    """The function was left: have the run wait, or go on at once if what it waits for came meanwhile."""
    row.started_at = None
    if row.pause_requested:
        pause(row, effects)
        return
    items = [item._replace(due=_due(item, now), seconds=None) for item in waits.items]
    waits = Waits(waits.all, items)
    if row.cancel_requested == CANCEL_ASKED or not items or waits.satisfied(arrivals, now):
        bring_on(row, effects, now)
        return
    row.state = State.WAITING.value
    row.waits = json.dumps(waits.to_wire(), separators=(",", ":"))
    row.waiting_on = described(waits)
    due = waits.due(arrivals)
    if due is not None:
        effects.deliver(row, due)
    else:
        give_up_dispatch(row, effects)


def give_up_dispatch(row: RunRow, effects: Effects) -> None:
    """No dispatch is out, and none is to come: what is still said of the last one is stale."""
    effects.forget.add(delivery_id(row.id, row.epoch))
    row.epoch += 1
    row.executor = row.worker = None
    row.started_at = None


def _due(wait: Wait, now: int) -> int | None:
    return wait.due if wait.seconds is None else now + int(wait.seconds * SECOND)


def look(row: RunRow, arrivals: Sequence[Arrival], effects: Effects, now: int) -> None:
    """Something came to the run: bring it on if that is what it waits for."""
    waits = waits_of(row)
    if row.state != State.WAITING.value or waits is None:
        return
    if waits.satisfied(arrivals, now):
        bring_on(row, effects, now)
        return
    due = waits.due(arrivals)
    if waits.all and due is not None and due > now and any(item.due is not None for item in waits.items):
        effects.deliver(row, due)  # all else is there: only its time is left


def rearm(row: RunRow, arrivals: Sequence[Arrival], effects: Effects, now: int) -> None:
    """The delivery of a wait is lost: bring the run on, or have it looked at when its time comes."""
    waits = waits_of(row)
    if row.state != State.WAITING.value or waits is None:
        return
    due = waits.due(arrivals)
    if waits.satisfied(arrivals, now):
        bring_on(row, effects, now)
    elif due is not None:
        effects.deliver(row, due)


def bring_on(row: RunRow, effects: Effects, now: int) -> None:
    """Dispatch the run now."""
    row.state = State.QUEUED.value
    row.waits = row.waiting_on = None
    row.error_type = row.error_message = None
    effects.deliver(row, now)


def pause(row: RunRow, effects: Effects) -> None:
    """Keep the run where it is until it is resumed."""
    row.state = State.PAUSED.value
    row.pause_requested = 1
    row.waits = None
    row.waiting_on = "paused by an operator"
    give_up_dispatch(row, effects)


def pause_out(row: RunRow, effects: Effects) -> None:
    """As `pause`, while the dispatch is out. Its epoch stays: what was reported under it, and is not applied yet, counts."""
    row.state = State.PAUSED.value
    row.pause_requested = PAUSED_OUT
    row.waiting_on = "paused by an operator"
    effects.forget.add(delivery_id(row.id, row.epoch))


def go_on(row: RunRow, effects: Effects, now: int) -> None:
    """Dispatch a paused run; where somebody may be at it, by asking first (a dispatch that is marked is inquired)."""
    out, row.pause_requested = row.pause_requested == PAUSED_OUT, 0
    if not out:
        bring_on(row, effects, now)
        return
    effects.was_out.add(row.id)
    row.state = State.QUEUED.value
    row.waiting_on = None
    effects.deliver_again(row, now)


def described(waits: Waits) -> str:
    """What is waited for, in words."""
    count = sum(item.last - item.first + 1 for item in waits.items if item.kind == CHILD_ENDED)
    parts = [_told(item) for item in waits.items if item.kind != CHILD_ENDED][:MAX_SHOWN]
    if count:
        names = {item.name for item in waits.items if item.kind == CHILD_ENDED and item.name}
        parts.insert(0, f"{count:,} runs" if count > 1 else f"a run of {names.pop()}" if names else "a run")
    text = (" and " if waits.all else " or ").join(parts)
    return text[:255]


def _told(item: Wait) -> str:
    until = "" if item.due is None else f" until {_moment(item.due)}"
    words = {SLEEP: "sleep", EVENT_SENT: "event", RETRY: "retry of"}
    return f"{words.get(item.kind, item.kind)} {item.name}{until}"


def _moment(at: int) -> str:
    try:
        return dt.datetime.fromtimestamp(at / SECOND, dt.UTC).isoformat(" ", "seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return "a time far away"
