"""Paused queues, what is in queues, and why a run does not move."""

from __future__ import annotations

import pytest

from aiki import messages as m
from aiki.errors import RunConflict, RunNotFound
from aiki.history import CHILD_ENDED, EVENT_SENT, SLEEP, Wait
from aiki.ids import new_id
from aiki.lifecycle.reports import Source
from aiki.messages import Heartbeat
from aiki.model import RunFilter
from aiki.storage import Store
from aiki.storage.roster import Said, Wanted
from tests.storage.bench import Bench, step
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
    rows = store.db.read(lambda c: store.db.execute(c, "SELECT actor, action, subject FROM aiki_audit ORDER BY id").fetchall())
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
    rates = store.rates(["default", "mail"])
    assert (rates["default"].recorded, rates["mail"].recorded) == (3 / 60, 0)
    bench.clock.move(30)
    runs = [bench.start("shop.charge", kind="task") for _ in range(6)]
    for run in runs:
        bench.complete(run)
    store.fold_tallies()
    rates = store.rates(["default"])
    assert rates["default"].ended == pytest.approx(6 / 330)
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


def test_why_a_workflow_waits(bench: Bench, clock: SetClock) -> None:
    store = bench.store
    orchestrate(store)

    def waiting(*waits: Wait, every: bool = False) -> tuple[str, str, int | None]:
        run = bench.start()
        steps = tuple(step(at, wait.kind, wait.name) for at, wait in enumerate(waits))
        bench.suspend(run, *waits, every=every, steps=steps)
        found = store.why(run)
        return found.code, found.text, found.until

    until = clock.now + 2 * 86400 * 1_000_000 + 7200 * 1_000_000
    event = Wait(EVENT_SENT, 0, 0, "approved", until, None)
    assert waiting(event) == ("waiting_event", "waiting for event approved until Sunday 10:00 UTC", until)
    sleep = Wait(SLEEP, 0, 0, "settle", None, 3600.0)
    assert waiting(sleep) == ("waiting_sleep", "waiting for the end of sleep settle until 09:00 UTC", clock.now + 3600_000_000)
    child = Wait(CHILD_ENDED, 0, 0, "shop.part", None, None)
    assert waiting(child) == ("waiting_child", "waiting for a run of shop.part to end", None)
    both = waiting(child, event._replace(first=1, last=1, due=None), every=True)
    assert both == ("waiting", "waiting for a run of shop.part to end and event approved", None)


def test_why_in_other_states(bench: Bench, clock: SetClock) -> None:
    store = bench.store
    orchestrate(store)
    later = bench.start("shop.charge", kind="task", due_at=clock.now + 3600_000_000)
    assert why(store, later) == ("scheduled", "it is to start at 09:00 UTC")
    retried = bench.start("shop.charge", kind="task")
    bench.report(retried, (m.RETRY, {"ms": 1, "type": "Declined", "message": "no", "tb": "", "delay": 60}))
    assert why(store, retried) == ("waiting_retry", "waiting for its retry: attempt 2 after Declined, at 08:01 UTC")
    failed = bench.start("shop.charge", kind="task")
    bench.fail(failed, kind="shop.Declined", message="card was declined\nmore")
    assert why(store, failed) == ("ended", "it has failed at 08:00 UTC: Declined: card was declined")
    run = bench.start()
    bench.report(run, (m.STARTED, {"ms": 0}))
    assert why(store, run) == ("running", "a worker executes it since 08:00 UTC")
    store.pause_run(bench.text(run), actor="ann")
    assert store.get_run(run).pause_requested  # type: ignore[union-attr]
    assert why(store, run)[0] == "pausing"
    store.cancel_run(bench.text(run), actor="ann", reason="sold out")
    assert store.get_run(run).cancel_reason == "sold out"  # type: ignore[union-attr]
    assert why(store, run)[0] == "cancelling"
    clock.move(60)
    orchestrate(store)
    worker = hello(store, "shop.charge")
    held = bench.start("shop.charge", kind="task")
    bench.report(held, (m.STARTED, {"ms": 0}), source=Source(worker, f"{worker}/0.1"))
    assert why(store, held) == ("running", "worker w1 executes it since 08:01 UTC")
    store.set_worker_state("default", worker, "lost")
    assert why(store, held)[0] == "worker_silent"
    paused = bench.start("shop.charge", kind="task")
    store.pause_run(bench.text(paused), actor="ann", reason="stock-taking")
    told = "it was paused by ann at 08:01 UTC: stock-taking; it goes on once it is resumed"
    assert why(store, paused) == ("paused", told)
