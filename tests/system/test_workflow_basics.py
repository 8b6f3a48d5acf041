"""Workflows on whole systems: every kind of step, waiting, control, versions, changed code."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from aiki import Handle, RunCancelled, RunFailed
from aiki.errors import RunConflict
from aiki.states import State
from tests.system.expected import ten_total
from tests.system.system import System
from tests.waiting import wait_until


def flow(system: System, name: str) -> Any:
    return system.app("flows").definitions[f"flows.{name}"]


def up(system: System, concurrency: int = 2) -> None:
    system.orchestrator()
    system.worker(concurrency=concurrency, app="flows")


def in_state(handle: Handle[Any], state: State, on: str = "") -> Callable[[], bool]:
    def there() -> bool:
        view = handle.view()
        return view.state is state and on in (view.waiting_on or "")

    return there


def test_each_kind_of_step_once(system: System) -> None:
    up(system)
    handle = flow(system, "ten").enqueue(7)
    wait_until(in_state(handle, State.WAITING, "event go"), 30, f"the event to be waited for\n{system.tails()}")
    handle.send_event("go", 100)
    result = handle.result(timeout=30)
    assert result["total"] == ten_total(7, 100)
    assert all(count == 1 for count in system.starts().values())
    steps = handle.history()
    assert [step.ordinal for step in steps] == list(range(len(steps)))
    kinds = [step.kind for step in steps]
    assert kinds == ["step", "step", "task", "task", "child", "sleep", "step", "event", "step", "value", "step"]
    assert all(step.state == "completed" for step in steps)


def test_a_failing_step_waits_for_its_retry_and_holds_nothing(system: System) -> None:
    up(system, 1)
    app = system.app("flows")
    handle = app.definitions["flows.broken_then_mended"].enqueue(1)
    with pytest.raises(RunFailed) as caught:
        handle.result(timeout=30)
    assert caught.value.error_type == "ValueError"
    handle.retry()
    assert handle.result(timeout=30) == 2
    starts = system.starts()
    assert (starts["1.first"], starts["1.flaky"]) == (1, 2)


def test_a_step_that_runs_into_its_own_limit_is_retried_alone(system: System) -> None:
    up(system, 1)
    handle = flow(system, "limited").enqueue(1)
    assert handle.result(timeout=40) == "in time"
    starts = system.starts()
    assert (starts["1.before"], starts["1.overlong"], starts["1.after"]) == (1, 2, 1)
    step = handle.history()[1]
    assert (step.name, step.state, step.attempt) == ("flows.overlong", "completed", 2)
    assert handle.view().crashes == 0


def test_a_step_that_kills_its_process_is_charged_to_its_run(system: System) -> None:
    up(system, 1)
    handle = flow(system, "hopeless").enqueue(1)
    with pytest.raises(RunFailed) as caught:
        handle.result(timeout=60)
    assert caught.value.state == "dead"
    assert "SIGKILL" in caught.value.error_message
    assert (system.starts()["1.before"], system.starts()["1"]) == (1, 3)


def test_a_cancel_with_all_workers_down_compensates_when_they_are_back(system: System) -> None:
    system.orchestrator()
    worker = system.worker(app="flows")
    handle = flow(system, "compensated").enqueue(1)
    wait_until(in_state(handle, State.WAITING, "event never"), 30, "it to wait")
    assert worker.stop() == 0
    handle.cancel("the customer left")
    assert handle.status() is State.QUEUED
    system.worker(app="flows")
    with pytest.raises(RunCancelled):
        handle.result(timeout=30)
    starts = system.starts()
    assert (starts["1.reserve"], starts["1.release"]) == (1, 1)
    assert [step.state for step in handle.history()] == ["completed", "cancelled", "completed"]
    with pytest.raises(RunConflict, match="rerun"):
        handle.retry()


def test_terminate_ends_at_once_without_code(system: System) -> None:
    system.orchestrator()
    worker = system.worker(app="flows")
    handle = flow(system, "compensated").enqueue(1)
    wait_until(in_state(handle, State.WAITING, "event never"), 30, "it to wait")
    worker.stop()
    assert handle.terminate("enough") is State.CANCELLED
    second = flow(system, "compensated").enqueue(2)
    system.worker(app="flows")
    wait_until(in_state(second, State.WAITING, "event never"), 30, "the second to wait")
    second.cancel()
    second.cancel()
    wait_until(lambda: second.view().ended, 30, "the second to end")
    assert system.starts()["1.release"] == 0


def test_a_cancel_of_a_running_workflow_comes_at_the_next_step(system: System) -> None:
    up(system, 1)
    handle = flow(system, "dawdling").enqueue(1, 50, 0.3)
    wait_until(lambda: system.starts()["1.1"], 30, "the second step")
    handle.cancel()
    with pytest.raises(RunCancelled):
        handle.result(timeout=30)
    done = {mark.what for mark in system.marks() if mark.kind == "done"}
    assert done == set(system.starts()), "a step was interrupted"
    assert handle.history()[-1].state == "cancelled"


def test_a_paused_workflow_stands_still_until_it_is_resumed(system: System) -> None:
    up(system, 1)
    handle = flow(system, "dawdling").enqueue(1, 6, 0.3)
    wait_until(lambda: system.starts()["1.1"], 30, "the second step")
    handle.pause()
    wait_until(in_state(handle, State.PAUSED), 30, f"it to stand still\n{system.tails()}")
    before = sum(system.starts().values())
    assert before < 6
    assert handle.view().waiting_on == "paused by an operator"
    handle.resume()
    assert handle.result(timeout=30) == 6
    assert all(count == 1 for count in system.starts().values())


def test_a_sleep_of_years_can_be_woken(system: System) -> None:
    up(system)
    handle = flow(system, "sleeper").enqueue(1, 10 * 365 * 86400.0)
    wait_until(in_state(handle, State.WAITING, "sleep long until"), 30, "it to sleep")
    handle.wake()
    assert handle.result(timeout=30) is True
    with pytest.raises(RunConflict, match="only a workflow that sleeps"):
        handle.wake()


def test_events_come_once_and_in_their_order(system: System) -> None:
    handle = flow(system, "waiting").enqueue(1)
    handle.send_event("go", "first", reference_id="a")
    handle.send_event("go", "first", reference_id="a")
    handle.send_event("go", "second", reference_id="b")
    up(system)
    assert handle.result(timeout=30) == "first"
    with pytest.raises(RunConflict):
        handle.send_event("go", "late")


def test_a_loop_continues_as_new(system: System) -> None:
    up(system)
    handle = flow(system, "looping").enqueue(1, 4)
    assert handle.result(timeout=30) == 4
    starts = system.starts()
    assert len(starts) == 12
    assert set(starts.values()) == {1}
    assert [step.kind for step in handle.history()].count("continue") == 3


def test_a_version_that_no_worker_has_is_parked_and_goes_on_by_itself(system: System) -> None:
    system.orchestrator()
    first = system.worker(app="releases:one")
    app = system.app("releases")
    checkout = app.versions["releases.checkout", "1"]
    handle = checkout.enqueue("o-1")
    wait_until(in_state(handle, State.WAITING, "event paid"), 30, "the event to be waited for")
    first.stop()
    system.worker(app="releases:two")
    handle.send_event("paid", 5)
    wait_until(in_state(handle, State.STALLED, "no worker has releases.checkout@1"), 30, "it to be parked")
    system.worker(app="releases:both")
    assert handle.result(timeout=30) == "one 5"
    assert app.versions["releases.checkout", "2"].enqueue("o-2").status() is not State.FAILED


def test_changed_code_stops_before_anything_starts_and_goes_on_once_it_is_mended(system: System) -> None:
    system.orchestrator()
    old = system.worker(app="releases:one")
    handle = system.app("releases").versions["releases.checkout", "1"].enqueue("o-1")
    wait_until(in_state(handle, State.WAITING, "event paid"), 30, "the event to be waited for")
    old.stop()
    changed = system.worker(app="releases:changed")
    handle.send_event("paid", 5)
    wait_until(in_state(handle, State.STALLED, "no longer fits"), 30, f"it to stop\n{system.tails()}")
    view = handle.view()
    assert view.error_type == "WorkflowChanged"
    assert "o-1 with care" in (view.error_message or "")
    assert system.starts()["with_care"] == 0
    changed.stop()
    system.worker(app="releases:one")
    assert handle.result(timeout=30) == "one 5"


def test_a_zombie_writes_nothing_and_is_told_to_stop(make_system: Callable[..., System], tmp_path: Any) -> None:
    system = make_system(f"sqlite:///{tmp_path}/aiki.db", f"sqlite:///{tmp_path}/broker.db", lease=5)
    zombie_stops(system)


def test_a_zombie_on_real_servers(make_system: Callable[..., System], rabbit: Any, mysql_database: str) -> None:
    zombie_stops(make_system(mysql_database, rabbit.url, lease=5))


def zombie_stops(system: System) -> None:
    system.orchestrator()
    zombie = system.worker(concurrency=1, app="flows")
    handle = flow(system, "dawdling").enqueue(1, 40, 0.3)
    wait_until(lambda: system.starts()["1.2"], 30, "the third step")
    stopped = [process.pid for process in zombie.children()]
    for process in [*zombie.children(), zombie.link()]:
        process.send_signal(signal.SIGSTOP)
    zombie.signal(signal.SIGSTOP)
    system.worker(concurrency=1, app="flows")
    wait_until(lambda: any(m.pid not in stopped for m in system.marks() if m.kind == "start"), 60, "another worker to go on")
    before = {mark.what for mark in system.marks() if mark.pid in stopped and mark.kind == "start"}
    zombie.signal(signal.SIGCONT)
    for process in [zombie.link(), *zombie.children()]:
        process.send_signal(signal.SIGCONT)
    assert handle.result(timeout=60) == 40
    after = {mark.what for mark in system.marks() if mark.pid in stopped and mark.kind == "start"}
    # The step that it was in may end; whatever it began beside that was begun before it could be told.
    assert len(after - before) <= 1, f"the zombie went on: {after - before}"
    attempts = {step.ordinal: step.attempt for step in handle.history()}
    assert len(attempts) == 40
    assert system.result_count() == 1
