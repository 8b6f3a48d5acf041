"""Paused queues, what is in queues, and why a run does not move."""

from __future__ import annotations

import pytest

from aiki import messages as m
from aiki.errors import RunConflict, RunNotFound
from aiki.ids import new_id
from aiki.messages import Heartbeat
from aiki.model import RunFilter
from aiki.storage import Store
from aiki.storage.roster import Said, Wanted
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def hello(store: Store, *names: str, queues: tuple[str, ...] = ("default",)) -> str:
    """A worker that lives and has these definitions."""
    worker = new_id().hex
    fields = {"name": "w1", "host": "h", "pid": 7, "queues": list(queues), "concurrency": 2, "version": "9"}
    fields["definitions"] = [[name, "1", "task"] for name in names]
    store.save_worker(Heartbeat("default", m.HELLO, worker, [], fields))
    return worker


def orchestrate(store: Store) -> None:
    store.save_orchestrator(new_id().hex, "alive", "h", 1, "9")


def audit(store: Store) -> list[tuple[str, str, str]]:
    rows = store.db.read(lambda c: store.db.execute(c, "SELECT actor, action, subject FROM audit ORDER BY id").fetchall())
    return [tuple(row) for row in rows]


# ---------------------------------------------------------------- pauses
def test_pause_and_resume(bench: Bench) -> None:
    store = bench.store
    first = store.pause_queue("bulk", reason="the bank is away", actor="ann")
    assert store.pause_queue("bulk", reason="another", actor="bob") == first
    second = store.pause_queue("mail", actor="ann")
    assert list(second.queues) == ["bulk", "mail"]
    assert second.number > first.number
    assert store.all_pauses() == {"default": (second.number, ["bulk", "mail"])}
    third = store.resume_queue("bulk", actor="bob")
    assert list(third.queues) == ["mail"]
    assert third.number > second.number
    with pytest.raises(RunConflict, match="queue bulk is not paused"):
        store.resume_queue("bulk")
    again = store.pause_queue("bulk", actor="ann")
    assert again.number > third.number
    assert audit(store) == [
        ("ann", "pause_queue", "queue bulk"),
        ("ann", "pause_queue", "queue mail"),
        ("bob", "resume_queue", "queue bulk"),
        ("ann", "pause_queue", "queue bulk"),
    ]


def test_a_queued_run_says_that_its_queue_is_paused(bench: Bench, clock: SetClock) -> None:
    store = bench.store
    run = bench.start("shop.charge")
    store.pause_queue("default", reason="the bank is away", actor="ann")
    text = "queue default is paused by ann at 08:00 UTC: the bank is away"
    assert store.get_run(run).waiting_on == text  # type: ignore[union-attr]
    assert [view.waiting_on for view in store.list_runs(RunFilter()).runs] == [text]
    clock.move(86400)
    assert "at Friday 08:00 UTC" in str(store.get_run(run).waiting_on)  # type: ignore[union-attr]
    store.resume_queue("default")
    assert store.get_run(run).waiting_on is None  # type: ignore[union-attr]


def test_counts(bench: Bench) -> None:
    store = bench.store
    for _ in range(3):
        bench.start("shop.charge")
    counts = store.count_by_queue()
    assert counts["default"].queued == 3
    assert counts["default"].exact
    assert counts["default"].oldest_at == bench.clock.now
    assert not store.count_by_queue(limit=2)["default"].exact
    hello(store, queues=("a", "b"))
    assert {"default", "a", "b"} <= set(store.queue_names())


# ---------------------------------------------------------------- why
def why(store: Store, run: str) -> tuple[str, str]:
    found = store.why(run)
    return found.code, found.text


def test_why_a_queued_run_does_not_move(bench: Bench, clock: SetClock) -> None:
    store = bench.store
    run = bench.start("shop.charge")
    assert why(store, run) == ("no_orchestrator", "no orchestrator has ever been heard; start one: aiki orchestrator")
    orchestrate(store)
    clock.move(11)
    assert why(store, run) == ("no_orchestrator", "no orchestrator has been heard since 08:00 UTC")
    orchestrate(store)
    assert why(store, run) == ("no_worker", "no worker takes from queue default")
    hello(store, "shop.charge", queues=("mail",))
    assert why(store, run) == ("no_worker", "no worker takes from queue default; 1 worker takes from other queues")
    hello(store, "shop.ship")
    assert why(store, run) == ("no_definition", "no worker that takes from queue default has shop.charge@1")
    worker = hello(store, "shop.charge")
    assert why(store, run) == ("queued", "it is next in queue default; 1 worker takes from it")
    clock.move(1)
    later = bench.start("shop.charge")
    assert why(store, later) == ("queued", "queued behind about 1 run in queue default; 1 worker takes from it")
    store.heard("default", {worker: Said([], 100, draining=True)})
    assert why(store, run)[0] == "no_definition"
    store.pause_queue("default", actor="ann", reason="stock-taking")
    assert why(store, run) == ("queue_paused", "queue default is paused by ann at 08:00 UTC: stock-taking")
    with pytest.raises(RunNotFound):
        store.why(new_id().hex)


# ---------------------------------------------------------------- workers
def test_stopping_workers(bench: Bench) -> None:
    store = bench.store
    worker = hello(store)
    assert store.want_worker(new_id().hex, Wanted.DRAIN) is None
    assert store.want_worker(worker, Wanted.STOP, actor="ann").wanted == "stop"  # type: ignore[union-attr]
    assert store.want_worker(worker, Wanted.DRAIN, actor="bob").wanted == "stop"  # type: ignore[union-attr]
    assert store.wanted_workers() == [("default", worker, Wanted.STOP, False)]
    store.heard("default", {worker: Said([], 4096, draining=True, paused=["bulk"])})
    assert store.wanted_workers() == [("default", worker, Wanted.STOP, True)]
    found = store.worker(worker)
    assert found is not None
    assert (found.memory, found.draining, found.paused, found.version) == (4096, True, ("bulk",), "9")
    store.set_worker_state("default", worker, "stopped")
    with pytest.raises(RunConflict, match="is gone: it is stopped, last heard at 08:00 UTC"):
        store.want_worker(worker, Wanted.KILL)
    assert audit(store) == [("ann", "stop_worker", f"worker w1 {worker}")]
