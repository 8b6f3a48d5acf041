"""What a step's function closes over is part of the step's input."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aiki import EncodeError, WorkflowRun
from aiki.history import History
from tests.replay.host import World
from tests.replay.shop import a, take

LOCK = threading.Lock()


class Shop:
    """Has nothing that could be encoded."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fetch(self) -> str:
        return f"from {self.name}"

    def __call__(self) -> str:
        return self.fetch()


CORNER = Shop("corner")

MAKERS: dict[str, Callable[[int], Callable[[], Any]]] = {
    "closure": lambda n: lambda: f"got {n}",
    "default": lambda n: lambda n=n: f"got {n}",
    "keyword": lambda n: keyword(n),
    "partial": lambda n: functools.partial(told, n),
    "partial by name": lambda n: functools.partial(told, n=n),
    "method": lambda n: str(n).upper,
    "nested": lambda n: nested(n),
    "in a partial": lambda n: functools.partial(lambda: f"got {n}"),
    "of an error": lambda n: of_error(ValueError(n)),
}


def told(n: int) -> str:
    return f"got {n}"


def keyword(n: int) -> Callable[[], str]:
    def made(*, n: int = n) -> str:
        return f"got {n}"

    return made


def nested(n: int) -> Callable[[], str]:
    def inner() -> str:
        return f"got {n}"

    return lambda: inner()


def of_error(error: Exception) -> Callable[[], str]:
    return lambda: str(error)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_another_order_of_a_loop_changes_no_result(world: World, make: Callable[[int], Callable[[], Any]]) -> None:
    def flow(run: WorkflowRun, order: list[int]) -> Any:
        got = {n: run.step("one", make(n)) for n in order}
        run.wait_event("go")
        return sorted(got.items())

    world.call(flow, [1, 2, 3])
    first = {n: make(n)() for n in (1, 2, 3)}
    world.executed.clear()
    world.send("go")
    ended = world.call(flow, [3, 1, 2])
    assert ended.value == sorted(first.items())
    assert world.executed == []


def test_another_value_is_another_step_and_the_change_is_told(world: World) -> None:
    def flow(run: WorkflowRun, rate: int) -> Any:
        return run.step("price", lambda: 100 * rate), run.wait_event("go")

    world.call(flow, 2)
    ended = world.call(flow, 3)
    assert ended.kind == "changed"
    assert "closure rate was 2 and is 3" in ended.text


def test_what_the_workflow_itself_closes_over_is_global_to_it(world: World) -> None:
    done: list[int] = []
    lock = threading.Lock()

    def flow(run: WorkflowRun) -> Any:
        got = run.step("mark", lambda: (lock.locked(), done.append(1), len(done))[-1])
        run.wait_event("go")
        return got

    world.call(flow)
    world.send("go")
    assert world.call(flow).value == 1
    assert done == [1]


def holding(*things: Any) -> Callable[[], str]:
    return lambda: "from corner" if things else ""


@pytest.mark.parametrize(
    "fn",
    [
        lambda run: lambda: (a.fn(1), take.name, CORNER.fetch())[-1],
        lambda run: lambda shop=CORNER: shop.fetch(),
        lambda run: CORNER.fetch,
        lambda run: CORNER,
        lambda run: holding(run.timer("t", 5), Shop, threading),
    ],
)
def test_what_has_a_name_is_told_by_it(world: World, fn: Any) -> None:
    def flow(run: WorkflowRun) -> Any:
        got = run.step("ask", fn(run))
        run.wait_event("go")
        return got

    world.call(flow)
    world.send("go")
    assert world.call(flow).value == "from corner"
    assert [name for name, _, _ in world.executed] == ["ask"]


@pytest.mark.parametrize("hold", [lambda shop: lambda: shop.fetch(), lambda shop: shop.fetch, lambda shop: shop])
def test_what_cannot_be_told_apart_is_refused(world: World, hold: Any) -> None:
    def flow(run: WorkflowRun) -> Any:
        return [run.step("ask", hold(shop)) for shop in (Shop("north"), Shop("south"))]

    ended = world.call(flow)
    assert isinstance(ended.error, EncodeError)
    assert "Shop, which cannot be part of the step's input" in ended.text
    assert "Make it inside of the step" in ended.text
    assert world.steps == {}


@pytest.mark.parametrize("make", [MAKERS["closure"], MAKERS["default"], lambda n: Shop(str(n)).fetch])
def test_histories_of_former_releases_have_no_closures_and_go_on(world: World, make: Any) -> None:
    """The digest was that of the arguments alone."""
    digest = "44136fa355b3678a1146ad16f7e8649e"
    steps = [[n, "step", "one", digest, "completed", 1, {"e": "json", "r": f'"old {n}"', "i": "{}", "at": 1}] for n in range(2)]
    recorded = History.from_wire({"now": 1, "first": 0, "next": 2, "steps": steps, "in": []})
    world.steps = {one.ordinal: one for one in recorded.steps}
    assert world.call(lambda run: [run.step("one", make(n)) for n in range(2)]).value == ["old 0", "old 1"]
    assert world.executed == []
