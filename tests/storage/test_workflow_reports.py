"""Workflows' reports on a real store: steps, waits, going on as new, changed code, ends."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import codec
from aiki import messages as m
from aiki.history import Wait, Waits
from aiki.lifecycle import reports
from aiki.storage import Store
from tests.storage.bench import (
    CANCELLED,
    COMPLETED,
    FAILED,
    FLOW,
    ONE,
    OTHER,
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

SLEEP = Wait("sleep", 0, 0, "nap", None, 60.0)
EVENT = Wait("event", 0, 0, "paid", None, None)


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def ended(bench: Bench, value: Any) -> dict[str, Any]:
    return dict(zip(("e", "r"), codec.encode(value), strict=True))


# ---------------------------------------------------------------- steps
def test_steps_are_recorded_and_come_back_with_the_next_dispatch(bench: Bench) -> None:
    run = bench.start("shop.flow", 1)
    assert bench.history(run).steps == []
    bench.steps(run, step(0, "step", "a", "completed", 1, "d" * 32, i='{"n":1}', ms=3, **ended(bench, "a1")))
    bench.steps(run, step(1, "step", "b", "failed", 2, "e" * 32, i="{}", t="shop.No", m="no", tb="Tr…", a='["no"]'))
    assert (bench.state(run), bench.row(run)["history"]) == (RUNNING, 2)
    bench.suspend(run, SLEEP, steps=(step(2, "sleep", "nap", s=60.0),))
    bench.clock.move(60)
    assert bench.sweep() == [run]
    found = bench.history(run)
    assert (found.now, found.first, found.next) == (bench.clock.now, 0, 3)
    at = bench.clock.now - 60_000_000
    assert found.steps == [
        step(0, "step", "a", "completed", 1, "d" * 32, at=at, i='{"n":1}', e="json", r='"a1"'),
        step(1, "step", "b", "failed", 2, "e" * 32, at=at, i="{}", t="shop.No", m="no", tb="Tr…", a='["no"]'),
        step(2, "sleep", "nap", at=at),
    ]


def test_reports_that_come_twice_change_nothing(bench: Bench) -> None:
    run = bench.start()
    part = child()
    reports: list[tuple[str, dict[str, Any]]] = [
        (m.STARTED, {"ms": 1}),
        (m.STEPS, {"s": [step(0, "step", "a", attempt=1, s=5.0, t="E", m="x", tb="")]}),
        (m.STEPS, {"s": [step(0, "step", "a", "completed", 2, **ended(bench, 1))]}),
        (m.STEPS, {"s": [submission(1, part), step(2, "event", "paid")]}),
        (m.SUSPENDED, {"ms": 1, "all": 0, "w": [EVENT]}),
    ]
    bench.report(run, *reports)
    epoch = bench.row(run)["epoch"]
    before = bench.everything()
    for report in [*reports, *reports]:
        bench.report(run, report, epoch=1)
    assert bench.everything() == before
    assert bench.row(run)["epoch"] == epoch


def test_a_done_step_is_not_opened_again_by_an_older_report_of_it(bench: Bench) -> None:
    run = bench.start()
    first = step(0, "step", "a", attempt=1, s=5.0, t="E", m="x", tb="")
    done = step(0, "step", "a", "completed", 2, **ended(bench, 1))
    bench.steps(run, first)
    bench.steps(run, done)
    before = bench.everything()
    bench.clock.move(1)
    bench.steps(run, first)
    after = bench.everything()
    assert after["steps"] == before["steps"]
    bench.steps(run, done)
    assert bench.everything()["steps"] == before["steps"]


@pytest.mark.parametrize("together", [True, False])
def test_a_step_that_succeeds_at_last_keeps_nothing_of_its_errors(bench: Bench, together: bool) -> None:
    run = bench.start()
    one = (m.STEPS, {"s": [step(0, "step", "a", attempt=1, i="{}", s=5.0, t="E", m="x", tb="y")]})
    two = (m.STEPS, {"s": [step(0, "step", "a", "completed", 2, i="{}", **ended(bench, 1))]})
    if together:
        bench.report(run, one, two)
    else:
        bench.report(run, one)
        bench.report(run, two)
    [view] = bench.store.history(bench.text(run))
    assert (view.state, view.attempt, view.input) == ("completed", 2, "{}")
    assert (view.error_type, view.error_message, view.traceback, view.due_at) == (None, None, "", None)


def test_a_retry_of_a_step_has_its_time_by_the_servers_clock(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, step(0, "step", "a", attempt=1, s=30.0, t="E", m="x", tb=""))
    bench.clock.move(1)
    bench.suspend(run, Wait("retry", 0, 0, "a", None, 30.0))
    assert bench.delivery(run) == bench.clock.now + 30_000_000
    bench.clock.move(30)
    bench.sweep()
    assert bench.history(run).steps[0].more["due"] == bench.clock.now - 1_000_000


def test_reports_that_overtake_others_record_nothing(bench: Bench) -> None:
    part = child()
    run = bench.start()
    early = (m.STEPS, {"s": [step(1, "step", "b", "completed", 1)]})
    waits = Waits(True, [Wait("child", 0, 0, "shop.part")])
    end = (m.SUSPENDED, {"ms": 1, "n": 2, **waits.to_wire()})
    bench.report(run, early)
    assert (bench.state(run), bench.row(run)["history"], bench.row(run)["epoch"]) == (QUEUED, 0, 2)
    assert [key.epoch for key in bench.aborts] == [1]
    bench.report(run, (m.STEPS, {"s": [submission(0, part)]}), early, end)
    assert (bench.state(run), bench.row(run)["history"]) == (WAITING, 2)
    bench.report(run, end, epoch=2)
    bench.complete(bench.id(part))
    bench.stir()
    assert bench.state(run) == QUEUED


def test_a_stale_epoch_and_a_second_executor_change_nothing(bench: Bench) -> None:
    run = bench.start()
    bench.suspend(run, SLEEP, steps=(step(0, "sleep", "nap"),))
    before = bench.everything()
    for report in (
        (m.STEPS, {"s": [step(1, "step", "a", "completed", 1)]}),
        (m.SUSPENDED, {"all": 0, "w": []}),
        (m.CONTINUED, ended(bench, [[], {}])),
        (m.CHANGED, {"message": "x"}),
        (m.FAILED, {"type": "E", "at": [0]}),
        (m.CANCELLED, {"met": 1}),
        (m.COMPLETED, {}),
        (m.RETURNED, {}),
    ):
        bench.report(run, report, epoch=1)
        assert bench.everything() == before
    assert [key.run_id for key in bench.aborts] == [run], "who still issues steps is told to stop"
    bench.clock.move(60)
    bench.sweep()
    bench.report(run, (m.STARTED, {"ms": 1}))
    before = bench.everything()
    bench.report(run, (m.STEPS, {"s": [step(1, "step", "a", "completed", 1)]}), source=OTHER)
    bench.report(run, (m.SUSPENDED, {"all": 0, "w": []}), source=OTHER)
    assert bench.everything() == before


@pytest.mark.parametrize(
    "steps",
    [
        [["x"]],
        [step(-1, "step")],
        [step("0", "step")],
        [{}],
        "nonsense",
        [step(0, "step", name=5)],
        [[0, "a", "b", "", "", 0, []]],
    ],  # type: ignore[arg-type,list-item]
)
def test_what_is_no_step_fails_the_run_and_no_other(bench: Bench, steps: Any) -> None:
    run, other = bench.start(), bench.start()
    bench.report(run, (m.STEPS, {"s": steps}))
    bench.steps(other, step(0, "step", "a", "completed", 1))
    assert bench.state(run) == FAILED
    assert "cannot be recorded" in bench.row(run)["error_message"]
    assert bench.state(other) == RUNNING


def test_text_that_no_database_takes_is_recorded_all_the_same(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, step(0, "step", "a", "failed", 1, t="E\ud800", m="\udfff" * 5000, tb="\ud800" * 90_000))
    assert bench.state(run) == RUNNING
    assert len(bench.store.history(bench.text(run))) == 1


# ---------------------------------------------------------------- waiting
def test_a_suspended_run_waits_for_its_time(bench: Bench) -> None:
    run = bench.start()
    bench.suspend(run, SLEEP, steps=(step(0, "sleep", "nap"),))
    row = bench.row(run)
    assert (row["state"], row["epoch"], row["executor"]) == (WAITING, 2, None)
    assert row["waiting_on"].startswith("sleep nap until 20")
    assert bench.delivery(run) == bench.clock.now + 60_000_000
    bench.clock.move(59)
    assert bench.sweep() == []
    bench.clock.move(1)
    assert bench.sweep() == [run]
    assert (bench.state(run), bench.out[run].epoch) == (QUEUED, 2)
    assert bench.row(run)["waits"] is None


def test_a_wait_without_a_time_has_no_delivery_and_the_reconciler_leaves_it_alone(bench: Bench) -> None:
    run = bench.start()
    bench.suspend(run, EVENT, steps=(step(0, "event", "paid"),))
    assert bench.delivery(run) is None
    bench.clock.move(1e6)
    from aiki.states import State

    found, _ = bench.store.stale_undelivered("default", State.WAITING, 1_000_000)
    assert found == []
    retrying = bench.start()
    bench.report(retrying, (m.RETRY, {"type": "E", "delay": 5}))
    sql = "DELETE FROM aiki_deliveries"
    bench.store.db.transaction(lambda connection: bench.store.db.execute(connection, sql, ()))
    bench.clock.move(1e6)
    found, _ = bench.store.stale_undelivered("default", State.WAITING, 1_000_000)
    assert [raw.hex() for raw in found] == [retrying], "a workflow's own retry is revived like any"


def test_an_event_that_is_there_already_dispatches_at_once(bench: Bench) -> None:
    run = bench.start()
    bench.report(run, (m.STARTED, {"ms": 1}))
    bench.send(run, "paid", 5)
    bench.suspend(run, EVENT, steps=(step(0, "event", "paid"),))
    assert (bench.state(run), bench.out[run].epoch) == (QUEUED, 2)
    assert [(a.name, a.text) for a in bench.history(run).arrivals] == [("paid", "5")]


def test_another_event_does_not_bring_it_on_and_is_kept(bench: Bench) -> None:
    run = bench.start()
    bench.suspend(run, EVENT, steps=(step(0, "event", "paid"),))
    bench.send(run, "other", 1)
    assert bench.state(run) == WAITING
    bench.send(run, "paid", 2)
    assert bench.state(run) == QUEUED
    assert [a.name for a in bench.history(run).arrivals] == ["other", "paid"]


def test_an_event_that_a_step_took_is_bound_to_it(bench: Bench) -> None:
    run = bench.start()
    bench.suspend(run, EVENT, steps=(step(0, "event", "paid"),))
    bench.send(run, "paid", 1)
    taken = bench.history(run).arrivals[0].id
    bench.suspend(run, EVENT, steps=(step(0, "event", "paid", "completed", b=taken, e="json", r="1"), step(1, "event", "paid")))
    assert bench.state(run) == WAITING, "it does not count a second time"
    bench.send(run, "paid", 2)
    assert [(a.ordinal, a.text) for a in bench.history(run).arrivals] == [(None, "2")], "the step tells what it took"
    assert [(kind, ordinal) for kind, ordinal, _, _ in bench.inbox(run)] == [("event", 0), ("event", None)]


def test_events_are_deduplicated_by_their_reference_id(bench: Bench) -> None:
    run = bench.start()
    for _ in range(3):
        bench.send(run, "paid", 1, "r-1")
    bench.send(run, "paid", 2, "r-2")
    bench.send(run, "other", 3, "r-1")
    bench.send(run, "paid", 4)
    bench.send(run, "paid", 4)
    assert len(bench.inbox(run)) == 5
    bench.complete(run)
    bench.send(run, "paid", 1, "r-1")
    from aiki.errors import RunConflict

    with pytest.raises(RunConflict, match="takes no events"):
        bench.send(run, "paid", 9)
    task = bench.start(kind="task")
    with pytest.raises(RunConflict, match="it is a task"):
        bench.send(task, "paid", 9)


def test_all_that_is_gathered_comes_with_one_dispatch(bench: Bench) -> None:
    run = bench.start()
    parts = [child(n=n) for n in range(5)]
    bench.suspend(run, Wait("child", 0, 4, ""), every=True, steps=tuple(submission(n, part) for n, part in enumerate(parts)))
    assert bench.row(run)["waiting_on"] == "5 runs"
    for part in parts[:4]:
        bench.complete(bench.id(part), 1)
        bench.stir()
        assert (bench.state(run), bench.row(run)["epoch"]) == (WAITING, 2)
    bench.complete(bench.id(parts[4]), 1)
    bench.stir()
    assert (bench.state(run), bench.row(run)["epoch"]) == (QUEUED, 3)
    assert [a.ordinal for a in sorted(bench.history(run).arrivals, key=lambda a: a.ordinal or 0)] == [0, 1, 2, 3, 4]


def test_one_that_fails_ends_a_gather_early(bench: Bench) -> None:
    run = bench.start()
    parts = [child(n=n) for n in range(3)]
    bench.suspend(run, Wait("child", 0, 2, ""), every=True, steps=tuple(submission(n, part) for n, part in enumerate(parts)))
    bench.fail(bench.id(parts[1]))
    bench.stir()
    assert bench.state(run) == QUEUED


def test_a_gather_with_a_sleep_is_due_when_the_rest_is_there(bench: Bench) -> None:
    run = bench.start()
    part = child()
    waits = (Wait("child", 0, 0, ""), Wait("sleep", 1, 1, "nap", None, 60.0))
    bench.suspend(run, *waits, every=True, steps=(submission(0, part), step(1, "sleep", "nap")))
    assert bench.delivery(run) is None
    bench.complete(bench.id(part))
    bench.stir()
    assert (bench.state(run), bench.delivery(run)) == (WAITING, bench.clock.now + 60_000_000)
    bench.clock.move(60)
    assert bench.sweep() == [run]


def test_a_gather_with_an_event_is_over_with_the_events_timeout(bench: Bench) -> None:
    run = bench.start()
    waits = (Wait("child", 0, 0, ""), Wait("event", 1, 1, "go", None, 5.0))
    bench.suspend(run, *waits, every=True, steps=(submission(0, child()), step(1, "event", "go")))
    bench.clock.move(5)
    assert bench.sweep() == [run]


def test_a_copy_of_a_suspension_does_not_swallow_what_came_after_it(bench: Bench) -> None:
    """It is stale and changes nothing; what has come since is still looked at."""
    run = bench.start()
    part = child()
    wait = Wait("child", 0, 0, "")
    bench.suspend(run, wait, steps=(submission(0, part),))
    bench.complete(bench.id(part), 1)
    bench.suspend(run, wait, epoch=1)
    bench.stir()
    assert bench.state(run) == QUEUED


# ---------------------------------------------------------------- going on as new
def test_it_goes_on_as_new_with_its_new_input_and_its_history_from_there(bench: Bench) -> None:
    run = bench.start("shop.flow", 1)
    bench.steps(run, step(0, "step", "a", "completed", 1), step(1, "event", "paid"))
    bench.send(run, "left", 1)
    bench.send(run, "paid", 2)
    taken = next(row for row in bench.everything()["inbox"] if row[4] == "paid")
    bench.report(
        run,
        (m.STEPS, {"s": [step(1, "event", "paid", "completed", b=bytes(taken[2]).hex(), e="json", r="2")]}),
        (m.CONTINUED, {"ms": 1, **ended(bench, [[2], {}])}),
    )
    dispatch = bench.out[run]
    assert (dispatch.epoch, dispatch.input, bench.state(run)) == (2, "[[2],{}]", QUEUED)
    found = bench.history(run)
    assert (found.first, found.next, found.steps) == (3, 3, [])
    assert [a.name for a in found.arrivals] == ["left"], "only what nobody has taken"
    bench.suspend(run, SLEEP, steps=(step(3, "step", "a", "completed", 1), step(4, "sleep", "nap")))
    bench.clock.move(60)
    bench.sweep()
    assert [s.ordinal for s in bench.history(run).steps] == [3, 4]
    assert bench.out[run].input == "[[2],{}]"
    assert [(v.ordinal, v.kind) for v in bench.store.history(bench.text(run))][2] == (2, "continue")


def test_going_on_as_new_twice_by_one_report_is_once(bench: Bench) -> None:
    run = bench.start()
    for _ in range(3):
        bench.report(run, (m.CONTINUED, ended(bench, [[2], {}])), epoch=1)
    assert (bench.row(run)["history"], bench.row(run)["epoch"]) == (1, 2)


# ---------------------------------------------------------------- changed code
def test_code_that_does_not_fit_waits_for_another_worker_or_a_retry(bench: Bench) -> None:
    run = bench.start()
    bench.known = {("shop.flow", "1"): {ONE.worker: FLOW}}
    bench.steps(run, step(0, "step", "a", "completed", 1))
    bench.clock.move(1)
    bench.report(run, (m.CHANGED, {"ms": 1, "message": "the code no longer fits: " + "x" * 9000}))
    row = bench.row(run)
    assert (row["state"], row["error_type"], len(row["error_message"])) == (STALLED, "WorkflowChanged", 4000)
    assert row["waiting_on"].startswith("the code no longer fits")
    assert (row["epoch"], bench.delivery(run)) == (2, None)
    bench.decide(run, lambda row, rules, effects, out: reports.unpark(row, rules, effects))
    assert bench.state(run) == STALLED, "the only worker has tried"
    bench.known = {("shop.flow", "1"): {ONE.worker: FLOW, OTHER.worker: FLOW}}
    bench.decide(run, lambda row, rules, effects, out: reports.unpark(row, rules, effects))
    row = bench.row(run)
    assert (row["state"], row["error_type"]) == (QUEUED, None)
    bench.report(run, (m.CHANGED, {"message": "still not"}))
    bench.decide(run, lambda row, rules, effects, out: reports.unpark(row, rules, effects))
    assert bench.state(run) == QUEUED, "it came to the worker that had tried; the other one has not"
    bench.report(run, (m.CHANGED, {"message": "still not"}), source=OTHER)
    bench.decide(run, lambda row, rules, effects, out: reports.unpark(row, rules, effects))
    assert bench.state(run) == STALLED, "all have tried"
    bench.retry(run)
    assert (bench.state(run), bench.row(run)["attempt"]) == (QUEUED, 1)


def test_a_version_that_no_worker_has_is_parked_and_goes_on_when_one_has_it(bench: Bench) -> None:
    run = bench.start(version="3")
    bench.report(run, (m.UNKNOWN, {}))
    assert (bench.state(run), bench.row(run)["waiting_on"]) == (STALLED, "no worker has shop.flow@3")
    assert bench.parked == {("shop.flow", "3")}
    bench.known = {("shop.flow", "3"): {"c" * 32: FLOW}}
    assert [raw.hex() for raw in bench.store.stalled("default", bench.known)[0]] == [run]
    bench.decide(run, lambda row, rules, effects, out: reports.unpark(row, rules, effects))
    assert bench.state(run) == QUEUED


# ---------------------------------------------------------------- ends
def test_a_failure_keeps_where_it_failed(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, step(0, "step", "a", "failed", 1, t="E", m="x", tb=""))
    bench.fail(run, 0, undone=1)
    assert bench.state(run) == FAILED
    assert bench.row(run)["failed_at"] == '{"at": [0], "undone": 1}'


@pytest.mark.parametrize(
    ("report", "state"), [((m.COMPLETED, {}), COMPLETED), ((m.CANCELLED, {"met": 1}), CANCELLED), ((m.FAILED, {}), FAILED)]
)
def test_an_end_leaves_nothing_behind(bench: Bench, report: Any, state: str) -> None:
    run = bench.start()
    bench.report(run, (m.STEPS, {"s": [step(0, "event", "x")]}), report)
    row = bench.row(run)
    assert (row["state"], row["waits"], row["waiting_on"]) == (state, None, None)
    assert bench.everything()["deliveries"] == []


def test_a_workflow_that_crashes_goes_on_with_its_whole_history(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, step(0, "step", "a", "completed", 1))
    bench.report(run, (m.CRASHED, {"signal": "SIGKILL"}))
    assert (bench.state(run), bench.row(run)["attempt"]) == (QUEUED, 2)
    assert len(bench.history(run).steps) == 1
    bench.steps(run, step(1, "step", "b", "completed", 1))
    assert bench.row(run)["crashes"] == 0, "it made progress"


def test_a_step_that_kills_its_process_each_time_ends_its_workflow_soon(bench: Bench) -> None:
    run = bench.start()
    delays = []
    for _ in range(3):
        # What is reported each time: the step begins, and its process dies.
        bench.report(run, (m.STEPS, {"s": [step(0, "step", "a", attempt=1)]}), (m.CRASHED, {"signal": "SIGKILL"}))
        due = bench.delivery(run)
        delays.append(None if due is None else round((due - bench.clock.now) / 1_000_000))
        bench.clock.move(60)
        bench.sweep()
    assert (bench.state(run), bench.row(run)["crashes"]) == ("dead", 3)
    assert delays[1] == 1, "the second time it waits"
    assert len(bench.everything()["attempts"]) == 3


def test_a_step_that_is_done_is_progress_and_one_that_is_begun_is_not(bench: Bench) -> None:
    run = bench.start()
    bench.report(run, (m.CRASHED, {"signal": "SIGKILL"}))
    bench.steps(run, step(0, "step", "a", attempt=1), submission(1, child()))
    assert bench.row(run)["crashes"] == 1
    bench.steps(run, step(0, "step", "a", "completed", 1))
    assert bench.row(run)["crashes"] == 0


def test_an_expired_workflow_ends_before_it_starts_and_not_after(bench: Bench) -> None:
    late = bench.start(expires_at=bench.clock.now + 1_000_000)
    begun = bench.start(expires_at=bench.clock.now + 1_000_000)
    bench.suspend(begun, SLEEP, steps=(step(0, "sleep", "nap"),))
    bench.clock.move(1)
    bench.sweep()
    assert (bench.state(late), bench.row(late)["error_type"]) == (CANCELLED, "Expired")
    assert bench.state(begun) == WAITING


def test_the_history_of_a_run_in_pages(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, *[step(n, "step", f"s{n}", "completed", 1) for n in range(10)])
    page = bench.store.history(bench.text(run), after=3, limit=4)
    assert [view.ordinal for view in page] == [4, 5, 6, 7]
