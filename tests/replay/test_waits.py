"""Sleeps, events and values: queues by their name; what comes from outside."""

from __future__ import annotations

from typing import Any

import marshmallow
import pytest

from aiki import EventTimeout, WorkflowRun
from aiki.clock import SECOND
from aiki.replay import Limits
from tests.replay.host import World
from tests.replay.shop import a, b, c


# ---------------------------------------------------------------- sleeps
def test_a_sleep_holds_nothing_and_is_over_when_its_time_is(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.sleep("nap", 60), a(1)

    ended = world.call(flow)
    assert ended.waits is not None
    [wait] = ended.waits.items
    assert (wait.kind, wait.name, wait.due, wait.seconds) == ("sleep", "nap", None, 60.0)
    world.move(59)
    ended = world.call(flow)
    assert ended.waits is not None
    assert ended.waits.items[0].due == world.now + SECOND
    world.move(1)
    assert world.call(flow).value == (False, "a1")


@pytest.mark.parametrize(("seconds", "left"), [(100, 70), (40, 10), (30, None), (5, None)])
def test_a_changed_duration_counts_from_when_it_began_to_sleep(world: World, seconds: int, left: int | None) -> None:
    world.call(lambda run: run.sleep("nap", 60))
    world.move(30)
    ended = world.call(lambda run: run.sleep("nap", seconds))
    if left is None:
        assert (ended.kind, ended.value) == ("completed", False)
    else:
        assert ended.waits is not None
        assert ended.waits.items[0].due == world.now + left * SECOND


def test_a_duration_of_a_sleep_that_is_over_changes_nothing(world: World) -> None:
    def flow(run: WorkflowRun, seconds: int) -> Any:
        return run.sleep("nap", seconds), run.wait_event("go")

    world.call(flow, 10)
    world.move(10)
    world.call(flow, 10)
    world.send("go")
    assert world.call(flow, 10_000).value == (False, None)


def test_an_inserted_sleep_sleeps_and_a_removed_one_is_passed_over(world: World) -> None:
    def before(run: WorkflowRun) -> Any:
        return a(1), run.wait_event("go")

    def after(run: WorkflowRun) -> Any:
        run.sleep("new", 5)
        return a(1), run.wait_event("go"), b(2)

    world.call(before)
    assert world.call(after).kind == "suspended"
    world.move(5)
    world.send("go", 1)
    assert world.call(after).value == ("a1", 1, "b2")
    assert world.call(lambda run: (a(1), run.wait_event("go"), b(2), c(3))).value == ("a1", 1, "b2", "c3")


def test_sleeps_of_one_name_are_a_queue(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return [run.sleep("nap", seconds) for seconds in (1, 2, 3)]

    assert world.finish(flow).value == [False] * 3
    assert world.now == 1_800_000_006_000_000


def test_a_waking_ends_the_sleep_it_is_meant_for_and_says_so(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.sleep("one", 60), run.sleep("two", 60)

    world.call(flow)
    world.wake("two")
    assert world.call(flow).kind == "suspended"
    world.wake("one")
    assert world.call(flow).value == (True, True)
    assert world.call(flow).value == (True, True)
    assert [arrival.ordinal for arrival in world.arrivals] == [1, 0]


def test_a_waking_is_for_the_sleeps_that_it_names(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return [run.sleep("nap", 60), run.sleep("nap", 60)]

    world.call(flow)
    world.wake("", 0)
    world.move(60)  # the sleep is over by its time, too; the waking is its all the same
    assert world.call(flow).kind == "suspended"
    world.wake("nap", 0)  # comes when that sleep is over
    assert world.call(flow).kind == "suspended", "the second sleep is not skipped"
    world.move(60)
    assert world.call(flow).value == [True, False]


def test_a_sleep_of_no_time_does_not_wait(world: World) -> None:
    assert world.call(lambda run: run.sleep("nap", 0)).value is False


@pytest.mark.parametrize(("name", "seconds"), [("nap", -1), ("nap", None), ("", 1), ("x" * 300, 1), ("nap", "soon")])
def test_a_sleep_that_cannot_be_meant_raises(world: World, name: Any, seconds: Any) -> None:
    ended = world.call(lambda run: run.sleep(name, seconds))
    assert ended.kind == "failed"
    assert "ConfigurationError" in ended.text


# ---------------------------------------------------------------- events
def waits(run: WorkflowRun) -> Any:
    return run.wait_event("paid", timeout=60)


def test_an_event_that_came_before_is_there(world: World) -> None:
    world.send("paid", {"cents": 5})
    assert world.call(waits).value == {"cents": 5}


def test_an_event_that_comes_later_and_one_that_never_does(world: World) -> None:
    ended = world.call(waits)
    assert ended.waits is not None
    assert (ended.waits.items[0].kind, ended.waits.items[0].seconds) == ("event", 60.0)
    world.send("other", 1)
    assert world.call(waits).kind == "suspended"
    world.move(60)
    ended = world.call(waits)
    assert isinstance(ended.error, EventTimeout)
    assert "'paid' was not sent within 60 s" in ended.text
    world.send("paid", 2)
    again = world.call(waits)
    assert str(again.error) == str(ended.error), "what is recorded is recorded"


def test_an_event_that_is_there_when_the_time_is_over_counts(world: World) -> None:
    world.call(waits)
    world.move(100)
    world.send("paid", 1)
    assert world.call(waits).value == 1


def test_a_changed_timeout_is_reckoned_anew(world: World) -> None:
    world.call(waits)
    world.move(30)
    assert world.call(lambda run: run.wait_event("paid", timeout=20)).kind == "failed"


def test_events_that_nobody_has_taken_do_not_count_for_the_history(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        before = run.history_size
        return before, len(run.wait_event("large")), run.history_size, run.history_nearly_full

    world.limits = Limits(100, 100_000)
    for _ in range(4):
        world.send("other", "x" * 30_000)
    world.send("large", "x" * 30_000)
    before, size, after, full = world.call(flow).value
    assert (before, size, full) == ((0, 0), 30_000, False)
    assert 30_000 < after[1] < 31_000, "once it is taken it counts, once"
    assert world.call(flow).value[1:] == (size, after, full)


def test_each_name_has_its_own_queue_in_the_order_of_sending(world: World) -> None:
    for number in (1, 2):
        world.send("x", number)
        world.send("y", -number)
    ended = world.call(lambda run: [run.wait_event(name) for name in "yxxy"])
    assert ended.value == [-1, 1, 2, -2]


def test_recorded_events_stay_with_their_waits_when_more_come(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.wait_event("x"), run.wait_event("x"), run.wait_event("y")

    world.send("x", 1)
    world.call(flow)
    world.send("x", 2)
    world.call(flow)
    world.send("x", 3)
    world.send("y", 4)
    assert world.call(flow).value == (1, 2, 4)
    assert [arrival.ordinal for arrival in world.arrivals] == [0, 1, None, 2]


class Payment(marshmallow.Schema):
    cents = marshmallow.fields.Integer(required=True)


def positive(data: Any) -> int:
    if not isinstance(data, int) or data <= 0:
        raise ValueError(f"{data!r} is not positive")
    return data * 10


@pytest.mark.parametrize(
    ("schema", "wrong", "right", "value"),
    [
        (Payment, {"cents": "many"}, {"cents": "5"}, {"cents": 5}),
        (Payment(), {}, {"cents": 7}, {"cents": 7}),
        (positive, -1, 3, 30),
    ],
)
def test_an_event_that_does_not_fit_is_refused_and_the_wait_goes_on(
    world: World, schema: Any, wrong: Any, right: Any, value: Any
) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.wait_event("paid", schema=schema, timeout=60), run.wait_event("go")

    world.send("paid", wrong)
    assert world.call(flow).kind == "suspended"
    refused = [step for step in world.steps.values() if step.kind == "refused"]
    assert [(step.state, step.more["t"]) for step in refused] == [("failed", "EventRefused")]
    world.send("paid", wrong)
    world.send("paid", right)
    world.call(flow)
    world.send("go", 1)
    assert world.call(flow).value == (value, 1)
    assert sum(step.kind == "refused" for step in world.steps.values()) == 2


def test_the_timeout_counts_from_the_wait_whatever_was_refused(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.wait_event("paid", schema=positive, timeout=60)

    world.call(flow)
    world.move(50)
    world.send("paid", -1)
    world.call(flow)
    world.move(10)
    assert isinstance(world.call(flow).error, EventTimeout)


def test_a_refused_event_does_not_mix_up_the_waits_of_one_name(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        one = run.event("paid", schema=positive)
        from aiki import first

        winner = first(one, run.event("go"))
        two = run.event("paid")
        return winner is one, one.result(), two.result(), a(1)

    world.send("paid", -1)
    world.send("go")
    world.call(flow)
    world.send("paid", 1)
    world.call(flow)
    world.send("paid", 2)
    assert world.call(flow).value == (False, 10, 2, "a1")
    assert world.call(flow).value == (False, 10, 2, "a1")


# ---------------------------------------------------------------- values
def test_values_are_the_same_in_each_replay(world: World) -> None:
    seen: list[Any] = []

    def flow(run: WorkflowRun) -> Any:
        seen.append((run.now(), run.now(), run.uuid4(), run.uuid4(), run.random()))
        return run.wait_event("go")

    world.call(flow)
    world.move(1000)
    world.send("go")
    world.call(flow)
    assert seen[0] == seen[1]
    assert seen[0][2] != seen[0][3]
    assert 0 <= seen[0][4] < 1
    assert seen[0][0].timestamp() == 1_800_000_000


# ---------------------------------------------------------------- deliberate changes
def old(run: WorkflowRun) -> Any:
    return a(1), run.wait_event("go")


def new(run: WorkflowRun) -> Any:
    one = c(0) if run.patched("p") else None
    return one, a(1), run.wait_event("go"), b(2)


def test_a_patch_is_taken_by_new_runs_and_stays_taken(world: World) -> None:
    world.call(new)
    world.send("go")
    assert world.call(new).value == ("c0", "a1", None, "b2")
    assert [name for name, _, _ in world.executed] == ["shop.c", "shop.a", "shop.b"]


def test_a_patch_is_not_taken_by_runs_that_were_behind_it(world: World) -> None:
    world.call(old)
    world.send("go")
    assert world.call(new).value == (None, "a1", None, "b2")
    assert world.call(new).value == (None, "a1", None, "b2")


def test_a_patch_at_the_very_end_of_an_old_history_is_taken(world: World) -> None:
    def later(run: WorkflowRun) -> Any:
        return a(1), run.wait_event("go"), (b(2) if run.patched("p") else c(3))

    world.call(old)
    world.send("go")
    assert world.call(later).value == ("a1", None, "b2")
    assert world.call(later).value == ("a1", None, "b2")


def looped(run: WorkflowRun, patch: bool) -> Any:
    out = []
    for n in range(5):
        if patch and run.patched("p"):
            out.append(c(n))
        out.append(a(n))
        run.sleep("nap", 1)
    return out


def test_a_patch_in_a_loop_is_taken_from_the_end_of_the_old_history_on(world: World) -> None:
    for _ in range(2):
        world.call(looped, False)
        world.move(1)
    ended = world.finish(looped, True)
    assert ended.value == ["a0", "a1", "c2", "a2", "c3", "a3", "c4", "a4"]
    assert world.call(looped, True).value == ended.value
    assert [name for name, _, _ in world.executed].count("shop.a") == 5


def test_a_patch_whose_old_way_is_gone_may_be_removed_where_it_was_taken(world: World) -> None:
    world.call(new)
    world.send("go")
    assert world.call(lambda run: (c(0), a(1), run.wait_event("go"), b(2))).value == ("c0", "a1", None, "b2")


def test_several_patches_of_one_run(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        return run.patched("p"), run.patched("q"), a(1), run.patched("r"), run.wait_event("go")

    world.call(flow)
    world.send("go")
    assert world.call(flow).value == (True, True, "a1", True, None)
    assert world.call(lambda run: (run.patched("q"), a(1), run.wait_event("go"))).value == (True, "a1", None)


def test_what_is_called_no_more_does_not_keep_patches_and_the_log_from_the_new(world: World) -> None:
    def before(run: WorkflowRun) -> Any:
        run.now()
        run.sleep("nap", 0)
        return a(1), run.wait_event("go")

    def after(run: WorkflowRun) -> Any:
        return a(1), run.wait_event("go"), run.replaying, run.patched("p"), b(2), run.patched("p")

    world.call(before)
    world.send("go")
    assert world.call(after).value == ("a1", None, False, True, "b2", True)
    assert world.call(after).value == ("a1", None, True, True, "b2", True)


def test_reordered_steps_do_not_hide_that_the_history_is_old(world: World) -> None:
    world.call(lambda run: (a(1), b(2), run.wait_event("go")))
    world.send("go")
    ended = world.call(lambda run: (run.wait_event("go"), b(2), run.patched("p"), a(1)))
    assert ended.value == (None, "b2", False, "a1")
