"""Values in workflows: a step gets what was recorded, and what was recorded is the same, or stops the run, in every process."""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from aiki import Aiki, StepFailed, WorkflowRun, codec, failures
from aiki.errors import EncodeError
from tests.replay.host import World

app = Aiki("values_in_workflows")


@dataclass
class Order:
    id: str
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lines = [*self.lines, "checked"]


@dataclass
class Quote:
    """Named by the function of a step alone."""

    price: int


class Hidden(enum.Enum):
    """Named by no signature."""

    A = 1


def quote(order: Order) -> Quote:
    return Quote(len(order.lines))


@app.task
def known(order: Order) -> Order:
    order.lines.append("by the step")
    return order


@app.workflow
def flow(run: WorkflowRun, order: Order) -> list[Any]:
    changed = known(order)
    again = run.step("quote", quote, order)
    run.sleep("wait", 5)
    return [order.lines, changed.lines, again]


def test_a_step_gets_a_copy_and_its_dataclass_is_made_once() -> None:
    world = World(name="shop.flow")
    order = Order("o")
    first = world.call(flow, order)
    assert first.kind == "suspended"
    world.move(10)
    for given in (order, Order("o")):  # the same object, and another process
        assert world.call(flow, given).value == [["checked"], ["checked", "by the step"], Quote(1)]


# ---------------------------------------------------------------- exceptions
@pytest.fixture
def library() -> Iterator[str]:
    """A library that a step imports for itself."""
    failures.arguments_of(ValueError())  # what is loaded by now is loaded everywhere
    name = "library_of_a_step"
    yield name
    sys.modules.pop(name, None)


def _import(name: str) -> Any:
    module = types.ModuleType(name)
    exec("class Odd(ValueError):\n    pass\nclass Money:\n    pass\n", vars(module))
    return sys.modules.setdefault(name, module)


def test_an_exception_that_only_the_step_has_imported_is_the_same_in_every_process(library: str) -> None:
    def ask() -> None:
        raise _import(library).Odd("no")

    @app.workflow(name="values.catching")
    def catching(run: WorkflowRun) -> str:
        try:
            run.step("ask", ask)
        except ValueError:
            found = "the class"
        except StepFailed as error:
            found = error.error_type
        run.sleep("wait", 5)
        return found

    world = World()
    assert world.call(catching).kind == "suspended"
    world.move(10)
    here = world.call(catching).value
    sys.modules.pop(library)
    assert here == world.call(catching).value == f"{library}.Odd"


class Refused(Exception):
    pass


def refuse() -> None:
    raise Refused("no")


@app.workflow
def refusing(run: WorkflowRun) -> str:
    try:
        run.step("refuse", refuse)
    except Refused as error:
        run.sleep("wait", 5)
        return str(error)
    return ""


def test_an_exception_that_cannot_be_made_any_more_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    assert world.call(refusing).kind == "suspended"
    world.move(10)
    with monkeypatch.context() as patch:
        patch.delattr(sys.modules[__name__], "Refused")
        stopped = world.call(refusing)
        assert stopped.kind == "changed"
        assert "Refused" in stopped.text
    assert world.call(refusing).value == "no"


# ---------------------------------------------------------------- what cannot be carried, or read
_CALLS: list[int] = []


def test_a_result_that_no_definition_names_is_refused_at_the_step_which_says_that_its_work_was_done() -> None:
    _CALLS.clear()

    def make() -> Any:
        _CALLS.append(1)
        return {"a": Hidden.A}

    @app.workflow(name="values.hidden")
    def hidden(run: WorkflowRun) -> Any:
        return run.step("make", make)

    world = World()
    ended = world.call(hidden)
    assert ended.kind == "failed"
    assert "the work was done, and only its result is lost" in ended.text
    assert "at $.a: class" in ended.text
    assert "app.register_type(Hidden)" in ended.text
    assert world.call(hidden).text == ended.text
    assert _CALLS == [1], "no policy is asked: the work would be done again"


class Policy:
    """What compensates: it must not be called for a value that cannot be read."""

    called = 0


@app.workflow
def charged(run: WorkflowRun, order: str) -> Any:
    try:
        paid = run.wait_event("paid")
        told = known.submit(Order(order)).result()
        return [paid, told.lines]
    except Exception:
        Policy.called += 1
        raise


@pytest.mark.parametrize("door", ["event", "child"])
def test_what_cannot_be_read_never_reaches_the_function(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Policy.called = 0
    world = World()
    world.call(charged, "o")
    world.send("paid", Order("x"))
    assert world.call(charged, "o").kind == "suspended"
    (child,) = world.children
    world.end_child(child, Order("y"))
    arrived = world.arrivals
    damaged = [item._replace(text=str(item.text).replace('"id"', '"key"')) for item in arrived]
    world.arrivals = [damaged[0], arrived[1]] if door == "event" else [arrived[0], damaged[1]]
    if door == "event":
        world.steps = {}
        world.arrivals = [damaged[0]._replace(ordinal=None)]
    stopped = world.call(charged, "o")
    assert stopped.kind == "changed", stopped
    assert "has a field 'key', and tests.values.test_in_workflows:Order has none" in stopped.text
    assert Policy.called == 0
    if door == "child":
        world.arrivals = arrived  # mended
        assert world.call(charged, "o").value[1] == ["checked"]


def test_values_of_steps_are_no_part_of_what_others_may_send() -> None:
    """A class that only a step's function names is read for that step, and not from elsewhere."""
    with pytest.raises(EncodeError, match="occurs in no definition"):
        codec.encode(Quote(1))
