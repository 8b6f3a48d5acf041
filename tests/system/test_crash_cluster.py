"""Three RabbitMQ nodes with quorum queues: nodes are killed one by one and cut off from each other, and nothing is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from aiki.states import State
from tests.cluster import Cluster, Node
from tests.scale import scaled
from tests.system.load import Load
from tests.system.system import System
from tests.waiting import wait_until

CUT = scaled(20.0, 60.0)
"""Seconds that a node is cut off: longer than it takes the others to give it up."""
CLIENTS = 9


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


@pytest.fixture
def system(make_system: Callable[..., System], cluster: Cluster, mysql9_database: str) -> Iterator[System]:
    yield make_system(mysql9_database, cluster.url, queue_type="quorum")
    cluster.start()


def start(system: System) -> None:
    """Two orchestrators and two workers."""
    for _ in range(2):
        system.orchestrator()
        system.worker(concurrency=2)


@contextmanager
def only(cluster: Cluster, node: Node) -> Iterator[None]:
    """Whoever connects meanwhile is with this node."""
    others = [other for other in cluster.nodes if other is not node]
    for other in others:
        other.ctl("suspend_listeners")
    try:
        yield
    finally:
        for other in others:
            other.ctl("resume_listeners")


def clients_of(node: Node) -> int:
    """How many connections a node has."""
    return node.ctl("list_connections", "--no-table-headers", "pid").count(node.address)


def more(load: Load, count: int) -> None:
    """Wait until so many further runs have been accepted."""
    before = len(load.accepted)
    wait_until(lambda: len(load.accepted) >= before + count, 60, "runs to be accepted")


def completed(system: System) -> int:
    return system.states().get(State.COMPLETED, 0)


def goes_on(system: System, cluster: Cluster, count: int) -> None:
    """Runs complete until there are `count`, although a node is missing."""
    try:
        wait_until(lambda: completed(system) >= count, 120)
    except AssertionError:
        columns = ["name", "state", "leader", "online", "members", "messages", "messages_unacknowledged", "consumers"]
        told = [f"{node.address}:\n{queues_of(node, columns)}" for node in cluster.nodes if node.running]
        raise AssertionError(f"runs do not go on\n{system.tails()}\n{chr(10).join(told)}") from None


def queues_of(node: Node, columns: list[str]) -> str:
    try:
        return node.ctl("list_queues", *columns, timeout=20)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return str(error)


def holds(system: System, load: Load) -> None:
    """All that was accepted completes, each is recorded once, and no process has ended."""
    system.wait_completed(load.accepted, scaled(120.0, 300.0))
    assert load.refused == 0
    assert system.result_count() == completed(system)
    assert [process.name for process in system.processes if process.process.poll() is not None] == []


def test_nodes_that_are_killed_one_by_one_lose_nothing(system: System, cluster: Cluster) -> None:
    start(system)
    with Load(system.app().definitions["shop.marked"], rate=50) as load:
        for node in cluster.nodes * scaled(1, 5):
            more(load, 50)
            node.kill9()
            done = completed(system)
            # The other two go on without it.
            goes_on(system, cluster, done + 50)
            node.start()
    holds(system, load)


def test_a_node_that_all_are_with_is_cut_off_and_runs_go_on_elsewhere(system: System, cluster: Cluster) -> None:
    """It does not hang up, and those that have nothing to say would wait there for as long as the cut lasts."""
    node = cluster.nodes[-1]
    with ExitStack() as first:
        first.enter_context(only(cluster, node))
        start(system)
        with Load(system.app().definitions["shop.marked"], rate=50) as load:
            more(load, 50)
            # Two orchestrators, two links, four children, and the publisher of this process.
            wait_until(lambda: clients_of(node) >= CLIENTS, 60, "all to be with that node")
            first.close()
            cluster.cut_off(node)
            try:
                end, done = time.monotonic() + CUT, completed(system)
                goes_on(system, cluster, done + 100)
                wait_until(lambda: time.monotonic() > end, CUT + 10)
            finally:
                cluster.heal(node)
            more(load, 50)
    holds(system, load)
