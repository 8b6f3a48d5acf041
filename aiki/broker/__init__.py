"""Brokers: RabbitMQ over Kombu, and the embedded default over SQLite, behind one protocol (`base.py`)."""

from __future__ import annotations

from aiki.broker.base import (
    CONTROL,
    DEAD,
    HEARTBEAT,
    Address,
    Broker,
    BrokerForeign,
    BrokerMisconfigured,
    Delivery,
    Depth,
    Kind,
    Session,
    Settled,
    answers,
    reports,
    work,
)
from aiki.ceilings import MAX_MESSAGE
from aiki.errors import ConfigurationError
from aiki.settings import Settings

__all__ = [
    "CONTROL",
    "DEAD",
    "HEARTBEAT",
    "Address",
    "Broker",
    "BrokerForeign",
    "BrokerMisconfigured",
    "Delivery",
    "Depth",
    "Kind",
    "Session",
    "Settled",
    "answers",
    "broker_of",
    "open_broker",
    "reports",
    "work",
]


def broker_of(settings: Settings, *, heartbeat: int = 0, what: str = "this process", declares: bool = True) -> Broker:
    """The broker that the settings name; `what` needs it; `declares`: see `open_broker`.

    Connects to nothing yet. Raises `ConfigurationError`.
    """
    settings.need("broker_url", what=what)
    return open_broker(
        settings.broker_url,
        prefix=settings.prefix,
        queue_type=settings.queue_type,
        heartbeat=heartbeat,
        password_file=settings.broker_password_file,
        max_message=settings.max_message,
        declares=declares,
    )


def open_broker(
    url: str,
    *,
    prefix: str = "aiki",
    queue_type: str = "classic",
    heartbeat: int = 0,
    password_file: str = "",
    max_message: int = MAX_MESSAGE,
    declares: bool = True,
) -> Broker:
    """The broker behind `url`: `amqp://user:password@host:5672/vhost`, `amqps://…`, or `sqlite:///path/to/broker.db`.

    Several AMQP URLs, with a semicolon between them, are the nodes of one cluster.

    :param prefix: begins the name of every exchange and queue, so that installations can share a virtual host.
    :param queue_type: `classic` or `quorum`, for RabbitMQ's durable queues; one installation, one type.
    :param heartbeat: seconds between RabbitMQ's heartbeats; it gives up a stopped process after two. 0 is the default of 20.
    :param password_file: holds RabbitMQ's password, read for each connection.
    :param max_message: bytes; a larger message is refused here (`MessageTooLarge`), for RabbitMQ ends the session of whoever
        sends one that is over its own limit.
    :param declares: whether a session makes what it needs without looking first, see `AmqpBroker`.
    :raises ConfigurationError: the URL, the prefix or the queue type is not one.
    """
    scheme = url.partition(":")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        from aiki.broker.amqp import HEARTBEAT_SECONDS, AmqpBroker

        return AmqpBroker(
            url,
            prefix=prefix,
            queue_type=queue_type,
            heartbeat=heartbeat or HEARTBEAT_SECONDS,
            password_file=password_file,
            max_message=max_message,
            declares=declares,
        )
    if scheme == "sqlite":
        from aiki.broker.sqlite import SqliteBroker

        return SqliteBroker(url, max_message=max_message)
    raise ConfigurationError(f"broker URL begins with {scheme!r}; it must be amqp://, amqps:// or sqlite:///")
