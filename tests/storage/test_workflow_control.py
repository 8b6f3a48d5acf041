"""Cancel, pause, resume and wake of workflows, on a real store."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import codec, ids
from aiki import messages as m
from aiki.errors import RunConflict, RunNotFound
from aiki.history import Wait
from aiki.storage import Store
from tests.storage.bench import (
    CANCELLED,
    COMPLETED,
    PAUSED,
    QUEUED,
    RUNNING,
    STALLED,
    WAITING,
    Bench,
    child,
    step,
    submission,
)
from tests.storage.conftest import SetClock

NAP = Wait("sleep", 0, 0, "nap", None, 60.0)
DONE = step(0, "step", "a", "completed", 1)
MET = step(1, "sleep", "nap", "cancelled")


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def asleep(bench: Bench) -> str:
    run = bench.start()
    bench.suspend(run, NAP, steps=(step(0, "sleep", "nap"),))
    return run


def running(bench: Bench) -> str:
    run = bench.start()
    bench.steps(run, DONE)
    return run


def cancels(bench: Bench, run: str) -> bool:
    return m.OPT_CANCEL in bench.out[run].options


# ---------------------------------------------------------------- cancel
def test_a_cancel_before_it_has_begun_ends_it_when_its_dispatch_is_dropped(bench: Bench) -> None:
    run = bench.start()
    bench.cancel(run)
    assert bench.state(run) == QUEUED
    assert [key.epoch for key in bench.store.revocations("default", "default")[0]] == [1]
    bench.report(run, (m.DROPPED, {}))
    bench.nobody_has_it(run)
    assert bench.state(run) == CANCELLED


def test_a_cancel_of_what_no_worker_knows_ends_it(bench: Bench) -> None:
    run = bench.start()
    bench.cancel(run)
    bench.report(run, (m.UNKNOWN, {}))
    assert bench.state(run) == CANCELLED


@pytest.mark.parametrize("state", ["scheduled", "paused", "stalled"])
def test_a_cancel_of_what_has_not_begun_and_is_not_out_ends_it_at_once(bench: Bench, state: str) -> None:
    run = bench.start() if state == "stalled" else bench.start(due_at=bench.clock.now + 60_000_000)
    if state == "paused":
        bench.pause(run)
    elif state == "stalled":
        bench.report(run, (m.UNKNOWN, {}))
    assert bench.state(run) == state
    bench.cancel(run)
    assert bench.state(run) == CANCELLED


def test_a_cancel_of_a_waiting_workflow_dispatches_it_to_meet_it(bench: Bench) -> None:
    run = asleep(bench)
    bench.cancel(run, reason="enough")
    assert (bench.state(run), bench.out[run].epoch, cancels(bench, run)) == (QUEUED, 3, True)
    bench.report(run, (m.STEPS, {"s": [MET]}), (m.CANCELLED, {"ms": 1, "met": 1}))
    row = bench.row(run)
    assert (row["state"], row["cancel_reason"], row["cancel_requested"]) == (CANCELLED, "enough", 2)


def test_a_cancel_of_a_running_workflow_is_told_until_it_has_met_it(bench: Bench) -> None:
    run = running(bench)
    bench.cancel(run)
    assert [key.epoch for key in bench.soon] == [1]
    bench.steps(run, step(1, "step", "b", "completed", 1))
    assert len(bench.soon) == 2, "the steps crossed the cancel"
    bench.steps(run, step(2, "sleep", "nap", "cancelled"), step(3, "step", "undo", "completed", 1))
    assert len(bench.soon) == 2
    bench.report(run, (m.CANCELLED, {"met": 1}))
    assert bench.state(run) == CANCELLED


def test_a_workflow_that_is_left_before_it_met_its_cancel_is_dispatched_to_meet_it(bench: Bench) -> None:
    run = running(bench)
    bench.cancel(run)
    bench.suspend(run, NAP, steps=(step(1, "sleep", "nap"),))
    assert (bench.state(run), cancels(bench, run)) == (QUEUED, True)


@pytest.mark.parametrize("report", [(m.RETURNED, {}), (m.CRASHED, {"signal": "SIGKILL"}), (m.RETRY, {"type": "E", "delay": 0})])
def test_whatever_becomes_of_its_process_it_meets_its_cancel(bench: Bench, report: Any) -> None:
    run = running(bench)
    bench.cancel(run)
    bench.report(run, report)
    assert (bench.state(run), cancels(bench, run)) == (QUEUED, True)


def test_a_compensation_may_wait(bench: Bench) -> None:
    """Once the cancel was met the workflow waits like any other, and is not dispatched over and over."""
    run = running(bench)
    bench.cancel(run)
    bench.suspend(run, Wait("sleep", 2, 2, "cool", None, 60.0), steps=(MET, step(2, "sleep", "cool")))
    assert (bench.state(run), bench.delivery(run)) == (WAITING, bench.clock.now + 60_000_000)
    bench.clock.move(60)
    assert bench.sweep() == [run]
    assert not cancels(bench, run), "it is in the history"
    bench.report(run, (m.CANCELLED, {"met": 1}))
    assert bench.state(run) == CANCELLED


def test_a_workflow_that_goes_on_as_new_after_its_cancel_does_not_meet_it_again(bench: Bench) -> None:
    run = running(bench)
    bench.cancel(run)
    again = dict(zip(("e", "r"), codec.encode([[], {}]), strict=True))
    bench.report(run, (m.STEPS, {"s": [MET]}), (m.CONTINUED, again))
    assert not cancels(bench, run)
    other = running(bench)
    bench.cancel(other)
    bench.report(other, (m.CONTINUED, again))
    assert cancels(bench, other), "this one has not met it yet"


@pytest.mark.parametrize("second", [{}, {"at_once": True}])
@pytest.mark.parametrize("where", ["queued", "running", "waiting", "met", "stalled"])
def test_a_second_cancel_or_terminate_ends_it_at_once(bench: Bench, where: str, second: Any) -> None:
    run = asleep(bench) if where == "waiting" else running(bench)
    if where == "stalled":
        bench.report(run, (m.CHANGED, {"message": "x"}))
    if not second:
        bench.cancel(run)
    if where == "met":
        bench.suspend(run, Wait("sleep", 2, 2, "cool", None, 60.0), steps=(MET, step(2, "sleep", "cool")))
    if where == "queued":
        bench.report(run, (m.RETURNED, {}))
    bench.cancel(run, **second)
    row = bench.row(run)
    assert (row["state"], row["waits"], row["waiting_on"]) == (CANCELLED, None, None)
    assert bench.everything()["deliveries"] == []
    before = bench.everything()
    bench.cancel(run)
    assert bench.everything() == before, "an ended run stays as it is"


def test_a_cancel_of_code_that_does_not_fit_is_met_once_it_does(bench: Bench) -> None:
    run = running(bench)
    bench.report(run, (m.CHANGED, {"message": "x"}))
    bench.cancel(run)
    assert bench.state(run) == STALLED
    bench.retry(run)
    assert (bench.state(run), cancels(bench, run)) == (QUEUED, True)


def test_a_cancel_that_comes_too_late_does_nothing(bench: Bench) -> None:
    run = running(bench)
    bench.cancel(run)
    bench.complete(run, 1)
    assert bench.state(run) == COMPLETED


def test_each_verb_is_audited_and_needs_a_run(bench: Bench) -> None:
    run = asleep(bench)
    bench.wake(run)
    bench.send(run, "x")
    bench.cancel(run, actor="me", reason="r")
    bench.cancel(run, at_once=True)
    sql = "SELECT action FROM aiki_audit ORDER BY created_at, id"
    read = bench.store.db.read(lambda c: bench.store.db.execute(c, sql, ()).fetchall())
    assert sorted(row[0] for row in read) == ["cancel", "event", "terminate", "wake"]
    missing = ids.to_bytes(str(ids.new_id())).hex()
    for verb in (bench.cancel, bench.retry, bench.pause, bench.resume, bench.wake):
        with pytest.raises(RunNotFound):
            verb(missing)


# ---------------------------------------------------------------- children and a cancel
def test_a_cancel_reaches_the_children_and_not_the_abandoned_ones(bench: Bench) -> None:
    run = bench.start()
    task, flow, kept = child(), child("shop.sub", "workflow"), child()
    bench.suspend(run, NAP, steps=(submission(0, task), submission(1, flow), submission(2, kept, ab=1)))
    bench.suspend(bench.id(flow), NAP, steps=(step(0, "sleep", "nap"),))
    bench.cancel(run)
    bench.stir()
    assert bench.state(bench.id(task)) == CANCELLED
    assert (bench.state(bench.id(flow)), cancels(bench, bench.id(flow))) == (QUEUED, True)
    assert bench.row(bench.id(flow))["cancel_reason"] == "its parent was cancelled"
    assert (bench.state(bench.id(kept)), bench.row(bench.id(kept))["cancel_requested"]) == (QUEUED, 0)


def test_a_cancel_reaches_grandchildren(bench: Bench) -> None:
    run, flow, leaf = bench.start(), child("shop.sub", "workflow"), child()
    bench.suspend(run, NAP, steps=(submission(0, flow),))
    bench.suspend(bench.id(flow), NAP, steps=(submission(0, leaf),))
    bench.cancel(run)
    bench.stir()
    assert bench.state(bench.id(leaf)) == CANCELLED


def test_a_cancel_reaches_children_that_are_started_while_it_is_on_its_way(bench: Bench) -> None:
    run = running(bench)
    bench.cancel(run)
    late, undo = child(n=1), child(n=2)
    bench.steps(run, submission(1, late), step(2, "sleep", "nap", "cancelled"), submission(3, undo))
    bench.stir()
    assert bench.state(bench.id(late)) == CANCELLED
    assert bench.state(bench.id(undo)) == QUEUED, "what the compensation starts is not cancelled"


def test_an_event_to_a_child_does_not_swallow_its_parents_cancel(bench: Bench) -> None:
    run, flow = bench.start(), child("shop.sub", "workflow")
    bench.suspend(run, NAP, steps=(submission(0, flow),))
    bench.suspend(bench.id(flow), NAP, steps=(step(0, "sleep", "nap"),))
    bench.cancel(run)
    bench.send(bench.id(flow), "hello")
    bench.stir()
    assert cancels(bench, bench.id(flow))


def test_a_child_that_suspends_meets_its_parents_cancel_at_once(bench: Bench) -> None:
    run, flow = bench.start(), child("shop.sub", "workflow")
    bench.suspend(run, NAP, steps=(submission(0, flow),))
    bench.cancel(run)
    bench.suspend(bench.id(flow), NAP, steps=(step(0, "sleep", "nap"),))
    assert cancels(bench, bench.id(flow))


def test_the_end_of_the_children_reaches_a_parent_that_is_cancelled(bench: Bench) -> None:
    run, task = bench.start(), child()
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, task),))
    bench.cancel(run)
    bench.stir()
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(step(1, "choice", "wait", "cancelled"),))
    bench.stir()
    assert [(a.ordinal, a.outcome) for a in bench.history(run).arrivals] == [(0, "cancelled")]
    assert bench.state(run) == QUEUED


# ---------------------------------------------------------------- pause and resume
def test_a_waiting_workflow_is_paused_at_once_and_waits_again_after_it(bench: Bench) -> None:
    run = asleep(bench)
    assert bench.pause(run) == []
    row = bench.row(run)
    assert (row["state"], row["waiting_on"], row["waits"]) == (PAUSED, "paused by an operator", None)
    bench.clock.move(1000)
    assert bench.sweep() == []
    bench.send(run, "x")
    assert bench.state(run) == PAUSED, "nothing but a resume brings it on"
    bench.resume(run)
    assert (bench.state(run), bench.row(run)["pause_requested"]) == (QUEUED, 0)


def test_a_running_workflow_is_paused_at_its_next_durable_point(bench: Bench) -> None:
    run = running(bench)
    assert bench.pause(run) == [m.PAUSE_SOON]
    assert bench.state(run) == RUNNING
    bench.report(run, (m.SUSPENDED, {"all": 0, "w": []}))
    assert bench.state(run) == PAUSED
    bench.resume(run)
    assert bench.state(run) == QUEUED


@pytest.mark.parametrize(
    "report",
    [
        (m.SUSPENDED, {"all": 0, "w": [NAP]}),
        (m.RETURNED, {}),
        (m.RETRY, {"type": "E", "delay": 5}),
        (m.CRASHED, {"signal": "SIGKILL"}),
        (m.CONTINUED, {"e": "json", "r": "[[],{}]"}),
    ],
)
def test_whatever_ends_its_execution_pauses_it(bench: Bench, report: Any) -> None:
    run = running(bench)
    bench.pause(run)
    bench.report(run, report)
    assert bench.state(run) == PAUSED
    assert bench.everything()["deliveries"] == []
    bench.resume(run)
    assert bench.state(run) == QUEUED
    bench.report(run, (m.STARTED, {"ms": 1}))
    assert bench.state(run) == RUNNING


def test_one_that_ends_before_the_pause_has_ended(bench: Bench) -> None:
    run = running(bench)
    bench.pause(run)
    bench.complete(run, 1)
    assert bench.state(run) == COMPLETED
    with pytest.raises(RunConflict, match="cannot be paused"):
        bench.pause(run)
    with pytest.raises(RunConflict, match="only paused runs"):
        bench.resume(run)


def test_a_pause_that_is_taken_back_lets_it_run_on(bench: Bench) -> None:
    run = running(bench)
    bench.pause(run)
    bench.resume(run)
    bench.report(run, (m.SUSPENDED, {"all": 0, "w": []}))
    assert bench.state(run) == QUEUED, "given back although nobody wants it any more: it goes on"


def test_a_scheduled_workflow_keeps_its_time_over_a_pause(bench: Bench) -> None:
    run = bench.start(due_at=bench.clock.now + 60_000_000)
    bench.pause(run)
    assert bench.state(run) == PAUSED
    bench.resume(run)
    assert (bench.state(run), bench.delivery(run)) == ("scheduled", bench.clock.now + 60_000_000)
    bench.pause(run)
    bench.clock.move(100)
    bench.resume(run)
    assert bench.state(run) == QUEUED


def test_a_cancel_ends_a_pause_also_one_that_is_on_its_way(bench: Bench) -> None:
    paused, pausing = asleep(bench), running(bench)
    bench.pause(paused)
    bench.pause(pausing)
    bench.cancel(paused)
    bench.cancel(pausing)
    bench.report(pausing, (m.SUSPENDED, {"all": 0, "w": []}))
    assert [(bench.state(run), cancels(bench, run)) for run in (paused, pausing)] == [(QUEUED, True)] * 2


def test_a_task_is_paused_before_it_runs_and_not_while(bench: Bench) -> None:
    run = bench.start(kind="task", due_at=bench.clock.now + 60_000_000)
    bench.pause(run)
    assert bench.state(run) == PAUSED
    other = bench.start(kind="task")
    bench.report(other, (m.STARTED, {"ms": 1}))
    with pytest.raises(RunConflict, match="task that runs can be cancelled"):
        bench.pause(other)


# ---------------------------------------------------------------- wake
def test_a_waking_is_given_to_the_sleep_and_brings_it_on(bench: Bench) -> None:
    run = asleep(bench)
    with pytest.raises(RunConflict, match=r"waiting on sleep nap until .* \('other'\)"):
        bench.wake(run, "other")
    bench.wake(run, "nap")
    assert (bench.state(run), bench.delivery(run)) == (QUEUED, bench.clock.now + 10_000_000)
    [arrival] = bench.history(run).arrivals
    assert (arrival.kind, arrival.name, arrival.ordinal) == ("wake", "nap", None)
    with pytest.raises(RunConflict, match="only a workflow that sleeps"):
        bench.wake(run)


def test_what_does_not_sleep_cannot_be_woken(bench: Bench) -> None:
    run = bench.start()
    bench.suspend(run, Wait("event", 0, 0, "paid", None, None), steps=(step(0, "event", "paid"),))
    with pytest.raises(RunConflict, match="waiting on event paid"):
        bench.wake(run)


def test_a_waking_names_the_sleeps_that_were_waited_for(bench: Bench) -> None:
    run = bench.start()
    other = Wait("sleep", 1, 1, "long", None, 600.0)
    bench.suspend(run, NAP, other, steps=(step(0, "sleep", "nap"), step(1, "sleep", "long")))
    bench.wake(run)
    [arrival] = bench.history(run).arrivals
    assert (arrival.name, arrival.text) == ("", "[0,1]")


@pytest.mark.parametrize("name", ["", "nap"])
def test_a_waking_that_comes_too_late_leaves_later_sleeps_alone(bench: Bench, name: str) -> None:
    run = asleep(bench)
    bench.wake(run, name)
    # The sleep was over by its time when the function looked: it goes on to another one, of the same name even.
    later = Wait("sleep", 1, 1, "nap", None, 60.0)
    bench.suspend(run, later, steps=(step(0, "sleep", "nap", "completed", e="json", r="false"), step(1, "sleep", "nap")))
    assert bench.state(run) == WAITING, "the waking is not for this sleep"
    bench.wake(run, name)
    assert bench.state(run) == QUEUED


# ---------------------------------------------------------------- events that nobody waits for
def waiting_for(bench: Bench, name: str) -> str:
    run = bench.start()
    bench.suspend(run, Wait("event", 0, 0, name, None, None), steps=(step(0, "event", name),))
    return run


def test_events_that_nobody_waits_for_have_a_limit_in_bytes_that_the_sender_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiki.storage.steering.EVENT_BYTES", 1000)
    run = waiting_for(bench, "paid")
    bench.send(run, "other", "x" * 600)
    with pytest.raises(RunConflict, match=r"does not take event 'other'.*2 events of 1,204 bytes.*1,000 bytes"):
        bench.send(run, "other", "x" * 600)
    bench.send(run, "other", "x" * 300)
    bench.send(run, "paid", "y" * 2000)
    assert bench.state(run) == QUEUED, "what it waits for is taken, whatever else there is"


def test_events_that_nobody_waits_for_have_a_limit_in_number(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiki.storage.steering.EVENTS", 3)
    run = waiting_for(bench, "paid")
    for number in range(3):
        bench.send(run, "other", number, reference=str(number))
    with pytest.raises(RunConflict, match="4 events of"):
        bench.send(run, "other", 4)
    bench.send(run, "other", 2, reference="2")  # the same as before: nothing is added
    bench.suspend(run, Wait("event", 0, 0, "paid", None, None), steps=(step(1, "event", "other", "completed"),))
    [arrival] = [item for item in bench.store.history(bench.text(run)) if item.kind == "event" and item.state == "open"]
    assert arrival.name == "paid"
