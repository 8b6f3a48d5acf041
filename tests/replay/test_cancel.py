"""A cancel is raised once, at a durable point, and recorded there; and how the function is left in other ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiki import RetryPolicy, WorkflowRun, first, gather
from aiki.errors import StepFailed, WorkflowCancelled
from tests.replay.host import World
from tests.replay.shop import CardDeclined, Flaky, a, app, b, c, child, later, slow

Flow = Callable[..., Any]

POINTS: dict[str, Callable[[WorkflowRun], Any]] = {
    "step": lambda run: b(2),
    "plain step": lambda run: run.step("plain", len, "x"),
    "submit": lambda run: b.submit(2),
    "child": lambda run: child(2),
    "sleep": lambda run: run.sleep("nap", 60),
    "timer": lambda run: run.timer("nap", 60),
    "event": lambda run: run.wait_event("paid"),
    "event future": lambda run: run.event("paid"),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_cancel_is_raised_at_the_next_durable_point_and_its_end_runs_durably(world: World, point: str) -> None:
    def flow(run: WorkflowRun) -> Any:
        a(1)
        try:
            POINTS[point](run)
        finally:
            c(3)
            run.sleep("cooling", 10)

    assert world.call(lambda run: a(1)).kind == "completed"
    world.cancelling = True
    world.executed.clear()
    assert world.call(flow).kind == "suspended"
    assert world.executed == [("shop.c", (3,), 1)]
    assert [step[2] for step in world.recorded()].count("cancelled") == 1
    assert world.children == {}, "what is cancelled at its submission is not started"
    world.move(10)
    assert world.call(flow).kind == "cancelled"
    assert world.executed == [("shop.c", (3,), 1)], "replayed to the same cancel, with nothing in between"


def waits(run: WorkflowRun) -> dict[str, Callable[[Any, Any], Any]]:
    return {
        "result": lambda one, two: one.result(),
        "gather": lambda one, two: gather(one, two),
        "gather all": lambda one, two: gather(one, two, return_exceptions=True),
        "first": lambda one, two: first(one, two),
    }


@pytest.mark.parametrize("way", ["result", "gather", "gather all", "first"])
@pytest.mark.parametrize("ends", ["nothing", "cancelled", "completed"])
def test_a_cancel_while_futures_are_waited_for_is_replayed_at_that_wait(world: World, way: str, ends: str) -> None:
    """Whatever has become of the children meanwhile."""
    trace: list[str] = []

    def flow(run: WorkflowRun) -> Any:
        one, two = a.submit(1), child.submit(2)
        trace.clear()
        try:
            waits(run)[way](one, two)
            trace.append("came back")
        except WorkflowCancelled:
            trace.append("cancelled")
            c(3)
            run.sleep("cooling", 10)
            raise
        return b(9)

    assert world.call(flow).kind == "suspended"
    world.cancelling = True
    assert world.call(flow).kind == "suspended"
    assert trace == ["cancelled"]
    if ends == "cancelled":
        world.end_child(0, error="Cancelled: it was cancelled", outcome="cancelled")
        world.end_child(1, error="Cancelled: it was cancelled", outcome="cancelled")
    elif ends == "completed":
        world.end_child(0, "a1")
        world.end_child(1, "child2")
    world.move(10)
    assert world.call(flow).kind == "cancelled"
    assert trace == ["cancelled"]
    assert [name for name, _, _ in world.executed] == ["shop.c"]


def test_what_was_waited_for_when_the_cancel_came_can_be_waited_for_again(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        one = a.submit(1)
        try:
            return one.result()
        except WorkflowCancelled:
            try:
                return one.result()
            except StepFailed as error:
                return f"{error.state} {one.run_id[:4]}"

    world.call(flow)
    world.cancelling = True
    assert world.call(flow).kind == "suspended"
    assert world.call(flow).kind == "suspended"
    world.end_child(0, error="Cancelled: so", outcome="cancelled")
    assert world.call(flow).value == f"cancelled {world.children[0].id[:4]}"


def test_it_is_delivered_once(world: World) -> None:
    seen: list[str] = []

    def flow(run: WorkflowRun) -> Any:
        seen.clear()
        for call in (lambda: run.sleep("one", 60), lambda: a(1), lambda: run.sleep("two", 60)):
            try:
                call()
                seen.append("done")
            except WorkflowCancelled:
                seen.append("cancelled")
        return "went on"

    world.call(flow)
    world.cancelling = True
    assert world.call(flow).kind == "suspended"
    world.move(60)
    ended = world.call(flow)
    assert (ended.kind, ended.value, seen) == ("completed", "went on", ["cancelled", "done", "done"])


def test_except_exception_does_not_swallow_it(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        try:
            run.sleep("nap", 60)
        except Exception:
            return "swallowed"

    world.call(flow)
    world.cancelling = True
    assert world.call(flow).kind == "cancelled"


def test_what_is_recorded_and_ready_is_given_before_the_cancel(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return a(1), run.wait_event("paid"), a.submit(2).result()

    world.call(flow)
    world.send("paid", 1)
    world.cancelling = True
    ended = world.call(flow)
    assert ended.kind == "cancelled"
    assert [step[2] for step in world.recorded()] == ["completed", "completed", "cancelled"]


def test_a_cancel_comes_between_the_attempts_of_a_step(world: World) -> None:
    Flaky.script = [CardDeclined("x"), CardDeclined("y"), "never"]

    def stubborn(n: int) -> Any:
        world.cancelling = True
        return later.fn(n)

    task = app.task(name="shop.stubborn", retry=RetryPolicy.fixed(5, delay=0))(stubborn)
    assert world.call(lambda run: task(1)).kind == "cancelled"
    assert len(world.executed) == 1
    assert world.recorded() == [("step", "shop.stubborn", "cancelled")]


def test_a_cancel_while_a_step_waits_for_its_retry(world: World) -> None:
    Flaky.script = [ValueError("x")]

    def flow(run: WorkflowRun) -> Any:
        try:
            return slow(1)
        finally:
            c(3)

    assert world.call(flow).kind == "suspended"
    world.cancelling = True
    assert world.call(flow).kind == "cancelled"
    assert world.recorded() == [("step", "shop.slow", "cancelled"), ("step", "shop.c", "completed")]


def test_a_value_is_no_durable_point(world: World) -> None:
    world.cancelling = True
    ended = world.call(lambda run: (run.now(), run.uuid4(), run.patched("p"), "through"))
    assert ended.value[-1] == "through"


# ---------------------------------------------------------------- being left cannot be swallowed
def swallowing(run: WorkflowRun) -> Any:
    try:
        run.sleep("nap", 60)
    except BaseException:
        pass
    return "returned"


def stepping(run: WorkflowRun) -> Any:
    try:
        run.sleep("nap", 60)
    finally:
        c(3)


def going_on(run: WorkflowRun) -> Any:
    for n in range(3):
        try:
            run.sleep(f"nap{n}", 60)
        except:  # noqa: E722
            try:
                a(n)
            except BaseException:
                run.patched("p")
    return "returned"


def raising(run: WorkflowRun) -> Any:
    try:
        run.sleep("nap", 60)
    except BaseException:
        raise ValueError("instead") from None


@pytest.mark.parametrize("flow", [swallowing, stepping, going_on, raising])
def test_no_code_of_the_function_keeps_it_from_being_left(world: World, flow: Flow) -> None:
    ended = world.call(flow)
    assert ended.kind == "suspended"
    assert world.executed == []
    assert len(world.steps) == 1


@pytest.mark.parametrize("flow", [swallowing, stepping])
def test_it_goes_on_as_if_nothing_had_been_caught(world: World, flow: Flow) -> None:
    world.call(flow)
    world.move(60)
    assert world.call(flow).kind == "completed"


# ---------------------------------------------------------------- pausing, leaving
def test_a_pause_gives_it_back_before_anything_new(world: World) -> None:
    world.pausing = True
    ended = world.call(lambda run: (a(1), b(2)))
    assert ended.kind == "suspended"
    assert ended.waits is not None
    assert ended.waits.items == []
    assert world.executed == []
    assert world.steps == {}


def test_a_pause_waits_until_what_is_recorded_is_replayed(world: World) -> None:
    world.call(lambda run: (a(1), b(2), run.wait_event("go")))
    world.send("go", 1)
    world.pausing = True
    ended = world.call(lambda run: (a(1), b(2), run.wait_event("go")))
    assert ended.kind == "completed"


def test_a_worker_that_stops_gives_the_run_back(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        a(1)
        world.leaving = True
        return b(2)

    assert world.call(flow).kind == "left"
    world.leaving = False
    assert world.recorded() == [("step", "shop.a", "completed")]
    world.call(lambda run: (a(1), b(2)))
    assert [name for name, _, _ in world.executed] == ["shop.a", "shop.b"]
