"""Whether a node still serves is asked seldom, and a session is given up only for a lack of answers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from amqp import Message, spec

from aiki.broker import CONTROL, reports, work
from aiki.broker import amqp_session as sessions
from aiki.broker.amqp_session import AmqpSession
from aiki.broker.base import SizeLimit
from aiki.broker.probe import AVOIDED, MAX_PATIENCE, PATIENCE, QUIET, Nodes, Vigil
from aiki.broker.topology import Topology
from aiki.errors import BrokerUnavailable

HERE = "amqp://here"
LATEST = 1.25 * QUIET + PATIENCE + 3
"""Seconds after which a session with a node that answers nothing is given up at the latest."""


class Channel:
    """Counts what is asked, and answers at once if it is to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = 0
        self.denied = 0
        self.answering = True
        self.denying = False
        self.refused: str | None = None
        self.agreed = False

    def ask(self) -> None:
        self.asked += 1
        self.answers += self.answering
        self.denied += self.denying

    def agree(self) -> None:
        self.agreed = True


class Watched:
    """A session under watch, and the time."""

    def __init__(self, nodes: Nodes | None = None) -> None:
        self.now = 1000.0
        self.heard = 0
        self.blocked = False
        self.channel = Channel()
        self.nodes = nodes or Nodes([HERE, "amqp://there"])
        self.vigil = Vigil(self.channel, self.nodes, HERE, self.now)  # type: ignore[arg-type]

    def run(self, seconds: float, every: float = 0.5, *, hearing: bool = False) -> None:
        """Let time pass, and look whenever it is due."""
        end = self.now + seconds
        while self.now < end:
            self.now += every
            self.heard += hearing
            if self.now >= self.vigil.due:
                self.vigil.look(self.now, self.heard, blocked=self.blocked)

    def given_up_after(self, every: float = 0.5) -> float:
        begun = self.now
        with pytest.raises(TimeoutError, match="no quorum queue has answered for"):
            self.run(3600, every)
        return self.now - begun


# ---------------------------------------------------------------- when to ask, and when to give up
def test_who_is_answered_goes_on_and_asks_seldom() -> None:
    watched = Watched()
    watched.run(3600)
    assert 3600 / (1.25 * QUIET + 2) < watched.channel.asked < 3600 / (0.75 * QUIET)


@pytest.mark.parametrize("every", [0.05, 0.5, 2.0, 5.0])
def test_who_is_not_answered_gives_up_after_the_patience_and_soon_after_it(every: float) -> None:
    watched = Watched()
    watched.channel.answering = False
    assert PATIENCE <= watched.given_up_after(every) <= LATEST + 2 * every
    assert watched.channel.asked == 1


def test_who_is_refused_asks_again_and_gives_up_as_if_nothing_had_come() -> None:
    watched = Watched()
    watched.channel.answering, watched.channel.denying = False, True
    assert PATIENCE <= watched.given_up_after() <= LATEST
    assert watched.channel.asked > 1
    watched = Watched()
    watched.channel.answering, watched.channel.denying = False, True
    watched.run(PATIENCE)
    watched.channel.answering, watched.channel.denying = True, False
    watched.channel.denied += 1  # the last one: what is asked after it is confirmed
    watched.run(600)


def test_who_hears_something_else_neither_asks_nor_gives_up() -> None:
    watched = Watched()
    watched.channel.answering = False
    watched.run(600, hearing=True)
    assert watched.channel.asked == 0


def test_what_is_heard_late_counts_from_then_on() -> None:
    watched = Watched()
    watched.channel.answering = False
    for _ in range(20):  # something comes each time shortly before the patience ends
        watched.run(1.25 * QUIET + PATIENCE - 5)
        watched.heard += 1
    assert watched.given_up_after() >= PATIENCE


