"""What a workflow's reports, and what comes to it from outside, do to its run. Plain code, no I/O, like `reports`.

A step is keyed by (run, ordinal): one that is reported again changes nothing. What a suspended run waits for is looked at under
its lock, when it suspends and whenever something has come.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiki.clock import SECOND
from aiki.codec import Payload
from aiki.errors import RunConflict
from aiki.history import CANCELLED, COMPLETED, CONTINUE, OPEN, STEP, UNDO, Step, Waits
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.operations import cancel, retry
from aiki.lifecycle.record import CANCEL_ASKED, CANCEL_MET, RunRow
from aiki.lifecycle.waits import bring_on, give_up_dispatch, look, suspend
from aiki.messages import STEPS, Report, RunKey
from aiki.model import NewRun
from aiki.states import State
from aiki.text import storable

CANCEL_ORDER: Final = "cancel"
RETRY_ORDER: Final = "retry"
"""Kinds of arrivals that a parent sends to its children."""
_ISSUED_WITH: Final = frozenset({"i", "c", "run", "ab"})
"""Of `Step.more`: what a later report of the step does not tell again."""


def steps(row: RunRow, report: Report, now: int, effects: Effects) -> None:
    """The function has issued or done something."""
    row.state = State.RUNNING.value
    row.waiting_on = None
    row.started_at = row.started_at or now
    row.idle_dispatches = 0
    row.failed_at = None
    for item in report.body.get("s", ()):
        step = _checked(item)
        if step.done:
            row.crashes = 0  # it made progress; a step that is only begun may be what kills its process
        if step.state == CANCELLED and row.cancel_requested:
            row.cancel_requested = CANCEL_MET
        new = step.ordinal >= row.history
        if new:
            row.history = step.ordinal + 1
        if "run" in step.more and new:
            effects.children.append(NewRun.from_wire(step.more["run"], row.id, step.ordinal))
            if row.cancel_requested == CANCEL_ASKED:
                effects.cancel_children[row.id] = step.ordinal  # started before the function met its cancel
        if step.kind in (STEP, UNDO) and step.state == OPEN and "s" in step.more:
            step.more["due"] = now + int(float(step.more["s"]) * SECOND)
        if "b" in step.more:
            _bind(row, step, effects)
        if row.worker is not None:
            step.more["w"] = row.worker.hex()  # now: what follows may take it off the run
        known = effects.steps.get((row.id, step.ordinal))
        if known is not None:
            if known[0].done or step.attempt < known[0].attempt:
                continue  # an older report of it, once more
            new = new or known[1]
            issued = {key: value for key, value in known[0].more.items() if key in _ISSUED_WITH}
            step = known[0]._replace(state=step.state, attempt=step.attempt, more={**issued, **step.more})
        effects.steps[row.id, step.ordinal] = (step, new)
    if row.cancel_requested == CANCEL_ASKED:
        effects.soon.append(RunKey(row.run_id, row.epoch))


def missing(row: RunRow, report: Report) -> bool:
    """Whether steps are missing that were issued before this report: it has overtaken the report of them.

    Partitions keep their order, so this hardly ever happens; but what follows must not be recorded without what was before.
    """
    if report.kind != STEPS:
        count = report.body.get("n")
        return type(count) is int and count > row.history
    # Only what is new is looked at: a step must cost the same at the end of a long history as at its beginning.
    new = sorted({step.ordinal for step in map(Step._make, report.body.get("s", ())) if step.ordinal >= row.history})
    return new != list(range(row.history, row.history + len(new)))


def _checked(item: Any) -> Step:
    """A step of a report, whose fields were checked where the message was read; what is no step at all raises ValueError."""
    step = Step._make(item)
    if type(step.ordinal) is not int or step.ordinal < 0 or type(step.more) is not dict or type(step.name) is not str:
        raise ValueError(f"not a step: {str(item)[:200]}")
    return step


def _bind(row: RunRow, step: Step, effects: Effects) -> None:
    """The step took an arrival."""
    taken = step.more["b"]
    effects.bind.append((row.id, step.ordinal, bytes.fromhex(taken)))
    there = effects.arrived.get(row.id)
    if there is not None:
        effects.arrived[row.id] = [a._replace(ordinal=step.ordinal) if a.id == taken else a for a in there]


def suspended(row: RunRow, report: Report, now: int, effects: Effects) -> None:
    """The function was left."""
    suspend(row, Waits.from_wire(report.body), effects.arrived.get(row.id, ()), effects, now)


def continued(row: RunRow, report: Report, now: int, effects: Effects) -> None:
    """The function goes on as new: what was before is kept, but no more part of its history."""
    payload = Payload(report.body["e"], report.body["r"])
    effects.steps[row.id, row.history] = (_continue_step(row.history, payload), True)
    row.history += 1
    row.history_from = effects.turned[row.id] = row.history
    row.failed_at = None
    row.crashes = 0
    bring_on(row, effects, now)
    if row.pause_requested:
        effects.dispatch.pop(row.id, None)
        suspend(row, Waits(False, []), (), effects, now)


def _continue_step(ordinal: int, payload: Payload) -> Step:
    """The step that keeps the input with which a run goes on as new."""
    return Step(ordinal, CONTINUE, CONTINUE, "", COMPLETED, 0, {"e": payload.encoding, "r": payload.text})


def changed(row: RunRow, report: Report, effects: Effects) -> None:
    """The code does not fit its history or its arguments: it waits for a worker with mended code, or for a retry."""
    message = storable(str(report.body.get("message", "")), 4000)
    if row.worker is not None:
        row.failed_at = json.dumps({"tried": sorted(tried_by(row) | {row.worker.hex()})})
    row.state = State.STALLED.value
    row.error_type, row.error_message = "WorkflowChanged" if row.is_workflow else "TaskChanged", message
    row.waiting_on = message[:255]
    give_up_dispatch(row, effects)


def tried_by(row: RunRow) -> frozenset[str]:
    """The workers whose code did not fit the run's history, since it last got on."""
    return frozenset(json.loads(row.failed_at).get("tried", ())) if row.failed_at else frozenset()


