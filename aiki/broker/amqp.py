"""RabbitMQ: from a URL to sessions. Kombu reads the URL and connects."""

from __future__ import annotations

import ssl
from time import monotonic
from typing import Any, Final

from amqp.exceptions import AccessRefused, NotAllowed
from kombu.connection import Connection

from aiki.broker.amqp_session import BROKEN, AmqpSession, say
from aiki.broker.topology import Topology
from aiki.broker.wire import WRITE_TIMEOUT, WireTransport
from aiki.errors import BrokerUnavailable, ConfigurationError

HEARTBEAT_SECONDS: Final = 20


class AmqpBroker:
    """RabbitMQ behind an AMQP URL.

    :param url: `amqp://user:password@host:5672/vhost`; for TLS `amqps://…`, with `?ssl_ca_certs=`, `ssl_certfile=`,
        `ssl_keyfile=` (files) and `ssl_cert_reqs=none` where needed.
    :param prefix: begins the name of every exchange and queue.
    :param queue_type: `classic` or `quorum`.
    :param heartbeat: seconds between heartbeats asked for; the broker is given up after two without a sign of life.
    :param write_timeout: seconds in which the broker must take at least some of what is sent to it.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "aiki",
        queue_type: str = "classic",
        heartbeat: int = HEARTBEAT_SECONDS,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        self.url = url
        self.topology = Topology(prefix, queue_type)
        self.heartbeat = heartbeat
        self.write_timeout = write_timeout
        self._tls = url.startswith("amqps:")
        try:
            self._client(1.0, {})
        except (TypeError, ValueError, KeyError):
            # Kombu's own words could hold the password.
            raise ConfigurationError(
                "the broker URL cannot be read; it must be amqp://user:password@host:port/vhost, with special characters "
                "in the user name, the password and the vhost percent-encoded"
            ) from None

    def __repr__(self) -> str:
        return f"AmqpBroker({self.where})"

    @property
    def where(self) -> str:
        """Host, port and virtual host: how messages name the broker. Never the password."""
        client = self._client(1.0, {})
        port = client.port or (5671 if self._tls else 5672)
        return f"{client.hostname or 'localhost'}:{port}/{(client.virtual_host or '/').removeprefix('/')}"

    def connect(self, name: str, timeout: float = 5.0) -> AmqpSession:
        """A new connection; raises `BrokerUnavailable` within `timeout` seconds (looking up the host's name comes on top)."""
        deadline = monotonic() + timeout
        client = self._client(
            timeout,
            {
                "client_properties": {"product": "Aiki", "connection_name": name},
                "deadline": deadline,
                "write_timeout": self.write_timeout,
            },
        )
        client.transport_options["tls"] = _tls_context(client.ssl) if self._tls else None
        try:
            connection = client.transport.establish_connection()
        except (AccessRefused, NotAllowed) as error:
            raise BrokerUnavailable(
                f"RabbitMQ at {self.where} refuses us: {error.reply_text}; look at the broker URL"
            ) from None
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {self.where} did not answer within {timeout:g} s") from None
        except BROKEN as error:
            raise BrokerUnavailable(f"cannot connect to RabbitMQ at {self.where}: {say(error)}") from None
        return AmqpSession(connection, self.topology, name, self.where, deadline)

    def _client(self, timeout: float, options: dict[str, Any]) -> Any:
        return Connection(
            self.url,
            transport=WireTransport,
            heartbeat=self.heartbeat,
            connect_timeout=timeout,
            transport_options=options,
        )


def _tls_context(options: Any) -> ssl.SSLContext:
    given = options if isinstance(options, dict) else {}
    try:
        context = ssl.create_default_context(cafile=given.get("ssl_ca_certs"))
        if given.get("ssl_certfile"):
            context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    except OSError as error:
        raise ConfigurationError(f"the broker URL's TLS files cannot be loaded: {error}") from None
    required = given.get("ssl_cert_reqs", ssl.CERT_REQUIRED)
    context.check_hostname = required is ssl.CERT_REQUIRED and given.get("ssl_check_hostname", True)
    context.verify_mode = required
    return context
