"""Enqueueing while RabbitMQ is stopped, stuck or killed: it returns in time, and what was recorded stays recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aiki.broker import open_broker, work
from aiki.client.embedded import EmbeddedClient
from aiki.messages import DispatchList
from aiki.settings import Settings
from aiki.storage import Store
from tests.client.contract import new_run
from tests.client.test_embedded import settings_for
from tests.services import RabbitServer
from tests.waiting import wait_until


@pytest.fixture
def settings(tmp_path: Path, own_rabbit: RabbitServer) -> Settings:
    return replace(settings_for(tmp_path), broker_url=own_rabbit.url, prefix=tmp_path.name.replace("_", "-")[:40])


@pytest.fixture
def client(settings: Settings) -> Iterator[EmbeddedClient]:
    made = EmbeddedClient(settings)
    made.store.ping()
    yield made
    made.close()


@pytest.fixture
def store(settings: Settings, client: EmbeddedClient) -> Iterator[Store]:
    made = Store(settings.database_url)
    made.check_schema()
    yield made
    made.close()


def slowest(client: EmbeddedClient, count: int) -> float:
    times = []
    for number in range(count):
        began = time.monotonic()
        client.enqueue([new_run(number)])
        times.append(time.monotonic() - began)
    return max(times)


def is_published(client: EmbeddedClient) -> bool:
    """Whether a new run leaves by the fast way."""
    before = client.publisher.confirmed
    client.enqueue([new_run("probe")])
    wait_until(lambda: client.publisher.confirmed > before or client.publisher.down, 10)
    return client.publisher.confirmed > before


@pytest.mark.parametrize("connected", [True, False])
def test_a_stopped_broker_holds_nobody_up(
    client: EmbeddedClient, settings: Settings, own_rabbit: RabbitServer, connected: bool
) -> None:
    if connected:
        assert is_published(client)
    own_rabbit.sigstop()
    try:
        assert slowest(client, 50) < settings.timeout
        wait_until(lambda: client.publisher.down, 15, "the silence to be noticed")
        assert not client.publisher.accepting()
        assert slowest(client, 50) < settings.timeout
    finally:
        own_rabbit.sigcont()
    wait_until(lambda: not client.publisher.down, 30, "the broker to be used again")
    wait_until(lambda: is_published(client), 30, "runs to be published again")


def test_a_killed_broker_is_used_again_when_it_is_back(client: EmbeddedClient, store: Store, own_rabbit: RabbitServer) -> None:
    assert is_published(client)
    own_rabbit.kill9()
    wait_until(lambda: client.publisher.down, 15, "the loss to be noticed, with nothing to send")
    client.enqueue([new_run("down")])
    own_rabbit.start()
    wait_until(lambda: not client.publisher.down, 40, "the broker to be used again")
    assert is_published(client)
    left = store.claim_due().outgoing
    assert [item.dispatch.input for item in left] == ['[["down"],{}]']
    assert not any(item.again for item in left), "it was certainly never sent"


def test_lists_reach_a_worker(client: EmbeddedClient, settings: Settings) -> None:
    runs = [new_run(i) for i in range(2000)]
    client.enqueue(runs[:1000], batch=40)
    client.enqueue(runs[1000:], batch=40)
    session = open_broker(settings.broker_url, prefix=settings.prefix).connect("test")
    session.subscribe(work("default", "default"), 200)
    taken: list[str] = []

    def all_taken() -> bool:
        for delivery in session.receive(1):
            dispatch = DispatchList.decode(delivery.body)
            assert len(dispatch.runs) == 40
            taken.extend(run.run_id for run in dispatch.runs)
        return len(taken) >= 2000

    wait_until(all_taken, 20)
    assert sorted(taken) == [run.id.replace("-", "") for run in runs]
    session.close()
