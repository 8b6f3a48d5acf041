"""Repair that ends: one marker a queue, cursors that go on, clocks that are put right, revocations that outlive their runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import ids
from aiki import messages as m
from aiki.broker import work
from aiki.messages import RunKey
from aiki.orchestrator import markers, reconciler
from aiki.states import State
from aiki.storage.marking import UNSEEN
from tests.orchestrator.hand import HandWorker
from tests.orchestrator.test_loop import Stage

DEFAULT = work("default", "default")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def ready(stage: Stage, queue: str = "default") -> int:
    session = stage.broker.connect("looking")
    depth = session.depth(work("default", queue))
    session.close()
    return 0 if depth is None else depth.ready


def published(stage: Stage, count: int = 1, **options: object) -> list[str]:
    """Runs whose dispatches are in their queue, a message each."""
    runs = []
    for _ in range(count):
        runs += stage.enqueue(**options)
        for _ in range(10):
            stage.turn()
    return runs


def idle_worker(stage: Stage, queue: str = "default") -> HandWorker:
    """A worker that takes from a queue and has its hands full: it takes nothing more."""
    worker = stage.worker()
    stage.workers.remove(worker)
    worker.fields["queues"] = [queue]
    worker.beat(m.HELLO, **worker.fields)
    stage.turn()
    return worker


def pass_time(stage: Stage, worker: HandWorker, seconds: int) -> None:
    for _ in range(seconds):
        worker.beat()
        worker.poll()
        stage.pass_time(1)


def revoked(stage: Stage) -> list[RunKey]:
    """All revocations of the default queue."""
    found: list[RunKey] = []
    place: tuple[int, bytes] | None = (UNSEEN, b"")
    while place is not None:
        keys, place = stage.store.revocations("default", "default", place)
        found += keys
    return found


def test_a_queue_from_which_nobody_takes_is_sent_no_marker(stage: Stage) -> None:
    published(stage)
    stage.pass_time(400)
    assert ready(stage) == 1


def test_a_paused_queue_is_sent_no_marker(stage: Stage) -> None:
    stage.store.pause_queue("default")
    worker = idle_worker(stage)
    worker.session.unsubscribe(DEFAULT)
    published(stage)
    pass_time(stage, worker, 200)
    assert ready(stage) == 1


def test_a_queue_holds_one_marker_however_long_it_takes(stage: Stage) -> None:
    worker = idle_worker(stage)
    worker.session.subscribe(DEFAULT, 1)
    published(stage, 5)
    worker.session.receive(0.1)  # one is in its hands, for long
    pass_time(stage, worker, 500)
    assert ready(stage) == 4 + 1


def test_a_clock_that_was_an_hour_ahead_makes_no_copies_and_hides_nothing(stage: Stage) -> None:
    worker = idle_worker(stage)
    worker.session.subscribe(DEFAULT, 1)
    stage.clock.move(3600)
    waiting = published(stage, 20)
    worker.session.receive(0.1)
    pass_time(stage, worker, 100)
    stage.clock.move(-3600)
    waiting += published(stage, 20)
    pass_time(stage, worker, 200)
    assert ready(stage) <= 40
    # And what is lost is found, though it bears a time to come.
    session = stage.broker.connect("operator")
    session.purge(DEFAULT)
    session.close()
    worker.session.unsubscribe(DEFAULT)
    other = stage.worker()
    taken: set[str] = set()

    def all_came() -> bool:
        stage.seconds += 0.5
        stage.clock.move(0.5)
        worker.beat()
        other.beat()
        while other.deliveries:
            _, message = other.take()
            taken.update(dispatch.run_id for dispatch in message.runs)
        return len(taken) >= 39

    other.until(all_came, 1500)
    assert len(taken) >= 39


def test_a_marker_that_is_lost_with_its_queue_is_replaced(stage: Stage) -> None:
    worker = idle_worker(stage)
    worker.session.subscribe(DEFAULT, 1)
    published(stage, 3)
    worker.session.receive(0.1)
    pass_time(stage, worker, 60)
    assert stage.store.mark("default", "default").out
    session = stage.broker.connect("operator")
    assert session.purge(DEFAULT) == 2 + 1
    session.close()
    pass_time(stage, worker, int(markers.EMPTY_FOR) + 15)
    assert ready(stage) == 1
    assert stage.store.mark("default", "default").sent == 2


def test_what_cannot_be_unparked_hides_nothing_behind_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 4)
    monkeypatch.setattr(reconciler, "PAGES", 2)
    parked = published(stage, 20)
    last = published(stage)[0]

    def stall(rows: dict[bytes, object], effects: object) -> None:
        for row in rows.values():
            row.state, row.name = State.STALLED.value, "a"  # type: ignore[attr-defined]
            row.error_type = None if row.id == ids.to_bytes(last) else "WorkflowChanged"  # type: ignore[attr-defined]

    worker = idle_worker(stage)
    tried = f'{{"tried": ["{worker.id}"]}}'
    stage.store.apply("default", [ids.to_bytes(run) for run in (*parked, last)], stall)  # type: ignore[arg-type]
    stage.store.db.transaction(
        lambda c: stage.store.db.execute(c, "UPDATE aiki_runs SET failed_at = ? WHERE error_type IS NOT NULL", (tried,))
    )
    pass_time(stage, worker, 60)
    assert stage.state(last) is State.QUEUED
    assert {stage.state(run) for run in parked} == {State.STALLED}


def test_what_waits_without_a_worker_hides_no_lost_run(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "PAGE", 3)
    monkeypatch.setattr(reconciler, "PAGES", 2)
    published(stage, 30, queue="nobody")
    [lost] = published(stage)
    session = stage.broker.connect("operator")
    assert session.purge(DEFAULT) == 1
    session.close()
    worker = stage.worker()
    taken: list[str] = []

    def came() -> bool:
        stage.seconds += 0.5
        stage.clock.move(0.5)
        worker.beat()
        while worker.deliveries:
            _, message = worker.take()
            taken.extend(dispatch.run_id for dispatch in message.runs)
        return bool(taken)

    worker.until(came, 1000)
    assert taken == [ids.to_bytes(lost).hex()]
    assert ready(stage, "nobody") >= 1


def test_a_run_that_was_cancelled_and_deleted_is_never_begun(stage: Stage) -> None:
    [run] = published(stage)
    stage.store.cancel_run(run)
    stage.clock.move(365 * 86400)
    assert stage.store.purge_runs("default", [ids.to_bytes(run)], stage.clock.now) == 1
    stage.pass_time(300)
    worker = stage.worker()
    key = RunKey(ids.to_bytes(run).hex(), 1)
    assert [c.runs for c in worker.controls if c.kind == m.SNAPSHOT] == [[key]]
    _, message = worker.take()
    worker.report(message.runs[0], m.DROPPED)
    worker.until(lambda: revoked(stage) == [])


def test_a_revocation_goes_once_its_dispatch_must_have_come_out(stage: Stage) -> None:
    [run] = published(stage)
    stage.store.cancel_run(run)
    stage.pass_time(300)
    assert len(revoked(stage)) == 1, "nobody takes from the queue"
    session = stage.broker.connect("operator")
    session.purge(DEFAULT)
    session.close()
    worker = stage.worker()

    def gone() -> bool:
        stage.seconds += 0.5
        stage.clock.move(0.5)
        worker.beat()
        if worker.deliveries:
            delivery = worker.deliveries.pop(0)
            number = m.DispatchList.decode(delivery.body).marker
            assert number is not None
            worker.send([m.Report(m.MARKER, "", number, {"q": "default"})], 0)
            worker.session.ack([delivery])
        return revoked(stage) == []

    worker.until(gone, 1000)


def test_a_snapshot_is_of_the_workers_queues_and_comes_in_pages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiki.orchestrator import snapshots

    monkeypatch.setattr(snapshots, "PAGE", 3)
    mine, others = published(stage, 10), published(stage, 10, queue="other")
    for run in (*mine, *others):
        stage.store.cancel_run(run)
    worker = stage.worker()
    told = [c for c in worker.controls if c.kind == m.SNAPSHOT]
    assert {key.run_id for c in told for key in c.runs} == {ids.to_bytes(run).hex() for run in mine}
    assert max(len(c.runs) for c in told) == 3
    assert [bool(c.fields.get("more")) for c in told] == [True] * (len(told) - 1) + [False]
    assert stage.store.revocations("default", "other", (UNSEEN, b""))[1] is None
