"""RabbitMQ: from a URL to sessions. Kombu reads the URL and connects."""

from __future__ import annotations

import ssl
from time import monotonic
from typing import Any, Final

from amqp.exceptions import AccessRefused, NotAllowed
from kombu.connection import Connection

from aiki.broker.amqp_admin import say
from aiki.broker.amqp_session import BROKEN, AmqpSession
from aiki.broker.base import BrokerMisconfigured, SizeLimit
from aiki.broker.probe import Nodes
from aiki.broker.topology import Topology
from aiki.broker.wire import WRITE_TIMEOUT, WireTransport
from aiki.ceilings import MAX_MESSAGE
from aiki.errors import BrokerUnavailable, ConfigurationError
from aiki.settings import read_secret

HEARTBEAT_SECONDS: Final = 20


class AmqpBroker:
    """RabbitMQ behind one AMQP URL, or behind several, with a semicolon between them, which are the nodes of one cluster.

    :param url: `amqp://user:password@host:5672/vhost`; for TLS `amqps://…`, with `?ssl_ca_certs=`, `ssl_certfile=`,
        `ssl_keyfile=` (files) and `ssl_cert_reqs=none` where needed.
    :param prefix: begins the name of every exchange and queue.
    :param queue_type: `classic` or `quorum`.
    :param heartbeat: seconds between heartbeats asked for; the broker is given up after two without a sign of life.
    :param max_message: bytes of the largest message; less, once the broker has said that it takes less.
    :param write_timeout: seconds in which the broker must take at least some of what is sent to it.
    :param declares: makes what it needs and is not there; otherwise it looks first, and makes only what is missing, so that an
        account that may declare and bind nothing but queues of its own will do.
    :param password_file: holds the password, in place of the URL's; read for each connection.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "aiki",
        queue_type: str = "classic",
        heartbeat: int = HEARTBEAT_SECONDS,
        write_timeout: float = WRITE_TIMEOUT,
        password_file: str = "",
        max_message: int = MAX_MESSAGE,
        declares: bool = True,
    ) -> None:
        self.url = url
        self.limit = SizeLimit(max_message)
        self.topology = Topology(prefix, queue_type)
        self.heartbeat = heartbeat
        self.write_timeout = write_timeout
        self._password_file = password_file
        self._declares = declares
        self._nodes = Nodes(one.strip() for one in url.split(";") if one.strip())
        schemes = {one.partition(":")[0] for one in self._nodes.urls}
        if len(schemes) > 1:
            raise ConfigurationError(f"the broker URL mixes {' and '.join(sorted(schemes))}: all nodes must speak the same")
        self._tls = schemes == {"amqps"}
        try:
            for node in self._nodes.urls:
                self._client(node, 1.0, {})
        except (TypeError, ValueError, KeyError):
            # Kombu's own words could hold the password.
            raise ConfigurationError(
                "the broker URL cannot be read; it must be amqp://user:password@host:port/vhost, with special characters "
                "in the user name, the password and the vhost percent-encoded; of several, with a semicolon between them, each"
            ) from None

    def __repr__(self) -> str:
        return f"AmqpBroker({self.where})"

    @property
    def where(self) -> str:
        """Host, port and virtual host of each node: how messages name the broker. Never the password."""
        return " or ".join(map(self._place, self._nodes.urls))

    def _place(self, node: str) -> str:
        client = self._client(node, 1.0, {})
        port = client.port or (5671 if self._tls else 5672)
        return f"{client.hostname or 'localhost'}:{port}/{(client.virtual_host or '/').removeprefix('/')}"

    def connect(self, name: str, timeout: float = 5.0) -> AmqpSession:
        """A new connection; raises `BrokerUnavailable` within `timeout` seconds (looking up the host's name comes on top).

        Of several nodes one is tried after the other, in random order, so that the clients spread over the cluster, and do not
        all go to the same node when another is lost; one that a session has been given up with goes last. A node that is silent
        takes no more than its share of the time.
        """
        deadline = monotonic() + timeout
        nodes = self._nodes.in_order(monotonic())
        problems: list[str] = []
        for number, node in enumerate(nodes):
            now = monotonic()
            share = (deadline - now) / (len(nodes) - number)
            if share <= 0:
                break
            try:
                return self._connect(node, name, now + share, share)
            except BrokerMisconfigured:
                raise
            except BrokerUnavailable as error:
                problems.append(str(error))
        raise BrokerUnavailable("; ".join(problems))

    def _connect(self, node: str, name: str, deadline: float, timeout: float) -> AmqpSession:
        options = {
            "client_properties": {"product": "Aiki", "connection_name": name},
            "deadline": deadline,
            "write_timeout": self.write_timeout,
        }
        client = self._client(node, timeout, options)
        where = self._place(node)
        if self._password_file:
            client.password = self._read_password()
        client.transport_options["tls"] = _tls_context(client.ssl) if self._tls else None
        try:
            connection = client.transport.establish_connection()
        except (AccessRefused, NotAllowed) as error:
            hint = "AIKI_BROKER_PASSWORD_FILE" if self._password_file else "the broker URL"
            raise BrokerUnavailable(f"RabbitMQ at {where} refuses us: {error.reply_text}; look at {hint}") from None
        except TimeoutError:
            raise BrokerUnavailable(f"RabbitMQ at {where} did not answer within {timeout:.3g} s") from None
        except BROKEN as error:
            raise BrokerUnavailable(f"cannot connect to RabbitMQ at {where}: {say(error)}") from None
        watched = (self._nodes, node) if self.topology.probes else None
        return AmqpSession(connection, self.topology, name, where, deadline, self.limit, self._declares, watched)

    def _read_password(self) -> str:
        try:
            return read_secret(self._password_file, "AIKI_BROKER_PASSWORD_FILE")
        except ConfigurationError as error:  # it may be there again in a moment: who rotates it replaces it
            raise BrokerUnavailable(str(error)) from None

    def _client(self, node: str, timeout: float, options: dict[str, Any]) -> Any:
        return Connection(
            node,
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
