"""What the bench itself asks of RabbitMQ: how full queues are, and to delete them."""

from __future__ import annotations

from urllib.parse import quote

import amqp
from sqlalchemy.engine import make_url


class Broker:
    """One connection for looking at queues."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._connection = amqp.Connection(
            host=f"{parsed.host}:{parsed.port or 5672}",
            userid=parsed.username or "guest",
            password=parsed.password or "guest",
            virtual_host=parsed.database or "/",
            connect_timeout=10,
        )
        self._connection.connect()
        self._channel = self._connection.channel()

    @property
    def version(self) -> str:
        """The server's name and version."""
        properties = self._connection.server_properties
        return f"{properties.get('product', 'AMQP')} {properties.get('version', '?')}"

    def ready(self, queue: str) -> int:
        """Messages ready in a queue that exists."""
        return int(self._channel.queue_declare(queue, passive=True).message_count)

    def consumers(self, queue: str) -> int:
        """Consumers of a queue; 0 if it does not exist."""
        try:
            return int(self._channel.queue_declare(queue, passive=True).consumer_count)
        except amqp.NotFound:  # which closes the channel
            self._channel = self._connection.channel()
            return 0

    def forget(self, run: str) -> None:
        """Delete what a case has declared, whichever product it was of."""
        queues = [run, f"{run}.DQ", f"{run}.XQ", f"{run}.dead", *(f"{run}.reports.{n}" for n in range(4))]
        queues += [f"{run}.work.default.{name}" for name in ("default", "warm")]
        for queue in queues:
            self._channel.queue_delete(queue)
        for exchange in (run, *(f"{run}.{kind}" for kind in ("work", "reports", "dead", "control", "heartbeat"))):
            self._channel.exchange_delete(exchange)

    def close(self) -> None:
        """Leave."""
        self._connection.close()


def pika_url(url: str) -> str:
    """The URL as pika reads it: the virtual host `/` written as `%2F`."""
    parsed = make_url(url)
    plain = parsed.set(database=None).render_as_string(hide_password=False).rstrip("/")
    return f"{plain}/{quote(parsed.database or '/', safe='')}"
