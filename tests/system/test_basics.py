"""The way of a task, on real processes."""

from __future__ import annotations

from aiki.states import State
from tests.scale import scaled
from tests.system.system import System


def test_many_runs_complete_each_with_one_recorded_result(system: System) -> None:
    system.orchestrator()
    system.worker(concurrency=4)
    app = system.app()
    count = scaled(2000, 20_000)
    handles = app.definitions["shop.marked"].enqueue_many([(i,) for i in range(count)])
    system.wait_states(120, completed=count)
    assert [handle.result(timeout=10) for handle in handles[::100]] == list(range(0, count, 100))
    starts = system.starts()
    assert len(starts) == count
    assert set(starts.values()) == {1}


def test_a_worker_that_lacks_the_definition_parks_the_run_until_one_has_it(system: System) -> None:
    system.orchestrator()
    system.worker(app="other")
    handle = system.app().definitions["shop.noop"].enqueue(7)
    system.wait_states(20, stalled=1)
    assert "shop.noop" in (handle.view().waiting_on or "")
    system.worker()
    assert handle.result(timeout=30) == 7


def test_a_failing_task_is_retried_and_its_attempts_are_kept(system: System) -> None:
    system.orchestrator()
    system.worker()
    app = system.app()
    good = app.definitions["shop.flaky"].enqueue(1, 2)
    bad = app.definitions["shop.flaky"].enqueue(2, 9)
    assert good.result(timeout=30) == 1
    system.wait_states(30, completed=1, failed=1)
    assert good.view().attempt == 3
    assert bad.status() is State.FAILED
    detail = system.store.detail(bad.id)
    assert detail is not None
    assert [a.outcome for a in detail.attempts] == ["retried", "retried", "failed"]
    assert "ConnectionError" in detail.traceback
