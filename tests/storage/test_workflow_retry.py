"""Retry and rerun of workflows, on a real store."""

from __future__ import annotations

import pytest

from aiki import ids
from aiki import messages as m
from aiki.errors import RunConflict
from aiki.history import Wait
from aiki.lifecycle import reports
from aiki.storage import Store
from tests.storage.bench import (
    COMPLETED,
    DEAD,
    FAILED,
    PAUSED,
    QUEUED,
    RUNNING,
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


# ---------------------------------------------------------------- retry
def states_of(bench: Bench, run: str) -> list[tuple[str, str, int]]:
    return [(view.name, view.state, view.attempt) for view in bench.store.history(bench.text(run))]


def test_a_retry_goes_on_from_the_step_that_failed(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, DONE, step(1, "step", "b", "failed", 3, t="E", m="x", tb="y", a="[]"))
    bench.fail(run, 1)
    bench.retry(run)
    assert (bench.state(run), bench.row(run)["attempt"], bench.row(run)["failed_at"]) == (QUEUED, 2, None)
    again = bench.history(run).steps[1]
    assert (again.state, again.attempt) == ("open", 0)
    assert set(again.more) == {"at"}
    assert states_of(bench, run)[0] == ("a", "completed", 1)


def test_a_retry_of_a_timeout_waits_anew(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, step(0, "event", "paid"))
    bench.clock.move(60)
    bench.steps(run, step(0, "event", "paid", "timed_out"))
    bench.fail(run, 0, kind="aiki.EventTimeout")
    bench.clock.move(10)
    bench.retry(run)
    [again] = bench.history(run).steps
    assert (again.state, again.more) == ("open", {"at": bench.clock.now})


def test_a_retry_retries_all_children_that_have_failed(bench: Bench) -> None:
    run = bench.start()
    parts = [child(n=n) for n in range(3)]
    bench.suspend(run, Wait("child", 0, 2, ""), every=True, steps=tuple(submission(n, part) for n, part in enumerate(parts)))
    for part in parts[:2]:
        bench.fail(bench.id(part))
    bench.complete(bench.id(parts[2]), 5)
    bench.stir()
    bench.steps(run, step(3, "choice", "gather", "completed", e="json", r="0"))
    bench.fail(run, 0, 1, 3)
    bench.retry(run)
    assert [a.ordinal for a in bench.history(run).arrivals if a.kind == "child"] == [2]
    assert [s.kind for s in bench.history(run).steps] == ["task"] * 3, "another choice is made"
    bench.stir()
    assert [bench.state(bench.id(part)) for part in parts] == [QUEUED, QUEUED, COMPLETED]
    bench.suspend(run, Wait("child", 0, 1, ""), every=True)
    for part in parts[:2]:
        bench.complete(bench.id(part), 6)
    bench.stir()
    assert bench.state(run) == QUEUED
    assert sorted(a.text or "" for a in bench.history(run).arrivals if a.kind == "child") == ["5", "6", "6"]


def test_a_child_that_was_retried_meanwhile_tells_its_end_again(bench: Bench) -> None:
    run, part = bench.start(), child()
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, part),))
    bench.fail(bench.id(part))
    bench.stir()
    bench.fail(run, 0)
    bench.retry(bench.id(part))
    bench.complete(bench.id(part), 7)
    bench.stir()
    bench.retry(run)
    bench.suspend(run, Wait("child", 0, 0, ""))
    bench.stir()
    assert bench.state(run) == QUEUED
    assert [a.text for a in bench.history(run).arrivals if a.kind == "child"] == ["7"]


def test_a_child_that_cannot_go_on_fails_its_parent_again(bench: Bench) -> None:
    run, flow = bench.start(), child("shop.sub", "workflow")
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, flow),))
    bench.fail(bench.id(flow), undone=1)
    bench.stir()
    bench.fail(run, 0)
    bench.retry(run)
    bench.suspend(run, Wait("child", 0, 0, ""))
    bench.stir()
    assert bench.state(run) == QUEUED
    assert bench.state(bench.id(flow)) == FAILED


