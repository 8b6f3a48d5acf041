"""Cancelling: what has not begun never runs, whatever restarts; what runs is interrupted; each run ends in one state."""

from __future__ import annotations

import random
import threading
import time

import pytest

from aiki import Handle
from aiki.broker import open_broker, work
from aiki.states import State
from tests.services import MariaServer, RabbitServer
from tests.system.system import System
from tests.waiting import wait_until

CONTROLS = 10


def see_that_only_controls_run(system: System) -> None:
    """Start everything, run tasks enqueued last, drain the queue, and look at what was begun."""
    system.orchestrator()
    worker = system.worker()
    task = system.app().definitions["shop.marked"]
    handles = [task.enqueue(f"control-{i}") for i in range(CONTROLS)]
    for handle in handles:
        handle.result(timeout=40)
    session = open_broker(system.settings.broker_url, prefix=system.settings.prefix).connect("test")
    try:
        wait_until(lambda: (session.depth(work("default", "default")) or (0,))[0] == 0, 30, "the work queue to be empty")
    finally:
        session.close()
    assert worker.stop(30) == 0  # warm: whatever it had taken is settled
    assert {what.partition("-")[0] for what in system.starts()} == {"control"}


def test_cancelled_before_it_starts_it_never_runs_although_everything_restarts(
    own_system: System, own_rabbit: RabbitServer, own_maria: MariaServer
) -> None:
    system = own_system
    first = system.orchestrator()
    system.worker().stop()
    task = system.app().definitions["shop.marked"]
    single = [task.enqueue(f"victim-{i}") for i in range(20)]
    victims = single + task.enqueue_many([(f"victim-{i}",) for i in range(20, 60)])
    wait_until(lambda: system.store.next_due() is None, 20, "all to be published")

    for handle in victims[0::3]:  # while no worker is there
        assert handle.cancel("too late") is State.CANCELLED
    own_rabbit.kill9()
    for handle in victims[1::3]:  # while the broker is down
        assert handle.cancel() is State.CANCELLED
    first.kill9()
    own_rabbit.start()
    for handle in victims[2::3]:  # while no orchestrator is there
        assert handle.cancel() is State.CANCELLED
    own_rabbit.restart()
    own_maria.restart()

    see_that_only_controls_run(system)
    assert {handle.status() for handle in victims} == {State.CANCELLED}


def test_cancelled_with_all_processes_down_it_never_runs(system: System) -> None:
    first = system.orchestrator()
    system.worker().stop()
    task = system.app().definitions["shop.marked"]
    victims = task.enqueue_many([(f"victim-{i}",) for i in range(40)])
    wait_until(lambda: system.store.next_due() is None, 20, "all to be published")
    first.kill9()
    for handle in victims:
        assert handle.cancel() is State.CANCELLED
    see_that_only_controls_run(system)


@pytest.mark.parametrize("task", ["nap", "async_nap", "stubborn", "spin"])
def test_cancelled_while_it_runs_it_is_interrupted(system: System, task: str) -> None:
    system.orchestrator()
    system.worker()
    handle = system.app().definitions[f"shop.{task}"].enqueue(1, 60.0)
    wait_until(lambda: system.starts()["1"], 20, "the task to begin")
    begun = time.monotonic()
    handle.cancel("enough")
    wait_until(lambda: handle.status() is State.CANCELLED, 20, "the run to be cancelled")
    assert system.app().definitions["shop.noop"].enqueue(7).result(timeout=20) == 7
    # Interrupted, not waited for; and by an exception, not by the kill that follows after ten seconds.
    assert time.monotonic() - begun < 9
    assert "died" not in system.tails()
    assert not [kind for kind, *_ in system.marks() if kind == "done"]


def test_cancelled_while_the_broker_is_down_a_running_task_is_interrupted(own_system: System, own_rabbit: RabbitServer) -> None:
    system = own_system
    system.orchestrator()
    worker = system.worker()
    handle = system.app().definitions["shop.nap"].enqueue(1, 120.0)
    system.wait_states(20, running=1)
    # The worker connects again only after the cancel was broadcast: it must learn of it all the same.
    link = worker.link()
    link.suspend()
    own_rabbit.kill9()
    try:
        handle.cancel()
    finally:
        own_rabbit.start()
    later = system.store.clock() + 3600 * 1_000_000
    wait_until(lambda: not system.store.unannounced(later), 30, f"the orchestrator to broadcast it\n{system.tails()}")
    link.resume()
    wait_until(lambda: handle.status() is State.CANCELLED, 30, f"the run to be cancelled\n{system.tails()}")
    assert system.app().definitions["shop.noop"].enqueue(7).result(timeout=20) == 7
    assert not [kind for kind, *_ in system.marks() if kind == "done"]
    assert system.starts()["1"] == 1


