"""Several RabbitMQ nodes behind one broker, and passwords that come from a file."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiki.broker import Session, open_broker, work
from aiki.broker.amqp import AmqpBroker
from aiki.errors import BrokerUnavailable, ConfigurationError
from aiki.worker.connection import Connection
from tests.broker.kits import publish
from tests.services import RabbitServer
from tests.waiting import wait_until


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"amqp://guest:guest@127.0.0.1:{listening.getsockname()[1]}//"


def port_of(session: Session) -> int:
    """Where a session has gone."""
    return int(session._wire.port)  # type: ignore[attr-defined]


def test_a_node_that_is_down_is_passed_over(rabbit: RabbitServer, free_port: Callable[[], int]) -> None:
    down = f"amqp://guest:guest@127.0.0.1:{free_port()}//"
    for url in (f"{down};{rabbit.url}", f"{rabbit.url}; {down}"):
        broker = open_broker(url, prefix="nodes")
        for _ in range(4):  # the order is a matter of chance
            broker.connect("x").close()


def test_a_silent_node_takes_only_its_share_of_the_time(rabbit: RabbitServer, silent: str) -> None:
    broker = open_broker(f"{silent};{rabbit.url};{silent}", prefix="nodes")
    begun = time.monotonic()
    broker.connect("x", timeout=3.0).close()
    assert time.monotonic() - begun < 3.0


def test_if_all_are_down_all_are_named(free_port: Callable[[], int]) -> None:
    ports = [free_port(), free_port()]
    broker = open_broker(";".join(f"amqp://me:s3cr3t@127.0.0.1:{port}/vh" for port in ports))
    with pytest.raises(BrokerUnavailable) as caught:
        broker.connect("x")
    assert all(f"127.0.0.1:{port}/vh" in str(caught.value) for port in ports)
    assert "s3cr3t" not in str(caught.value) + repr(broker)


def test_nodes_speak_one_protocol() -> None:
    with pytest.raises(ConfigurationError, match="mixes amqp and amqps"):
        AmqpBroker("amqp://one//;amqps://two//")


def test_clients_spread_over_the_nodes_and_go_on_with_another(own_rabbit: RabbitServer, rabbit: RabbitServer) -> None:
    """Two servers that are no cluster: enough to see who connects where, and where to when one is killed."""
    broker = open_broker(f"{own_rabbit.url};{rabbit.url}", prefix="failover")
    ports = set()
    for _ in range(20):
        with contextlib.closing(broker.connect("x")) as session:
            ports.add(port_of(session))
    assert ports == {own_rabbit.port, rabbit.port}
    connections = [Connection(broker, f"c{number}", lambda: None) for number in range(6)]
    for connection in connections:
        assert connection.connect()
    own_rabbit.kill9()
    try:
        for number, connection in enumerate(connections):

            def again(connection: Connection = connection) -> bool:
                connection.receive(0)
                return connection.connect() and port_of(connection.session) == rabbit.port  # type: ignore[arg-type]

            wait_until(again, 20, f"connection {number} to be at the node that is left")
    finally:
        for connection in connections:
            connection.close()
        own_rabbit.start()


def test_the_password_is_read_from_its_file_for_each_connection(own_rabbit: RabbitServer, tmp_path: Path) -> None:
    own_rabbit.ctl("add_user", "rotating", "first")
    own_rabbit.ctl("set_permissions", "rotating", ".*", ".*", ".*")
    file = tmp_path / "password"
    file.write_text("first\n")
    url = f"amqp://rotating@127.0.0.1:{own_rabbit.port}//"
    broker = open_broker(url, prefix="rotating", password_file=str(file))
    session = broker.connect("x")
    publish(session, work("ns", "a"), b"one")
    own_rabbit.ctl("change_password", "rotating", "second")
    with pytest.raises(BrokerUnavailable, match=r"ACCESS_REFUSED.*AIKI_BROKER_PASSWORD_FILE") as caught:
        broker.connect("x")
    assert "first" not in str(caught.value)
    file.write_text("second")
    broker.connect("x").close()
    file.unlink()
    with pytest.raises(BrokerUnavailable, match=r"AIKI_BROKER_PASSWORD_FILE: the file .* cannot be read: No such file"):
        broker.connect("x")
    session.purge(work("ns", "a"))
    session.close()
