"""Runs that workflows start, or are led to by a reference id: their ends reach the workflow, once each."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import messages as m
from aiki.history import Wait
from aiki.lifecycle import reports
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.model import NewRun
from aiki.states import TRANSITIONS, State, may_follow
from aiki.storage import Store
from tests.storage.bench import (
    CANCELLED,
    FLOW,
    QUEUED,
    WAITING,
    Bench,
    child,
    step,
    submission,
)
from tests.storage.conftest import SetClock


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def follows(bench: Bench, *runs: NewRun) -> str:
    """A workflow that has started these and waits for any."""
    run = bench.start()
    steps = tuple(submission(n, part) for n, part in enumerate(runs))
    bench.suspend(run, Wait("child", 0, len(runs) - 1, ""), steps=steps)
    return run


def ends(bench: Bench, run: str) -> list[tuple[Any, ...]]:
    """Ordinal, outcome, result, error type and message of each child's end that the newest dispatch carries."""
    found = [a for a in bench.history(run).arrivals if a.kind == "child"]
    return sorted((a.ordinal, a.outcome, a.text, a.error_type, a.error_message) for a in found)


# ---------------------------------------------------------------- starting
def test_a_child_is_started_once_with_its_own_input_and_queue(bench: Bench) -> None:
    run, part = bench.start(), child(n=5)
    part.queue = "other"
    report = (m.STEPS, {"s": [submission(0, part)]})
    bench.report(run, report)
    bench.report(run, report)
    row = bench.row(bench.id(part))
    assert (row["state"], row["parent_id"].hex(), row["parent_ordinal"], row["queue"]) == (QUEUED, run, 0, "other")
    assert bench.out[bench.id(part)].input == "[[5],{}]"
    assert len(bench.everything()["runs"]) == 2


def test_a_child_that_is_to_start_later_waits_for_its_time(bench: Bench) -> None:
    run, part = bench.start(), child()
    part.due_at = bench.clock.now + 60_000_000
    bench.steps(run, submission(0, part))
    assert bench.state(bench.id(part)) == "scheduled"
    bench.clock.move(60)
    assert bench.id(part) in bench.sweep()


# ---------------------------------------------------------------- ends
def test_each_end_of_a_child_brings_its_parent_on(bench: Bench) -> None:
    def crash(part: str) -> None:
        for _ in range(3):
            bench.report(part, (m.CRASHED, {"signal": "SIGKILL"}))
            bench.clock.move(60)
            bench.sweep()

    late = child()
    late.expires_at = bench.clock.now + 1_000_000

    def expire(part: str) -> None:
        bench.clock.move(1)
        bench.sweep()

    cases: list[tuple[NewRun, Any, tuple[Any, ...]]] = [
        (late, expire, (0, "cancelled", None, "Expired", "it had not started by the time it expires")),
        (child(), lambda part: bench.complete(part, {"x": 1}), (0, "completed", '{"x":1}', None, None)),
        (child(), lambda part: bench.complete(part), (0, "completed", None, None, None)),
        (child(), lambda part: bench.fail(part, message="broken"), (0, "failed", "{}", "ValueError", "broken")),
        (child(), lambda part: bench.cancel(part), (0, "cancelled", None, None, None)),
        (child("shop.sub", "workflow"), lambda part: bench.cancel(part, at_once=True), (0, "cancelled", None, None, None)),
        (child(), crash, (0, "dead", "{}", "WorkerCrashed")),
    ]
    for part, end, told in cases:
        run = follows(bench, part)
        assert bench.state(run) == WAITING
        end(bench.id(part))
        bench.stir()
        assert bench.state(run) == QUEUED
        assert ends(bench, run)[0][: len(told)] == told


def test_an_end_that_is_told_twice_is_one(bench: Bench) -> None:
    part = child()
    run = follows(bench, part)
    for _ in range(3):
        bench.report(bench.id(part), (m.COMPLETED, {"e": "json", "r": "1"}), epoch=1)
        bench.stir()
    assert bench.row(run)["epoch"] == 3
    assert len(bench.inbox(run)) == 1


def test_an_end_that_comes_while_the_parent_runs_is_there_when_it_is_left(bench: Bench) -> None:
    run, part = bench.start(), child()
    bench.steps(run, submission(0, part))
    bench.complete(bench.id(part), 1)
    bench.stir()
    assert bench.state(run) == "running"
    bench.suspend(run, Wait("child", 0, 0, ""))
    assert bench.state(run) == QUEUED
    assert ends(bench, run) == [(0, "completed", "1", None, None)]


