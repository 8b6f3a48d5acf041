"""Whole workflows on a real store: the function, its histories in the database, and what brings it on."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import WorkflowRun
from aiki.storage import Store
from tests.replay.shop import TASKS, a, b
from tests.replay.test_properties import EVENTS, busy, whole
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock
from tests.storage.stored import StoredWorld


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def test_a_workflow_with_a_bit_of_everything(bench: Bench) -> None:
    world = StoredWorld(bench)
    ended = world.finish(busy, tasks=TASKS, events=EVENTS)
    in_memory, value = whole()
    assert ended.value == value
    assert bench.state(world.id) == "completed"
    assert sorted(world.executed) == sorted(in_memory.executed)
    assert len(world.dispatched) > 4


def test_a_loop_without_an_end(bench: Bench) -> None:
    def flow(run: WorkflowRun, n: int) -> Any:
        a(n)
        run.sleep("nap", 60)
        got = run.wait_event("tick")
        if n < 3:
            run.continue_as_new(n + 1)
        return n, got

    world = StoredWorld(bench, 1)
    for _ in range(20):
        ended = world.finish(flow, tasks=TASKS, events={"tick": "tock"})
        if ended.kind != "continued":
            break
    assert ended.value == (3, "tock")
    assert [name for name, _, _ in world.executed] == ["shop.a"] * 3
    assert bench.row(world.id)["history_from"] == 8


def test_a_cancel_with_compensations_that_wait(bench: Bench) -> None:
    undone: list[str] = []

    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            a(1)
            saga.compensate(undone.append, "a")
            try:
                run.wait_event("never")
            finally:
                run.sleep("cool", 60)
                b(2)

    world = StoredWorld(bench)
    assert world.call(flow).kind == "suspended"
    bench.cancel(world.id)
    ended = world.finish(flow)
    assert ended.kind == "cancelled"
    assert bench.state(world.id) == "cancelled"
    assert undone == ["a"]
    assert [step[2] for step in world.recorded()] == ["completed", "cancelled", "completed", "completed", "completed"]
