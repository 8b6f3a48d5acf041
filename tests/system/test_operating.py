"""What operators do to whole systems: pause queues, stop workers."""

from __future__ import annotations

from collections import Counter

import pytest

from aiki.client.embedded import EmbeddedClient
from aiki.errors import RunConflict
from aiki.states import State
from aiki.storage.roster import Wanted
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
