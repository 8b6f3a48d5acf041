"""A broker that takes a dispatch back when it is not acked in time: a long run is leased instead, and runs once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import amqp
import pytest

from tests.services import RabbitServer
from tests.system.system import System
from tests.waiting import wait_until

FULL = bool(os.environ.get("AIKI_TEST_FULL"))
TIMEOUT = 60 if FULL else 14
LENGTH = 180.0 if FULL else 32.0


@pytest.fixture(scope="module")
def strict_rabbit() -> Iterator[RabbitServer]:
    """A RabbitMQ that takes back what is not acked after `TIMEOUT` seconds, and looks often."""
    with RabbitServer(config=[f"consumer_timeout = {TIMEOUT * 1000}"]) as server:
        # It looks once a minute by default; this is for channels opened from now on.
        server.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 1000).")
        yield server


@pytest.fixture
def system(make_system: Callable[..., System], strict_rabbit: RabbitServer, mysql_database: str) -> System:
    return make_system(mysql_database, strict_rabbit.url)


def closed_by_timeout(rabbit: RabbitServer) -> Callable[[], bool]:
    """Takes a message and never acks it; tells whether the broker has closed the channel for that."""
    connection = amqp.Connection(host=f"127.0.0.1:{rabbit.port}", connect_timeout=5)
    connection.connect()
    channel = connection.channel()
    channel.queue_declare("control", auto_delete=True)
    channel.basic_publish(amqp.Message("x"), routing_key="control")
    channel.basic_consume("control", callback=lambda message: None)

    def closed() -> bool:
        try:
            connection.drain_events(timeout=0.01)
        except TimeoutError:
            return False
        except amqp.PreconditionFailed as error:
            connection.collect()
            return "timeout" in error.reply_text
        return False

    return closed


def test_a_run_longer_than_the_consumer_timeout_runs_once(system: System, strict_rabbit: RabbitServer) -> None:
    enforced = closed_by_timeout(strict_rabbit)
    system.orchestrator()
    system.worker(concurrency=1)
    busy = system.worker(concurrency=1)
    spare = system.worker(concurrency=2)
    app = system.app()
    runs = {1: app.definitions["shop.nap"].enqueue(1, LENGTH).id, 2: app.definitions["shop.spin"].enqueue(2, LENGTH).id}
    wait_until(lambda: system.starts()["1"] == system.starts()["2"] == 1, 20, "both to begin")
    begun = time.monotonic()
    name = f"{system.settings.prefix}.work.default.default"
    unacked = ["list_queues", "name", "messages_unacknowledged", "-p", "/"]

    def leased() -> bool:
        rows = [line.split("\t") for line in strict_rabbit.ctl(*unacked).splitlines()]
        return [name, "0"] in rows

    wait_until(leased, 30, "both dispatches to be acked while the runs go on")
    took = time.monotonic() - begun
    print(f"acked after {took:.1f} s")
    assert took < TIMEOUT
    wait_until(enforced, 2 * TIMEOUT + 60, "the broker to enforce its time-out")
    system.wait_completed(runs, LENGTH + 60)
    assert system.starts() == {"1": 1, "2": 1}
    assert system.attempts() == []
    for worker in (busy, spare):
        assert "no connection" not in worker.log, worker.log[-2000:]


def test_a_run_that_holds_the_gil_past_the_consumer_timeout_starts_once(system: System) -> None:
    system.orchestrator()
    system.worker(concurrency=1)
    system.worker(concurrency=1)
    run = system.app().definitions["shop.backtrack"].enqueue(1, gil_length(1.4 * TIMEOUT))
    wait_until(lambda: "done" in {kind for kind, _, _, _ in system.marks()}, 15 * TIMEOUT, "the match to end")
    begun = {kind: at for kind, _, _, at in system.marks()}
    print(f"held the GIL for {begun['done'] - begun['start']:.0f} s")
    assert begun["done"] - begun["start"] > TIMEOUT
    system.wait_completed({1: run.id}, 60)
    assert system.starts() == {"1": 1}


def gil_length(seconds: float) -> int:
    """How many characters `shop.backtrack` needs to take at least so long here, and at most twice."""
    import re

    length = 20
    while True:
        begun = time.process_time()
        re.match(r"(a+)+$", "a" * length + "b")
        took = time.process_time() - begun
        if took > 0.2:
            break
        length += 1
    while took < seconds:
        took *= 2
        length += 1
    return length
