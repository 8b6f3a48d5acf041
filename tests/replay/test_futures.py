"""Several at once: gather, first, as_completed, with what came later than the first call."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import StepFailed, WorkflowRun, as_completed, first, gather
from tests.replay.host import World
from tests.replay.shop import a, b, c, child


def test_gather_waits_for_all_with_one_wait(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return gather(*[a.submit(n) for n in range(500)])

    ended = world.call(flow)
    assert ended.waits is not None
    assert ended.waits.all
    assert [(item.kind, item.first, item.last) for item in ended.waits.items] == [("child", 0, 499)]
    for n in range(500):
        world.end_child(n, n)
    assert world.call(flow).value == list(range(500))
    assert world.executed == []


def test_gather_gives_results_in_the_order_of_its_futures(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return gather(a.submit(1), child.submit(2), run.timer("nap", 5), run.event("go"))

    ended = world.call(flow)
    assert ended.waits is not None
    assert [item.kind for item in ended.waits.items] == ["child", "sleep", "event"]
    world.send("go", "!")
    world.end_child(1, "two")
    assert world.call(flow).kind == "suspended"
    world.end_child(0, "one")
    world.move(5)
    assert world.call(flow).value == ["one", "two", False, "!"]


def test_gather_of_nothing_and_of_what_is_no_future(world: World) -> None:
    assert world.call(lambda run: gather()).value == []
    assert "take futures" in world.call(lambda run: gather(1)).text  # type: ignore[arg-type]
    assert "take futures" in world.call(lambda run: first()).text


def test_gather_raises_the_first_error_it_sees_at_once_and_stays_with_it(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        try:
            return gather(a.submit(1), a.submit(2), a.submit(3))
        except StepFailed as error:
            b(9)
            return error.error_message, run.wait_event("go")

    world.call(flow)
    world.end_child(1, error="ValueError: second")
    assert world.call(flow).kind == "suspended"
    world.end_child(0, error="ValueError: first")
    world.send("go")
    assert world.call(flow).value == ("second", None)
    assert [name for name, _, _ in world.executed] == ["shop.b"]


def test_a_retry_goes_on_from_all_that_have_failed(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return gather(a.submit(1), a.submit(2), a.submit(3))

    world.call(flow)
    world.end_child(0, error="ValueError: x")
    world.end_child(2, error="ValueError: y")
    ended = world.call(flow)
    assert world.run is not None
    assert world.run.raised is not None
    error, ordinals = world.run.raised
    assert error is ended.error
    choice = next(ordinal for ordinal, step in world.steps.items() if step.kind == "choice")
    assert set(ordinals) == {0, 2, choice}


def test_gather_with_return_exceptions_waits_for_all(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return [str(item) for item in gather(a.submit(1), a.submit(2), return_exceptions=True)]

    world.call(flow)
    world.end_child(0, error="ValueError: x")
    assert world.call(flow).kind == "suspended"
    world.end_child(1, "two")
    assert world.call(flow).value == ["shop.a is failed: ValueError: x", "two"]


def test_first_is_recorded_and_stays_when_more_has_come(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        one, two = a.submit(1), a.submit(2)
        winner = first(one, two)
        return winner.result(), winner is two, b(1), run.wait_event("go")

    ended = world.call(flow)
    assert ended.waits is not None
    assert not ended.waits.all
    world.end_child(1, "two")
    world.call(flow)
    world.end_child(0, "one")
    world.send("go")
    assert world.call(flow).value == ("two", True, "b1", None)


def test_first_of_an_event_and_a_timer(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        go, late = run.event("go"), run.timer("late", 60)
        return "event" if first(go, late) is go else "late"

    world.call(flow)
    world.move(60)
    world.call(flow)
    world.send("go")
    assert world.call(flow).value == "late"
    other = World()
    other.send("go")
    assert other.call(flow).value == "event"


def test_as_completed_gives_them_as_they_come_and_the_same_in_each_replay(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        out = []
        for future in as_completed(*[a.submit(n) for n in range(4)]):
            out.append((future.result(), c(len(out))))
        return out, run.wait_event("go")

    world.call(flow)
    for n in (2, 0):
        world.end_child(n, n)
        world.call(flow)
    world.end_child(3, 3)
    world.end_child(1, 1)
    world.send("go")
    assert world.call(flow).value == ([(2, "c0"), (0, "c1"), (1, "c2"), (3, "c3")], None)
    assert world.call(flow).value == ([(2, "c0"), (0, "c1"), (1, "c2"), (3, "c3")], None)
    assert len(world.executed) == 4


def picky(data: Any) -> Any:
    if data < 0:
        raise ValueError("negative")
    return data


def test_as_completed_stays_the_same_with_events_that_are_refused(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        futures = [run.event("x", schema=picky), a.submit(1), a.submit(2)]
        return [future.result() for future in as_completed(*futures)], run.wait_event("go")

    world.call(flow)
    world.send("x", -1)
    world.end_child(2, "two")
    world.end_child(1, "one")
    world.call(flow)
    world.send("x", 5)
    assert world.call(flow).kind == "suspended"
    choices = sum(step.kind == "choice" for step in world.steps.values())
    assert choices == 3
    world.send("go")
    assert world.call(flow).value == (["one", "two", 5], None)
    assert sum(step.kind == "choice" for step in world.steps.values()) == choices, "nothing is chosen a second time"


def test_a_failed_one_is_given_like_the_others_and_raises_when_it_is_asked(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        out = []
        for future in as_completed(a.submit(1), a.submit(2)):
            try:
                out.append(future.result())
            except StepFailed as error:
                out.append(error.error_message)
        return out

    world.call(flow)
    world.end_child(0, error="ValueError: x")
    world.end_child(1, "two")
    assert world.call(flow).value == ["x", "two"]


def test_a_future_may_be_asked_again_and_again(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        future = a.submit(1)
        return future.result(), future.result(), gather(future, future), first(future) is future

    world.call(flow)
    world.end_child(0, "one")
    assert world.call(flow).value == ("one", "one", ["one", "one"], True)


def test_many_submissions_are_reported_in_parts(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        for n in range(450):
            a.submit(n)
        return run.history_size[0]

    assert world.call(flow).value == 450
    assert len(world.children) == 450


def test_futures_that_are_never_asked_do_not_hold_the_workflow(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        a.submit(1)
        run.timer("never", 1e6)
        run.event("never")
        return b(1)

    assert world.call(flow).value == "b1"


@pytest.mark.parametrize("other", [lambda run: a.submit(1), lambda run: run.timer("x", 5), lambda run: run.event("x")])
def test_futures_say_what_they_are(world: World, other: Any) -> None:
    assert "#0" in repr(world.call(other).value)
