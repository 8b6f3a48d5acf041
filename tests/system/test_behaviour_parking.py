"""A rolling deploy: on one queue, workers that have a task's definition and workers that do not."""

from __future__ import annotations

import json

from tests.system.system import System


def epochs(system: System) -> list[int]:
    """How often each run was dispatched, at least."""
    from sqlalchemy import text

    with system.store.db.engine.connect() as connection:
        return [row[0] for row in connection.execute(text("SELECT epoch FROM aiki_runs"))]


def test_runs_pass_a_worker_that_does_not_know_them_yet(system: System) -> None:
    system.orchestrator()
    system.worker("-n", "old", app="other")
    system.worker("-n", "new")
    marked = system.app().definitions["shop.marked"]
    handles = [marked.enqueue(i) for i in range(20)] + marked.enqueue_many([(i,) for i in range(20, 200)])
    for handle in handles[:5]:
        handle.result(timeout=40)
    system.wait_states(40, completed=200)
    assert set(system.starts().values()) == {1}
    assert system.store.dead_letter_count() == 0
    # Each time that the wrong worker takes a run it rests for a second: dispatches are few, nothing loops.
    dispatched = epochs(system)
    print(f"\ndispatched at most {max(dispatched)} times, on average {sum(dispatched) / len(dispatched):.1f}")
    assert max(dispatched) <= 40


def test_a_deploy_in_the_wrong_order_loses_nothing(system: System) -> None:
    system.orchestrator()
    old = system.worker("-n", "old", app="other")
    marked = system.app().definitions["shop.marked"]
    marked.enqueue_many([(i,) for i in range(100)])
    system.wait_states(30, stalled=100)
    assert max(epochs(system)) == 1  # parked, not asked for again and again
    first = system.worker("-n", "new-1", concurrency=1)
    marked.enqueue_many([(i,) for i in range(100, 200)])
    assert first.stop(30) == 0  # and rolled back, with whatever it has left
    marked.enqueue_many([(i,) for i in range(200, 300)])
    system.worker("-n", "new-2", concurrency=1)
    old.stop(30)
    system.wait_states(60, completed=300)
    assert set(system.starts().values()) == {1}
    assert system.store.dead_letter_count() == 0


def test_two_versions_of_a_task_side_by_side_each_run_on_their_own_workers(system: System) -> None:
    system.orchestrator()
    system.worker("-n", "v1", app="versions:one")
    app = system.app()
    first = app.task(name="versions.told", version="1")(lambda: "")
    old = [first.enqueue() for _ in range(10)]
    app2 = system.app()
    second = app2.task(name="versions.told", version="2")(lambda: "")
    new = [second.enqueue() for _ in range(10)]
    assert {handle.result(timeout=40) for handle in old} == {"one"}
    system.wait_states(30, completed=10, stalled=10)
    system.worker("-n", "v2", app="versions:two")
    assert {handle.result(timeout=40) for handle in new} == {"two"}
    old = [first.enqueue() for _ in range(10)]
    assert {handle.result(timeout=40) for handle in old} == {"one"}
    assert json.dumps(sorted(system.states())) == '["completed"]'