def test_cancelled_while_no_orchestrator_is_there_a_running_task_is_interrupted(system: System) -> None:
    first = system.orchestrator()
    system.worker()
    handle = system.app().definitions["shop.nap"].enqueue(1, 120.0)
    system.wait_states(20, running=1)
    first.kill9()
    handle.cancel()
    system.orchestrator()
    wait_until(lambda: handle.status() is State.CANCELLED, 45, f"the run to be cancelled\n{system.tails()}")
    assert not [kind for kind, *_ in system.marks() if kind == "done"]


def test_cancelled_while_scheduled_or_waiting_for_its_retry_it_does_not_run_again(system: System) -> None:
    system.orchestrator()
    system.worker()
    tasks = system.app().definitions
    scheduled = tasks["shop.marked"].options(countdown=2).enqueue("scheduled")
    waiting = tasks["shop.soon_retry"].enqueue("waiting")
    system.wait_states(20, scheduled=1, waiting=1)
    assert scheduled.cancel() is State.CANCELLED
    assert waiting.cancel() is State.CANCELLED
    # A later one passes the times at which these two would have been due.
    assert tasks["shop.noop"].options(countdown=3).enqueue(1).result(timeout=30) == 1
    assert system.starts() == {"waiting": 1}
    assert (scheduled.status(), waiting.status()) == (State.CANCELLED, State.CANCELLED)


def test_cancelling_twice_is_as_good_as_once(system: System) -> None:
    system.orchestrator()
    system.worker()
    tasks = system.app().definitions
    early = tasks["shop.marked"].options(countdown=3600).enqueue("early")
    assert [early.cancel("first"), early.cancel("second")] == [State.CANCELLED, State.CANCELLED]
    running = tasks["shop.nap"].enqueue(1, 60.0)
    system.wait_states(20, running=1)
    running.cancel()
    running.cancel()
    wait_until(lambda: running.status() is State.CANCELLED, 20)
    assert running.cancel() is State.CANCELLED
    finished = tasks["shop.noop"].enqueue(3)
    assert finished.result(timeout=20) == 3
    assert finished.cancel() is State.COMPLETED
    assert finished.result(timeout=1) == 3


def test_a_cancel_that_races_with_the_end_leaves_one_state(system: System) -> None:
    """Each run is cancelled at some moment around its start and its end."""
    system.orchestrator()
    system.worker()
    nap = system.app().definitions["shop.nap"]
    rng = random.Random(5)
    answered: dict[str, State] = {}

    def race(handles: list[Handle[int]], delays: list[float]) -> None:
        for handle, delay in zip(handles, delays, strict=True):
            if delay:
                time.sleep(delay)  # not to wait for anything: it varies the moment
            state = handle.cancel()
            if state in (State.COMPLETED, State.CANCELLED):
                answered[handle.id] = state

    for round_ in range(10):
        handles = nap.enqueue_many([(1000 * round_ + i, 0.005) for i in range(30)])
        parts = [handles[0::2], handles[1::2]]
        threads = [
            threading.Thread(target=race, args=(part, [rng.choice([0, 0.002, 0.01, 0.03]) for _ in part])) for part in parts
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    system.wait_ended(300)
    states = {run.id: run.state for run in system.app().runs()}
    assert set(states.values()) <= {State.COMPLETED, State.CANCELLED}
    assert {run_id: states[run_id] for run_id in answered} == answered  # an end that was told never changes
    print(f"\n{sum(state is State.CANCELLED for state in states.values())} of 300 were cancelled")
    done = {what for kind, what, *_ in system.marks() if kind == "done"}
    assert len(done) >= sum(state is State.COMPLETED for state in states.values())
    assert set(system.starts().values()) <= {1}
    assert system.app().definitions["shop.noop"].enqueue(7).result(timeout=20) == 7
