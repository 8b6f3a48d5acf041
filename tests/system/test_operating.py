"""What operators do to whole systems: pause queues, stop workers."""

from __future__ import annotations

from collections import Counter

from aiki.client.embedded import EmbeddedClient
from aiki.states import State
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
