"""Brokers: RabbitMQ over Kombu, and the embedded default over SQLite, behind one protocol (`base.py`)."""

from __future__ import annotations

from aiki.broker.base import CONTROL, DEAD, HEARTBEAT, Address, Broker, Delivery, Depth, Kind, Session, Settled, reports, work
from aiki.errors import ConfigurationError

__all__ = [
    "CONTROL",
    "DEAD",
    "HEARTBEAT",
    "Address",
    "Broker",
    "Delivery",
    "Depth",
    "Kind",
    "Session",
    "Settled",
    "open_broker",
    "reports",
    "work",
]


def open_broker(url: str, *, prefix: str = "aiki") -> Broker:
    """The broker behind `url`: `amqp://user:password@host:5672/vhost`, `amqps://…`, or `sqlite:///path/to/broker.db`.

    :param prefix: begins the name of every exchange and queue, so that installations can share a virtual host.
    """
    scheme = url.partition(":")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        from aiki.broker.amqp import AmqpBroker

        return AmqpBroker(url, prefix=prefix)
    if scheme == "sqlite":
        from aiki.broker.sqlite import SqliteBroker

        return SqliteBroker(url)
    raise ConfigurationError(f"broker URL begins with {scheme!r}; it must be amqp://, amqps:// or sqlite:///")