def remember_failure(row: RunRow, report: Report) -> None:
    """What a retry goes on from."""
    at = [int(ordinal) for ordinal in report.body.get("at", ())]
    undone = {"undone": 1} if report.body.get("undone") else {}
    row.failed_at = json.dumps({"at": at, **undone}) if at or undone else None


def reset_failed(row: RunRow, report: Report, effects: Effects) -> None:
    """The workflow's own retry goes on from the steps that it failed at."""
    at = [int(ordinal) for ordinal in report.body.get("at", ())]
    if at:
        effects.reset[row.id] = at


# ---------------------------------------------------------------- what comes from outside
def heed(row: RunRow, effects: Effects, now: int) -> None:
    """What a parent has ordered, once each."""
    fresh = effects.fresh.get(row.id)
    if not fresh:
        return
    orders = [arrival for arrival in effects.arrived.get(row.id, ()) if arrival.id in fresh]
    for position, arrival in enumerate(orders):
        if arrival.kind == CANCEL_ORDER and not row.ended and not row.cancel_requested:
            cancel(row, effects, now, "its parent was cancelled")
        elif arrival.kind == RETRY_ORDER and row.ended:
            try:
                # A retry that has been cancelled since comes to nothing: the run stays as it has ended.
                taken_back = any(later.kind == CANCEL_ORDER for later in orders[position + 1 :])
                if row.state != State.COMPLETED and not taken_back:
                    retry(row, effects, now)
                    continue
            except RunConflict:
                pass
            effects.told_again.append(row.id)  # it stays as it is
            if row.followers:
                effects.followed.append(row.id)
    effects.fresh.pop(row.id)


def stir(row: RunRow, effects: Effects, now: int) -> None:
    """Something has come to a run."""
    heed(row, effects, now)
    if row.is_workflow:
        look(row, effects.arrived.get(row.id, ()), effects, now)