def test_an_end_that_nobody_has_looked_at_is_there_when_the_parent_is_left(bench: Bench) -> None:
    run, part = bench.start(), child()
    bench.steps(run, submission(0, part))
    bench.complete(bench.id(part), 1)
    bench.suspend(run, Wait("child", 0, 0, ""))
    assert bench.state(run) == QUEUED
    assert bench.stir() == 0, "it counts as looked at"


def test_a_start_and_its_end_in_one_batch(bench: Bench) -> None:
    part = child()
    run = bench.start()
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, part),))
    bench.complete(bench.id(part))
    bench.stir()
    bench.stir()
    assert bench.state(run) == QUEUED


def test_an_end_reaches_no_parent_that_has_ended(bench: Bench) -> None:
    part = child()
    run = follows(bench, part)
    bench.cancel(run, at_once=True)
    bench.complete(bench.id(part), 1)
    bench.stir()
    assert bench.state(run) == CANCELLED


def test_the_history_shows_how_children_ended(bench: Bench) -> None:
    part, other = child(), child()
    run = follows(bench, part, other)
    bench.fail(bench.id(part), message="broken")
    views = bench.store.history(bench.text(run))
    assert [(v.state, v.error_message, v.child_id) for v in views] == [("failed", "broken", part.id), ("open", None, other.id)]


# ---------------------------------------------------------------- reference ids
def test_a_reference_id_that_nobody_has_is_the_childs(bench: Bench) -> None:
    part = child(reference="r-1")
    run = follows(bench, part)
    bench.complete(bench.id(part), 1)
    bench.stir()
    assert ends(bench, run) == [(0, "completed", "1", None, None)]
    assert len(bench.everything()["inbox"]) == 1


def test_a_reference_id_leads_to_a_run_that_runs(bench: Bench) -> None:
    holder = child(reference="r-1")
    bench.store.create_runs([holder], claim=5)
    run = follows(bench, child(reference="r-1"))
    assert (bench.state(run), bench.row(bench.id(holder))["parent_id"]) == (WAITING, None)
    assert bench.store.history(bench.text(run))[0].child_id == holder.id
    bench.complete(bench.id(holder), 7)
    bench.stir()
    assert bench.state(run) == QUEUED
    assert ends(bench, run) == [(0, "completed", "7", None, None)]


@pytest.mark.parametrize("fails", [False, True])
def test_a_reference_id_leads_to_a_run_that_has_ended(bench: Bench, fails: bool) -> None:
    holder = child(reference="r-1")
    bench.store.create_runs([holder], claim=5)
    bench.fail(bench.id(holder)) if fails else bench.complete(bench.id(holder), 7)
    run = follows(bench, child(reference="r-1"))
    bench.stir()
    assert bench.state(run) == QUEUED
    assert ends(bench, run)[0][:3] == ((0, "failed", "{}") if fails else (0, "completed", "7"))


def test_several_steps_and_several_workflows_may_follow_one_run(bench: Bench) -> None:
    first = child(reference="r-1")
    run, other = follows(bench, first, child(reference="r-1")), follows(bench, child(reference="r-1"), child(reference="r-1"))
    bench.complete(bench.id(first), 7)
    bench.stir()
    for one in (run, other):
        assert bench.state(one) == QUEUED
        assert ends(bench, one) == [(n, "completed", "7", None, None) for n in (0, 1)]
    third = follows(bench, child(reference="r-1"), child(reference="r-1"))
    bench.stir()
    assert ends(bench, third) == [(n, "completed", "7", None, None) for n in (0, 1)]


def test_a_cancel_does_not_reach_a_run_that_is_not_the_workflows_own(bench: Bench) -> None:
    holder = child(reference="r-1")
    bench.store.create_runs([holder], claim=5)
    run = follows(bench, child(reference="r-1"))
    bench.cancel(run)
    bench.stir()
    assert bench.state(bench.id(holder)) == QUEUED


def test_a_reference_id_of_another_input_is_a_failure_of_that_step(bench: Bench) -> None:
    bench.store.create_runs([child(reference="r-1", n=1)], claim=5)
    run = follows(bench, child(reference="r-1", n=2), child(n=3))
    bench.stir()
    assert bench.state(run) == QUEUED
    [told] = ends(bench, run)
    assert told[:4] == (0, "failed", None, "ReferenceConflict")
    assert "r-1" in told[4]
    assert len(bench.everything()["runs"]) == 3, "the other child was started"


def test_a_retry_of_a_conflict_fails_in_the_same_way_and_leaves_nothing_behind(bench: Bench) -> None:
    bench.store.create_runs([child(reference="r-1", n=1)], claim=5)
    run = follows(bench, child(reference="r-1", n=2))
    bench.stir()
    bench.fail(run, 0, kind="ReferenceConflict")
    bench.retry(run)
    bench.stir()
    assert ends(bench, run)[0][:2] == (0, "failed")
    bench.suspend(run, Wait("child", 0, 0, ""))
    assert bench.state(run) == QUEUED
    bench.cancel(run)
    bench.stir()


