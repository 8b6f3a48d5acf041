"""RabbitMQ: the contract over both queue types, and what a server over a network brings with it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest

from aiki.broker import DEAD, BrokerMisconfigured, Settled, open_broker, probe, reports, work
from aiki.broker.amqp import AmqpBroker
from aiki.broker.topology import Topology
from aiki.errors import BrokerUnavailable, ConfigurationError
from tests.broker.contract import BrokerContract
from tests.broker.kits import TIMEOUT, AmqpKit, bodies, publish, settle, take
from tests.services import RabbitServer
from tests.waiting import wait_until

A = work("ns", "a")
CLASSIC = {"x-queue-type": "classic", "x-queue-version": 2}
SECRET = "s3cr3t/pass"


class TestClassicQueues(BrokerContract):
    @pytest.fixture
    def kit(self, amqp_kit: AmqpKit) -> AmqpKit:
        return amqp_kit


class TestQuorumQueues(BrokerContract):
    @pytest.fixture
    def kit(self, quorum_kit: AmqpKit) -> AmqpKit:
        return quorum_kit


def bounded(seconds: float, action: Callable[[], Any]) -> Any:
    """Do it, and fail if it took longer; errors of the broker are part of the game."""
    begun = time.monotonic()
    try:
        return action()
    finally:
        took = time.monotonic() - begun
        assert took < seconds, f"took {took:.1f} s"


# ---------------------------------------------------------------- reaching it
def test_an_unreachable_server_is_told_at_once_and_without_the_password(free_port: Callable[[], int]) -> None:
    broker = AmqpBroker(f"amqp://me:{SECRET.replace('/', '%2F')}@127.0.0.1:{free_port()}/vh")
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:\d+/vh.*refused") as caught:
        bounded(2, lambda: broker.connect("x"))
    assert SECRET not in str(caught.value) + repr(broker)
    assert "s3cr3t" not in str(caught.value) + repr(broker)


def test_a_wrong_password_is_told_without_it(amqp_url: str) -> None:
    broker = AmqpBroker(amqp_url.replace("guest:guest@", "guest:s3cr3t@"))
    with pytest.raises(BrokerUnavailable, match="ACCESS_REFUSED") as caught:
        broker.connect("x")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_virtual_host_is_told(amqp_url: str) -> None:
    with pytest.raises(BrokerUnavailable, match="nowhere"):
        AmqpBroker(amqp_url.rstrip("/") + "/nowhere").connect("x")


@pytest.mark.parametrize(
    "url", ["amqp://u:s3cr3t@h:port/", "amqp://u:s3cr3t@h/?strange=1", "amqp://u:s3cr3t@h/?ssl_cert_reqs=maybe"]
)
def test_a_url_that_cannot_be_read_is_told_without_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AmqpBroker(url)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"), [({"prefix": "a b"}, "prefix 'a b'"), ({"queue_type": "stream"}, "queue_type='stream'")]
)
def test_options_are_checked(options: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        open_broker("amqp://localhost", **options)  # type: ignore[arg-type]


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(ConfigurationError, match="'redis'"):
        open_broker("redis://localhost")


# ---------------------------------------------------------------- topology
def test_a_queue_with_other_settings_is_named(amqp_kit: AmqpKit) -> None:
    publish(amqp_kit.connect(), A, b"x")
    other = open_broker(amqp_kit.url, prefix=amqp_kit.prefix, queue_type="quorum").connect("other")
    with pytest.raises(BrokerMisconfigured) as caught:
        other.subscribe(A, 1)
    text = str(caught.value)
    assert f"{amqp_kit.prefix}.dead" in text
    assert "inequivalent arg" in text
    assert "AIKI_QUEUE_TYPE" in text
    assert isinstance(caught.value, BrokerUnavailable)
    other.close()


def test_a_queue_that_stores_otherwise_is_used_as_it_is(amqp_kit: AmqpKit) -> None:
    queue = Topology(amqp_kit.prefix, "classic").queue(A)
    del queue.queue_arguments["x-queue-version"]
    with kombu.Connection(amqp_kit.url) as connection:
        queue.declare(channel=connection.channel())
    session = amqp_kit.connect()
    publish(session, A, b"x")
    session.subscribe(A, 1)
    assert bodies(take(session, 1)) == [b"x"]


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_queues_are_of_the_type_that_was_asked_for_whatever_the_virtual_host_prefers(
    rabbit4: RabbitServer, queue_type: str
) -> None:
    host = f"v{secrets.token_hex(4)}"
    rabbit4.ctl("add_vhost", host, "--default-queue-type", "quorum")
    rabbit4.ctl("set_permissions", "-p", host, "guest", ".*", ".*", ".*")
    kit = AmqpKit(f"{rabbit4.url.rstrip('/')}/{host}", queue_type)
    try:
        session = kit.connect()
        publish(session, A, b"x")
        session.subscribe(reports(0), 1)
        found = rabbit4.ctl("-q", "list_queues", "-p", host, "--no-table-headers", "type").split()
        # Work, reports, dead letters, and on a cluster that of the probes.
        assert found == [queue_type] * (4 if queue_type == "quorum" else 3)
    finally:
        kit.close()
        rabbit4.ctl("delete_vhost", host)


def test_durable_queues_dead_letter_and_report_queues_have_one_active_consumer() -> None:
    topology = Topology("p", "quorum")
    queue = topology.queue(reports(3))
    assert queue.name == "p.reports.3"
    assert queue.durable
    assert queue.queue_arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 1_000_000_000,
        "x-consumer-disconnected-timeout": 10_000,
        "x-dead-letter-exchange": "p.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-single-active-consumer": True,
    }
    assert Topology("p", "classic").queue(A).queue_arguments == {**CLASSIC, "x-dead-letter-exchange": "p.dead"}
    assert Topology("p", "classic").queue(DEAD).queue_arguments == CLASSIC
    with pytest.raises(ConfigurationError, match="namespace/queue"):
        topology.queue_name(A._replace(key="queue"))


def test_an_expired_message_is_a_dead_letter(amqp_kit: AmqpKit) -> None:
    session = amqp_kit.connect()
    session.subscribe(DEAD, 1)
    publish(session, A, b"declares it")
    session.purge(A)
    with kombu.Connection(amqp_kit.url) as connection:
        message = kombu.Producer(connection.default_channel)
        message.publish(b"old", exchange=f"{amqp_kit.prefix}.work", routing_key="ns/a", expiration=0.01)
    (dead,) = take(session, 1)
    assert (dead.body, dead.headers["reason"], dead.headers["queue"]) == (b"old", "expired", "work/ns/a")


def test_a_refused_message_settles_as_not_ok(amqp_kit: AmqpKit) -> None:
    session = amqp_kit.connect()
    publish(session, A, b"declares the exchanges")
    full = work("ns", "b")
    name = amqp_kit.broker.topology.queue_name(full)
    session._routes[full] = (f"{amqp_kit.prefix}.work", full.key, True)  # type: ignore[attr-defined]  # declared here, otherwise
    with kombu.Connection(amqp_kit.url) as connection:
        channel = connection.default_channel
        channel.queue_declare(
            name, durable=True, auto_delete=False, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        channel.queue_bind(name, f"{amqp_kit.prefix}.work", full.key)
    numbers = [session.send(full, b"x") for _ in range(4)]
    settled = settle(session, 4)
    assert settled[0] == Settled(numbers[0], True)
    assert settled[-1] == Settled(numbers[-1], False)


def test_foreign_messages_stay_bytes(amqp_kit: AmqpKit) -> None:
    session = amqp_kit.connect()
    session.subscribe(A, 5)
    with kombu.Connection(amqp_kit.url) as connection:
        producer = kombu.Producer(connection.default_channel)
        producer.publish("text", exchange=f"{amqp_kit.prefix}.work", routing_key="ns/a", headers={"x": 1})
        producer.publish("", exchange=f"{amqp_kit.prefix}.work", routing_key="ns/a")
    one, two = take(session, 2)
    assert (one.body, one.headers, two.body) == (b"text", {"x": 1}, b"")


def test_sending_to_a_missing_exchange_ends_the_session_and_never_hangs(amqp_kit: AmqpKit) -> None:
    session = amqp_kit.connect()
    publish(session, A, b"x")
    with kombu.Connection(amqp_kit.url) as connection:
        connection.default_channel.exchange_delete(f"{amqp_kit.prefix}.work")
    session.send(A, b"lost")
    with pytest.raises(BrokerUnavailable, match="NOT_FOUND"):
        wait_until(lambda: bounded(5, lambda: session.receive(1.0)))
    with pytest.raises(BrokerUnavailable, match="is over"):
        session.settled()


# ---------------------------------------------------------------- a server that stops, dies, complains
@pytest.fixture
def own_kit(own_rabbit: RabbitServer) -> Iterator[AmqpKit]:
    kit = AmqpKit(own_rabbit.url)
    # Shorter than the defaults, so that the tests need not wait as long.
    kit.broker = AmqpBroker(own_rabbit.url, prefix=kit.prefix, heartbeat=2, write_timeout=1.0)
    yield kit
    kit.close()


def test_a_stopped_server_is_noticed_in_bounded_time(own_kit: AmqpKit, own_rabbit: RabbitServer) -> None:
    reader, writer, asker, leaver = (own_kit.connect() for _ in range(4))
    publish(writer, A, b"declared")
    own_rabbit.sigstop()
    try:
        # Nothing comes: the heartbeats' absence tells.
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no sign of life"):
            wait_until(lambda: bounded(1.5, lambda: reader.receive(0.2)))
        assert time.monotonic() - begun < 10
        # The buffers fill up: the write time-out tells.
        with pytest.raises(BrokerUnavailable):
            wait_until(lambda: [bounded(3, lambda: writer.send(A, b"x" * 65536)) for _ in range(100)] == [])
        # A question gets no answer.
        with pytest.raises(BrokerUnavailable, match=r"no answer|no sign of life"):
            bounded(6, lambda: asker.depth(A))
        bounded(3, leaver.close)
        with pytest.raises(BrokerUnavailable, match="did not answer within 1 s"):
            bounded(3, lambda: own_kit.broker.connect("late", timeout=1.0))
        for session in (reader, writer, asker):
            bounded(1, session.close)
    finally:
        own_rabbit.sigcont()
    session = own_kit.connect()
    session.purge(A)
    publish(session, A, b"after")
    session.subscribe(A, 1)
    assert take(session, 1)[0].body == b"after"


def test_heartbeats_go_on_while_only_beat_is_called(own_kit: AmqpKit) -> None:
    session = own_kit.connect()
    until = time.monotonic() + 6  # three times the heartbeat
    wait_until(lambda: (session.beat(), time.monotonic() > until)[1])
    publish(session, A, b"x")


def test_confirmed_messages_outlive_a_killed_server(own_kit: AmqpKit, own_rabbit: RabbitServer) -> None:
    session = own_kit.connect()
    publish(session, A, b"taken", b"ready")
    session.subscribe(A, 1)
    (taken,) = take(session, 1)
    own_rabbit.kill9()
    with pytest.raises(BrokerUnavailable):
        wait_until(lambda: bounded(3, lambda: session.receive(1.0)))
    with pytest.raises(BrokerUnavailable):
        bounded(6, lambda: own_kit.broker.connect("early"))
    own_rabbit.start()
    session.ack([taken])
    session = own_kit.connect()
    session.subscribe(A, 10)
    again = take(session, 2)
    assert bodies(again) == [b"taken", b"ready"]
    # A classic queue flags even those that nobody had taken: redelivered does not mean executed.
    assert again[0].redelivered


def test_an_alarm_is_noticed_and_its_end_too(own_kit: AmqpKit, own_rabbit: RabbitServer) -> None:
    session = own_kit.connect()
    publish(session, A, b"x")
    assert session.blocked is None
    own_rabbit.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        number = session.send(A, b"held up")
        wait_until(lambda: (session.receive(0.1), session.blocked)[1], 30, "the alarm")
        assert session.settled() == []
    finally:
        own_rabbit.ctl("set_vm_memory_high_watermark", "0.6")
    assert settle(session, 1, 30) == [Settled(number, True)]
    assert session.blocked is None


# ---------------------------------------------------------------- probes
@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions ask soon, and many times."""
    monkeypatch.setattr(probe, "LOOK", 0.01)
    monkeypatch.setattr(probe, "QUIET", 0.02)


