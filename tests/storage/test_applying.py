"""Changing runs: locks, fencing by epoch, effects in one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from aiki import codec, ids
from aiki.errors import RunConflict, RunNotFound
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.messages import RunKey
from aiki.model import NewRun, RunFilter
from aiki.states import State
from aiki.storage import Store
from tests.storage.conftest import SetClock
from tests.storage.test_creating import new


def made(store: Store, **options: object) -> bytes:
    run = new(**options)  # type: ignore[arg-type]
    store.create_runs([run], claim=5)
    return ids.to_bytes(run.id)


def finish(store: Store, run_id: bytes, state: State = State.COMPLETED) -> None:
    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        for row in rows.values():
            row.state = state.value
            row.finished_at = store.clock()

    store.apply("default", [run_id], decide)


def test_a_result_and_the_end_are_written_together_and_the_delivery_goes(store: Store, clock: SetClock) -> None:
    run_id = made(store)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rows[run_id].state = State.COMPLETED.value
        effects.results.append((run_id, codec.encode({"n": 1})))

    store.apply("default", [run_id], decide)
    detail = store.detail(ids.to_text(run_id))
    assert detail is not None
    assert detail.result == codec.encode({"n": 1})
    assert store.ended([ids.to_text(run_id), str(ids.new_id())]) == {ids.to_text(run_id): State.COMPLETED}
    clock.move(100)
    assert store.claim_due().outgoing == []


def test_a_late_confirm_of_an_old_epoch_does_not_touch_the_retrys_delivery(store: Store, clock: SetClock) -> None:
    run = new()
    first = store.create_runs([run], claim=5).outgoing[0].delivery_id
    run_id = ids.to_bytes(run.id)

    def fail(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rows[run_id].state = State.WAITING.value
        effects.deliver(rows[run_id], clock.now + 30_000_000)

    store.apply("default", [run_id], fail)
    store.delivered([first])
    clock.move(31)
    [outgoing] = store.claim_due().outgoing
    assert outgoing.dispatch.epoch == 2


def test_a_failing_decision_changes_nothing(store: Store) -> None:
    run_id = made(store)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rows[run_id].state = State.RUNNING.value
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.apply("default", [run_id], decide)
    view = store.get_run(ids.to_text(run_id))
    assert view is not None
    assert view.state is State.QUEUED


def test_an_illegal_transition_is_refused(store: Store) -> None:
    run_id = made(store)
    finish(store, run_id)
    with pytest.raises(AssertionError, match="completed may not become queued"):
        finish(store, run_id, State.QUEUED)


def test_two_that_change_the_same_runs_in_opposite_orders_both_get_through(open_store: Callable[..., Store]) -> None:
    store = open_store(timeout=30.0)
    run_ids = [made(store) for _ in range(30)]

    def work(order: list[bytes]) -> None:
        for _ in range(10):

            def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
                for row in rows.values():
                    row.attempt += 1

            store.apply("default", order, decide)

    threads = [threading.Thread(target=work, args=(order,)) for order in (run_ids, run_ids[::-1], run_ids[10:], run_ids[:20])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    counts = {store.get_run(ids.to_text(run_id)).attempt for run_id in run_ids[10:20]}  # type: ignore[union-attr]
    assert counts == {41}


def test_cancelling_a_queued_run_ends_it_and_revokes_its_dispatch(store: Store, clock: SetClock) -> None:
    run_id = made(store)
    cancelled = store.cancel_run(ids.to_text(run_id), reason="no longer wanted", actor="me")
    key = RunKey(run_id.hex(), 1)
    assert cancelled.run.state is State.CANCELLED
    assert cancelled.interrupt == [key]
    assert store.revocations("default", "default")[0] == [key]
    clock.move(100)
    assert store.claim_due().outgoing == []
    assert store.unannounced(clock.now) == [("default", key, True)]
    store.announced([("default", key)])
    assert store.unannounced(clock.now) == []


def test_cancelling_a_running_run_asks_for_it_and_an_ended_one_stays(store: Store) -> None:
    run_id = made(store)
    finish(store, run_id, State.RUNNING)
    cancelled = store.cancel_run(ids.to_text(run_id), reason="", actor="me")
    assert cancelled.run.state is State.RUNNING
    assert cancelled.run.cancel_requested
    finish(store, run_id)
    assert store.cancel_run(ids.to_text(run_id), reason="", actor="me").run.state is State.COMPLETED
    with pytest.raises(RunNotFound):
        store.cancel_run(str(ids.new_id()), reason="", actor="me")


def test_retry_takes_failed_dead_and_cancelled_runs_on_and_no_others(store: Store, clock: SetClock) -> None:
    for state in (State.FAILED, State.DEAD, State.CANCELLED):
        run_id = made(store)
        finish(store, run_id, state)
        retried = store.retry_run(ids.to_text(run_id), actor="me")
        assert retried.run.state is State.QUEUED
        assert retried.run.attempt == 2
        assert [o.dispatch.epoch for o in retried.outgoing] == [2]
    for state in (State.COMPLETED, State.RUNNING):
        run_id = made(store)
        finish(store, run_id, state)
        with pytest.raises(RunConflict, match=state.value):
            store.retry_run(ids.to_text(run_id), actor="me")


def test_an_expired_run_is_cancelled_unless_it_has_started(store: Store, clock: SetClock) -> None:
    waiting = made(store, expires_at=clock.now + 1_000_000)
    started = made(store, expires_at=clock.now + 1_000_000)
    finish(store, started, State.RUNNING)
    clock.move(1)
    claimed = store.claim_due()
    assert {run_id for _, run_id in claimed.expired} == {waiting, started}
    applied = store.expire("default", [run_id for _, run_id in claimed.expired])
    assert applied.revoke == [RunKey(waiting.hex(), 1)]
    views = [store.get_run(ids.to_text(run_id)) for run_id in (waiting, started)]
    assert [view.state for view in views if view] == [State.CANCELLED, State.RUNNING]
    clock.move(100)
    assert store.claim_due().expired == []


def test_lists_are_newest_first_and_paged_by_key(store: Store) -> None:
    runs = [new("a") for _ in range(5)] + [new("b", queue="other") for _ in range(5)]
    store.create_runs(runs)
    finish(store, ids.to_bytes(runs[0].id))
    finish(store, ids.to_bytes(runs[9].id), State.FAILED)
    seen: list[str] = []
    after: str | None = None
    while True:
        page = store.list_runs(RunFilter(), limit=3, after=after)
        seen += [run.id for run in page.runs]
        after = page.next
        if after is None:
            break
    assert seen == [run.id for run in reversed(runs)]
    ended = store.list_runs(RunFilter(states=(State.COMPLETED, State.FAILED)), limit=10)
    assert [run.id for run in ended.runs] == [runs[9].id, runs[0].id]
    assert len(store.list_runs(RunFilter(name="b", queue="other"), limit=10).runs) == 5


def test_namespaces_do_not_see_each_other(open_store: Callable[..., Store]) -> None:
    ours, theirs = open_store(), open_store(namespace="theirs")
    run = NewRun(str(ids.new_id()), "a", codec.encode([[], {}]))
    theirs.create_runs([run])
    assert ours.get_run(run.id) is None
    assert ours.list_runs(RunFilter()).runs == []
    with pytest.raises(RunNotFound):
        ours.cancel_run(run.id, reason="", actor="me")
    assert len(ours.claim_due().outgoing) == 1, "the orchestrator serves all namespaces"


def test_stale_runs_are_found(store: Store, clock: SetClock) -> None:
    run = new()
    created = store.create_runs([run], claim=5)
    store.delivered([created.outgoing[0].delivery_id])
    covered = new()
    store.create_runs([covered], claim=5)
    clock.move(60)
    found, _ = store.stale_queued("default", 30_000_000)
    assert [item.id for item in found] == [ids.to_bytes(run.id)]
    clock.move(-7200)  # they bear a time to come: of their age nothing is known
    assert store.stale_queued("default", 30_000_000) == (found, None)
