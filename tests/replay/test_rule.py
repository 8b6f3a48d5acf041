"""The rule: what is not recorded may start only when nothing that the function issued is left over."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from aiki import WorkflowRun
from aiki.replay import Limits
from tests.replay.host import World
from tests.replay.shop import a, b, c, child, fail, take

Flow = Callable[..., Any]


def waiting(*calls: Callable[[], Any]) -> Flow:
    """A workflow that makes these calls, then waits for an event, so that it is called again."""

    def flow(run: WorkflowRun) -> Any:
        return [call() for call in calls], run.wait_event("go")

    return flow


def again(world: World, before: Flow, after: Flow) -> Any:
    """Call one function, send the event, and call the other; what was executed by then is forgotten."""
    assert world.call(before).kind == "suspended"
    world.executed.clear()
    world.send("go", "!")
    return world.call(after)


def test_what_is_recorded_is_returned_and_not_executed_again(world: World) -> None:
    flow = waiting(lambda: a(1), lambda: b(2))
    ended = again(world, flow, flow)
    assert (ended.kind, ended.value) == ("completed", (["a1", "b2"], "!"))
    assert world.executed == []


def test_one_address_several_times_is_an_ordered_queue(world: World) -> None:
    made = iter("xyz")

    def flow(run: WorkflowRun) -> Any:
        got = [run.step("letter", lambda: next(made)) for _ in range(3)]
        return got, run.wait_event("go")

    ended = again(world, flow, flow)
    assert ended.value == (["x", "y", "z"], "!")


def test_recorded_steps_may_be_reordered_among_themselves(world: World) -> None:
    ended = again(world, waiting(lambda: a(1), lambda: b(2), lambda: c(3)), waiting(lambda: c(3), lambda: a(1), lambda: b(2)))
    assert ended.value == (["c3", "a1", "b2"], "!")
    assert world.executed == []


def test_recorded_steps_may_be_removed_while_nothing_new_runs(world: World) -> None:
    ended = again(world, waiting(lambda: a(1), lambda: b(2), lambda: c(3)), waiting(lambda: b(2)))
    assert (ended.kind, ended.value) == ("completed", (["b2"], "!"))


def test_a_function_that_returns_with_recorded_steps_left_over_completes(world: World) -> None:
    ended = again(world, waiting(lambda: a(1), lambda: b(2)), lambda run: "nothing")
    assert (ended.kind, ended.value) == ("completed", "nothing")
    assert world.run is not None
    assert world.run.replaying


def test_something_new_behind_a_removed_step_is_stopped_before_it_starts(world: World) -> None:
    def after(run: WorkflowRun) -> Any:
        return a(1), run.wait_event("go"), c(3)

    ended = again(world, waiting(lambda: a(1), lambda: b(2)), after)
    assert ended.kind == "changed"
    assert world.executed == []
    assert "shop.c(n=3) is not recorded" in ended.text
    assert "had not been called: #1 shop.b(n=2)." in ended.text
    assert "Nothing was started" in ended.text
    mended = world.call(lambda run: (a(1), b(2), run.wait_event("go"), c(3)))
    assert mended.value == ("a1", "b2", "!", "c3"), "it goes on once the code is mended"


@pytest.mark.parametrize("place", [0, 1])
def test_an_insertion_is_caught(world: World, place: int) -> None:
    calls: list[Callable[[], Any]] = [lambda: a(1), lambda: b(2)]
    before = waiting(*calls)
    calls.insert(place, lambda: c(3))
    ended = again(world, before, waiting(*calls))
    assert ended.kind == "changed"
    assert world.executed == []
    assert "#1 shop.b(n=2)" in ended.text
    assert ("#0 shop.a(n=1)" in ended.text) == (place == 0)


def test_something_new_behind_all_recorded_steps_is_fine(world: World) -> None:
    ended = again(world, waiting(lambda: a(1)), waiting(lambda: a(1), lambda: b(2), lambda: c.submit(3)))
    assert ended.kind == "completed"
    assert world.executed == [("shop.b", (2,), 1)]


def test_a_changed_input_is_told_with_its_difference(world: World) -> None:
    ended = again(world, waiting(lambda: a(1, note="x")), waiting(lambda: a(2, note="x")))
    assert ended.kind == "changed"
    assert 'shop.a(n=2, note="x") is not recorded' in ended.text
    assert '#0 shop.a(n=1, note="x")' in ended.text
    assert "The input differs: n was 1 and is 2." in ended.text
    assert world.executed == []


def test_an_argument_more_or_less_is_a_changed_input(world: World) -> None:
    ended = again(world, waiting(lambda: a(1)), waiting(lambda: a(1, note="x")))
    assert 'note was not given and is "x"' in ended.text


def test_a_changed_name_is_caught(world: World) -> None:
    ended = again(world, waiting(lambda: a(1)), waiting(lambda: b(1)))
    assert ended.kind == "changed"
    assert "shop.b(n=1) is not recorded" in ended.text
    assert "#0 shop.a(n=1)" in ended.text


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (lambda: a(1), lambda: a.submit(1), "recorded as a step, and is called as a task now"),
        (lambda: a.submit(1), lambda: a(1), "recorded as a task, and is called as a step now"),
        (lambda: child.submit(1), lambda: a.submit(1), "#0 shop.child(n=1)"),
    ],
)
def test_a_step_is_no_submission(world: World, before: Any, after: Any, words: str) -> None:
    ended = again(world, waiting(before), waiting(after))
    assert ended.kind == "changed"
    assert words in ended.text
    assert len(world.children) <= 1, "nothing was started"


def test_many_left_over_steps_are_counted(world: World) -> None:
    ended = again(world, waiting(*[lambda n=n: a(n) for n in range(9)]), waiting(lambda: b(0)))
    assert "#4 shop.a(n=4) and 4 more" in ended.text


def test_what_came_from_outside_never_counts(world: World) -> None:
    def before(run: WorkflowRun) -> Any:
        first = run.event("early")
        run.now()
        run.sleep("nap", 0)
        return first.result(), a(1), run.wait_event("go")

    world.send("early", 1)
    ended = again(world, before, lambda run: (a(1), run.wait_event("go"), b(2)))
    assert (ended.kind, ended.value) == ("completed", ("a1", "!", "b2"))


def test_it_stops_at_each_further_operation_once_it_was_stopped(world: World) -> None:
    def after(run: WorkflowRun) -> Any:
        for call in (
            lambda: b(1),
            lambda: c(1),
            lambda: run.sleep("x", 1),
            run.now,
            lambda: run.patched("p"),
            lambda: a.submit(7),
        ):
            try:
                call()
            except BaseException:
                continue
        return "done"

    ended = again(world, waiting(lambda: a(1)), after)
    assert ended.kind == "changed"
    assert "shop.b(n=1)" in ended.text
    assert world.executed == []
    assert world.recorded() == [("step", "shop.a", "completed"), ("event", "go", "open")]


# ---------------------------------------------------------------- canonical inputs
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: a(1, "x"), lambda: a(note="x", n=1)),
        (lambda: take({"x": 1, "y": 2}), lambda: take({"y": 2, "x": 1})),
        (lambda: take(x=1, y=2), lambda: take(y=2, x=1)),
        (lambda: take({1: "x", 2: "y"}), lambda: take({2: "y", 1: "x"})),
        (lambda: take([{3: {1: 1, 2: 2}}]), lambda: take([{3: {2: 2, 1: 1}}])),
        (lambda: take({"a", "b", "c"}), lambda: take({"c", "b", "a"})),
    ],
)
def test_equal_calls_have_one_address_however_they_are_written(world: World, one: Any, other: Any) -> None:
    ended = again(world, waiting(one), waiting(other))
    assert ended.kind == "completed"
    assert world.executed == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: a(), lambda: a(0)),
        (lambda: take([1, 2]), lambda: take([2, 1])),
        (lambda: take(1), lambda: take("1")),
        (lambda: take(None), lambda: take()),
    ],
)
def test_defaults_are_not_filled_in_and_other_calls_are_others(world: World, one: Any, other: Any) -> None:
    assert again(world, waiting(one), waiting(other)).kind == "changed"


def test_a_call_that_does_not_fit_the_signature_raises_at_once(world: World) -> None:
    ended = world.call(waiting(lambda: a(1, 2, 3)))
    assert ended.kind == "failed"
    assert "too many positional arguments" in ended.text
    assert world.steps == {}


def test_a_long_input_is_cut_for_people_and_is_an_address_all_the_same(world: World) -> None:
    ended = again(world, waiting(lambda: take("x" * 5000)), waiting(lambda: take("x" * 4999 + "y")))
    assert ended.kind == "changed"
    assert len(ended.text) < 2500


# ---------------------------------------------------------------- the rest of the history
def test_the_history_has_been_through_json_and_is_as_it_was(world: World) -> None:
    world.call(waiting(lambda: a(1), lambda: b.submit(2)))
    history = world.history()
    assert [step.ordinal for step in history.steps] == [0, 1, 2]
    assert json.loads(json.dumps(history.to_wire())) == history.to_wire() | {
        "steps": [list(step) for step in history.steps],
        "in": [],
    }


def test_the_limit_of_steps_is_told_early_and_with_numbers(world: World) -> None:
    world.limits = Limits(steps=10)
    told: list[bool] = []

    def flow(run: WorkflowRun) -> Any:
        for n in range(11):
            a(n)
            told.append(run.history_nearly_full)

    ended = world.call(flow)
    assert told == [False] * 7 + [True] * 3
    assert ended.kind == "full"
    assert "has 10 steps" in ended.text
    assert "at most 10 steps" in ended.text
    assert "continue_as_new" in ended.text
    assert len(world.executed) == 10, "what has no room is not begun"


def test_the_limit_of_bytes_counts_results_inputs_and_arrivals(world: World) -> None:
    world.limits = Limits(bytes=20_000)

    def flow(run: WorkflowRun) -> Any:
        while True:
            take("x" * 400)
            run.step("big", lambda: "y" * 1500)

    ended = world.call(flow)
    assert ended.kind == "full"
    assert "20,000 bytes" in ended.text
    assert world.replay is not None
    live = world.replay.used
    world.call(flow)
    assert world.replay.used[0] == live[0]
    assert abs(world.replay.used[1] - live[1]) < 200, "the size is the same when it is replayed"


def test_it_goes_on_as_new_with_an_empty_history(world: World) -> None:
    def flow(run: WorkflowRun, n: int) -> Any:
        a(1)
        if n < 3:
            run.continue_as_new(n + 1)
        return n, run.history_size[0]

    ended = world.call(flow, 1)
    assert (ended.kind, ended.value) == ("continued", [[2], {}])
    assert world.call(flow, 2).kind == "continued"
    ended = world.call(flow, 3)
    assert (ended.kind, ended.value) == ("completed", (3, 1))
    assert [name for name, _, _ in world.executed] == ["shop.a"] * 3


def test_to_go_on_as_new_its_arguments_must_fit(world: World) -> None:
    ended = world.call(lambda run: run.continue_as_new(1, 2))
    assert ended.kind == "failed"
    assert "TypeError" in ended.text


def test_a_failing_step_left_over_is_left_over(world: World) -> None:
    def before(run: WorkflowRun) -> Any:
        try:
            fail("x")
        except Exception:
            return run.wait_event("go")

    ended = again(world, before, lambda run: (run.wait_event("go"), a(1)))
    assert ended.kind == "changed"
    assert '#0 shop.fail(message="x")' in ended.text
