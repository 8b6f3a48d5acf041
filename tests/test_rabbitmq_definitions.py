"""`rabbitmq/`: the users that it defines can do what their processes do, and a worker's cannot do more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import amqp
import pytest
from amqp.exceptions import AccessRefused

from aiki.broker import base
from aiki.broker.amqp import AmqpBroker
from aiki.broker.probe import ProbeChannel
from aiki.broker.topology import Topology
from aiki.errors import BrokerUnavailable
from tests.services import RabbitServer
from tests.waiting import wait_until

HERE = Path(__file__).resolve().parent.parent / "rabbitmq"
WORK = base.work("default", "mail")
REPORTS = base.reports(0)


@pytest.fixture(scope="module", params=[False, True], ids=["3", "4"])
def configured(request: pytest.FixtureRequest) -> Iterator[RabbitServer]:
    """A node with the project's configuration and definitions, its users given passwords as README.md says."""
    lines = (HERE / "rabbitmq.conf").read_text().splitlines()
    # Its own listener and whatever free disk space there is: the rest is taken as it stands.
    kept = [line for line in lines if line and not line.startswith(("#", "listeners", "disk_free_limit"))]
    assert kept
    with RabbitServer(kept, newer=request.param) as server:
        # A newer node lives in a root of its own, where only its home is.
        definitions = server.home / "definitions.json"
        definitions.write_text((HERE / "definitions.json").read_text())
        server.ctl("import_definitions", str(definitions))
        server.ctl("change_password", "aiki-orchestrator", "of-the-orchestrator")
        server.ctl("change_password", "aiki-server", "of-the-server")
        server.ctl("change_password", "aiki-worker", "of-the-worker")
        for namespace, permissions in (("blue", _documented()), ("a.b", [p.replace("blue", "a%2Eb") for p in _documented()])):
            server.ctl("add_user", f"aiki-worker-{namespace}", f"of-the-worker-{namespace}")
            server.ctl("set_permissions", "-p", "aiki", f"aiki-worker-{namespace}", *permissions)
        yield server


def _documented() -> list[str]:
    """The permissions that README.md gives to the account of the namespace `blue`."""
    told = (HERE / "README.md").read_text()
    _, _, after = told.partition("set_permissions -p aiki aiki-worker-blue")
    found = re.findall(r"'([^']+)'", after.partition("```")[0])
    assert len(found) == 3
    return found


def _session(server: RabbitServer, who: str) -> base.Session:
    url = f"amqp://aiki-{who}:of-the-{who}@127.0.0.1:{server.port}/aiki"
    return AmqpBroker(url, declares=not who.startswith("worker")).connect(who, 10)


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
        worker.subscribe(base.answers("executor"), 10)
        server.prepare(WORK)
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
        ("worker", _sent(base.answers("executor"))),
        ("worker", _sent(base.DEAD)),
        ("worker", lambda session: session.subscribe(base.DEAD, 10)),
        ("worker", lambda session: session.purge(REPORTS)),
        ("worker-blue", lambda session: session.subscribe(base.work("green", "mail"), 10)),
        ("worker-blue", lambda session: session.purge(base.work("green", "mail"))),
        ("worker-blue", lambda session: session.subscribe(base.work("blue.green", "mail"), 10)),
        ("worker-a.b", lambda session: session.subscribe(base.work("a", "b.mail"), 10)),
        ("server", lambda session: session.subscribe(REPORTS, 10)),
        ("server", lambda session: session.subscribe(base.HEARTBEAT, 10)),
        ("server", lambda session: session.subscribe(base.CONTROL, 10)),
        ("server", lambda session: session.purge(REPORTS)),
        ("server", _sent(REPORTS)),
        ("server", _sent(base.HEARTBEAT)),
    ],
    ids=[
        *("worker takes reports", "worker takes heartbeats", "worker commands workers", "worker forges answers"),
        *("worker writes dead letters", "worker takes dead letters", "worker purges reports"),
        *("one namespace takes another's work", "one namespace purges another's work"),
        *("one namespace takes another's whose name begins the same", "a namespace with a dot takes another's"),
        *("server takes reports", "server takes heartbeats", "server takes commands", "server purges reports"),
        *("server forges reports", "server forges heartbeats"),
    ],
)
def test_nobody_can_do_more(configured: RabbitServer, who: str, deed: Callable[[base.Session], object]) -> None:
    with closing(_session(configured, "orchestrator")) as orchestrator, closing(_session(configured, who)) as session:
        # What it all hangs on exists: it is not for want of it that somebody is refused.
        orchestrator.subscribe(REPORTS, 10)
        orchestrator.subscribe(base.HEARTBEAT, 10)
        for queue in (base.work("green", "mail"), base.work("blue.green", "mail"), base.work("a", "b.mail")):
            orchestrator.prepare(queue)
        with pytest.raises(BrokerUnavailable, match=r"(?i)access.*refused"):
            deed(session)


