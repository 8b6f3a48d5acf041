"""What operators do to whole systems: pause queues, stop workers, retry all that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from aiki import codec, ids
from aiki.client.embedded import EmbeddedClient
from aiki.errors import RunConflict
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.model import NewRun
from aiki.states import State
from aiki.storage import Store
from aiki.storage.auditing import AuditFilter
from aiki.storage.batches import Operation, Target
from aiki.storage.roster import Wanted
from tests import scale
from tests.services import RabbitServer
from tests.system.system import System
from tests.waiting import wait_until


def client_of(system: System) -> EmbeddedClient:
    """Somebody who operates the system."""
    return EmbeddedClient(system.settings, "ann")


def wait_paused(system: System, *queues: str) -> None:
    """Wait until every worker that lives has heard that just these of its queues are paused."""
    wait_until(
        lambda: (there := system.store.workers("alive")) and all(row.paused == queues for row in there),
        30,
        f"the workers to hold {queues} paused",
    )


def test_a_pause_outlives_everything(system: System) -> None:
    orchestrator, worker = system.orchestrator(), system.worker()
    app, client = system.app(), client_of(system)
    app.definitions["shop.marked"].enqueue(0).result(timeout=30)
    client.pause_queue("default", reason="stock-taking")
    handles = [app.definitions["shop.marked"].enqueue(i) for i in range(1, 31)]
    brief = app.definitions["shop.marked"].options(expires=1.0).enqueue(99)
    assert system.store.pause_is_heard("default")

    orchestrator.kill9()
    worker.kill_group()
    system.orchestrator()
    system.worker()
    wait_paused(system, "default")
    wait_until(lambda: system.store.get_run(brief.id).state is State.CANCELLED, 30, "the run that expires")  # type: ignore[union-attr]
    handles[0].cancel()
    assert system.store.get_run(handles[0].id).state is State.CANCELLED  # type: ignore[union-attr]
    found = system.store.why(handles[1].id)
    assert found.code == "queue_paused"
    assert "is paused by ann at" in found.text
    assert system.states()[State.QUEUED] == 29
    assert system.starts() == Counter({"0": 1})

    client.resume_queue("default")
    system.wait_states(completed=30, cancelled=2, timeout=90)
    assert system.starts() == Counter({str(i): 1 for i in range(31) if i != 1})
    client.close()


def test_workers_drain_and_stop(embedded_system: System) -> None:
    system = embedded_system
    system.orchestrator()
    first = system.worker(concurrency=1)
    app, client = system.app(), client_of(system)
    nap, marked = app.definitions["shop.nap"], app.definitions["shop.marked"]
    slow = nap.enqueue("slow", 2.0)
    system.wait_states(running=1)
    behind = [marked.enqueue(i) for i in range(3)]
    (row,) = system.store.workers("alive")

    # Nobody tells the worker but the orchestrator, which finds what is recorded.
    found = system.store.want_worker(row.id, Wanted.DRAIN, actor="ann")
    assert found is not None
    assert first.process.wait(30) == 0
    assert slow.result(timeout=30) == "slow"
    assert [system.store.get_run(handle.id).state for handle in behind] == [State.QUEUED] * 3  # type: ignore[union-attr]
    wait_until(lambda: system.store.worker(row.id).state == "stopped", 10, "its goodbye")  # type: ignore[union-attr]
    with pytest.raises(RunConflict, match="is gone"):
        client.stop_worker(row.id, Wanted.STOP)

    second = system.worker(concurrency=1)
    assert [handle.result(timeout=30) for handle in behind] == [0, 1, 2]
    long = nap.enqueue("long", 20.0)
    system.wait_states(running=1)
    wait_until(lambda: (system.store.workers("alive")[0].memory or 0) > 1000, 10, "a beat that tells of memory")
    (row,) = system.store.workers("alive")
    client.stop_worker(row.id, Wanted.STOP)
    wait_until(lambda: system.store.worker(row.id).draining, 10, "it to say that it stops")  # type: ignore[union-attr]
    client.stop_worker(row.id, Wanted.KILL)
    assert second.process.wait(15) == 3
    wait_until(lambda: system.store.get_run(long.id).state is State.QUEUED, 30, "the run to be given back")  # type: ignore[union-attr]
    assert system.store.get_run(long.id).crashes == 0  # type: ignore[union-attr]
    client.close()


RETRIED = scale.scaled(2_000, 15_000)


def test_all_that_failed_are_retried_once_although_orchestrators_are_killed(
    make_system: Callable[..., System], rabbit: RabbitServer, mysql_database: str
) -> None:
    system = make_system(mysql_database, rabbit.url, batch_rate=RETRIED / 8)
    first = system.orchestrator()
    store = system.store
    fail_all(store, RETRIED)
    target = Target(q="status:failed")
    assert store.preview(target).number == RETRIED
    made, _ = store.create_batch(str(ids.new_id()), Operation.RETRY, target, expected=RETRIED, actor="ann")

    def at_least(share: float) -> None:
        wait_until(lambda: store.batch(made.id).done >= RETRIED * share, 60, f"{share:.0%} to be done")  # type: ignore[union-attr]

    at_least(0.2)
    first.kill9()
    second = system.orchestrator()
    at_least(0.5)
    half = store.batch(made.id)
    assert half is not None
    assert half.eta() is not None
    second.kill9()
    system.orchestrator()
    wait_until(lambda: store.batch(made.id).state == "done", 90, "the batch to be done")  # type: ignore[union-attr]
    found = store.batch(made.id)
    assert found is not None
    assert (found.matched, found.done, found.skipped, found.failed) == (RETRIED, RETRIED, 0, 0)
    assert system.rows("SELECT attempt, COUNT(*) FROM aiki_runs GROUP BY attempt") == [(2, RETRIED)]
    log = store.audit_log(AuditFilter(action="batch_retry"))
    assert [(entry.outcome, entry.affected) for entry in log] == [("done", RETRIED), ("begun", RETRIED)]

    worker = system.worker(concurrency=2)
    system.wait_states(completed=RETRIED, timeout=120)
    worker.stop()


def test_a_batch_can_be_stopped(make_system: Callable[..., System], tmp_path: Path) -> None:
    system = make_system(f"sqlite:///{tmp_path}/aiki.db", f"sqlite:///{tmp_path}/broker.db", batch_rate=100)
    system.orchestrator()
    store, client = system.store, client_of(system)
    fail_all(store, 1000)
    made, _ = client.begin_batch(str(ids.new_id()), Operation.RETRY, Target(q="status:failed"), expected=1000)
    wait_until(lambda: store.batch(made.id).done >= 100, 30, "some to be done")  # type: ignore[union-attr]
    stopped = client.stop_batch(made.id, reason="enough")
    assert stopped is not None
    assert 100 <= stopped.done < 1000
    assert stopped.done / ((stopped.updated_at - (stopped.started_at or 0)) / 1e6) < 200
    again, _ = client.begin_batch(str(ids.new_id()), Operation.CANCEL, Target(q="status:queued"), expected=1)
    wait_until(lambda: store.batch(again.id).state == "done", 60, "the cancel to be done")  # type: ignore[union-attr]
    counts = system.states()
    assert (counts[State.FAILED], counts[State.CANCELLED]) == (1000 - stopped.done, stopped.done)
    assert store.batch(made.id) == stopped
    client.close()


def fail_all(store: Store, count: int) -> None:
    """Record runs and have them fail, without a worker."""
    runs = [NewRun(str(ids.new_id()), "shop.noop", codec.encode([[i], {}])) for i in range(count)]
    for start in range(0, count, 500):
        part = runs[start : start + 500]
        store.create_runs(part, claim=600)
        raws = [ids.to_bytes(run.id) for run in part]

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            for row in rows.values():
                row.state, row.error_type, row.error_message = "failed", "Declined", "card was declined"
                row.finished_at = store.clock()

        store.apply("default", raws, decide)


def test_a_pause_outlives_the_broker(make_system: Callable[..., System], own_rabbit: RabbitServer, mysql_database: str) -> None:
    own_rabbit.start()
    system = make_system(mysql_database, own_rabbit.url)
    store = system.store
    system.orchestrator()
    system.worker()
    app, client = system.app(), client_of(system)
    app.definitions["shop.marked"].enqueue(0).result(timeout=30)
    client.pause_queue("default")
    for i in range(1, 41):
        app.definitions["shop.marked"].enqueue(i)
    own_rabbit.kill9()
    own_rabbit.start()
    at = store.clock()
    wait_until(lambda: store.workers("alive")[0].heard_at > at, 60, "the worker to be heard again")
    wait_paused(system, "default")
    assert system.starts() == Counter({"0": 1})
    client.resume_queue("default")
    system.wait_states(completed=41, timeout=90)
    assert system.starts() == Counter({str(i): 1 for i in range(41)})
    client.close()
