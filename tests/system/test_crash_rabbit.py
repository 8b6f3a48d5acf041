"""RabbitMQ down, killed, stopped, its queues deleted: enqueue goes on, nothing is lost, everybody comes back by itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator

import amqp
import pytest

from aiki.states import State
from tests.services import RabbitServer
from tests.system.load import Load
from tests.system.system import Marks, System
from tests.waiting import wait_until

FULL = bool(os.environ.get("AIKI_TEST_FULL"))
BACK = 15.0
DEADLINE = 5.5


@pytest.fixture
def system(make_system: Callable[..., System], own_rabbit: RabbitServer, mysql_database: str) -> Iterator[System]:
    own_rabbit.start()
    yield make_system(mysql_database, own_rabbit.url)
    own_rabbit.sigcont()
    own_rabbit.start()


def started_twice(system: System) -> dict[str, int]:
    return {what: count for what, count in system.starts().items() if count > 1}


def test_what_is_enqueued_while_the_broker_is_down_runs_when_it_is_back(system: System, own_rabbit: RabbitServer) -> None:
    system.orchestrator()
    system.worker()
    marked = system.app().definitions["shop.marked"]
    assert marked.enqueue(0).result(timeout=30) == 0
    own_rabbit.kill9()
    begun = time.monotonic()
    accepted = {i: marked.enqueue(i).id for i in range(1, 20)}
    accepted |= dict(enumerate((handle.id for handle in marked.enqueue_many([(i,) for i in range(20, 120)])), 20))
    # An app that has never seen the broker.
    accepted |= {i: system.app().definitions["shop.marked"].enqueue(i).id for i in (120, 121)}
    assert time.monotonic() - begun < 10
    own_rabbit.start()
    back = time.monotonic()
    system.wait_completed(accepted)
    print(f"all had run {time.monotonic() - back:.1f} s after the broker's return")
    assert started_twice(system) == {}


@pytest.mark.parametrize("server", ["own_rabbit", "own_rabbit4"])
def test_a_broker_killed_under_load_loses_nothing_and_all_are_back_in_time(
    make_system: Callable[..., System], mysql_database: str, server: str, request: pytest.FixtureRequest
) -> None:
    broker: RabbitServer = request.getfixturevalue(server)
    system = make_system(mysql_database, broker.start().url)
    system.orchestrator()
    system.orchestrator()
    workers = [system.worker(concurrency=2), system.worker(concurrency=2)]
    app = system.app()
    pids = [worker.pid for worker in workers]
    took = []
    with Load(app.definitions["shop.marked"], rate=100) as load:
        for _ in range(5 if FULL else 2):
            before = len(load.accepted)
            wait_until(lambda before=before: len(load.accepted) >= before + 200, 30, "runs to be accepted")
            broker.restart()
            back, clock = time.monotonic(), time.time()
            for worker in workers:
                wait_until(
                    lambda worker=worker, clock=clock: {c.pid for c in worker.children()} & consumed(system, clock),
                    60,
                    f"{worker.name} to consume again\n{worker.log[-2000:]}",
                )
            took.append(time.monotonic() - back)
    system.wait_completed(load.accepted)
    print(f"all workers consumed again after {', '.join(f'{seconds:.1f}' for seconds in took)} s")
    assert load.refused == 0
    assert load.slowest < DEADLINE
    assert [worker.pid for worker in workers] == pids
    assert all(worker.process.poll() is None for worker in workers)
    assert max(took) <= BACK
    assert system.result_count() == system.states()[State.COMPLETED]
    assert started_twice(system) == {}


def consumed(system: System, since: float) -> set[int]:
    """The processes that have begun a task since a time."""
    return {pid for kind, _, pid, at in system.marks() if kind == "start" and at > since}


def test_a_stopped_broker_delays_no_enqueue_beyond_its_deadline(system: System, own_rabbit: RabbitServer) -> None:
    others = set(threading.enumerate())
    system.orchestrator()
    workers = [system.worker(concurrency=2)]
    app = system.app()
    with Load(app.definitions["shop.marked"], rate=100) as load:
        wait_until(lambda: len(load.accepted) >= 100, 30, "runs to be accepted")
        own_rabbit.sigstop()
        end = time.monotonic() + (60 if FULL else 15)
        before = len(load.accepted)
        fresh = system.app()  # connects for the first time
        begun = time.monotonic()
        extra = {1_000_000: fresh.definitions["shop.marked"].enqueue(1_000_000).id}
        assert time.monotonic() - begun < DEADLINE
        wait_until(lambda: time.monotonic() >= end, 70)
        assert len(load.accepted) > before + 300
        own_rabbit.sigcont()
        back, clock = time.monotonic(), time.time()
        wait_until(lambda: consumed(system, clock), 60, f"consuming\n{system.tails()}")
        print(f"consumed again {time.monotonic() - back:.1f} s after SIGCONT")
    system.wait_completed({**load.accepted, **extra}, 90)
    assert load.refused == 0
    assert load.slowest < DEADLINE
    assert started_twice(system) == {}
    assert all(worker.process.poll() is None for worker in workers)
    app.close()
    fresh.close()
    wait_until(lambda: not _of_clients(others), 10, f"the clients' threads to end: {_of_clients(others)}")


def _of_clients(others: set[threading.Thread]) -> list[str]:
    """Threads of clients that have not ended, less `others`."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("aiki") and thread not in others]


