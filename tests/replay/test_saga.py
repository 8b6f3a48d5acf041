"""Sagas: what was done is undone in reverse, durably."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import WorkflowRun
from tests.replay.host import World
from tests.replay.shop import CardDeclined, Flaky, a, b, c, fail, slow

undone: list[str] = []


def undo(what: str) -> None:
    undone.append(what)


@pytest.fixture(autouse=True)
def _empty() -> None:
    undone.clear()


def order(run: WorkflowRun) -> Any:
    with run.saga() as saga:
        a(1)
        saga.compensate(undo, "a")
        b(2)
        saga.compensate(undo, "b")
        fail("declined")
    return "done"


def test_compensations_run_in_reverse_and_the_error_goes_on(world: World) -> None:
    ended = world.call(order)
    assert isinstance(ended.error, CardDeclined)
    assert undone == ["b", "a"]
    assert [(step[0], step[2]) for step in world.recorded()][3:] == [("undo", "completed")] * 2
    ended = world.call(order)
    assert isinstance(ended.error, CardDeclined)
    assert undone == ["b", "a"], "they are recorded"


def test_a_block_that_ends_well_undoes_nothing(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            a(1)
            saga.compensate(undo, "a")
        return fail("later")

    assert world.call(flow).kind == "failed"
    assert undone == []


def test_a_compensation_that_fails_does_not_keep_the_others_from_running(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            saga.compensate(undo, "a")
            saga.compensate(fail, "cannot")
            saga.compensate(undo, "c")
            raise ValueError("reason")

    ended = world.call(flow)
    assert ended.text == "ValueError: reason"
    assert undone == ["c", "a"]
    assert ended.error is not None
    assert ended.error.__notes__ == ["compensation shop.fail failed: cannot"]
    assert world.call(flow).error.__notes__ == ["compensation shop.fail failed: cannot"]  # type: ignore[union-attr]


def test_compensations_are_retried_and_hold_nothing_meanwhile(world: World) -> None:
    Flaky.script = [ValueError("1"), "undone"]

    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            saga.compensate(undo, "a")
            saga.compensate(slow, 1)
            fail("x")

    assert world.call(flow).kind == "suspended"
    assert undone == []
    world.move(10)
    assert isinstance(world.call(flow).error, CardDeclined)
    assert undone == ["a"]


def test_a_suspension_undoes_nothing(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            a(1)
            saga.compensate(undo, "a")
            run.sleep("nap", 60)
        return "done"

    assert world.call(flow).kind == "suspended"
    assert undone == []
    world.move(60)
    assert world.call(flow).value == "done"


def test_a_cancel_undoes(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            a(1)
            saga.compensate(undo, "a")
            run.sleep("nap", 60)

    world.call(flow)
    world.cancelling = True
    assert world.call(flow).kind == "cancelled"
    assert undone == ["a"]
    assert world.call(flow).kind == "cancelled"
    assert undone == ["a"]


def test_changed_code_undoes_nothing(world: World) -> None:
    world.call(lambda run: (a(1), b(2)))

    def flow(run: WorkflowRun) -> Any:
        with run.saga() as saga:
            saga.compensate(undo, "a")
            c(3)

    assert world.call(flow).kind == "changed"
    assert undone == []


def test_sagas_may_be_nested(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        with run.saga() as outer:
            outer.compensate(undo, "outer")
            try:
                with run.saga() as inner:
                    inner.compensate(undo, "inner")
                    fail("x")
            except CardDeclined:
                pass
            a(1)
            raise ValueError("late")

    assert world.call(flow).text == "ValueError: late"
    assert undone == ["inner", "outer"]


def test_a_process_that_dies_in_the_middle_goes_on_undoing(world: World) -> None:
    world.die_after = 4
    assert world.call(order).kind == "died"
    world.die_after = None
    assert world.call(order).kind == "failed"
    assert undone == ["b", "a", "a"], "what was not recorded is undone again"