def test_what_was_compensated_or_cancelled_is_not_retried(bench: Bench) -> None:
    undone = running(bench)
    bench.fail(undone, undone=1)
    cancelled = running(bench)
    bench.cancel(cancelled)
    bench.report(cancelled, (m.STEPS, {"s": [MET]}), (m.CANCELLED, {"met": 1}))
    for run, word in ((undone, "compensated"), (cancelled, "cancelled")):
        with pytest.raises(RunConflict, match=f"{word}.*rerun"):
            bench.retry(run)
    never = bench.start()
    bench.cancel(never, at_once=True)
    bench.retry(never)
    assert (bench.state(never), bench.row(never)["cancel_requested"]) == (QUEUED, 0)


def test_a_dead_workflow_goes_on_with_its_history(bench: Bench) -> None:
    run = running(bench)
    for _ in range(3):
        bench.report(run, (m.CRASHED, {"signal": "SIGKILL"}))
        bench.clock.move(60)
        bench.sweep()
    assert bench.state(run) == DEAD
    bench.retry(run)
    assert (bench.state(run), bench.row(run)["crashes"], len(bench.history(run).steps)) == (QUEUED, 0, 1)


@pytest.mark.parametrize("state", [QUEUED, RUNNING, WAITING, PAUSED, COMPLETED])
def test_what_has_not_failed_is_not_retried(bench: Bench, state: str) -> None:
    run = {QUEUED: bench.start, RUNNING: lambda: running(bench), WAITING: lambda: asleep(bench)}.get(
        state, lambda: asleep(bench)
    )()
    if state == PAUSED:
        bench.pause(run)
    if state == COMPLETED:
        run = running(bench)
        bench.complete(run)
    with pytest.raises(RunConflict, match=state):
        bench.retry(run)


def test_a_workflows_own_retry_goes_on_from_where_it_failed_after_a_while(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, DONE, step(1, "step", "b", "failed", 1, t="E", m="x", tb=""))
    bench.report(run, (m.RETRY, {"type": "E", "message": "x", "tb": "", "at": [1], "delay": 30}))
    row = bench.row(run)
    assert (row["state"], row["attempt"], row["waits"]) == (WAITING, 2, None)
    bench.clock.move(30)
    assert bench.sweep() == [run]
    assert [s.state for s in bench.history(run).steps] == ["completed", "open"]


# ---------------------------------------------------------------- rerun
def test_a_rerun_from_a_step_copies_what_came_before_it(bench: Bench) -> None:
    run, part = bench.start("shop.flow", 1), child()
    bench.suspend(run, Wait("child", 1, 1, ""), steps=(DONE, submission(1, part)))
    bench.complete(bench.id(part), "part")
    bench.stir()
    bench.steps(run, step(2, "step", "b", "failed", 1), step(3, "step", "c", "completed", 1))
    bench.fail(run, 2)
    created = bench.store.rerun(bench.text(run), from_step=2)
    copy = ids.to_bytes(created.accepted[0].id).hex()
    assert bench.state(copy) == QUEUED
    bench.clock.move(10)
    assert copy in bench.sweep()
    found = bench.history(copy)
    assert (found.next, [s.name for s in found.steps]) == (2, ["a", "shop.part"])
    assert [(a.ordinal, a.text) for a in found.arrivals] == [(1, '"part"')]
    assert bench.out[copy].input == bench.out[run].input
    bench.steps(copy, step(2, "step", "b", "completed", 1))
    assert bench.row(copy)["history"] == 3
    assert bench.state(run) == FAILED


def test_a_rerun_as_a_whole_copies_no_history(bench: Bench) -> None:
    run = running(bench)
    created = bench.store.rerun(bench.text(run))
    copy = ids.to_bytes(created.accepted[0].id).hex()
    assert bench.row(copy)["history"] == 0