def test_report_queues_deleted_under_load_lose_nothing(system: System, own_rabbit: RabbitServer) -> None:
    system.orchestrator()
    system.orchestrator()
    system.worker(concurrency=2)
    app = system.app()
    with Load(app.definitions["shop.marked"], rate=100) as load:
        for partition in range(4):
            before = len(load.accepted)
            wait_until(lambda before=before: len(load.accepted) >= before + 100, 30, "runs to be accepted")
            delete_queue(own_rabbit, f"{system.settings.prefix}.reports.{partition}")
    # What was in the queues is found to be missing and asked for after half a minute.
    system.wait_completed(load.accepted, 120)
    assert system.result_count() == system.states()[State.COMPLETED]
    print(f"started twice: {len(started_twice(system))}")


def delete_queue(rabbit: RabbitServer, name: str) -> None:
    connection = amqp.Connection(host=f"127.0.0.1:{rabbit.port}", connect_timeout=5)
    connection.connect()
    connection.channel().queue_delete(name)
    connection.close()


def drained(system: System, first: int, count: int) -> float:
    """Wait until runs `first` … have all been executed; how many a second, from the end of the first nap before them on."""
    # Only what is new is read: to parse the whole ledger time and again would take half a core from those who are measured.
    ledger = Marks(system.ledger)
    naps: list[float] = []
    times: list[float] = []

    def all_done() -> bool:
        for mark in ledger.new():
            if mark.kind == "done" and first - 10 <= int(mark.what) < first + count:
                (naps if int(mark.what) < first else times).append(mark.at)
        return len(times) >= count

    wait_until(all_done, 180, f"the backlog to drain\n{system.tails()}")
    return count / (max(times) - min(naps))


def test_a_broker_restarted_with_a_backlog_starts_nothing_twice_and_drains_on(system: System, own_rabbit: RabbitServer) -> None:
    count = 50_000 if FULL else 4000
    system.orchestrator()
    system.worker(concurrency=4)
    app = system.app()
    nap, marked = app.definitions["shop.nap"], app.definitions["shop.marked"]
    rates = []
    for position, (seconds, restart) in enumerate([(3.0, False), (60.0 if FULL else 22.0, True)]):
        first = 10_000_000 * (position + 1)
        for i in range(4):
            nap.enqueue(first - 10 + i, seconds)
        wait_until(lambda first=first: all(system.starts()[str(first - 10 + i)] for i in range(4)), 30, "four to be begun")
        marked.enqueue_many([(first + i,) for i in range(count)])
        if restart:
            wait_until(lambda: not system.rows("SELECT 1 FROM aiki_deliveries LIMIT 1"), 60, "all to be published")
            own_rabbit.restart()
        rates.append(drained(system, first, count))
        wait_until(lambda: system.states()[State.COMPLETED] == sum(system.states().values()), 120, "all to complete")
    print(f"drained {rates[0]:.0f}/s without, {rates[1]:.0f}/s with a restart: ratio {rates[1] / rates[0]:.2f}")
    assert started_twice(system) == {}
    assert system.attempts() == []
    # Some thousand are gone in a second or two: then others' load on the machine weighs too much for the real limit.
    assert rates[1] > rates[0] * (0.5 if FULL else 0.3)
