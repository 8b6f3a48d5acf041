"""Steps that a reference id led to a run which another step, or another workflow, had started."""

from __future__ import annotations

import pytest

from aiki import codec, ids
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.model import NewRun
from aiki.states import State
from aiki.storage import Store
from tests.client.ending import end
from tests.client.workflows import child, new_workflow, record
from tests.storage.test_creating import new


@pytest.fixture
def flows(store: Store) -> list[str]:
    runs = [new_workflow(), new_workflow()]
    store.create_runs(runs)
    return [run.id for run in runs]


def start(store: Store, flow: str, *ordinals: int) -> list[NewRun]:
    """Have the workflow submit the same task once for each ordinal, under one reference id."""
    parent = ids.to_bytes(flow)
    runs = [new("shop.charge", 1, reference_id="o-1", parent_id=parent, parent_ordinal=ordinal) for ordinal in ordinals]
    record(store, flow, *(child(o, run) for o, run in zip(ordinals, runs, strict=True)), children=tuple(runs))
    return runs


def states(store: Store, flow: str) -> list[tuple[str, object]]:
    return [(step.state, step.result) for step in store.history(flow)]


def forget_ends(store: Store, flow: str) -> None:
    """What a retry of the workflow does to the ends of its children."""
    sql = "DELETE FROM aiki_inbox WHERE namespace = ? AND run_id = ? AND kind = 'child'"
    store.db.transaction(lambda connection: store.db.execute(connection, sql, (store.namespace, ids.to_bytes(flow))))


def test_every_step_of_every_workflow_is_told_of_the_end(store: Store, flows: list[str]) -> None:
    first, *_ = start(store, flows[0], 0, 1)
    start(store, flows[1], 0, 1)
    end(store, first.id, result="paid")
    for flow in flows:
        assert states(store, flow) == [("completed", codec.encode("paid"))] * 2
        assert {step.child_id for step in store.history(flow)} == {first.id}


def test_steps_that_come_after_the_end_are_told_of_it(store: Store, flows: list[str]) -> None:
    first, *_ = start(store, flows[0], 0)
    end(store, first.id, result="paid")
    start(store, flows[0], 1, 2)
    start(store, flows[1], 0, 1)
    assert states(store, flows[0]) == [("completed", codec.encode("paid"))] * 3
    assert states(store, flows[1]) == [("completed", codec.encode("paid"))] * 2


def test_those_that_follow_are_told_again_when_the_run_is_asked_again(store: Store, flows: list[str]) -> None:
    first, *_ = start(store, flows[0], 0)
    end(store, first.id, State.FAILED, error=("ValueError", "no money"))
    start(store, flows[1], 0)
    assert states(store, flows[1]) == [("failed", None)]
    forget_ends(store, flows[1])
    raw = ids.to_bytes(first.id)

    def stays(rows: dict[bytes, RunRow], effects: Effects) -> None:
        effects.told_again.append(raw)

    store.apply(store.namespace, [raw], stays)
    assert states(store, flows[1]) == [("failed", None)]
    forget_ends(store, flows[1])
    store.retry_run(first.id)
    end(store, first.id, result="paid")
    assert states(store, flows[1]) == [("completed", codec.encode("paid"))]
