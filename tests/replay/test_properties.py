"""Properties: permutations, prefixes, deaths at any report."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aiki import WorkflowRun, as_completed, first, gather
from tests.replay.host import World
from tests.replay.shop import TASKS, CardDeclined, a, b, c, fail

CALLS = {"a": lambda n: a(n), "b": lambda n: b(n), "c": lambda n: c(n)}
MANY = settings(max_examples=60, deadline=None)


@MANY
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=8), st.randoms(use_true_random=False))
def test_any_permutation_of_recorded_steps_replays(calls: list[tuple[str, int]], order: random.Random) -> None:
    world = World()

    def flow(run: WorkflowRun, wanted: list[tuple[str, int]]) -> Any:
        return {(name, n): CALLS[name](n) for name, n in wanted}, run.wait_event("go")

    world.call(flow, calls)
    world.executed.clear()
    world.send("go", 1)
    moved = list(calls)
    order.shuffle(moved)
    ended = world.call(flow, moved)
    assert ended.value == ({(name, n): f"{name}{n}" for name, n in calls}, 1)
    assert world.executed == []


@MANY
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=6), st.data())
def test_the_rule_for_any_change(before: list[tuple[str, int]], data: st.DataObject) -> None:
    """Whatever the new code calls: it is stopped exactly if something new would start with recorded steps left over."""
    after = data.draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=6))
    world = World()

    def flow(run: WorkflowRun, wanted: list[tuple[str, int]]) -> Any:
        return [CALLS[name](n) for name, n in wanted]

    world.call(flow, before)
    world.executed.clear()
    left, started, stopped = list(before), [], False
    for call in after:
        if call in left:
            left.remove(call)
        elif left:
            stopped = True
            break
        else:
            started.append(call)
    ended = world.call(flow, after)
    assert (ended.kind == "changed") == stopped
    assert [(name.rpartition(".")[2], args[0]) for name, args, _ in world.executed] == started


def busy(run: WorkflowRun) -> Any:
    """A bit of everything."""
    seen: list[Any] = [a(1)]
    futures = [a.submit(n) for n in range(2, 5)]
    seen.append(run.sleep("nap", 5))
    seen.append(run.step("plain", lambda: {"x": (1, 2)}))
    seen += gather(*futures)
    try:
        fail("declined")
    except CardDeclined as error:
        seen.append(str(error))
    go, late = run.event("go"), run.timer("late", 3600)
    seen.append(first(go, late) is go)
    seen.append(go.result())
    if run.patched("more"):
        seen.append(b(5))
    for future in as_completed(b.submit(6), c.submit(7)):
        seen.append(future.result())
    with run.saga() as saga:
        saga.compensate(b, 8)
        saga.compensate(c, 9)
        try:
            gather(fail.submit("late"), a.submit(11))
        except Exception as error:
            seen.append(str(error))
    run.now()
    return seen


EVENTS = {"go": {"by": "hand"}}


def whole() -> tuple[World, Any]:
    world = World()
    ended = world.finish(busy, tasks=TASKS, events=EVENTS)
    assert ended.kind == "completed"
    return world, ended.value


def test_a_whole_history_replays_without_executing_anything() -> None:
    world, value = whole()
    world.executed.clear()
    recorded = world.recorded()
    assert world.call(busy).value == value
    assert world.executed == []
    assert world.recorded() == recorded, "and without anything new"


def test_any_prefix_of_a_history_goes_on_to_the_same_result() -> None:
    world, value = whole()
    for length in range(len(world.steps) + 1):
        cut = World(now=world.now)
        cut.steps = {ordinal: step for ordinal, step in world.steps.items() if ordinal < length}
        cut.children = {ordinal: run for ordinal, run in world.children.items() if ordinal < length}
        cut.arrivals = [
            one if one.ordinal is None or one.ordinal < length or one.kind != "event" else one._replace(ordinal=None)
            for one in world.arrivals
            if one.kind == "event" or (one.ordinal is not None and one.ordinal < length)
        ]
        done = [step.name for step in cut.steps.values() if step.kind == "step" and step.done]
        ended = cut.finish(busy, tasks=TASKS, events=EVENTS)
        assert ended.value == value, f"cut after {length} steps"
        again = [name for name, _, _ in cut.executed]
        assert len(done) + len(again) == sum(step.kind == "step" for step in cut.steps.values())


@MANY
@given(st.lists(st.integers(0, 12), max_size=8))
def test_deaths_at_any_reports_change_nothing(deaths: list[int]) -> None:
    """Steps that were recorded are not executed again; the result is that of a run without deaths."""
    _, value = whole()
    world = World()
    for after in deaths:
        world.die_after = world.reports + after
        done = {step.ordinal for step in world.steps.values() if step.kind == "step" and step.done}
        begun = len(world.executed)
        ended = world.call(busy)
        repeated = len(world.executed) - begun
        new = {step.ordinal for step in world.steps.values() if step.kind == "step" and step.done} - done
        assert repeated <= len(new) + 1
        if ended.kind == "suspended":
            world.satisfy(ended, TASKS, EVENTS)
        elif ended.kind == "completed":
            break
    world.die_after = None
    assert world.finish(busy, tasks=TASKS, events=EVENTS).value == value


@MANY
@given(st.permutations([0, 1, 2, 3]), st.integers(1, 4))
def test_as_completed_is_the_order_of_arrival_for_ever(order: list[int], at_once: int) -> None:
    world = World()

    def flow(run: WorkflowRun) -> Any:
        return [future.result() for future in as_completed(*[a.submit(n) for n in range(4)])]

    world.call(flow)
    prefixes = []
    for start in range(0, 4, at_once):
        for n in order[start : start + at_once]:
            world.end_child(n, n)
        ended = world.call(flow)
        chosen = [int(step.more["r"]) for _, step in sorted(world.steps.items()) if step.kind == "choice"]
        prefixes.append(chosen)
    assert all(prefixes[-1][: len(prefix)] == prefix for prefix in prefixes), "what was chosen stays chosen"
    assert sorted(ended.value) == [0, 1, 2, 3]
    assert world.call(flow).value == ended.value
