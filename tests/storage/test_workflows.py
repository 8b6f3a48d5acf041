"""What workflows' reports leave in the database."""

from __future__ import annotations

from aiki import ids
from aiki import messages as m
from aiki.codec import Payload
from aiki.history import CANCELLED, COMPLETED, EVENT, FAILED, OPEN, SLEEP, STEP, Step, Wait, Waits
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.reports import Outcome, Rules, Source, apply_report
from aiki.messages import Report
from aiki.model import NewRun, RunView
from aiki.states import State
from aiki.storage import Store

WORKER = "a" * 32
SOURCE = Source(WORKER, "aaaa/0.1")


def begun(store: Store) -> str:
    """A workflow that was dispatched under epoch 1."""
    run = NewRun(ids.new_text(), "checkout", Payload("json", "[[],{}]"), kind="workflow")
    store.create_runs([run], claim=5)
    return run.id


def view_of(store: Store, run_id: str) -> RunView:
    view = store.get_run(run_id)
    assert view is not None
    return view


def report(store: Store, run_id: str, *reports: tuple[str, dict[str, object]]) -> Applied:
    """Apply these in one transaction."""

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rules = Rules(store.clock(), 3, {})
        for row in rows.values():
            for kind, body in reports:
                apply_report(row, Report(kind, row.run_id, 1, dict(body)), SOURCE, rules, effects, Outcome())

    raw = ids.to_bytes(run_id)
    return store.apply("default", [raw], decide, arrived=[raw])


def test_a_step_names_its_worker_although_the_run_was_left_in_the_same_batch(store: Store) -> None:
    run_id = begun(store)
    steps = [Step(0, STEP, "charge", "d", COMPLETED, 1, {"i": "{}"}), Step(1, EVENT, "approved", "", OPEN, 0, {})]
    waits = Waits(False, [Wait(EVENT, 1, 1, "approved")])
    report(store, run_id, (m.STEPS, {"s": steps}), (m.SUSPENDED, waits.to_wire()))
    assert view_of(store, run_id).state is State.WAITING
    assert {step.worker for step in store.history(run_id)} == {WORKER}


def test_a_run_that_was_seen_running_can_stall_on_changed_code(store: Store) -> None:
    run_id = begun(store)
    report(store, run_id, (m.STEPS, {"s": [Step(0, EVENT, "approved", "", OPEN, 0, {})]}))
    report(store, run_id, (m.CHANGED, {"message": "the code of checkout no longer fits"}))
    view = view_of(store, run_id)
    assert view.state is State.STALLED
    assert "no longer fits" in (view.error_message or "")


def test_a_step_keeps_its_identity_when_its_issue_and_its_time_limit_are_applied_together(store: Store) -> None:
    run_id = begun(store)
    issued = Step(0, STEP, "charge", "d", OPEN, 0, {"i": "{}"})
    killed = Step(0, STEP, "", "", FAILED, 1, {"t": "TimeLimitExceeded", "m": "1 s", "ms": 1000})  # all that a supervisor knows
    report(store, run_id, (m.STEPS, {"s": [issued]}), (m.STEPS, {"s": [killed]}))
    (step,) = store.history(run_id)
    assert (step.name, step.state, step.input, step.error_message) == ("charge", "failed", "{}", "1 s")


def test_a_step_that_succeeds_after_a_failure_tells_no_error_though_both_are_applied_together(store: Store) -> None:
    run_id = begun(store)
    failed = Step(0, STEP, "charge", "d", OPEN, 1, {"i": "{}", "t": "ConnectionError", "m": "no answer", "s": 0.0})
    done = Step(0, STEP, "charge", "d", COMPLETED, 2, {"i": "{}"})
    report(store, run_id, (m.STEPS, {"s": [failed]}), (m.STEPS, {"s": [done]}))
    (step,) = store.history(run_id)
    assert (step.state, step.attempt, step.error_type, step.error_message, step.due_at) == ("completed", 2, None, None, None)


def test_a_cancelled_workflow_that_sleeps_while_it_cleans_up_waits_for_that(store: Store) -> None:
    run_id = begun(store)
    report(store, run_id, (m.STEPS, {"s": [Step(0, EVENT, "approved", "", OPEN, 0, {})]}))
    store.cancel_run(run_id)
    met = Step(0, EVENT, "approved", "", CANCELLED, 0, {})
    sleep = Step(1, SLEEP, "cool down", "", OPEN, 0, {"s": 60.0})
    waits = Waits(False, [Wait(SLEEP, 1, 1, "cool down", None, 60.0)])
    report(store, run_id, (m.STEPS, {"s": [met, sleep]}), (m.SUSPENDED, waits.to_wire()))
    view = view_of(store, run_id)
    assert view.state is State.WAITING, "it would be dispatched over and over until the time has come"
    assert "cool down" in (view.waiting_on or "")


def test_a_cancel_that_was_met_is_not_raised_again_after_going_on_as_new(store: Store) -> None:
    run_id = begun(store)
    report(store, run_id, (m.STEPS, {"s": [Step(0, EVENT, "approved", "", OPEN, 0, {})]}))
    store.cancel_run(run_id)
    met = Step(0, EVENT, "approved", "", CANCELLED, 0, {})
    applied = report(store, run_id, (m.STEPS, {"s": [met]}), (m.CONTINUED, {"e": "json", "r": "[[],{}]"}))
    (outgoing,) = applied.outgoing
    assert m.OPT_CANCEL not in outgoing.dispatch.options