def test_existing_runs_of_another_input_may_be_taken(bench: Bench) -> None:
    holder = child(reference="r-1", n=1)
    bench.store.create_runs([holder], claim=5)
    run = follows(bench, child(reference="r-1", n=2, on="return_existing"))
    bench.complete(bench.id(holder), 7)
    bench.stir()
    assert ends(bench, run) == [(0, "completed", "7", None, None)]


def test_a_run_that_is_followed_and_was_retried_tells_its_followers_again(bench: Bench) -> None:
    holder = child(reference="r-1")
    bench.store.create_runs([holder], claim=5)
    run = follows(bench, child(reference="r-1"))
    bench.fail(bench.id(holder))
    bench.stir()
    bench.fail(run, 0)
    bench.retry(bench.id(holder))
    bench.complete(bench.id(holder), 7)
    bench.retry(run)
    bench.suspend(run, Wait("child", 0, 0, ""))
    bench.stir()
    assert bench.state(run) == QUEUED
    assert ends(bench, run) == [(0, "completed", "7", None, None)]


# ---------------------------------------------------------------- legal and illegal
REPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "started": (m.STARTED, {"ms": 1}),
    "steps": (m.STEPS, {"s": [step(5, "step", "z", "completed", 1)]}),
    "suspended": (m.SUSPENDED, {"all": 0, "w": [Wait("event", 6, 6, "x", None, None)]}),
    "satisfied": (m.SUSPENDED, {"all": 0, "w": []}),
    "continued": (m.CONTINUED, {"e": "json", "r": "[[],{}]"}),
    "changed": (m.CHANGED, {"message": "x"}),
    "completed": (m.COMPLETED, {}),
    "failed": (m.FAILED, {"type": "E"}),
    "retry": (m.RETRY, {"type": "E", "delay": 5}),
    "crashed": (m.CRASHED, {"signal": "SIGKILL"}),
    "cancelled": (m.CANCELLED, {"met": 1}),
    "returned": (m.RETURNED, {}),
    "unknown": (m.UNKNOWN, {}),
    "progress": (m.PROGRESS, {"p": 0.5}),
}


def put(bench: Bench, run: str, state: State, executor: str | None) -> None:
    """Have a run in this state, as a report of its epoch may find it, however it came there."""
    sql = "UPDATE aiki_runs SET state = ?, executor = ? WHERE id = ?"
    db = bench.store.db
    db.transaction(lambda connection: db.execute(connection, sql, (state.value, executor, bytes.fromhex(run))))


