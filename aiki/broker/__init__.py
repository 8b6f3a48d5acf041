"""Brokers: RabbitMQ over Kombu, and the embedded default over SQLite, behind one protocol (`base.py`)."""

from __future__ import annotations

from aiki.broker.base import (
    CONTROL,
    DEAD,
    HEARTBEAT,
    Address,
    Broker,
    BrokerMisconfigured,
    Delivery,
    Depth,
    Kind,
    Session,
    Settled,
    reports,
    work,
)
from aiki.errors import ConfigurationError

__all__ = [
    "CONTROL",
    "DEAD",
    "HEARTBEAT",
    "Address",
    "Broker",
    "BrokerMisconfigured",
    "Delivery",
    "Depth",
    "Kind",
    "Session",
    "Settled",
    "open_broker",
    "reports",
    "work",
]


def open_broker(url: str, *, prefix: str = "aiki", queue_type: str = "classic", heartbeat: int = 0) -> Broker:
    """The broker behind `url`: `amqp://user:password@host:5672/vhost`, `amqps://…`, or `sqlite:///path/to/broker.db`.

    :param prefix: begins the name of every exchange and queue, so that installations can share a virtual host.
    :param queue_type: `classic` or `quorum`, for RabbitMQ's durable queues; one installation, one type.
    :param heartbeat: seconds between RabbitMQ's heartbeats; it gives up a stopped process after two. 0 is the default of 20.
    :raises ConfigurationError: the URL, the prefix or the queue type is not one.
    """
    scheme = url.partition(":")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        from aiki.broker.amqp import HEARTBEAT_SECONDS, AmqpBroker

        return AmqpBroker(url, prefix=prefix, queue_type=queue_type, heartbeat=heartbeat or HEARTBEAT_SECONDS)
    if scheme == "sqlite":
        from aiki.broker.sqlite import SqliteBroker

        return SqliteBroker(url)
    raise ConfigurationError(f"broker URL begins with {scheme!r}; it must be amqp://, amqps:// or sqlite:///")
