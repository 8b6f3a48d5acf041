"""Workflows that are left while they hold something, or will not be left, on whole systems."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import Handle, RunFailed
from aiki.states import State
from tests.system.system import System
from tests.waiting import wait_until


def flow(system: System, name: str) -> Any:
    return system.app("stubborn").definitions[f"stubborn.{name}"]


def up(system: System, concurrency: int = 1) -> None:
    system.orchestrator()
    system.worker(concurrency=concurrency, app="stubborn")


def waits(handle: Handle[Any]) -> bool:
    return handle.status() is State.WAITING


# ---------------------------------------------------------------- what is held
def test_what_a_suspended_function_held_is_freed_and_its_finalizers_do_nothing(system: System) -> None:
    up(system)
    collecting = flow(system, "collecting")
    holds = ("variable", "loop", "cycle", "error")
    handles = [flow(system, "generator").enqueue(i, hold) for i, hold in enumerate(holds)]
    others = [collecting.enqueue(100 + i, 5) for i in range(10)]
    for handle in handles + others:
        assert handle.result(timeout=60) == "done", system.tails()
    starts = system.starts()
    for i, _ in enumerate(holds):
        assert [starts[f"{i}.{what}"] for what in (0, 1, "end")] == [1, 1, 1]
        assert [step.input for step in handles[i].history() if step.kind == "step"] == [
            f'{{"key":"{i}.{what}"}}' for what in (0, 1, "end")
        ]
    for i, handle in enumerate(others):
        names = [step.name for step in handle.history()]
        assert names == [name for turn in range(5) for name in (f"collect {turn}", "stubborn.note")], i
    assert all(count == 1 for count in starts.values())


@pytest.mark.parametrize("how", ["one", "many", "cycle"])
def test_memory_of_suspended_functions_is_given_back(embedded_system: System, how: str) -> None:
    system = embedded_system
    up(system)
    weigh, heavy = flow(system, "weigh"), flow(system, "heavy")
    heavy.enqueue(0, 1, how).result  # noqa: B018  loaded
    before = weigh.enqueue().result(timeout=30)
    handles = [heavy.enqueue(i, 50, how) for i in range(100 if how == "one" else 12)]
    for handle in handles:
        wait_until(lambda handle=handle: waits(handle), 60, "it to wait")
    after = weigh.enqueue().result(timeout=30)
    assert after - before < 30 * 1024


# ---------------------------------------------------------------- what will not be left
@pytest.mark.parametrize("how", ["loop", "finally", "finalizer"])
def test_a_function_that_catches_what_leaves_it_fails_and_the_worker_goes_on(system: System, how: str) -> None:
    up(system)
    handle = flow(system, "swallowing").enqueue(1, how)
    other = flow(system, "note").enqueue("other")
    with pytest.raises(RunFailed, match="catches what leaves it") as caught:
        handle.result(timeout=40)
    assert caught.value.error_type == "aiki.errors.WorkflowStuck"
    assert "stubborn.py" in caught.value.traceback
    assert other.result(timeout=40) == "other"
    assert system.starts() == {"1.before": 1, "other": 1}
    assert [step.state for step in handle.history() if step.kind == "step"] == ["completed"]


def test_a_function_that_spins_when_it_is_left_fails(embedded_system: System) -> None:
    """It asks for nothing any more, so only time tells: ten seconds."""
    up(embedded_system)
    handle = flow(embedded_system, "swallowing").enqueue(1, "spin")
    with pytest.raises(RunFailed, match="catches what leaves it"):
        handle.result(timeout=60)
    assert flow(embedded_system, "note").enqueue("other").result(timeout=30) == "other"


# ---------------------------------------------------------------- outside of the history
def test_a_workflows_own_code_neither_acts_nor_reads_outside_of_its_history(system: System) -> None:
    up(system)
    other = flow(system, "note").enqueue("other")
    other.result(timeout=30)
    found = flow(system, "outside").enqueue(1, other.id).result(timeout=60)
    assert [name for name, text in found.items() if "not recorded in the history" not in text] == []
    assert "note.submit(...)" in found["enqueue"].replace("stubborn.", "")
    assert "result()" in found["result"]
    assert sum(system.states().values()) == 2, "nothing was enqueued"
    assert system.starts() == {"other": 1}


def test_a_step_may_do_all_of_it(system: System) -> None:
    up(system, 2)
    assert flow(system, "within_a_step").enqueue(1).result(timeout=60) == ("1.x", True)
    wait_until(lambda: system.starts() == {"1.x": 1, "1.y": 1}, 30, "both")


# ---------------------------------------------------------------- the soft limit
def test_a_soft_limit_between_steps_is_recorded_and_raised_there_again(system: System) -> None:
    up(system)
    handle = flow(system, "limited").enqueue(1)
    seen = handle.result(timeout=60)
    assert seen == ["1.a", "the task ran longer than its soft time limit of 0.5 s", "1.c", "1.d"]
    assert system.starts() == {"1.a": 1, "1.c": 1, "1.d": 1}
    steps = [(step.name, step.state) for step in handle.history()]
    assert steps == [
        ("stubborn.note", "completed"), ("stubborn.note", "timed_out"), ("stubborn.note", "completed"), ("nap", "completed"),
        ("stubborn.note", "completed"),
    ]  # fmt: skip