def test_a_late_answer_is_an_answer() -> None:
    watched = Watched()
    watched.channel.answering = False
    for _ in range(20):
        watched.run(0.75 * QUIET + PATIENCE - 3)
        watched.channel.answers += 1
    assert watched.nodes.patience == PATIENCE


def test_nobody_gives_up_a_broker_that_has_said_that_it_takes_nothing() -> None:
    watched = Watched()
    watched.channel.answering = False
    watched.run(QUIET + 10)
    watched.blocked = True
    watched.run(3600)
    watched.blocked, watched.channel.answering = False, True
    watched.run(3600)


def test_time_in_which_this_process_stood_still_does_not_count() -> None:
    watched = Watched()
    watched.channel.answering = False
    while not watched.channel.asked:
        watched.run(0.5)
    watched.run(300, every=300)
    watched.run(PATIENCE - 8)
    watched.channel.answers += 1
    watched.run(5)


def test_patience_grows_if_no_node_answers_and_is_as_before_once_one_does() -> None:
    nodes = Nodes([HERE])
    waited = []
    for _ in range(8):
        watched = Watched(nodes)
        watched.channel.answering = False
        waited.append(watched.given_up_after())
    assert waited[:3] == pytest.approx([PATIENCE, 2 * PATIENCE, 4 * PATIENCE], abs=1.25 * QUIET + 3)
    assert nodes.patience == MAX_PATIENCE
    Watched(nodes).run(20)
    assert nodes.patience == PATIENCE


def test_who_may_not_ask_asks_no_more_and_goes_on() -> None:
    watched = Watched()
    watched.channel.answering = False
    watched.run(1.25 * QUIET + 3)
    watched.channel.refused = "ACCESS_REFUSED"
    watched.run(3600)
    assert (watched.channel.asked, watched.channel.agreed) == (1, True)


def test_a_node_that_did_not_answer_is_tried_last_for_a_while() -> None:
    nodes = Nodes(["a", "b", "c"])
    assert {nodes.in_order(0.0)[0] for _ in range(200)} == {"a", "b", "c"}
    nodes.silent("b", 10.0)
    assert all(nodes.in_order(10.0 + AVOIDED - 1)[-1] == "b" for _ in range(200))
    assert {nodes.in_order(10.0 + AVOIDED + 1)[0] for _ in range(200)} == {"a", "b", "c"}
    nodes.silent("b", 10.0)
    nodes.answered("b")
    assert {nodes.in_order(11.0)[0] for _ in range(200)} == {"a", "b", "c"}


# ---------------------------------------------------------------- a whole session
class NodeChannel:
    """A channel of a node that confirms by itself what goes to a fanout, as one without a majority does."""

    def __init__(self, connection: Node) -> None:
        self.connection = connection
        self.events: dict[str, set[Any]] = defaultdict(set)
        self._callbacks: dict[Any, Any] = {}
        self.is_open = True
        self.sent = 0
        self.channel_id = 1000 + len(connection.channels)
        connection.channels.append(self)

    def confirm_select(self) -> None:
        pass

    def send_method(self, sig: Any, _format: str = "", args: Any = (), message: Message | None = None) -> None:
        if sig == spec.Basic.Publish:
            self.sent += 1
            self.connection.published.append(args[1:3])
            if args[1].endswith(".control"):
                self.connection.frames.append((self, self.sent))

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None  # declarations: all is there


