"""Orchestrators and servers killed, stopped, and away: nothing is lost, nothing is recorded or started twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from aiki import ids
from aiki.lifecycle.record import delivery_id
from aiki.states import State
from aiki.storage.creating import DELIVERY_COLUMNS
from tests.system.load import Load
from tests.system.system import System
from tests.waiting import wait_until

FULL = bool(os.environ.get("AIKI_TEST_FULL"))


@pytest.fixture
def system(chosen_system: System) -> System:
    """These take long."""
    return chosen_system


def started_twice(system: System) -> dict[str, int]:
    return {what: count for what, count in system.starts().items() if count > 1}


def check(system: System, load: Load) -> None:
    """All that was accepted has completed, with one result each, and was started once."""
    system.wait_completed(load.accepted)
    assert system.result_count() == system.states()[State.COMPLETED]
    assert started_twice(system) == {}


def test_orchestrators_killed_under_load_lose_nothing_and_start_nothing_twice(system: System) -> None:
    orchestrators = [system.orchestrator(), system.orchestrator()]
    system.worker(concurrency=2)
    app = system.app()
    chance = random.Random(2)
    app.definitions["shop.nap"].enqueue_many([(100_000 + i, 5.0) for i in range(1)])
    with Load(app.definitions["shop.marked"], rate=80) as load:
        end = time.monotonic() + (60 if FULL else 20)
        while time.monotonic() < end:
            pause = time.monotonic() + 3
            # Sometimes both: then there is none for a moment.
            for position in chance.choice([[0], [1], [0, 1]]):
                orchestrators[position].kill9()
                orchestrators[position] = system.orchestrator()
            wait_until(lambda pause=pause: time.monotonic() >= pause, 10)
    assert len(load.accepted) > 500
    assert load.refused == 0
    check(system, load)


def test_a_server_killed_under_load_loses_nothing_that_it_accepted(system: System, free_port: Callable[[], int]) -> None:
    port = free_port()
    system.orchestrator()
    system.worker(concurrency=2)
    server = system.server(port)
    wait_until(lambda: answers(port), 30, "the server to answer")
    app = system.app(server_url=f"http://127.0.0.1:{port}", database_url=None, broker_url=None)
    with Load(app.definitions["shop.marked"], rate=50) as load:
        for _ in range(5 if FULL else 2):
            before = len(load.accepted)
            wait_until(lambda before=before: len(load.accepted) >= before + 80, 30, "runs to be accepted")
            server.kill_group()
            server = system.server(port)
    assert load.slowest < 5.5
    check(system, load)


def answers(port: int) -> bool:
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_no_run_starts_twice_when_all_orchestrators_were_away_for_longer_than_a_lease(system: System) -> None:
    away = 120.0 if FULL else 12.0
    system.env["AIKI_LEASE"] = "20" if FULL else "5"
    orchestrator = system.orchestrator()
    system.worker(concurrency=2)
    app = system.app()
    nap, marked = app.definitions["shop.nap"], app.definitions["shop.marked"]
    long = {i: nap.enqueue(i, away + 15).id for i in (1, 2)}
    wait_until(lambda: system.states()[State.RUNNING] == 2, 20, "both to be seen running")
    system.worker(concurrency=2)
    short = {i: marked.enqueue(i).id for i in range(10, 60)}
    system.wait_completed(short)
    orchestrator.kill9()
    back = time.monotonic() + away
    # Enqueued with nobody there: published by this process, executed, and reported to nobody.
    later = {i: marked.enqueue(i).id for i in range(100, 200)}
    wait_until(lambda: time.monotonic() >= back, away + 5)
    system.orchestrator()
    system.wait_completed({**long, **later}, 90)
    assert started_twice(system) == {}
    assert system.attempts() == []


def test_an_orchestrator_stopped_in_the_middle_of_a_transaction_does_not_stop_the_other(real_system: System) -> None:
    system = real_system
    first = system.orchestrator()
    system.worker(concurrency=2)
    second = system.orchestrator()
    wait_until(lambda: "listening" in second.log, 30, "the second orchestrator to listen")
    app = system.app()
    with Load(app.definitions["shop.marked"], rate=100) as load:
        wait_until(lambda: len(load.accepted) > 100, 30, "load")
        stopped = stop_in_transaction(system, [first.pid, second.pid])
        begun = time.monotonic()
        seen = system.states()[State.COMPLETED]
        wait_until(lambda: system.states()[State.COMPLETED] > seen + 50, 60, "the other orchestrator to go on")
        gap = time.monotonic() - begun
        rest = begun + (60 if FULL else 30)
        wait_until(lambda: time.monotonic() >= rest, 70)
        os.kill(stopped, signal.SIGCONT)
        before = len(load.accepted)
        wait_until(lambda: len(load.accepted) > before + 100, 30, "load")
    print(f"the other orchestrator went on after {gap:.1f} s")
    check(system, load)
    assert gap < 45
    assert first.process.poll() is None
    assert second.process.poll() is None


def stop_in_transaction(system: System, pids: list[int]) -> int:
    """SIGSTOP for the orchestrator that is in the middle of a transaction which has written: this holds a row it needs next."""
    run = system.app().definitions["shop.nap"].enqueue(1_000_000, 1.5)
    wait_until(lambda: run.status() is State.RUNNING, 20, "the run to be seen running")
    with system.store.db.engine.connect() as connection:
        # Whoever records the end of the run deletes its delivery last of all, and waits for this one.
        system.store.db.insert(
            connection, "aiki_deliveries", DELIVERY_COLUMNS, [("default", delivery_id(ids.to_bytes(run.id), 1), 1 << 60, 0)]
        )
        stopped = wait_until(lambda: writer(system, pids), 20, "an orchestrator to wait for the row")
        psutil.Process(stopped).suspend()
        connection.rollback()
    return stopped


def writer(system: System, pids: list[int]) -> int | None:
    """Which of the processes waits for a lock in a transaction that has changed rows."""
    time.sleep(0.15)  # the server refreshes this table only when nobody has read it for a tenth of a second
    rows = system.rows(
        "SELECT p.host FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
        "ON p.id = t.trx_mysql_thread_id WHERE t.trx_rows_modified > 0 AND t.trx_state = 'LOCK WAIT'"
    )
    ports = {int(row[0].rpartition(":")[2]) for row in rows}
    for pid in pids:
        if ports & {c.laddr.port for c in psutil.Process(pid).net_connections("tcp") if c.raddr}:
            return pid
    return None