@pytest.mark.parametrize(("step_", "words"), [(9, "it has 2 steps"), (-1, "it has 2 steps"), (2, "2 steps")])
def test_a_rerun_from_a_step_that_is_not_there_is_refused(bench: Bench, step_: int, words: str) -> None:
    run = bench.start()
    bench.steps(run, DONE, step(1, "step", "b", "completed", 1))
    with pytest.raises(RunConflict, match=words):
        bench.store.rerun(bench.text(run), from_step=step_)


def test_a_rerun_behind_something_without_a_result_is_refused(bench: Bench) -> None:
    run = bench.start()
    bench.steps(run, submission(0, child()), step(1, "step", "b", "completed", 1))
    with pytest.raises(RunConflict, match=r"step 0 \(shop.part\) has no result"):
        bench.store.rerun(bench.text(run), from_step=1)


def test_a_run_that_went_on_as_new_is_rerun_as_a_whole_only(bench: Bench) -> None:
    run = running(bench)
    bench.report(run, (m.CONTINUED, {"e": "json", "r": "[[2],{}]"}))
    bench.steps(run, step(2, "step", "a", "completed", 1), step(3, "step", "b", "completed", 1))
    with pytest.raises(RunConflict, match="went on as new"):
        bench.store.rerun(bench.text(run), from_step=3)


# ---------------------------------------------------------------- nothing is lost
def test_a_dispatch_that_vanished_is_made_anew_with_the_history(bench: Bench) -> None:
    run = asleep(bench)
    bench.wake(run)
    bench.decide(
        run, lambda row, rules, effects, out: reports.settle_inquiry(row, 3, rules, effects, lost=None, copy_may_be_out=True)
    )
    assert (bench.out[run].epoch, len(bench.history(run).arrivals)) == (4, 1)


def test_a_rerun_that_fails_is_retried_with_a_child_of_its_own(bench: Bench) -> None:
    run, part = bench.start("shop.flow", 1), child(n=7)
    bench.suspend(run, Wait("child", 1, 1, ""), steps=(DONE, submission(1, part)))
    bench.fail(bench.id(part))
    bench.stir()
    bench.steps(run, step(2, "step", "b", "completed", 1))
    bench.fail(run, 1)
    copy = ids.to_bytes(bench.store.rerun(bench.text(run), from_step=2).accepted[0].id).hex()
    bench.clock.move(10)
    bench.sweep()
    bench.fail(copy, 1)
    before = bench.row(bench.id(part))
    bench.retry(copy)
    assert bench.row(bench.id(part)) == before, "the child of the old run stays as it is"
    [mine] = [other for other in bench.out if bench.row(other)["parent_id"] == bytes.fromhex(copy)]
    assert (bench.row(mine)["name"], bench.out[mine].input) == ("shop.part", "[[7],{}]")
    bench.suspend(copy, Wait("child", 1, 1, ""))
    bench.complete(mine, "again")
    bench.stir()
    assert [(a.ordinal, a.outcome, a.text) for a in bench.history(copy).arrivals] == [(1, "completed", '"again"')]
    # Its own from now on: a second retry has the same child go on.
    bench.fail(copy, 1)
    bench.retry(copy)
    assert len([other for other in bench.out if bench.row(other)["parent_id"] == bytes.fromhex(copy)]) == 1


def test_a_rerun_follows_what_the_old_run_followed(bench: Bench) -> None:
    own = bench.start("shop.part", kind="task", reference_id="one")
    run, part = bench.start("shop.flow", 1), child(reference="one", on="return_existing")
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, part),))
    bench.fail(own)
    bench.stir()
    bench.steps(run, step(1, "step", "b", "completed", 1))
    bench.fail(run, 0)
    copy = ids.to_bytes(bench.store.rerun(bench.text(run), from_step=1).accepted[0].id).hex()
    bench.clock.move(10)
    bench.sweep()
    bench.fail(copy, 0)
    bench.retry(copy)
    bench.suspend(copy, Wait("child", 0, 0, ""))
    bench.stir()
    assert bench.state(own) == QUEUED, "retried, for it was never the old run's own"
    bench.complete(own, 5)
    bench.stir()
    assert [(a.outcome, a.text) for a in bench.history(copy).arrivals] == [("completed", "5")]