def decide(bench: Bench, run: str, state: State) -> None:
    """Decide that a run is in this state from now on."""

    def change(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rows[bytes.fromhex(run)].state = state.value

    bench.store.apply("default", [bytes.fromhex(run)], change)


@pytest.mark.parametrize("name", REPORTS)
def test_no_report_moves_a_workflow_where_it_may_not_go(bench: Bench, name: str) -> None:
    """Whatever the state it is in when the report comes, whoever has it: the transition is legal, or nothing changes."""
    for state in State:
        for executor in (None, "a/0.1", "b/0.9"):
            run = bench.start(due_at=bench.clock.now + 1)
            put(bench, run, state, executor)
            before = State(bench.state(run))
            bench.report(run, REPORTS[name])
            after = State(bench.state(run))
            # Who executes it has its dispatch: whatever is on record, that was out.
            legal = may_follow(before, after) or (may_follow(before, State.QUEUED) and may_follow(State.QUEUED, after))
            assert before == after or legal, f"{name}: {before} became {after}"
            assert bench.row(run)["error_type"] != "ReportRefused", f"{name} of a run that is {before}: {bench.row(run)}"
            if executor == "b/0.9" and name != "unknown":
                assert before == after


@pytest.mark.parametrize("before", State)
def test_a_decision_that_would_break_the_rules_is_refused(bench: Bench, before: State) -> None:
    for after in State:
        run = bench.start(due_at=bench.clock.now + 1)
        put(bench, run, before, None)
        if before == after or after in TRANSITIONS[before]:
            continue
        with pytest.raises(AssertionError, match=f"{before} may not become {after}"):
            decide(bench, run, after)
        assert bench.state(run) == before


def test_a_stalled_workflow_goes_on_by_a_worker_and_by_nothing_else(bench: Bench) -> None:
    part = child()
    run = bench.start()
    bench.steps(run, submission(0, part))
    bench.report(run, (m.CHANGED, {"message": "x"}))
    bench.complete(bench.id(part))
    bench.send(run, "x")
    bench.stir()
    assert bench.state(run) == "stalled"
    bench.clock.move(1)
    bench.known = {("shop.flow", "1"): {"c" * 32: FLOW}}
    bench.decide(run, lambda row, rules, effects, out: reports.unpark(row, rules, effects))
    assert bench.state(run) == QUEUED
    assert len(bench.history(run).arrivals) == 2


# ---------------------------------------------------------------- runs that exist already
def named(other: str, bench: Bench) -> NewRun:
    """A submission under the id of a run that exists."""
    run = child(bench.row(other)["name"], bench.row(other)["kind"])
    run.id = bench.text(other)
    return run


@pytest.mark.parametrize("ended", [True, False])
def test_a_run_id_leads_to_the_run_that_has_it(bench: Bench, ended: bool) -> None:
    own = bench.start("shop.part", kind="task")
    if ended:
        bench.complete(own, 5)
    run = follows(bench, named(own, bench))
    bench.stir()
    if not ended:
        assert bench.state(run) == WAITING
        bench.complete(own, 5)
        bench.stir()
    assert bench.state(run) == QUEUED
    assert ends(bench, run) == [(0, "completed", "5", None, None)]


def test_a_run_id_that_exists_does_not_keep_the_others_of_a_fan_out_from_starting(bench: Bench) -> None:
    own = bench.start("shop.part", kind="task")
    parts = [child(n=1), named(own, bench), child(n=2)]
    run = bench.start()
    bench.suspend(run, Wait("child", 0, 2, ""), every=True, steps=tuple(submission(n, part) for n, part in enumerate(parts)))
    for part in parts:
        assert bench.out[bench.id(part)].input
        bench.complete(bench.id(part), 1)
    bench.stir()
    assert [end[:3] for end in ends(bench, run)] == [(n, "completed", "1") for n in range(3)]


def test_one_run_may_be_followed_by_several_steps_of_the_workflow_that_started_it(bench: Bench) -> None:
    part = child()
    run = follows(bench, part, part)
    bench.complete(bench.id(part), 1)
    bench.stir()
    assert [end[:2] for end in ends(bench, run)] == [(0, "completed"), (1, "completed")]


def test_a_run_id_of_another_task_is_a_failure_of_that_step(bench: Bench) -> None:
    own = bench.start("shop.part", kind="task")
    wrong, fine = named(own, bench), child(n=1)
    wrong.name = "shop.other"
    run = follows(bench, wrong, fine)
    bench.stir()
    [(ordinal, outcome, _, error, words)] = ends(bench, run)
    assert (ordinal, outcome, error) == (0, "failed", "RunConflict")
    assert "belongs to a run of 'shop.part', not of 'shop.other'" in words
    assert bench.out[bench.id(fine)].input == "[[1],{}]"


@pytest.mark.parametrize("by", ["id", "reference"])
def test_a_workflow_that_waits_for_itself_is_refused(bench: Bench, by: str) -> None:
    run = bench.start(reference_id="me")
    part = named(run, bench) if by == "id" else child("shop.flow", "workflow", reference="me", on="return_existing")
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, part),))
    bench.stir()
    [(_, outcome, _, error, words)] = ends(bench, run)
    assert (outcome, error) == ("failed", "RunConflict")
    assert "it is this workflow's own run" in words
    bench.fail(run, 0)
    bench.retry(run)
    assert len(ends(bench, run)) == 1, "a retry meets the same refusal, and waits for nothing"


def test_workflows_that_wait_for_each_other_are_refused(bench: Bench) -> None:
    one, two, three = (bench.start(f"shop.{name}", reference_id=name) for name in ("one", "two", "three"))
    for who, whom in ((one, "two"), (two, "three"), (three, "one")):
        part = child(f"shop.{whom}", "workflow", reference=whom, on="return_existing")
        bench.suspend(who, Wait("child", 0, 0, ""), steps=(submission(0, part),))
    bench.stir()
    assert (bench.state(one), bench.state(two), bench.state(three)) == (WAITING, WAITING, QUEUED)
    [(_, _, _, error, words)] = ends(bench, three)
    assert error == "RunConflict"
    assert "waits for this one" in words


@pytest.mark.parametrize("abandoned", [True, False])
def test_a_child_that_waits_for_its_parent_is_refused_unless_nobody_waits_for_it(bench: Bench, abandoned: bool) -> None:
    parent, part = bench.start(), child("shop.below", "workflow")
    bench.steps(parent, submission(0, part, **({"ab": 1} if abandoned else {})))
    below = bench.id(part)
    bench.suspend(below, Wait("child", 0, 0, ""), steps=(submission(0, named(parent, bench)),))
    bench.stir()
    assert bench.state(below) == (WAITING if abandoned else QUEUED)
