"""`rabbitmq/`: the users that it defines can do what their processes do, and a worker's cannot do more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aiki.broker import base
from aiki.broker.amqp import AmqpBroker
from aiki.errors import BrokerUnavailable
from tests.services import RabbitServer
from tests.waiting import wait_until

HERE = Path(__file__).resolve().parent.parent / "rabbitmq"
WORK = base.work("default", "mail")
REPORTS = base.reports(0)


@pytest.fixture(scope="module")
def configured() -> Iterator[RabbitServer]:
    """A node with the project's configuration and definitions, its users given passwords as README.md says."""
    lines = (HERE / "rabbitmq.conf").read_text().splitlines()
    # Its own listener and whatever free disk space there is: the rest is taken as it stands.
    kept = [line for line in lines if line and not line.startswith(("#", "listeners", "disk_free_limit"))]
    assert kept
    with RabbitServer(kept) as server:
        server.ctl("import_definitions", str(HERE / "definitions.json"))
        server.ctl("change_password", "aiki-orchestrator", "of-the-orchestrator")
        server.ctl("change_password", "aiki-server", "of-the-server")
        server.ctl("change_password", "aiki-worker", "of-the-worker")
        yield server


def _session(server: RabbitServer, who: str) -> base.Session:
    return AmqpBroker(f"amqp://aiki-{who}:of-the-{who}@127.0.0.1:{server.port}/aiki").connect(who, 10)


def _confirmed(session: base.Session, to: base.Address) -> bool:
    seq = session.send(to, b"[]")
    settled: dict[int, bool] = {}

    def answered() -> bool:
        session.receive(0.05)
        settled.update(session.settled())
        return seq in settled

    wait_until(answered, 10, f"the confirm of a message to {to}")
    return settled[seq]


def _received(session: base.Session) -> list[base.Delivery]:
    return wait_until(lambda: session.receive(0.05), 10, "a delivery")


def test_orchestrator_and_worker_can_do_their_work(configured: RabbitServer) -> None:
    with closing(_session(configured, "orchestrator")) as server, closing(_session(configured, "worker")) as worker:
        server.subscribe(REPORTS, 10)
        server.subscribe(base.HEARTBEAT, 10)
        server.subscribe(base.DEAD, 10)
        worker.subscribe(base.CONTROL, 10)
        worker.subscribe(WORK, 10)

        assert _confirmed(server, WORK)
        (dispatch,) = _received(worker)
        assert dispatch.source == WORK
        assert _confirmed(worker, REPORTS)
        (report,) = _received(server)
        assert report.source == REPORTS
        server.ack([report])
        worker.reject(dispatch)
        worker.beat()
        assert _received(server)[0].source == base.DEAD
        worker.unsubscribe(WORK)
        assert _confirmed(worker, WORK), "a worker gives runs back by publishing them anew"
        server.send(base.CONTROL, b"[]")
        server.beat()
        assert _received(worker)[0].source == base.CONTROL
        worker.send(base.HEARTBEAT, b"[]")
        worker.beat()
        assert _received(server)[0].source == base.HEARTBEAT


def test_a_server_can_do_its_work(configured: RabbitServer) -> None:
    """It publishes runs, commands workers, looks at queues and purges them."""
    with closing(_session(configured, "orchestrator")) as orchestrator, closing(_session(configured, "worker")) as worker:
        orchestrator.subscribe(REPORTS, 10)
        worker.subscribe(base.CONTROL, 10)
        queue = base.work("default", "of-the-server")
        with closing(_session(configured, "server")) as server:
            assert _confirmed(server, queue)
            server.send(base.CONTROL, b"[]")
            server.beat()
            assert _received(worker)[0].source == base.CONTROL
            assert server.depth(queue) == base.Depth(1, 0)
            assert server.depth(REPORTS) == base.Depth(0, 1)
            assert server.depth(base.DEAD) is not None
            assert server.depth(base.work("default", "there-is-none")) is None
            assert server.purge(queue) == 1


def _sent(to: base.Address) -> Callable[[base.Session], object]:
    def deed(session: base.Session) -> None:
        session.send(to, b"[]")
        wait_until(lambda: session.receive(0.05), 10, "a refusal")

    return deed


@pytest.mark.parametrize(
    ("who", "deed"),
    [
        ("worker", lambda session: session.subscribe(REPORTS, 10)),
        ("worker", lambda session: session.subscribe(base.HEARTBEAT, 10)),
        ("worker", _sent(base.CONTROL)),
        ("server", lambda session: session.subscribe(REPORTS, 10)),
        ("server", lambda session: session.subscribe(base.HEARTBEAT, 10)),
        ("server", lambda session: session.subscribe(base.CONTROL, 10)),
        ("server", lambda session: session.purge(REPORTS)),
        ("server", _sent(REPORTS)),
        ("server", _sent(base.HEARTBEAT)),
    ],
    ids=[
        *("worker takes reports", "worker takes heartbeats", "worker commands workers"),
        *("server takes reports", "server takes heartbeats", "server takes commands", "server purges reports"),
        *("server forges reports", "server forges heartbeats"),
    ],
)
def test_nobody_can_do_more(configured: RabbitServer, who: str, deed: Callable[[base.Session], object]) -> None:
    with closing(_session(configured, "orchestrator")) as orchestrator, closing(_session(configured, who)) as session:
        # What it all hangs on exists: it is not for want of it that somebody is refused.
        orchestrator.subscribe(REPORTS, 10)
        orchestrator.subscribe(base.HEARTBEAT, 10)
        with pytest.raises(BrokerUnavailable, match=r"(?i)access.*refused"):
            deed(session)


def test_a_user_without_a_password_cannot_log_in(configured: RabbitServer) -> None:
    configured.ctl("clear_password", "aiki-worker")
    try:
        with pytest.raises(BrokerUnavailable, match="refuses us"):
            _session(configured, "worker")
    finally:
        configured.ctl("change_password", "aiki-worker", "of-the-worker")


def test_whose_the_broker_is_can_be_put_on_record_and_seen(configured: RabbitServer) -> None:
    """By the processes that know the database; a worker's account cannot change it."""
    mine, other = "a" * 32, "b" * 32
    with closing(_session(configured, "server")) as server:
        assert not server.is_claimed()
        server.claim(mine)
        assert server.is_claimed()
    with closing(_session(configured, "orchestrator")) as orchestrator:
        orchestrator.claim(mine)
    for who in ("orchestrator", "server"):
        with closing(_session(configured, who)) as session:
            with pytest.raises(base.BrokerForeign) as caught:
                session.claim(other)
            assert caught.value.owner == mine
    with closing(_session(configured, "worker")) as worker:
        worker.claim(other)  # refused by the broker, which is said in the log, and nothing else
    with closing(_session(configured, "worker")) as worker, pytest.raises(BrokerUnavailable, match=r"(?i)access.*refused"):
        worker.claim(other, anew=True)
    with closing(_session(configured, "orchestrator")) as orchestrator:
        orchestrator.claim(mine)
        orchestrator.claim(other, anew=True)
        orchestrator.claim(other)
