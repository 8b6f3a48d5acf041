"""Fixtures: a broker of either kind, a hand-fed orchestrator on it, workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.worker.harness import Orchestrator, Worker, broker_of


class Place(NamedTuple):
    """Where a test's messages go."""

    url: str
    prefix: str


StartWorker = Callable[..., Worker]


@pytest.fixture(params=["sqlite", pytest.param("amqp", id="amqp")])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A broker that nobody else uses: both kinds, one after the other."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path}/broker.db", "t")
    return Place(request.getfixturevalue("amqp_url"), "worker" + os.urandom(4).hex())


@pytest.fixture
def embedded(tmp_path: Path) -> Place:
    """The embedded broker alone, for what does not depend on the broker."""
    return Place(f"sqlite:///{tmp_path}/broker.db", "t")


@pytest.fixture
def rabbit_place(amqp_url: str) -> Place:
    """RabbitMQ alone, for what only it does."""
    return Place(amqp_url, "worker" + os.urandom(4).hex())


def _place(request: pytest.FixtureRequest) -> Place:
    chosen = next((name for name in ("place", "rabbit_place") if name in request.fixturenames), "embedded")
    place: Place = request.getfixturevalue(chosen)
    return place


@pytest.fixture
def orchestrator(request: pytest.FixtureRequest) -> Iterator[Orchestrator]:
    """A hand-fed orchestrator on the test's broker."""
    place = _place(request)
    made = Orchestrator(broker_of(*place))
    yield made
    made.close()


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers on the test's broker: `start("-c", "2")`. They end with the test; if it failed, it shows their logs."""
    place = _place(request)
    started: list[Worker] = []

    def begin(*options: str, **more: str) -> Worker:
        log = tmp_path / f"worker{len(started)}.log"
        started.append(Worker(place.url, place.prefix, log, *options, **more))
        return started[-1]

    yield begin
    for worker in started:
        worker.stop()
        print(worker.log)  # pytest shows it beside a failure