def asks(session: Any, seconds: float, count: int) -> bool:
    """Whether so many probes are answered in time, while the session waits."""
    deadline = time.monotonic() + seconds
    while session._vigil._channel.answers < count and time.monotonic() < deadline:
        assert session.receive(0.05) == []
    return bool(session._vigil._channel.answers >= count)


@pytest.mark.usefixtures("restless")
def test_probes_are_answered_and_none_is_kept(quorum_kit: AmqpKit) -> None:
    session: Any = quorum_kit.connect()
    session.subscribe(reports(0), 1)  # as orchestrators do, who make the queue
    assert asks(session, TIMEOUT, 20)
    with kombu.Connection(quorum_kit.url) as connection:
        found = connection.default_channel.queue_declare(f"{quorum_kit.prefix}.work.probe", passive=True)
        assert found.message_count == 0


@pytest.mark.usefixtures("restless")
def test_a_session_goes_on_where_probes_have_no_exchange_and_where_they_have_no_queue(quorum_kit: AmqpKit) -> None:
    session: Any = quorum_kit.connect()
    wait_until(lambda: session.receive(0.05) == [] and session._vigil._channel.refused, TIMEOUT, "the probe to be refused")
    publish(session, A, b"x")
    other = quorum_kit.connect()
    assert asks(other, TIMEOUT, 3)
    publish(other, A, b"x")
    publish(session, A, b"x")
    assert session._vigil.due == float("inf")
