"""How work and reports flow: what a slow task holds up, prompt reports, leases, lost connections."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import amqp
from kombu import Connection

from aiki import messages
from aiki.broker import Address, reports, work
from aiki.broker.topology import Topology
from aiki.messages import ReportList
from tests.services import RabbitServer
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import NAMESPACE, Orchestrator, Worker, broker_of, key, make


def test_short_tasks_do_not_wait_behind_a_slow_one_while_a_child_is_idle(
    place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    start("-c", "2")
    warm = [orchestrator.run("noop") for _ in range(40)]
    orchestrator.ended(warm)  # both children take many messages ahead now
    slow = make("sleep", 6.0)
    short = [make("sleep", 0.01, partition=number % 4) for number in range(50)]
    began = time.monotonic()
    orchestrator.dispatch(slow)
    for run in short:
        orchestrator.dispatch(run)
    ended = orchestrator.ended(short)
    assert max(item.at for item in ended.values()) - began < 3
    assert {item.kind for item in ended.values()} == {messages.COMPLETED}
    assert orchestrator.of(slow, messages.COMPLETED) == []


def test_the_same_holds_inside_one_message(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "2")
    orchestrator.ended([orchestrator.run("noop") for _ in range(40)])
    slow, short = make("sleep", 6.0), [make("sleep", 0.01) for _ in range(50)]
    began = time.monotonic()
    orchestrator.dispatch(slow, *short)
    ended = orchestrator.ended(short)
    assert max(item.at for item in ended.values()) - began < 3
    assert orchestrator.of(slow, messages.COMPLETED) == []
    assert {item.kind for item in ended.values()} == {messages.COMPLETED}


def test_a_long_list_is_shared_with_an_idle_child(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "2")
    warm = [orchestrator.run("sleep", 0.2) for _ in range(4)]
    orchestrator.ended(warm)
    runs = [make("sleep", 0.04) for _ in range(50)]
    orchestrator.dispatch(*runs)
    ended = orchestrator.ended(runs)
    by_child = {name: sum(item.executor == name for item in ended.values()) for name in {i.executor for i in ended.values()}}
    assert len(by_child) == 2
    assert min(by_child.values()) >= 10
    assert {item.kind for item in ended.values()} == {messages.COMPLETED}


def test_what_waits_behind_a_slow_task_is_given_back_to_other_workers(
    place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    start("-c", "1")
    orchestrator.ended([orchestrator.run("noop") for _ in range(20)])
    slow, short = make("sleep", 8.0), [make("sleep", 0.01) for _ in range(5)]
    orchestrator.dispatch(slow, *short)
    orchestrator.report(slow, messages.STARTED)
    start("-c", "1")
    ended = orchestrator.ended(short)
    assert {item.kind for item in ended.values()} == {messages.COMPLETED}
    assert orchestrator.of(slow, messages.COMPLETED) == []


def test_a_finished_report_goes_out_although_the_next_task_is_slow(
    place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    start("-c", "1")
    orchestrator.report(orchestrator.run("noop"))
    short, slow = make("noop"), make("sleep", 2.0)
    orchestrator.dispatch(short, slow)
    began = time.monotonic()
    assert orchestrator.report(short).at - began < 0.5
    assert orchestrator.of(slow, messages.COMPLETED) == []


def test_a_leased_run_is_acked_and_still_charged_when_its_child_dies(
    place: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1")
    run = orchestrator.run("touch_and_wait", str(tmp_path / "pid"), str(tmp_path / "never"))
    orchestrator.report(run, messages.STARTED)
    # Once it is acked the queue can be deleted or its consumer timed out; here it shows as no redelivery after the death.
    beat = orchestrator.beat(messages.BEAT, lambda beat: bool(beat.held) and beat.held[0].ms > 12_000, timeout=25)
    assert [(item.run_id, item.epoch) for item in beat.held] == [key(run)]
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert orchestrator.report(run).kind == messages.CRASHED
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    assert not orchestrator.of(run, messages.INQUIRE)


def test_results_larger_than_a_batch(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    runs = [make("text", 700_000) for _ in range(12)]
    orchestrator.dispatch(*runs)
    ended = orchestrator.ended(runs)
    assert {len(item.body["r"]) for item in ended.values()} == {700_002}


def test_a_broker_that_is_killed_and_returns(own_rabbit: RabbitServer, tmp_path: Path) -> None:
    prefix = "worker" + os.urandom(4).hex()
    orchestrator = Orchestrator(broker_of(own_rabbit.url, prefix))
    worker = Worker(own_rabbit.url, prefix, tmp_path / "log", "-c", "2")
    try:
        orchestrator.report(orchestrator.run("noop"))
        release = tmp_path / "release"
        running = [orchestrator.run("touch_and_wait", str(tmp_path / f"pid{n}"), str(release)) for n in range(2)]
        wait_until(lambda: all((tmp_path / f"pid{n}").exists() for n in range(2)), what="both to run")
        orchestrator.dispatch(make("noop"))
        orchestrator.close()
        own_rabbit.kill9()
        wait_until(lambda: worker.log.count("no connection to the broker") >= 1, what="the loss to be noticed")
        own_rabbit.start()
        orchestrator = Orchestrator(broker_of(own_rabbit.url, prefix))
        release.touch()
        for run in running:
            assert orchestrator.report(run, messages.COMPLETED, timeout=30).kind == messages.COMPLETED
        back = time.monotonic()
        assert orchestrator.report(orchestrator.run("noop"), timeout=30).kind == messages.COMPLETED
        assert time.monotonic() - back < 15
    finally:
        worker.stop()
        print(worker.log)
        orchestrator.close()


def test_a_busy_child_has_a_backlog_settled_after_the_broker_was_killed(own_rabbit: RabbitServer, tmp_path: Path) -> None:
    own_rabbit.start()
    prefix = "worker" + os.urandom(4).hex()
    orchestrator = Orchestrator(broker_of(own_rabbit.url, prefix))
    worker = Worker(own_rabbit.url, prefix, tmp_path / "log", "-c", "1")
    try:
        release = tmp_path / "release"
        running = orchestrator.run("touch_and_wait", str(tmp_path / "pid"), str(release))
        wait_until(lambda: (tmp_path / "pid").exists(), 15, "the run to begin")
        backlog = [orchestrator.run("noop") for _ in range(50)]
        orchestrator.close()
        own_rabbit.restart()
        orchestrator = Orchestrator(broker_of(own_rabbit.url, prefix))
        ended = orchestrator.ended(backlog)
        assert {item.kind for item in ended.values()} == {messages.INQUIRE}
        # What may be begun does not wait behind the run.
        fresh = orchestrator.run("noop")
        time.sleep(2)
        assert not orchestrator.of(running, messages.COMPLETED)
        assert orchestrator.depth() == 1
        release.touch()
        assert orchestrator.report(running, messages.COMPLETED).kind == messages.COMPLETED
        assert orchestrator.report(fresh).kind == messages.COMPLETED
    finally:
        worker.stop()
        print(worker.log)
        orchestrator.close()


def test_a_report_whose_queue_is_gone_is_sent_again(
    rabbit_place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    start("-c", "1")
    first, second = make("noop", partition=17), make("noop", partition=17)
    orchestrator.dispatch(first)
    wait_until(lambda: depth(orchestrator, reports(17)) == 1, what="the first report")
    delete_queue(rabbit_place, reports(17))
    orchestrator.dispatch(second)
    # Its dispatch was not acked when the session ended, so an inquiry may follow it.
    wait_until(lambda: depth(orchestrator, reports(17)), what="the second report")
    session = orchestrator.broker.connect("reads the reports")
    session.subscribe(reports(17), 10)
    found = wait_until(lambda: session.receive(0.1))
    first_report = ReportList.decode(found[0].body).reports[0]
    assert (first_report.kind, first_report.run_id) == (messages.COMPLETED, second.run_id)
    session.close()


def test_a_work_queue_that_is_gone_is_declared_again(
    rabbit_place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    worker = start("-c", "1")
    orchestrator.report(orchestrator.run("noop"))
    delete_queue(rabbit_place, work(NAMESPACE, "default"))
    wait_until(lambda: "was its queue deleted?" in worker.log, what="the loss to be noticed")
    # A queue that is declared is not bound yet: until it is, what is sent to it comes back.
    wait_until(lambda: consumers(rabbit_place, work(NAMESPACE, "default")) == 1, what="the worker to be back at its queue")
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED


def depth(orchestrator: Orchestrator, address: Address) -> int | None:
    session = orchestrator.broker.connect("looks at a queue")
    found = session.depth(address)
    session.close()
    return None if found is None else found.ready


def consumers(place: Place, address: Address) -> int | None:
    with Connection(place.url) as connection:
        try:
            name = Topology(place.prefix, "classic").queue_name(address)
            return int(connection.channel().queue_declare(name, passive=True).consumer_count)
        except amqp.NotFound:
            return None


def delete_queue(place: Place, address: Address) -> None:
    with Connection(place.url) as connection:
        connection.channel().queue_delete(Topology(place.prefix, "classic").queue_name(address))
