"""Moving many runs to their next epoch with set statements: the same as one decision each, for those that are plain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aiki import ids
from aiki.lifecycle import reports
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import SELECT_RUN, RunRow
from aiki.lifecycle.reports import Rules
from aiki.messages import Dispatch
from aiki.states import State
from aiki.storage import Store
from tests.storage.conftest import SetClock
from tests.storage.test_creating import new

Change = Callable[[RunRow], None]


def change(store: Store, run_id: bytes, do: Change) -> None:
    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        do(rows[run_id])

    store.apply("default", [run_id], decide)


def made(store: Store, do: Change = lambda row: None, **options: Any) -> bytes:
    run = new(**options)
    store.create_runs([run], claim=5)
    change(store, ids.to_bytes(run.id), do)
    return ids.to_bytes(run.id)


def recorded(store: Store, run_id: bytes) -> dict[str, Any]:
    sql = f"SELECT {SELECT_RUN} FROM aiki_runs WHERE id = ?"
    row = store.db.read(lambda connection: store.db.execute(connection, sql, (run_id,)).fetchone())
    found = dict(zip(SELECT_RUN.split(", "), row, strict=True))
    return {key: value for key, value in found.items() if key not in ("id", "reference_id", "partition_no")}


def settled_one_by_one(store: Store, run_id: bytes) -> list[Dispatch]:
    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rules = Rules(store.clock(), 3, {})
        reports.settle_inquiry(rows[run_id], 1, rules, effects, lost=None, copy_may_be_out=False)

    return [item.dispatch for item in store.apply("default", [run_id], decide).outgoing]


def idle(row: RunRow) -> None:
    row.idle_dispatches = 1


@pytest.mark.parametrize(
    ("do", "options"),
    [
        (lambda row: None, {}),
        (idle, {}),
        (lambda row: None, {"options": {"mc": 5, "tl": 7.5}, "queue": "other", "reference_id": "r%s"}),
    ],
)
def test_a_plain_run_becomes_what_a_decision_makes_of_it(
    store: Store, clock: SetClock, do: Change, options: dict[str, Any]
) -> None:
    reference = options.get("reference_id")
    mine, twin = (made(store, do, **options | ({"reference_id": f"{reference}{n}"} if reference else {})) for n in "ab")
    clock.move(3)
    applied, left = store.redispatch("default", 1, [mine])
    [expected] = settled_one_by_one(store, twin)
    assert left == []
    assert recorded(store, mine) == recorded(store, twin)
    [outgoing] = applied.outgoing
    got = outgoing.dispatch
    assert (got.run_id, got.epoch, got.options.pop("ref", None)) == (mine.hex(), 2, reference and f"{reference}a")
    expected.options.pop("ref", None)
    assert got._replace(run_id="", partition=0) == expected._replace(run_id="", partition=0)
    # It is claimed: should nobody confirm it, the sweeper publishes it, marked.
    clock.move(30)
    again = {item.dispatch.run_id: (item.dispatch.epoch, item.again) for item in store.claim_due().outgoing}
    assert again == {mine.hex(): (2, True), twin.hex(): (2, True)}


def running(row: RunRow) -> None:
    row.state = State.RUNNING.value


def bound(row: RunRow) -> None:
    row.executor = "w/0.1"


def cancelling(row: RunRow) -> None:
    row.cancel_requested = 1


def crashed(row: RunRow) -> None:
    row.crashes = 1


def vanished(row: RunRow) -> None:
    row.idle_dispatches = 2


def moved_on(row: RunRow) -> None:
    row.epoch = 2


@pytest.mark.parametrize("do", [running, bound, cancelling, crashed, vanished, moved_on])
def test_what_is_not_plain_is_left_to_a_decision(store: Store, clock: SetClock, do: Change) -> None:
    mine, plain = made(store, do), made(store)
    before = recorded(store, mine)
    clock.move(3)
    applied, left = store.redispatch("default", 1, [mine, plain])
    assert left == [mine]
    assert recorded(store, mine) == before
    assert [item.dispatch.run_id for item in applied.outgoing] == [plain.hex()]


def test_asking_again_changes_nothing(store: Store) -> None:
    mine = made(store)
    store.redispatch("default", 1, [mine])
    before = recorded(store, mine)
    applied, left = store.redispatch("default", 1, [mine])
    assert (applied.outgoing, left) == ([], [mine])
    assert recorded(store, mine) == before