class Node:
    """A connection and its wire in one."""

    heartbeat = 0
    abandoned = False

    def __init__(self) -> None:
        self.now = 50.0
        self.published: list[tuple[str, str]] = []
        self.channels: list[NodeChannel] = []
        self.frames: list[tuple[NodeChannel, int]] = []
        """Confirms on their way."""
        self.closed = False
        self.written = True
        """Whether the socket takes what is written."""

    @property
    def transport(self) -> Node:
        return self

    def channel(self) -> NodeChannel:
        return NodeChannel(self)

    def Channel(self, _connection: object) -> NodeChannel:
        return NodeChannel(self)

    def push(self) -> bool:
        return self.written

    def pull(self) -> bool:
        return False

    def next_frame(self) -> tuple[NodeChannel, int] | None:
        return self.frames.pop(0) if self.frames else None

    def on_inbound_frame(self, frame: tuple[NodeChannel, int]) -> None:
        channel, tag = frame
        for confirmed in channel.events["basic_ack"]:
            confirmed(tag, False)

    def wait(self, timeout: float, _wake: int | None) -> bool:
        self.now += timeout
        return False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node()
    monkeypatch.setattr(sessions, "monotonic", lambda: made.now)
    return made


def session_with(node: Node, queue_type: str) -> AmqpSession:
    topology = Topology("p", queue_type)
    watched = (Nodes([HERE]), HERE) if topology.probes else None
    return AmqpSession(node, topology, "idle", "here", node.now + 5, SizeLimit(1000), True, watched)


def test_a_session_that_hears_only_heartbeats_and_fanouts_of_its_node_ends(node: Node) -> None:
    session, begun = session_with(node, "quorum"), node.now
    with pytest.raises(BrokerUnavailable, match=r"no quorum queue has answered for 2\d s: has its node lost its cluster"):  # noqa: PT012
        while True:
            session.send(CONTROL, b"x")
            session.receive(2.0)
            session.settled()
            node.now += 2.0
    assert PATIENCE <= node.now - begun <= LATEST + 4
    assert node.closed
    assert [key for _, key in node.published if key == "probe"] == ["probe"]


def test_a_session_whose_own_messages_are_not_confirmed_ends_too(node: Node) -> None:
    session, begun = session_with(node, "quorum"), node.now
    session.send(reports(0), b"x")
    with pytest.raises(BrokerUnavailable, match="no quorum queue has answered"):  # noqa: PT012
        while True:
            session.beat()
            node.now += 2.0
    assert PATIENCE <= node.now - begun <= LATEST + 4


def test_a_session_whose_messages_are_confirmed_sends_no_probe(node: Node) -> None:
    session = session_with(node, "quorum")
    for _ in range(600):
        session.send(work("ns", "a"), b"x")
        session._settle(session._sent, False, True)
        session.receive(1.0)
        node.now += 1.0
        session.settled()
    assert ("p.work", "probe") not in node.published


def test_a_session_that_takes_long_to_read_a_large_message_sends_no_probe(node: Node) -> None:
    session = session_with(node, "quorum")
    node.on_inbound_frame = lambda _frame: None  # type: ignore[method-assign,assignment]  # a part of its body
    for _ in range(600):
        node.frames.append((3, session._work.channel_id, b"x" * 1000))  # type: ignore[arg-type]
        session.receive(1.0)
        node.now += 1.0
    assert ("p.work", "probe") not in node.published


def test_a_session_whose_messages_are_all_refused_ends_too(node: Node) -> None:
    session, begun = session_with(node, "quorum"), node.now
    with pytest.raises(BrokerUnavailable, match="no quorum queue has answered"):  # noqa: PT012
        while True:
            session.send(work("ns", "a"), b"x")
            session._settle(session._sent, False, False)
            session.receive(1.0)
            session.settled()
            node.now += 1.0
    assert PATIENCE <= node.now - begun <= LATEST + 4


def test_a_session_that_cannot_write_yet_waits_for_no_answer(node: Node) -> None:
    session = session_with(node, "quorum")
    session.receive(LATEST)
    while ("p.work", "probe") not in node.published:
        session.receive(1.0)
        node.now += 1.0
    node.written = False
    for _ in range(100):
        session.receive(1.0)
        node.now += 1.0


def test_classic_queues_are_not_asked(node: Node) -> None:
    session = session_with(node, "classic")
    for _ in range(1800):
        session.receive(2.0)
    assert node.published == []
    assert len(node.channels) == 3
