"""What would not be recorded in its place, or in its history, is refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from aiki import NotDurable, WorkflowRun, gather
from tests.replay.host import World
from tests.replay.shop import a, b


def refused(call: Any) -> str:
    with pytest.raises(NotDurable) as caught:
        call()
    return str(caught.value)


def test_objects_of_another_call_are_refused(world: World) -> None:
    kept: list[Any] = []

    def flow(run: WorkflowRun) -> Any:
        kept.append((run, a.submit(1), run.saga()))
        run.sleep("nap", 5)

    def other(run: WorkflowRun) -> list[str]:
        old, future, saga = kept[0]
        saga.compensate(b, 1)
        calls = [
            lambda: old.sleep("x", 1),
            old.now,
            future.result,
            lambda: gather(a.submit(2), future),
            lambda: old.progress(0.5),
        ]
        return [refused(call) for call in calls]

    world.call(flow)
    second = World()
    told = second.call(other).value
    assert ["another call" in text for text in told[:3]] == [True] * 3
    assert "of several" in told[3]
    assert "another run" in told[4]
    assert [step.name for step in second.steps.values()] == ["shop.a"]
    for call in (lambda: kept[0][0].now(), lambda: kept[0][1].result()):
        assert "outside of the call" in refused(call)


def test_an_operation_within_another_one_is_refused(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.wait_event("go", schema=lambda data: (a(1), data))

    world.send("go", 1)
    ended = world.call(flow)
    assert isinstance(ended.error, NotDurable)
    assert "another one is under way" in ended.text
    assert world.executed == []


@pytest.mark.parametrize("within_a_step", [False, True])
def test_finalizers_that_the_collector_runs_are_refused(world: World, within_a_step: bool) -> None:
    told: list[str] = []

    class Node:
        def __init__(self, made: Any) -> None:
            self.me, self.made = self, made
            weakref.finalize(self, lambda: told.append(refused(lambda: a(3))))

        def __del__(self) -> None:
            told.append(refused(lambda: a(1)))

    def items() -> Iterator[int]:
        try:
            yield 1
        finally:
            told.append(refused(lambda: a.submit(2) if not within_a_step else a(2)))

    def flow(run: WorkflowRun) -> Any:
        made = items()
        next(made)
        Node(made)
        del made
        return run.step("collect", gc.collect) if within_a_step else gc.collect()

    gc.disable()
    try:
        assert world.call(flow).kind == "completed"
    finally:
        gc.enable()
    assert len(told) == 3
    assert all("garbage collector" in text for text in told)
    assert all(step.name == "collect" for step in world.steps.values())
