"""What a session with RabbitMQ declares and asks, on a channel that the broker may close with its answer.

Everything here waits for the broker until the wire's deadline, and raises what py-amqp raises; the session that it belongs to
sets the deadline and sees to the errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from amqp.exceptions import AccessRefused, AMQPError, NotFound, PreconditionFailed
from kombu.entity import Queue

from aiki.broker.base import Address, BrokerForeign, Depth, Kind
from aiki.broker.topology import FANOUTS, TUNING, Topology

_log = logging.getLogger("aiki.broker")


def say(error: BaseException) -> str:
    """An error of the connection in words."""
    text = getattr(error, "reply_text", None) or str(error)
    return text if isinstance(error, (AMQPError, OSError)) and text else f"{type(error).__name__}: {text}"


class NotAllowed(Exception):
    """What is needed is not there, and this account may not make it. The message says what."""


class Admin:
    """See the module.

    :param open_channel: opens a channel, and waits for that.
    :param declares: makes what is needed without looking first, see `AmqpBroker`.
    """

    def __init__(self, open_channel: Callable[[], Any], topology: Topology, declares: bool) -> None:
        self._open_channel = open_channel
        self._topology = topology
        self._declares = declares
        self._channel: Any = None

    def _open(self) -> Any:
        if self._channel is None or not self._channel.is_open:
            self._channel = self._open_channel()
        return self._channel

    # ------------------------------------------------------------ declaring
    def declare_route(self, to: Address) -> tuple[str, str, bool]:
        """See that what carries messages to an address is there: exchange, routing key, and whether they are kept on disk."""
        if to.kind in FANOUTS:
            self._make_exchange(to.kind)
            return self._topology.exchange(to.kind).name, to.key, False
        needed = self._topology.needed(to)
        if self._declares or not self._is_there(needed[-1].name):
            try:
                for queue in needed:
                    self._declare_queue(queue)
            except AccessRefused as error:
                raise self._cannot_make(f"the queue {needed[-1].name}", error) from None
        return self._topology.exchange(to.kind).name, to.key, True

    def declare_subscriber(self, source: Address, session: str) -> str:
        """Make a queue of this session's own for a fanout; its name."""
        queue = self._topology.subscriber_queue(source, session)
        self._make_exchange(source.kind)
        queue.queue_declare(channel=self._open())
        queue.queue_bind(channel=self._open())
        return str(queue.name)

    def _make_exchange(self, kind: Kind) -> None:
        exchange = self._topology.exchange(kind)
        if not self._declares:
            try:
                self._open().exchange_declare(exchange.name, exchange.type, passive=True)
                return
            except NotFound:
                pass
        try:
            exchange.declare(channel=self._open())
        except AccessRefused as error:
            raise self._cannot_make(f"the exchange {exchange.name}", error) from None

    def _is_there(self, queue: str) -> bool:
        try:
            self._open().queue_declare(queue, passive=True)
        except NotFound:
            return False
        except AccessRefused:
            return True  # RabbitMQ 4 does not let everybody look; who sends finds out by what is returned
        return True

    def _cannot_make(self, what: str, error: AccessRefused) -> NotAllowed:
        return NotAllowed(
            f"{what} is not there, and this account may not make it ({say(error)}): an orchestrator makes it when it hears of "
            "it; is one running?"
            if not self._declares
            else f"declaring {what}: {say(error)}"
        )

    def _declare_queue(self, queue: Queue) -> None:
        arguments: dict[str, Any] = queue.queue_arguments  # type: ignore[attr-defined]  # kombu sets it from a table
        while True:
            try:
                queue.declare(channel=self._open())
                return
            except PreconditionFailed as error:
                told = say(error)
                refused = [name for name in TUNING if name in arguments and name in told]
                if not refused:
                    raise
                # It was there before Aiki chose: how it is tuned is no reason to refuse it.
                for name in refused:
                    del arguments[name]

    # ------------------------------------------------------------ questions
    def depth(self, queue: str) -> Depth | None:
        """How full a queue is; None if it does not exist."""
        try:
            answer = self._open().queue_declare(queue, passive=True)
        except NotFound:
            return None
        return Depth(answer.message_count, answer.consumer_count)

    def purge(self, queue: str) -> int:
        """Throw away what is ready in a queue; how many messages that were."""
        try:
            return int(self._open().queue_purge(queue) or 0)
        except NotFound:
            return 0

    def claim(self, installation: str, *, anew: bool) -> None:
        """See `Session.claim`. An account that may not declare the record (of an older definitions.json) cannot look either."""
        exchange = self._topology.owner(installation)
        channel = self._open()
        if anew:
            channel.exchange_delete(exchange.name)
        try:
            exchange.declare(channel=channel)
        except PreconditionFailed as error:
            owner = self._topology.owner_in(say(error))
            if owner is None:
                raise
            raise BrokerForeign(owner) from None
        except AccessRefused as error:
            _log.warning("whose the broker is cannot be seen: %s; see rabbitmq/README.md", say(error))

    def is_claimed(self) -> bool:
        """See `Session.is_claimed`."""
        try:
            self._open().exchange_declare(self._topology.owner("").name, "direct", passive=True)
        except NotFound:
            return False
        return True
