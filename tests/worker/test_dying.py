"""Deaths and ends: of children, of the supervisor, of the worker as asked."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from aiki import messages
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import Orchestrator, alive, make


def test_a_killed_child_is_named_and_only_the_executing_run_is_charged(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1")
    release = tmp_path / "release"
    first = make("touch_and_wait", str(tmp_path / "pid"), str(release))
    rest = [make("append", str(tmp_path / "ran"), str(number)) for number in range(5)]
    orchestrator.dispatch(first, *rest)
    wait_until(lambda: (tmp_path / "pid").exists(), what="the first to run")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    got = orchestrator.report(first)
    assert (got.kind, got.body["signal"]) == (messages.CRASHED, "SIGKILL")
    assert "oom" not in got.body
    ended = orchestrator.ended(rest)
    assert {item.kind for item in ended.values()} == {messages.INQUIRE}, "merely prefetched: asked about, not charged"
    assert max(item.at for item in ended.values()) - killed < 4
    assert len([item for item in orchestrator.reports if item.kind == messages.CRASHED]) == 1
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    assert "died: SIGKILL; it was executing run" in worker.log


@pytest.mark.parametrize("ends_it", [True, False])
def test_a_run_that_is_known_to_kill_takes_nothing_of_its_neighbours_down(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path, ends_it: bool
) -> None:
    """What stands beside it in the same child goes back before it begins, and is executed as it was."""
    start("-c", "1")
    blocker, release = make("touch_and_wait", str(tmp_path / "pid"), str(tmp_path / "release")), tmp_path / "release"
    orchestrator.dispatch(blocker)
    wait_until(lambda: (tmp_path / "pid").exists(), what="the first to run")
    before = orchestrator.dispatch(*[make("append", str(tmp_path / "ran"), str(number)) for number in range(5)])
    suspects = [make("kill_self" if ends_it else "noop", bf=1) for _ in range(3)]
    after = [make("append", str(tmp_path / "ran"), str(number)) for number in range(5, 25)]
    for run in (*suspects, *after):
        orchestrator.dispatch(run)
    release.touch()
    neighbours = [*before, *after]
    for run in suspects:
        orchestrator.report(run, messages.CRASHED if ends_it else messages.COMPLETED, timeout=60)
    ended = orchestrator.ended(neighbours, 60)
    assert {item.kind for item in ended.values()} == {messages.COMPLETED}
    assert sorted((tmp_path / "ran").read_text().split(), key=int) == [str(number) for number in range(25)], "once each"
    asked = {item.run_id for item in orchestrator.reports if item.kind == messages.INQUIRE}
    assert not asked & {run.run_id for run in neighbours}, "what is not lost need not be asked about"


def test_a_draining_worker_says_so_of_what_it_executes(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    """In reports, which are kept until an orchestrator reads them."""
    worker = start("-c", "2")
    runs = [make("touch_and_wait", str(tmp_path / f"pid{n}"), str(tmp_path / "release")) for n in range(2)]
    for run in runs:
        orchestrator.dispatch(run)
        assert not orchestrator.report(run, messages.STARTED).draining
    worker.signal(signal.SIGTERM)
    for run in runs:
        wait_until(lambda: any(got.draining for got in orchestrator.of(run, messages.STARTED)), 30, "a report")  # noqa: B023
    (tmp_path / "release").touch()
    assert worker.wait(30) == 0
    assert [orchestrator.report(run).kind for run in runs] == [messages.COMPLETED] * 2


def test_the_slot_of_a_dead_child_is_back_at_once(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    for _ in range(5):
        crash = orchestrator.run("kill_self")
        after = orchestrator.run("noop")
        dead = orchestrator.report(crash, messages.CRASHED)
        got = orchestrator.report(after)
        assert got.at - dead.at < 2.0
        assert got.executor != dead.executor


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("exit_process", 3, {"exit": 3}),
        ("exit_process", 0, {"exit": 0}),
        ("kill_self", int(signal.SIGSEGV), {"signal": "SIGSEGV"}),
    ],
)
def test_exit_codes_and_signals_are_named(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, name: str, argument: int, expected: dict[str, object]
) -> None:
    start("-c", "1")
    # What was redelivered to the next child may be inquired about before.
    got = orchestrator.report(orchestrator.run(name, argument), messages.CRASHED)
    assert {key: got.body.get(key) for key in expected} == expected


def test_an_idle_child_that_is_killed_charges_nobody(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    pid = orchestrator.result(orchestrator.run("who"))["pid"]
    os.kill(pid, signal.SIGKILL)
    assert orchestrator.result(orchestrator.run("who"))["pid"] != pid
    assert not [item for item in orchestrator.reports if item.kind == messages.CRASHED]


def test_children_and_link_die_with_the_supervisor(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "2")
    orchestrator.run("touch_and_wait", str(tmp_path / "pid"), str(tmp_path / "never"))
    wait_until(lambda: (tmp_path / "pid").exists(), what="the task to run")
    family = worker.family
    assert len(family) == 3
    worker.process.kill()
    worker.wait()
    wait_until(lambda: not any(alive(pid) for pid in family), 5, "the family to be gone")


def test_warm_stop_finishes_what_runs_and_gives_back_the_rest(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1")
    release = tmp_path / "release"
    first = make("touch_and_wait", str(tmp_path / "pid"), str(release))
    rest = [make("append", str(tmp_path / "ran"), str(number)) for number in range(5)]
    orchestrator.dispatch(first, *rest)
    orchestrator.dispatch(make("append", str(tmp_path / "ran"), "5"))
    wait_until(lambda: (tmp_path / "pid").exists(), what="the first to run")
    worker.signal(signal.SIGTERM)
    wait_until(lambda: orchestrator.depth() == 6, what="the rest to be given back while the first runs")
    assert worker.process.poll() is None
    release.touch()
    assert worker.wait() == 0
    assert orchestrator.report(first).kind == messages.COMPLETED
    wait_until(lambda: orchestrator.beats[-1].kind == messages.BYE, what="bye")
    assert orchestrator.depth() == 6
    start("-c", "1")
    wait_until(lambda: (tmp_path / "ran").exists() and len((tmp_path / "ran").read_text().split()) == 6)
    assert not [item for item in orchestrator.reports if item.kind == messages.INQUIRE], "fresh copies, not redelivered ones"


def test_an_idle_worker_stops_at_once(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    worker = start("-c", "2")
    orchestrator.beat(messages.HELLO)
    orchestrator.report(orchestrator.run("noop"))
    began = time.monotonic()
    worker.signal(signal.SIGINT)
    assert worker.wait() == 0
    assert time.monotonic() - began < 3
    wait_until(lambda: orchestrator.beats[-1].kind == messages.BYE, what="bye")


@pytest.mark.parametrize("signals", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM]])
def test_cold_stop_returns_what_ran_uncharged(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path, signals: list[int]
) -> None:
    worker = start("-c", "2")
    runs = [orchestrator.run("touch_and_wait", str(tmp_path / f"pid{n}"), str(tmp_path / "never")) for n in range(2)]
    wait_until(lambda: all((tmp_path / f"pid{n}").exists() for n in range(2)), what="both to run")
    for number in signals:
        worker.signal(number)
        if len(signals) > 1:
            wait_until(lambda: "stopping" in worker.log, what="the signal to be heard")
    assert worker.wait() == 3
    for run in runs:
        assert orchestrator.report(run).kind == messages.RETURNED
    wait_until(lambda: orchestrator.beats[-1].kind == messages.BYE, what="bye")
    assert not orchestrator.beats[-1].held


def test_term_to_the_whole_group_is_a_warm_stop(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1")
    run = orchestrator.run("touch_and_wait", str(tmp_path / "pid"), str(tmp_path / "release"))
    wait_until(lambda: (tmp_path / "pid").exists(), what="the task to run")
    for pid in [worker.process.pid, *worker.family]:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "stopping" in worker.log, what="the signal to be heard")
    (tmp_path / "release").touch()
    assert worker.wait() == 0
    assert orchestrator.report(run).kind == messages.COMPLETED


def test_a_child_is_replaced_after_so_many_tasks(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1", "--max-tasks-per-child", "3")
    runs = [make("who") for _ in range(10)]
    orchestrator.dispatch(*runs)
    pids = [orchestrator.result(run)["pid"] for run in runs]
    assert sorted(pids.count(pid) for pid in set(pids)) == [1, 3, 3, 3]
    assert {item.kind for item in orchestrator.reports} == {messages.COMPLETED}


def test_a_child_that_has_grown_is_replaced(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1", "--max-memory-per-child", "100000")
    small = orchestrator.result(orchestrator.run("grow", 1000))
    assert orchestrator.result(orchestrator.run("grow", 1000)) == small
    assert orchestrator.result(orchestrator.run("grow", 90_000)) == small
    wait_until(lambda: not alive(small), 10, "the child to leave")
    assert orchestrator.result(orchestrator.run("grow", 1000)) != small
    assert not [item for item in orchestrator.reports if item.kind == messages.CRASHED]


def test_many_children_are_killed_and_no_run_is_forgotten(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    """Each run ends with its result, or its crash, or is asked about or given back: somebody knows of it. At most one is
    charged for each kill."""
    start("-c", "3")
    runs = [make("sleep", 0.02, partition=number % 4) for number in range(400)]
    for first in range(0, len(runs), 10):
        orchestrator.dispatch(*runs[first : first + 10])
    kills = 0
    chance = random.Random(7)
    while kills < 20:
        beat = orchestrator.beat(messages.BEAT, timeout=20)
        for child in beat.fields["children"]:
            if chance.random() < 0.9:
                os.kill(child["pid"], signal.SIGKILL)
                kills += 1
        if len({item.run_id for item in orchestrator.reports}) == len(runs):
            break
    ended = orchestrator.ended(runs)
    assert len(ended) == len(runs)
    crashes = [item for item in orchestrator.reports if item.kind == messages.CRASHED]
    assert len(crashes) <= kills
    assert {item.body["signal"] for item in crashes} <= {"SIGKILL"}
    orchestrator.report(orchestrator.run("noop"))  # perhaps an inquiry: it may have been handed to the last one killed
    wait_until(lambda: orchestrator.depth() == 0, what="the queue to be empty")


def test_a_death_is_reported_although_the_link_dies_too(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1")
    run = orchestrator.run("touch_and_wait", str(tmp_path / "pid"), str(tmp_path / "never"))
    wait_until(lambda: (tmp_path / "pid").exists(), what="the task to run")
    for pid in worker.family:
        os.kill(pid, signal.SIGKILL)
    assert orchestrator.report(run, messages.CRASHED).body["signal"] == "SIGKILL"
    orchestrator.beat(messages.BEAT, lambda beat: not beat.held)
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
