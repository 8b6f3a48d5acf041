"""Children, whole workers and supervisors killed with SIGKILL: nothing is lost, and only what was executing is charged."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter

import psutil
import pytest

from aiki.states import State
from tests.system.system import System, Worker
from tests.waiting import wait_until

FULL = bool(os.environ.get("AIKI_TEST_FULL"))
RUNS, KILLS = (2000, 100) if FULL else (600, 25)
SLOT_BACK = 2.0


@pytest.fixture
def system(chosen_system: System) -> System:
    """These take long."""
    return chosen_system


def kill_a_child(worker: Worker, concurrency: int, chance: random.Random) -> tuple[int, float]:
    """SIGKILL for a random child; its pid, and after how many seconds another process had its slot."""
    children = wait_until(lambda: worker.children() if len(worker.children()) == concurrency else None, 10, "all children")
    victim = chance.choice(children).pid
    psutil.Process(victim).kill()
    begun = time.monotonic()
    wait_until(
        lambda: len(worker.children()) == concurrency and victim not in {child.pid for child in worker.children()},
        10,
        f"a child in the place of {victim}",
    )
    return victim, time.monotonic() - begun


def unfinished(system: System) -> dict[int, str]:
    """By the ledger: the run that each process began last, where it did not end it."""
    open_: dict[int, str] = {}
    for kind, what, pid, _ in sorted(system.marks(), key=lambda mark: mark[3]):
        if kind == "start":
            open_[pid] = what
        elif open_.get(pid) == what:
            del open_[pid]
    return open_


def test_children_killed_at_random_lose_nothing_and_charge_only_what_they_executed(system: System) -> None:
    system.env["AIKI_MAX_CRASHES"] = "20"  # chance may hit one run several times
    system.orchestrator()
    worker = system.worker(concurrency=4)
    chance = random.Random(1)
    nap = system.app().definitions["shop.nap"]
    handles = nap.enqueue_many([(i, 0.003 + i % 10 * 0.01) for i in range(RUNS)])
    killed: dict[int, float] = {}
    while len(killed) < KILLS and system.states()[State.COMPLETED] < RUNS:
        pid, back = kill_a_child(worker, 4, chance)
        killed[pid] = back
    assert len(killed) >= KILLS * 0.8, f"only {len(killed)} kills while {RUNS} runs went on"
    system.wait_states(120, completed=RUNS)
    assert max(killed.values()) <= SLOT_BACK, f"slots were back after {sorted(killed.values())}"

    done = Counter(what for kind, what, _, _ in system.marks() if kind == "done")
    assert set(done) == {str(i) for i in range(RUNS)}
    assert system.result_count() == RUNS
    crashes = [attempt for attempt in system.attempts() if attempt.outcome == "crashed"]
    assert {attempt.signal for attempt in crashes} == {"SIGKILL"}
    numbers = {handle.id: str(i) for i, handle in enumerate(handles)}
    charged = {}
    for attempt in crashes:
        named = re.search(r"process (\d+) was killed by SIGKILL", attempt.error_message)
        assert named, attempt
        assert int(named[1]) not in charged, "two runs were charged for one death"
        charged[int(named[1])] = numbers[attempt.run_id]
    assert set(charged) <= set(killed)
    assert unfinished(system).items() <= charged.items(), "a death was not charged to what was executing"
    assert all(attempt.outcome == "crashed" for attempt in system.attempts())


def test_a_killed_worker_loses_nothing_to_a_new_one(system: System) -> None:
    system.env["AIKI_LEASE"] = "6"
    system.orchestrator()
    worker = system.worker(concurrency=2)
    app = system.app()
    app.definitions["shop.nap"].enqueue_many([(i, 0.03) for i in range(300)])
    wait_until(lambda: system.states()[State.COMPLETED] >= 50, 30, "50 runs to end")
    worker.kill_group()
    system.worker(concurrency=2)
    system.wait_states(90, completed=300)
    assert system.result_count() == 300
    assert set(system.starts()) == {str(i) for i in range(300)}
    assert sum(system.starts().values()) <= 300 + 2 * 60, "only what was executing or not yet confirmed may start again"


def test_a_task_that_kills_its_process_is_dead_after_three_and_its_neighbours_complete(system: System) -> None:
    system.orchestrator()
    system.worker(concurrency=2)
    app = system.app()
    app.definitions["shop.marked"].enqueue_many([(i,) for i in range(50)])
    killer = app.definitions["shop.suicide"].enqueue(1000)
    app.definitions["shop.marked"].enqueue_many([(i,) for i in range(50, 100)])
    system.wait_states(60, completed=100, dead=1)
    assert killer.status() is State.DEAD
    assert system.starts()["1000"] == 3
    attempts = system.attempts()
    assert [(a.run_id, a.number, a.outcome, a.signal) for a in attempts] == [
        (killer.id, number, "crashed", "SIGKILL") for number in (1, 2, 3)
    ]
    view = killer.view()
    assert view.crashes == 3
    assert "SIGKILL" in (view.error_message or "")


def test_supervisor_and_child_killed_together_are_charged_to_the_run(system: System) -> None:
    system.env["AIKI_LEASE"] = "6"
    system.env["AIKI_MAX_CRASHES"] = "2"
    system.orchestrator()
    app = system.app()
    first = system.worker(concurrency=1)
    run = app.definitions["shop.massacre"].enqueue(1)
    wait_until(lambda: first.process.poll() is not None, 30, "the worker to be killed by its task")
    wait_until(lambda: run.view().crashes == 1, 30, "the crash to be charged")
    second = system.worker(concurrency=1)
    wait_until(lambda: second.process.poll() is not None, 30, "the second worker to be killed by it")
    system.wait_states(40, dead=1)
    assert system.starts()["1"] == 2
    assert [(a.number, a.outcome) for a in system.attempts()] == [(1, "lost"), (2, "lost")]
    assert "lost" in (run.view().error_message or "")
