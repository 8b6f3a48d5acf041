"""A session with RabbitMQ. Kombu declares; on the hot path the py-amqp channel beneath it is used.

It is one connection with four channels: `publish` in confirm mode, whose delivery tags are the session's sequence
numbers; `work`, whose deliveries are acked; `fanout`, whose are not; and one for declarations and questions that the broker may
answer by closing the channel (`Admin`). With quorum queues there is a fifth, for probes (`Vigil`).

Invariants:
- Handlers of inbound frames only record what came; the session works on it when no frame is being handled.
- The session never waits without a deadline (`Wire`), and any error of the connection or of the first three channels
  ends it: a session is whole or dead.
- A message settles ok when its own tag was confirmed and it was not returned before. One to a fanout settles ok however the
  broker answers: RabbitMQ 4 refuses it (nack) while the queue of a subscriber that has just left is still being deleted,
  although all others get it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from amqp import Message, spec
from amqp.exceptions import AMQPError, PreconditionFailed

from aiki.broker.amqp_admin import Admin, NotAllowed, say
from aiki.broker.base import (
    RECEIVED_BYTES,
    Address,
    BrokerMisconfigured,
    Delivery,
    Depth,
    Kind,
    Settled,
    SizeLimit,
    first_tag,
)
from aiki.broker.probe import Nodes, ProbeChannel, Vigil
from aiki.broker.tags import Tags
from aiki.broker.topology import FANOUTS, Topology
from aiki.broker.wire import METHOD, Wire
from aiki.errors import BrokerUnavailable, ConfigurationError

ANSWER_TIMEOUT: Final = 5.0
"""Seconds for the broker to answer a declaration or a question."""
_CLOSE_TIMEOUT = 1.0
_MAX_PREFETCH = 65535
_DRAINED_AT_ONCE = 5000

BROKEN: Final = (AMQPError, OSError, AttributeError, TypeError, LookupError, ValueError, struct.error)
"""What py-amqp raises when a connection breaks under it (it clears its own fields then) or brings what it cannot parse."""


class AmqpSession:
    """One connection to RabbitMQ; see `aiki.broker.base.Session`."""

    def __init__(
        self,
        connection: Any,
        topology: Topology,
        name: str,
        where: str,
        deadline: float,
        limit: SizeLimit,
        declares: bool = True,
        watched: tuple[Nodes, str] | None = None,
    ) -> None:
        self._limit = limit
        self._connection = connection
        self._wire: Wire = connection.transport
        self._topology = topology
        self._name = name
        self._where = where
        self._dead: str | None = None
        self._blocked: str | None = None
        self._inbox: deque[Delivery] = deque()
        self._inbox_bytes = 0
        self._settled: list[Settled] = []
        self._sent = 0
        self._confirms = Tags()
        self._returned: set[int] = set()
        self._fleeting: set[int] = set()
        """Numbers of messages to fanouts that have not settled."""
        self._unacked = Tags()
        self._first_tag = first_tag()
        self._routes: dict[Address, tuple[str, str, bool]] = {}
        self._consumers: dict[str, Address] = {}
        self._tags: dict[Address, str] = {}
        self._own_queues: dict[Address, str] = {}
        self._consumer_count = 0
        self._admin = Admin(self._open_channel, topology, declares)
        self._answered = 0
        """How many messages to durable queues the broker has confirmed."""
        self._coming = 0
        """How many frames of deliveries from durable queues have come: a large one comes in many, and may take its time."""
        self._vigil: Vigil | None = None
        if watched is not None:
            self._vigil = Vigil(ProbeChannel(connection, *topology.probe_route), *watched, monotonic())
        connection.on_blocked = self._on_blocked
        connection.on_unblocked = self._on_unblocked
        with self._answer("opening channels", deadline):
            self._publish = self._open_channel()
            self._publish.confirm_select()
            self._publish.events["basic_ack"].add(self._on_ack)
            self._publish.events["basic_nack"].add(self._on_nack)
            self._publish.events["basic_return"].add(self._on_return)
            self._work = self._open_channel(self._on_work)
            self._fanout = self._open_channel(self._on_fanout)

    def _open_channel(self, on_deliver: Callable[..., None] | None = None) -> Any:
        channel = self._connection.channel()
        channel.auto_decode = False  # bodies stay bytes, whatever a foreign message claims to be
        if on_deliver is not None:
            # In place of py-amqp's dispatch by consumer, which rejects what comes after a cancel.
            channel._callbacks[spec.Basic.Deliver] = on_deliver
        return channel

    # ------------------------------------------------------------ sending
    def send(self, to: Address, body: bytes) -> int:
        """See `Session.send`."""
        self._limit.check(body)
        route = self._routes.get(to)
        if route is None or self._dead is not None or self._wire.abandoned:
            self._check()
            route = self._route_of(to)
        exchange, key, durable = route
        seq = self._sent + 1
        message = Message(body, delivery_mode=2 if durable else 1, message_id=str(seq))
        try:
            self._publish.send_method(spec.Basic.Publish, "Bssbb", (0, exchange, key, durable, False), message)
        except BROKEN as error:
            raise self._fail(f"sending failed: {say(error)}") from None
        self._sent = seq
        if not durable:
            self._fleeting.add(seq)
        return seq

    def settled(self) -> list[Settled]:
        """See `Session.settled`."""
        if not self._settled:
            self._check()
            self._move()
        elif self._dead is None and not self._wire.abandoned:
            self._push()
        settled, self._settled = self._settled, []
        return settled

    def prepare(self, to: Address) -> None:
        """See `Session.prepare`."""
        self._check()
        if to not in self._routes:
            self._declare_route(to)

    # ------------------------------------------------------------ receiving
    def receive(self, timeout: float, wake: int | None = None) -> list[Delivery]:
        """See `Session.receive`."""
        self._check()
        self._move()
        if not (self._inbox or self._settled) and timeout > 0:
            self._wait(monotonic() + timeout, wake)
        inbox, self._inbox, self._inbox_bytes = self._inbox, deque(), 0
        return list(inbox)

    def _wait(self, deadline: float, wake: int | None) -> None:
        tick = (self._connection.heartbeat or 60) / 4
        while True:
            left = deadline - monotonic()
            if left <= 0:
                return
            try:
                woken = self._wire.wait(min(left, tick), wake)
            except BROKEN as error:
                raise self._fail(f"waiting failed: {say(error)}") from None
            self._move()
            if woken or self._inbox or self._settled:
                return

    def _push(self) -> None:
        try:
            self._wire.push()
        except BROKEN as error:
            raise self._fail(f"writing failed: {say(error)}") from None

    def _move(self) -> None:
        """Write and read what can be without waiting, record what came, and keep up the heartbeat."""
        wire = self._wire
        try:
            written = wire.push()
            pulled = self._inbox_bytes < RECEIVED_BYTES and wire.pull()
            handle, work = self._connection.on_inbound_frame, self._work.channel_id
            while self._inbox_bytes < RECEIVED_BYTES:  # what is beyond that stays where it is until this has been taken
                frame = wire.next_frame()
                if frame is not None:
                    self._coming += frame[1] == work and frame[0] != METHOD
                    handle(frame)
                elif pulled and len(self._inbox) < _DRAINED_AT_ONCE:
                    pulled = wire.pull()
                else:
                    break
            now = monotonic()
            self._heartbeat(now)
            if self._vigil is not None and now >= self._vigil.due and self._inbox_bytes < RECEIVED_BYTES:
                # What comes on the fanout says nothing: the node by itself can do that. What has not been written yet,
                # a probe perhaps, cannot be confirmed.
                blocked = self._blocked is not None or not written
                self._vigil.look(now, self._answered + self._coming, blocked=blocked)
        except BROKEN as error:
            raise self._fail(f"the connection is lost: {say(error)}") from None
        if self._dead is not None:
            raise self._fail(self._dead)

    def _heartbeat(self, now: float) -> None:
        interval = self._connection.heartbeat
        if not interval:
            return
        if now - self._wire.last_write > interval / 2:
            self._connection.send_heartbeat()
            self._wire.push()
        # What is full does not read, and says nothing of the broker.
        if now - self._wire.last_read > 2 * interval and self._inbox_bytes < RECEIVED_BYTES:
            raise TimeoutError(f"no sign of life for {2 * interval:g} s")

    # ------------------------------------------------------------ subscriptions
    def subscribe(self, source: Address, prefetch: int) -> None:
        """See `Session.subscribe`."""
        if not 1 <= prefetch <= _MAX_PREFETCH:
            raise ConfigurationError(f"prefetch={prefetch}: it must be from 1 to {_MAX_PREFETCH}")
        fanout = source.kind in FANOUTS
        if fanout and source in self._tags:
            return  # without acks there is no prefetch to change
        self.unsubscribe(source)
        if not fanout and source not in self._routes:
            self._declare_route(source)
        with self._answer(f"subscribing to {source.kind.value} {source.key}"):
            channel = self._fanout if fanout else self._work
            if fanout:
                self._own_queues[source] = self._admin.declare_subscriber(source, self._name)
            else:
                channel.basic_qos(0, prefetch, False)
            self._consumer_count += 1
            tag = f"{self._name}.{self._consumer_count}"
            self._consumers[tag] = source
            self._tags[source] = tag
            name = self._own_queues[source] if fanout else self._topology.queue_name(source)
            channel.basic_consume(name, consumer_tag=tag, no_ack=fanout, on_cancel=self._on_cancel)

    def unsubscribe(self, source: Address) -> None:
        """See `Session.unsubscribe`."""
        self._check()
        tag = self._tags.pop(source, None)
        if tag is None:
            return
        with self._answer(f"unsubscribing from {source.kind.value} {source.key}"):
            (self._fanout if source.kind in FANOUTS else self._work).basic_cancel(tag)
        self._own_queues.pop(source, None)

    # ------------------------------------------------------------ acks
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Session.ack`."""
        tags = self._close_tags(deliveries)
        if not tags:
            return
        # All that is below `lowest` is acked now: one frame says so for all of this call's.
        prefix = [tag for tag in tags if tag < self._unacked.lowest]
        try:
            if prefix:
                self._work.basic_ack(prefix[-1], multiple=len(prefix) > 1)
            for tag in tags[len(prefix) :]:
                self._work.basic_ack(tag)
        except BROKEN as error:
            raise self._fail(f"acking failed: {say(error)}") from None

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """See `Session.requeue`."""
        self._reject(deliveries, requeue=True)

    def reject(self, delivery: Delivery) -> None:
        """See `Session.reject`."""
        self._reject([delivery], requeue=False)

    def _reject(self, deliveries: Sequence[Delivery], *, requeue: bool) -> None:
        try:
            for tag in self._close_tags(deliveries):
                self._work.basic_reject(tag, requeue)
        except BROKEN as error:
            raise self._fail(f"giving back failed: {say(error)}") from None

    def _close_tags(self, deliveries: Sequence[Delivery]) -> list[int]:
        """The channel's tags of those deliveries that are this session's and still open, in order; they are closed now."""
        if self._dead is not None or self._wire.abandoned:
            return []
        first = self._first_tag
        tags = sorted(delivery.tag - first for delivery in deliveries)
        return [tag for tag in tags if 0 < tag <= self._unacked.last and self._unacked.close(tag)]

    # ------------------------------------------------------------ questions
    def depth(self, source: Address) -> Depth | None:
        """See `Session.depth`. Of a fanout: this session's own subscription."""
        name = self._queue_of(source)
        if name is None:
            return None
        with self._answer(f"asking for the depth of {name}"):
            return self._admin.depth(name)

    def purge(self, source: Address) -> int:
        """See `Session.purge`."""
        name = self._queue_of(source)
        if name is None:
            return 0
        with self._answer(f"purging {name}"):
            return self._admin.purge(name)

    def claim(self, installation: str, *, anew: bool = False) -> None:
        """See `Session.claim`."""
        with self._answer("looking whose the broker is"):
            self._admin.claim(installation, anew=anew)

    def is_claimed(self) -> bool:
        """See `Session.is_claimed`."""
        with self._answer("looking whether the broker is anybody's"):
            return self._admin.is_claimed()

    def _queue_of(self, source: Address) -> str | None:
        self._check()
        return self._own_queues.get(source) if source.kind in FANOUTS else self._topology.queue_name(source)

    def beat(self) -> None:
        """See `Session.beat`."""
        self._check()
        self._move()

    @property
    def blocked(self) -> str | None:
        """See `Session.blocked`."""
        return self._blocked

    def close(self) -> None:
        """See `Session.close`."""
        if self._dead is None and not self._wire.abandoned:
            self._dead = "it was closed"
            self._wire.deadline = monotonic() + _CLOSE_TIMEOUT
            self._wire.write_timeout = _CLOSE_TIMEOUT
            try:
                self._connection.close()
            except BROKEN:
                pass  # the broker sees the socket close, which says the same
        self._wire.close()

    # ------------------------------------------------------------ what waits for an answer
    def _route_of(self, to: Address) -> tuple[str, str, bool]:
        """Where a message to an address goes; declared once a session. Of answers, whose addresses are many, the kind is."""
        known = Address(to.kind) if to.kind is Kind.ANSWERS else to
        if known not in self._routes:
            self._declare_route(known)
        exchange, _, durable = self._routes[known]
        return exchange, to.key, durable

    def _declare_route(self, to: Address) -> None:
        with self._answer(f"declaring {to.kind.value} {to.key}"):
            self._routes[to] = self._admin.declare_route(to)

    @contextmanager
    def _answer(self, doing: str, deadline: float | None = None) -> Iterator[None]:
        """Do something that waits for the broker's answer."""
        self._check()
        self._wire.deadline = deadline or monotonic() + ANSWER_TIMEOUT
        try:
            yield
        except NotAllowed as error:
            raise self._fail(str(error)) from None
        except PreconditionFailed as error:
            failed = self._fail(f"{doing}: {say(error)}")
            if "inequivalent arg" not in say(error):
                raise failed from None  # another channel's trouble that came to light now
            raise BrokerMisconfigured(
                f"{doing}: RabbitMQ at {self._where} has it with other settings: {say(error)}. Delete that queue when it is "
                "empty, or set queue_type (AIKI_QUEUE_TYPE) to what it is"
            ) from None
        except TimeoutError:
            raise self._fail(f"{doing}: no answer in time") from None
        except BROKEN as error:
            raise self._fail(f"{doing}: {say(error)}") from None
        if self._dead is not None:
            raise self._fail(self._dead)

    # ------------------------------------------------------------ what comes in: only recorded here
    def _on_work(self, consumer: str, tag: int, redelivered: bool, _exchange: str, _key: str, message: Message) -> None:
        self._unacked.last = tag
        headers = message.properties.get("application_headers")
        source = self._consumers[consumer]
        body = message.body or b""
        self._inbox_bytes += len(body)
        self._inbox.append(Delivery(source, body, redelivered, self._first_tag + tag, _dead_letter(headers) if headers else {}))

    def _on_fanout(self, consumer: str, _tag: int, redelivered: bool, _exchange: str, _key: str, message: Message) -> None:
        body = message.body or b""
        self._inbox_bytes += len(body)
        self._inbox.append(Delivery(self._consumers[consumer], body, redelivered, self._first_tag))

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple, True)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple, False)

    def _settle(self, tag: int, multiple: bool, ok: bool) -> None:
        for seq in self._confirms.close_through(tag) if multiple else [tag]:
            if not multiple:
                self._confirms.close(seq)
            if seq in self._returned:
                self._returned.discard(seq)
                self._settled.append(Settled(seq, False))
            elif seq in self._fleeting:
                self._fleeting.discard(seq)
                self._settled.append(Settled(seq, True))
            else:
                self._answered += ok
                self._settled.append(Settled(seq, ok))

    def _on_return(self, _error: object, _exchange: str, _key: str, message: Message) -> None:
        self._returned.add(int(message.properties["message_id"]))

    def _on_cancel(self, tag: str) -> None:
        source = self._consumers[tag]
        self._dead = f"the broker ended the subscription to {source.kind.value} {source.key} (was its queue deleted?)"

    def _on_blocked(self, reason: str) -> None:
        self._blocked = reason or "the broker has raised an alarm"

    def _on_unblocked(self) -> None:
        self._blocked = None

    # ------------------------------------------------------------ death
    def _check(self) -> None:
        if self._wire.abandoned:
            self._dead = "it belongs to the parent process; connect after the fork"
        if self._dead is not None:
            raise BrokerUnavailable(f"session {self._name} with RabbitMQ at {self._where} is over: {self._dead}")

    def _fail(self, reason: str) -> BrokerUnavailable:
        """The session is dead from here on; the error to raise."""
        self._limit.learn(reason)
        if self._blocked:
            reason += f" (the broker had blocked publishing: {self._blocked})"
        self._dead = reason
        self._wire.close()
        return BrokerUnavailable(f"session {self._name} with RabbitMQ at {self._where}: {reason}")


def _dead_letter(headers: dict[str, Any]) -> dict[str, Any]:
    """Headers for people: where a dead letter came from, out of RabbitMQ's `x-death`; others as they are."""
    deaths = headers.get("x-death")
    if not deaths:
        return headers
    last = deaths[0]
    kind = str(last.get("exchange", "")).rpartition(".")[2]
    keys = last.get("routing-keys") or [""]
    when = last.get("time")
    return {
        "reason": last.get("reason", ""),
        "queue": f"{kind}/{keys[0]}",
        "time": when.timestamp() if hasattr(when, "timestamp") else when,
    }
