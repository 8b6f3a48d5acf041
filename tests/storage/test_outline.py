"""Histories as people look at them, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from aiki import ids
from aiki.codec import Payload, encode
from aiki.model import NewRun
from aiki.storage import Store
from aiki.storage.history import STEP_COLUMNS


def with_steps(store: Store, steps: list[tuple[str, str, str, bytes | None]]) -> str:
    """A workflow with steps: kind, name, state and the id of a child."""
    run_id = str(ids.new_id())
    store.create_runs([NewRun(run_id, "shop.flow", encode([[], {}]), kind="workflow")])
    empty = dict.fromkeys(STEP_COLUMNS)
    rows = []
    for ordinal, (kind, name, state, child) in enumerate(steps):
        values = {
            **{"namespace": "default", "run_id": ids.to_bytes(run_id), "ordinal": ordinal, "kind": kind, "name": name},
            **{"digest": "0" * 32, "state": state, "attempt": 1, "child_id": child, "abandon": 0},
            **{"created_at": 1000 + ordinal, "finished_at": None if state == "open" else 2000 + ordinal},
        }
        if kind == "step" and state == "completed":
            values |= {"encoding": "json", "data": store.db.dialect.blob(f'"result {ordinal}"')}
        rows.append(tuple({**empty, **values}[column] for column in STEP_COLUMNS))

    def work(connection: sa.Connection) -> None:
        store.db.insert_new(connection, "aiki_steps", STEP_COLUMNS, rows)
        store.db.execute(connection, "UPDATE aiki_runs SET history = ? WHERE id = ?", (len(rows), ids.to_bytes(run_id)))

    store.db.transaction(work)
    return run_id


def test_steps_in_a_row_are_folded_by_kind_and_name(store: Store) -> None:
    steps = [("step", "a", "completed", None)] * 3 + [("sleep", "a", "completed", None)] + [("step", "a", "failed", None)] * 2
    run_id = with_steps(store, steps)
    outline = store.outline(run_id)
    assert (outline.total, outline.next) == (6, None)
    assert [(fold.first, fold.last, fold.kind, fold.steps, fold.states, fold.bad) for fold in outline.folds] == [
        (0, 2, "step", 3, {"completed": 3}, None),
        (3, 3, "sleep", 1, {"completed": 1}, None),
        (4, 5, "step", 2, {"failed": 2}, 4),
    ]
    assert [(fold.began_at, fold.ended_at) for fold in outline.folds] == [(1000, 2002), (1003, 2003), (1004, 2005)]


def test_pages_of_folds(store: Store) -> None:
    run_id = with_steps(store, [("step", f"s{i % 2}", "completed", None) for i in range(25)])
    seen: list[int] = []
    at: int | None = 0
    while at is not None:
        page = store.outline(run_id, first=at, limit=10)
        seen += [fold.first for fold in page.folds]
        at = page.next
    assert seen == list(range(25))


def test_steps_that_are_runs_have_their_state(store: Store) -> None:
    child = str(ids.new_id())
    store.create_runs([NewRun(child, "shop.charge", encode([[], {}]))])
    run_id = with_steps(store, [("task", "shop.charge", "open", ids.to_bytes(child)), ("event", "approved", "open", None)])
    line, event = store.step_lines(run_id)
    assert (line.state, line.child_id, line.has_result) == ("queued", child, False)
    assert event.state == "open"
    assert [fold.states for fold in store.outline(run_id).folds] == [{"queued": 1}, {"open": 1}]
    store.cancel_run(child)
    assert store.step_lines(run_id)[0].state == "cancelled"
    assert store.outline(run_id).folds[0].ended_at is not None


def test_payloads_of_steps_and_events(store: Store) -> None:
    run_id = with_steps(store, [("step", "a", "completed", None), ("step", "b", "failed", None)])
    assert store.step_payload(run_id, 0) == Payload("json", '"result 0"')
    assert store.step_payload(run_id, 1) is None
    assert store.step_payload(run_id, 7) is None
    store.send_event(run_id, "approved", encode({"by": "Ada"}))
    store.send_event(run_id, "large", encode("x" * 20_000))
    small, large = sorted(store.events(run_id), key=lambda event: event.name)
    assert (small.name, small.ordinal, small.payload) == ("approved", None, encode({"by": "Ada"}))
    assert (large.payload, large.size) == (None, 20_002)
    assert store.event_payload(run_id, large.id) == encode("x" * 20_000)
