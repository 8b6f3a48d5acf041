"""The orchestrator's turns, over a real store and a real broker, with workers played by hand and a clock that is set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import codec, ids
from aiki import messages as m
from aiki.broker import Broker, open_broker, reports, work
from aiki.messages import Held, Report
from aiki.model import NewRun
from aiki.orchestrator import Orchestrator
from aiki.orchestrator.draining import AGAIN_SECONDS
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store, upgrade
from tests.orchestrator.hand import HandWorker
from tests.ready_made import sqlite_database
from tests.storage.conftest import SetClock


class Stage:
    """A store, a broker and orchestrators on them; time stands until it is moved."""

    def __init__(self, folder: Path, database_url: str = "", broker: Broker | None = None) -> None:
        url = database_url or sqlite_database(folder / "aiki.db")
        upgrade(url)
        self.clock = SetClock()
        self.seconds = 1000.0
        self.store = Store(url, clock=self.clock)
        self.broker = broker or open_broker(f"sqlite:///{folder / 'broker.db'}")
        self.settings = Settings.load({}, database_url=url, broker_url="sqlite:///unused", max_crashes=3)
        self.orchestrators: list[Orchestrator] = []
        self.workers: list[HandWorker] = []
        self.orchestrator()

    def orchestrator(self) -> Orchestrator:
        made = Orchestrator(self.store, self.broker, self.settings, monotonic=lambda: self.seconds)
        self.orchestrators.append(made)
        return made

    def turn(self) -> None:
        self.seconds += 0.02
        self.clock.move(0.02)
        for orchestrator in self.orchestrators:
            orchestrator.run_once(0.0)

    def pass_time(self, seconds: float, *, beating: bool = True) -> None:
        """Move both clocks in steps that leave no gap, the live workers beating."""
        for _ in range(int(seconds)):
            self.seconds += 1.0
            self.clock.move(1.0)
            for worker in self.workers if beating else []:
                worker.beat()
                worker.poll()
            for orchestrator in self.orchestrators:
                orchestrator.run_once(0.0)

    def worker(self, *definitions: str) -> HandWorker:
        worker = HandWorker(self.broker, self.turn, definitions or ("a",))
        worker.hello()
        self.workers.append(worker)
        return worker

    def enqueue(self, name: str = "a", count: int = 1, **options: object) -> list[str]:
        runs = [NewRun(str(ids.new_id()), name, codec.encode([[i], {}]), **options) for i in range(count)]  # type: ignore[arg-type]
        self.store.create_runs(runs)
        return [run.id for run in runs]

    def state(self, run_id: str) -> State:
        view = self.store.get_run(run_id)
        assert view is not None
        return view.state

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for orchestrator in self.orchestrators:
            orchestrator.close()
        self.store.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_a_run_is_dispatched_executed_and_recorded(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    delivery, message = worker.take()
    [dispatch] = message.runs
    assert not message.again
    worker.report(dispatch, m.COMPLETED, ms=3, e="json", r="42")
    worker.session.ack([delivery])
    worker.until(lambda: stage.state(run_id) is State.COMPLETED)
    detail = stage.store.detail(run_id)
    assert detail is not None
    assert detail.result == codec.Payload("json", "42")
    stage.pass_time(30)
    assert worker.deliveries == []


def test_a_retry_comes_back_at_its_time_under_a_new_epoch(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    delivery, message = worker.take()
    worker.report(message.runs[0], m.RETRY, ms=1, type="ValueError", message="no", tb="", delay=5)
    worker.session.ack([delivery])
    worker.until(lambda: stage.state(run_id) is State.WAITING)
    stage.pass_time(4)
    assert worker.deliveries == []
    _, message = worker.take()
    assert (message.runs[0].epoch, message.runs[0].attempt) == (2, 2)


def test_a_redelivered_run_that_nobody_holds_is_dispatched_anew(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    delivery, message = worker.take()
    worker.report(message.runs[0], m.INQUIRE, why="redelivered")
    worker.session.ack([delivery])
    _, message = worker.take()
    assert message.runs[0].epoch == 2
    assert any(c.kind == m.ASK for c in worker.controls)
    assert stage.state(run_id) is State.QUEUED


def test_a_run_that_somebody_holds_is_left_to_them_and_bound(stage: Stage) -> None:
    holder, other = stage.worker(), stage.worker()
    [run_id] = stage.enqueue()
    stage.turn()
    holder.until(lambda: bool(holder.deliveries or other.deliveries))
    taker = holder if holder.deliveries else other
    asker = other if taker is holder else holder
    _, message = taker.take()
    dispatch = message.runs[0]
    taker.held = [Held(dispatch.run_id, dispatch.epoch, taker.executor, 70_000)]
    asker.report(dispatch, m.INQUIRE, why="redelivered")

    def both() -> bool:
        taker.poll()
        return stage.state(run_id) is State.RUNNING

    asker.until(both)
    stage.pass_time(20)
    assert asker.deliveries == taker.deliveries == []
    taker.held = []
    taker.report(dispatch, m.COMPLETED, ms=90_000)
    taker.until(lambda: stage.state(run_id) is State.COMPLETED)


def test_a_silent_worker_holds_up_the_answer_until_it_is_lost_and_its_run_is_charged(stage: Stage) -> None:
    silent, other = stage.worker(), stage.worker()
    [run_id] = stage.enqueue()
    silent.until(lambda: bool(silent.deliveries or other.deliveries))
    if other.deliveries:
        silent, other = other, silent
    _, message = silent.take()
    silent.report(message.runs[0], m.STARTED, ms=300)
    silent.until(lambda: stage.state(run_id) is State.RUNNING)
    silent.close()
    stage.workers.remove(silent)
    stage.pass_time(15)
    assert stage.state(run_id) is State.RUNNING
    stage.pass_time(10)
    other.until(lambda: bool(other.deliveries))
    epochs = {other.take()[1].runs[0].epoch}
    assert epochs == {2} or 2 in epochs | {other.take()[1].runs[0].epoch}
    detail = stage.store.detail(run_id)
    assert detail is not None
    assert detail.run.crashes == 1
    assert [a.outcome for a in detail.attempts] == ["lost"]


@pytest.mark.parametrize("hello_again", [False, True])
def test_a_run_of_a_worker_that_was_killed_while_it_drained_is_not_charged(stage: Stage, hello_again: bool) -> None:
    """Time and again: so it is with deploys whose grace period is too short."""
    [run_id] = stage.enqueue()
    for deploy in range(4):
        worker = stage.worker()
        _, message = worker.take()
        while message.runs[0].epoch <= deploy:
            _, message = worker.take()
        worker.report(message.runs[0], m.STARTED, ms=300)
        worker.until(lambda: stage.state(run_id) is State.RUNNING)
        worker.beat(draining=1)
        if hello_again:
            worker.beat(m.HELLO, **worker.fields)
        worker.poll()
        worker.close()
        stage.workers.remove(worker)
        stage.pass_time(25)
        assert stage.state(run_id) is State.QUEUED
    detail = stage.store.detail(run_id)
    assert detail is not None
    assert (detail.run.crashes, detail.run.attempt, detail.attempts) == (0, 1, [])


def test_a_run_that_was_killed_with_its_worker_while_no_orchestrator_ran_is_not_charged(stage: Stage) -> None:
    """All is stopped at once: nobody hears that the worker drains, and what it has reported is read when somebody is back."""
    [run_id] = stage.enqueue()
    worker = stage.worker()
    _, message = worker.take()
    [dispatch] = message.runs
    worker.report(dispatch, m.STARTED, ms=300)
    worker.until(lambda: stage.state(run_id) is State.RUNNING)
    worker.beat()
    worker.poll()
    stage.orchestrators.pop().close()
    worker.send([Report(m.STARTED, dispatch.run_id, dispatch.epoch, {"ms": 400})], dispatch.partition, draining=True)
    worker.session.settled()
    worker.close()
    stage.workers.remove(worker)
    stage.pass_time(25)
    stage.orchestrator()
    stage.pass_time(30)
    assert stage.state(run_id) is State.QUEUED
    detail = stage.store.detail(run_id)
    assert detail is not None
    assert (detail.run.crashes, detail.run.attempt, detail.attempts) == (0, 1, [])
    [found] = stage.store.workers()
    assert (found.state, found.draining) == ("lost", True)


def test_that_a_worker_stops_is_noted_once_in_a_while_however_many_reports_say_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = stage.enqueue(count=20)
    worker = stage.worker()
    stage.orchestrators.pop().close()
    stage.orchestrator()  # knows the worker by its reports alone
    noted: list[str] = []
    note = stage.store.note_draining
    monkeypatch.setattr(stage.store, "note_draining", lambda *who: (noted.append(who[1]), note(*who)))
    for run_id in runs:
        worker.send([Report(m.STARTED, ids.to_bytes(run_id).hex(), 1, {"ms": 300})], 0, draining=True)
    worker.session.settled()
    worker.until(lambda: all(stage.state(run_id) is State.RUNNING for run_id in runs))
    assert noted == [worker.id]
    stage.seconds += AGAIN_SECONDS
    worker.send([Report(m.STARTED, ids.to_bytes(runs[0]).hex(), 1, {"ms": 400})], 0, draining=True)
    worker.until(lambda: len(noted) == 2)
    [found] = stage.store.workers()
    assert found.draining


def test_a_gap_of_the_orchestrator_gives_every_worker_a_full_term(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    _, message = worker.take()
    worker.report(message.runs[0], m.STARTED, ms=300)
    worker.held = [Held(message.runs[0].run_id, 1, worker.executor, 300)]
    worker.until(lambda: stage.state(run_id) is State.RUNNING)
    stage.orchestrators.pop().close()
    stage.clock.move(120)
    stage.seconds += 120
    stage.orchestrator()
    for _ in range(15):
        stage.pass_time(1, beating=False)
    assert stage.state(run_id) is State.RUNNING
    worker.beat()
    stage.pass_time(60)
    assert stage.state(run_id) is State.RUNNING
    detail = stage.store.detail(run_id)
    assert detail is not None
    assert detail.attempts == []


def test_the_sweeper_and_another_publisher_of_one_delivery_make_one_execution(stage: Stage) -> None:
    """The claim ran out although the copy was sent: the marked copy inquires, the first executes."""
    worker = stage.worker()
    run = NewRun(str(ids.new_id()), "a", codec.encode([[1], {}]))
    created = stage.store.create_runs([run], claim=1)
    from aiki.publishing import pack

    for packed in pack(created.outgoing):
        worker.session.send(packed.to, packed.body)
    stage.pass_time(2)
    worker.until(lambda: len(worker.deliveries) == 2)
    _, first = worker.take()
    _, second = worker.take()
    assert [first.again, second.again] == [False, True]
    worker.held = [Held(first.runs[0].run_id, 1, worker.executor, 10)]
    worker.report(second.runs[0], m.INQUIRE, why="again")
    worker.until(lambda: stage.state(run.id) is State.RUNNING)
    worker.held = []
    worker.report(first.runs[0], m.COMPLETED, ms=20)
    worker.until(lambda: stage.state(run.id) is State.COMPLETED)
    stage.pass_time(30)
    assert worker.deliveries == []


def test_a_marked_copy_whose_original_is_not_begun_is_revoked_and_dispatched_anew(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    _, message = worker.take()
    worker.report(message.runs[0], m.INQUIRE, why="again")
    _, message = worker.take()
    assert message.runs[0].epoch == 2
    raw = run_id.replace("-", "")
    assert any(c.kind == m.REVOKE and c.runs == [(raw, 1)] for c in worker.controls)
    newcomer = stage.worker()
    snapshot = next(c for c in newcomer.controls if c.kind == m.SNAPSHOT)
    assert snapshot.runs == [(raw, 1)]
    worker.send([Report(m.DROPPED, raw, 1, {})], message.runs[0].partition)
    worker.until(lambda: stage.store.revocations("default", "default")[0] == [])


def test_a_stalled_run_goes_on_when_a_worker_that_knows_it_says_hello(stage: Stage) -> None:
    worker = stage.worker("b")
    [run_id] = stage.enqueue("a")
    delivery, message = worker.take()
    worker.report(message.runs[0], m.UNKNOWN, name="a", version="1")
    worker.session.ack([delivery])
    worker.until(lambda: stage.state(run_id) is State.STALLED)
    stage.pass_time(30)
    assert stage.state(run_id) is State.STALLED
    worker.close()
    stage.workers.remove(worker)
    knowing = stage.worker("a")
    _, message = knowing.take()
    assert message.runs[0].run_id == run_id.replace("-", "")


def test_a_lost_dispatch_is_found_through_a_marker(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    delivery, _message = worker.take()
    worker.session.ack([delivery])  # taken, and never heard of again
    for _ in range(10):
        stage.pass_time(10)
        if worker.deliveries:
            break
    assert stage.state(run_id) is State.QUEUED
    stage.workers.clear()  # from here on the test moves it
    _, again = worker.take()
    assert again.again
    assert again.runs[0].epoch == 1
    worker.report(again.runs[0], m.INQUIRE, why="again")
    _, anew = worker.take()
    assert (anew.runs[0].epoch, anew.again) == (2, False)
    assert worker.markers >= 1
    worker.close()


def test_nothing_is_acked_before_its_commit_and_a_killed_orchestrators_reports_come_again(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    _, message = worker.take()
    stage.orchestrators[0].disconnect()
    stage.orchestrators.clear()
    worker.report(message.runs[0], m.COMPLETED, ms=1)
    worker.poll()
    stage.orchestrator()
    worker.until(lambda: stage.state(run_id) is State.COMPLETED)
    assert stage.broker.connect("look").depth(reports(message.runs[0].partition)) is not None


def test_an_unreadable_report_becomes_a_dead_letter_and_the_others_go_on(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue()
    _, message = worker.take()
    partition = message.runs[0].partition
    worker.session.send(reports(partition), b"not json")
    worker.send([Report("from-the-future", message.runs[0].run_id, 1, {})], partition)
    worker.report(message.runs[0], m.COMPLETED, ms=1)
    worker.until(lambda: stage.state(run_id) is State.COMPLETED and stage.store.dead_letter_count() == 2)


def test_an_expired_run_is_cancelled_and_revoked(stage: Stage) -> None:
    worker = stage.worker()
    [run_id] = stage.enqueue(expires_at=stage.clock.now + 3_000_000)
    worker.take()
    stage.pass_time(5)
    assert stage.state(run_id) is State.CANCELLED
    assert any(c.kind == m.REVOKE for c in worker.controls)


def test_two_orchestrators_share_the_work_and_record_each_result_once(stage: Stage) -> None:
    stage.orchestrator()
    worker = stage.worker()
    run_ids = stage.enqueue(count=60)
    seen: set[str] = set()
    while len(seen) < 60:
        delivery, message = worker.take()
        for dispatch in message.runs:
            assert dispatch.run_id not in seen
            seen.add(dispatch.run_id)
            worker.report(dispatch, m.COMPLETED, ms=1, r="1")
        worker.session.ack([delivery])
    stage.orchestrators[0].disconnect()
    stage.orchestrators.pop(0)
    worker.until(lambda: all(stage.state(run_id) is State.COMPLETED for run_id in run_ids))
    assert stage.broker.connect("look").depth(work("default", "default")) == (0, 1)