@pytest.mark.parametrize("who", ["worker", "worker-blue"])
@pytest.mark.parametrize(
    ("exchange", "key"),
    [("aiki.reports", "0"), ("aiki.work", "green/mail"), ("aiki.dead", ""), ("aiki.heartbeat", "")],
)
def test_a_worker_cannot_have_copies_of_what_passes(configured: RabbitServer, who: str, exchange: str, key: str) -> None:
    """With its account: a queue of its own is made, bound to what it may listen to, and then to what it may not."""
    with closing(_session(configured, "orchestrator")) as orchestrator, _raw(configured, who) as channel:
        orchestrator.subscribe(REPORTS, 10)
        orchestrator.subscribe(base.HEARTBEAT, 10)
        orchestrator.prepare(base.work("green", "mail"))
        channel.queue_declare("aiki.control.spy", exclusive=True)
        channel.queue_bind("aiki.control.spy", "aiki.control")
        with pytest.raises(AccessRefused):
            channel.queue_bind("aiki.control.spy", exchange, key)


@pytest.mark.parametrize(
    "deed",
    [
        lambda channel: channel.exchange_delete("aiki.control.answers"),
        lambda channel: channel.exchange_delete("aiki.work"),
        lambda channel: channel.queue_delete("aiki.work.green.mail"),
        lambda channel: channel.queue_delete("aiki.reports.0"),
        lambda channel: channel.queue_unbind("aiki.reports.0", "aiki.reports", "0"),
        lambda channel: channel.queue_declare("aiki.work.blue.mine", durable=True),
        lambda channel: channel.queue_declare("mine", exclusive=True),
        lambda channel: channel.basic_get("aiki.work.green.mail"),
        lambda channel: (
            channel.exchange_declare("aiki.control.mine", "fanout"),
            channel.exchange_bind("aiki.control.mine", "aiki.reports", "0"),
        ),
    ],
    ids=["answers", "work", "a queue", "reports", "a binding", "declared", "other names", "got", "exchanges bound"],
)
def test_a_worker_of_one_namespace_cannot_touch_what_is_shared(configured: RabbitServer, deed: Callable[[Any], object]) -> None:
    with closing(_session(configured, "orchestrator")) as orchestrator, _raw(configured, "worker-blue") as channel:
        orchestrator.subscribe(REPORTS, 10)
        orchestrator.prepare(base.work("green", "mail"))
        orchestrator.send(base.answers("executor"), b"[]")
        orchestrator.beat()
        with pytest.raises(AccessRefused):
            deed(channel)


@contextmanager
def _raw(server: RabbitServer, who: str) -> Iterator[Any]:
    """A channel with an account, without Aiki: what whoever knows the password can do."""
    connection = amqp.Connection(
        host=f"127.0.0.1:{server.port}", userid=f"aiki-{who}", password=f"of-the-{who}", virtual_host="aiki"
    )
    connection.connect()
    try:
        yield connection.channel()
    finally:
        connection.collect()


@pytest.mark.parametrize("namespace", ["blue", "a.b"])
def test_the_account_of_a_namespace_does_the_work_of_that_namespace(configured: RabbitServer, namespace: str) -> None:
    queue = base.work(namespace, "post")
    with (
        closing(_session(configured, "orchestrator")) as orchestrator,
        closing(_session(configured, f"worker-{namespace}")) as worker,
    ):
        orchestrator.subscribe(REPORTS, 10)
        orchestrator.subscribe(base.HEARTBEAT, 10)
        worker.subscribe(base.CONTROL, 10)
        worker.subscribe(base.answers("an-executor"), 1)
        orchestrator.prepare(queue)
        worker.subscribe(queue, 10)
        assert _confirmed(orchestrator, queue)
        (dispatch,) = _received(worker)
        worker.ack([dispatch])
        worker.unsubscribe(queue)
        assert _confirmed(worker, queue)
        assert _confirmed(worker, REPORTS)
        worker.send(base.HEARTBEAT, b"[]")
        worker.beat()
        seen = {delivery.source for delivery in _received(orchestrator)}
        wait_until(
            lambda: seen.update(d.source for d in orchestrator.receive(0.05)) or seen == {REPORTS, base.HEARTBEAT}, 10, "both"
        )


def test_a_work_queue_that_nobody_has_made_is_waited_for(configured: RabbitServer) -> None:
    with closing(_session(configured, "worker")) as worker, pytest.raises(BrokerUnavailable, match="is one running"):
        worker.subscribe(base.work("default", "of-nobody"), 10)


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


@pytest.mark.parametrize("who", ["orchestrator", "server", "worker", "worker-blue"])
def test_everybody_may_ask_whether_a_node_has_its_majority(configured: RabbitServer, who: str) -> None:
    with closing(_session(configured, "orchestrator")) as session:
        channel = session._connection.channel()  # type: ignore[attr-defined]
        Topology("aiki", "quorum").probe().declare(channel=channel)
    session = _session(configured, who)
    with closing(session):
        asking = ProbeChannel(session._connection, *Topology("aiki", "quorum").probe_route)  # type: ignore[attr-defined]
        asking.ask()
        wait_until(lambda: session.receive(0.05) == [] and (asking.answers or asking.refused), 30, "an answer")
        assert (asking.answers, asking.refused) == (1, None)
