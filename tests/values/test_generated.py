"""Whatever is given to a call comes back equal through every door, or is refused there, and never later."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from aiki import Aiki, WorkflowRun, codec
from aiki.errors import DecodeError, EncodeError
from aiki.lifecycle.record import SELECT_RUN, run_row
from aiki.messages import Dispatch, DispatchList
from aiki.model import NewRun
from aiki.storage import Store
from tests.ready_made import sqlite_database
from tests.replay.host import World
from tests.values.kinds import (
    Bit,
    Bolt,
    Box,
    Colour,
    Customer,
    Derived,
    Doubling,
    Level,
    Money,
    Pair,
    Point,
    Right,
    Shelf,
    Site,
    Slotted,
    Taxed,
    Word,
    anything,
    equal,
)

FULL = bool(os.environ.get("AIKI_TEST_FULL"))
DOORS = ("enqueue", "result", "step", "event", "child", "continue_as_new")
app = Aiki("generated")
app.register_type(Money, lambda money: [money.amount, money.unit], lambda data: Money(*data))
for declared in (Taxed, Slotted, Derived, Box, Shelf, Site, Doubling, Bolt):
    app.register_type(declared)


@app.task
def take(
    value: Any,
    known: Point | Pair | Colour | Level | Word | Right | Bit | Customer | None = None,
) -> Any:
    return value


def give(_: int) -> Any:
    return _GIVEN[-1]


_GIVEN: list[Any] = []


@app.workflow
def through(run: WorkflowRun, door: str) -> Any:
    given = _GIVEN[-1]
    if door == "step":
        return run.step("give", give, 1)
    if door == "event":
        return run.wait_event("told")
    if door == "child":
        return take.submit(given).result()
    return run.continue_as_new(given)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(sqlite_database(Path(tmp_path_factory.mktemp("values")) / "aiki.db"))
    yield made
    made.close()


def on_the_wire(run: NewRun) -> Any:
    """The value as a worker gets it: enqueued, sent, received, decoded."""
    dispatch = Dispatch("00" * 16, 1, run.name, "1", 1, 0, run.input.encoding, run.input.text, {})
    body = DispatchList("default", "default", [dispatch]).encode()
    found = DispatchList.decode(body).runs[0]
    return codec.decode(codec.Payload(found.encoding, found.input))[0][0]


def in_the_database(store: Store, run: NewRun) -> Any:
    """The value as it is dispatched from the database."""
    store.create_runs([run], claim=5)

    def read(connection: Any) -> Any:
        sql = f"SELECT {SELECT_RUN} FROM aiki_runs WHERE id = ?"
        row = run_row(store.db.execute(connection, sql, (bytes.fromhex(run.id.replace("-", "")),)).fetchone())
        return store.outgoing(connection, "default", [(row, False)]).outgoing[0].dispatch

    found = store.db.read(read)
    return codec.decode(codec.Payload(found.encoding, found.input))[0][0]


def by_replay(door: str, given: Any) -> Any:
    """The value after a step, an event, a child or `continue_as_new`: as the first call has it, and as a later one."""
    _GIVEN.append(given)
    world = World()
    if door == "event":
        world.call(through, door)
        world.send("told", given)
    ended = world.finish(through, door, tasks={take.name: take})
    if ended.kind == "continued":
        return ended.value[0][0]
    if ended.error is not None:
        raise ended.error
    assert ended.kind == "completed", ended.text
    _GIVEN.append("something else")  # what is asked for again is not made again
    if door != "child":
        again = world.call(through, door)
        assert again.kind == "completed", again.text
        assert equal(ended.value, again.value)
    return ended.value


def through_the_door(store: Store, door: str, given: Any) -> Any:
    if door == "enqueue":
        run = take.plain._new_run((given,), {})
        found = on_the_wire(run)
        assert equal(found, in_the_database(store, run)) or found != found
        return found
    if door == "result":
        payload = codec.encode(given, what="result of take", compress_above=60)
        return codec.decode(codec.Payload(*json.loads(json.dumps(payload))))
    return by_replay(door, given)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_accepted_comes_back_equal(store: Store, door: str) -> None:
    examples = 20_000 // len(DOORS) + 1 if FULL else 60

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(anything)
    def try_it(given: Any) -> None:
        refused = ""
        try:
            back = through_the_door(store, door, given)
        except DecodeError:
            raise AssertionError("accepted, and not to be read afterwards") from None
        except EncodeError as error:
            refused = str(error)
        if refused:
            assert " at $" in refused
            assert _holds_what_is_refused(given), refused
        else:
            assert equal(given, back), (given, back)

    try_it()


def _holds_what_is_refused(given: Any) -> bool:
    """Only what `refused` of the strategies has put in is to be refused."""
    return isinstance(given, list) and len(given) == 2 and isinstance(given[1], dict) and list(given[1]) == ["k"]
