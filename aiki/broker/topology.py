"""The exchanges and queues on RabbitMQ: their names and their settings, in one place.

========================  ========  =========================================================================
exchange                  type      queues
========================  ========  =========================================================================
`{prefix}.work`           direct    `{prefix}.work.{namespace}.{queue}`, routing key `namespace/queue`
`{prefix}.reports`        direct    `{prefix}.reports.{partition}`, routing key the partition; one active consumer
`{prefix}.dead`           fanout    `{prefix}.dead`; the dead-letter exchange of the two above
`{prefix}.control`        fanout    `{prefix}.control.{session}.{random}`, one a subscriber, exclusive
`{prefix}.heartbeat`      fanout    `{prefix}.heartbeat.{session}.{random}`, the same
`{prefix}.control.answers` direct   `{prefix}.control.answers.{session}.{random}`, the same; routing key: made up
`{prefix}.work`           direct    `{prefix}.work.probe`, routing key `probe`: on quorum queues (see `probe`)
`{prefix}.owner`          direct    none; its alternate exchange is called `{prefix}.installation.{id}` (see `owner`)
========================  ========  =========================================================================

Whoever needs a queue declares it with all that it hangs on; declaring again what exists changes nothing. A queue that
exists with other settings is an error, so settings that an operator may want to tune (a length limit, a time to live)
are left to policies.
"""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from kombu.entity import Exchange, Queue

from aiki.broker.base import Address, Kind
from aiki.errors import ConfigurationError

QUEUE_TYPES: Final = ("classic", "quorum")
FANOUTS: Final = frozenset({Kind.CONTROL, Kind.HEARTBEAT, Kind.ANSWERS})
"""The kinds whose queues are subscribers' own."""
FANOUT_LIMIT: Final = 10_000
"""A subscriber that does not read loses its oldest messages beyond this many."""

STORAGE_VERSION: Final = "x-queue-version"
"""How a classic queue keeps its messages. Version 2, the default of later releases of RabbitMQ, confirms sooner and takes less
CPU: workflows of five steps ran half as fast again with it."""

DISCONNECTED_TIMEOUT: Final = "x-consumer-disconnected-timeout"
"""Milliseconds for which a quorum queue of RabbitMQ 4.3 keeps what a consumer has taken whose node it does not reach, and keeps
that consumer the active one of its queue. By default a minute passes without reports when a node is lost. Other releases pass
over it."""

TUNING: Final = (STORAGE_VERSION, DISCONNECTED_TIMEOUT)
"""Arguments that say how well a queue works, not what it does."""

_NO_DELIVERY_LIMIT = 1_000_000_000
"""Returns say nothing about crashes (those are counted in the database), yet RabbitMQ 4 drops a message after 20 of them."""


PROBE_KEY: Final = "probe"
"""Where probes go; a work queue's key has a slash, and its name one dot more."""
_PROBE_MEMBERS = 99
"""On how many nodes the probe queue is, if there are as many: a majority of it is a majority of the cluster."""


class Topology:
    """Names and settings under one prefix.

    :param queue_type: `classic` or `quorum`, for the durable queues.
    """

    def __init__(self, prefix: str, queue_type: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", prefix):
            raise ConfigurationError(f"prefix {prefix!r}: use 1 to 64 letters, digits, dots, hyphens and underscores")
        if queue_type not in QUEUE_TYPES:
            raise ConfigurationError(f"queue_type={queue_type!r}: it must be classic or quorum")
        self.prefix = prefix
        self.queue_type = queue_type

    def exchange(self, kind: Kind) -> Exchange:
        """The exchange of a kind."""
        direct = kind in (Kind.WORK, Kind.REPORTS, Kind.ANSWERS)
        return Exchange(f"{self.prefix}.{kind.value}", type="direct" if direct else "fanout", durable=True)

    def owner(self, installation: str) -> Exchange:
        """The exchange that says whose all this is.

        RabbitMQ refuses to declare an exchange that exists with other arguments, and names both values: so it is a record that
        is made by whoever comes first, that nobody can take away by reading it, and that any client can compare with.
        """
        arguments = {"alternate-exchange": f"{self.prefix}.installation.{installation}"}
        return Exchange(f"{self.prefix}.owner", type="direct", durable=True, arguments=arguments)

    def owner_in(self, text: str) -> str | None:
        """The installation that an error about that exchange names as its owner."""
        found = re.search(rf"current is '{re.escape(self.prefix)}\.installation\.([0-9a-f]{{32}})'", text)
        return None if found is None else found[1]

    def queue_name(self, address: Address) -> str:
        """The name of a durable queue."""
        if address.kind is Kind.WORK:
            namespace, slash, queue = address.key.partition("/")
            if not (namespace and slash and queue):
                raise ConfigurationError(f"work queue {address.key!r}: it must be namespace/queue")
            # A namespace may hold dots too: without this, a.b + c and a + b.c would share a queue.
            return f"{self.prefix}.work.{namespace.replace('.', '%2E')}.{queue}"
        return f"{self.prefix}.{address.kind.value}.{address.key}" if address.key else f"{self.prefix}.{address.kind.value}"

    def queue(self, address: Address) -> Queue:
        """The durable queue of an address."""
        # Said even where it is RabbitMQ's own default, for a virtual host may have another one.
        arguments: dict[str, Any] = {"x-queue-type": "classic", STORAGE_VERSION: 2}
        if self.queue_type == "quorum":
            arguments = {"x-queue-type": "quorum", "x-delivery-limit": _NO_DELIVERY_LIMIT, DISCONNECTED_TIMEOUT: 10_000}
        if address.kind is not Kind.DEAD:
            arguments["x-dead-letter-exchange"] = f"{self.prefix}.dead"
            if self.queue_type == "quorum":
                # Only so are dead letters moved with confirms; RabbitMQ insists on reject-publish for it.
                arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
        if address.kind is Kind.REPORTS:
            arguments["x-single-active-consumer"] = True
        return Queue(
            self.queue_name(address),
            exchange=self.exchange(address.kind),
            routing_key=address.key,
            durable=True,
            queue_arguments=arguments,
        )

    @property
    def probes(self) -> bool:
        """Whether sessions ask if their node has a majority: only on a cluster can it be without."""
        return self.queue_type == "quorum"

    def probe(self) -> Queue:
        """The queue of probes. It keeps none of them, and nobody reads it.

        It hangs on the exchange that every account may publish to.
        """
        arguments = {"x-queue-type": "quorum", "x-quorum-initial-group-size": _PROBE_MEMBERS}
        arguments |= {"x-max-length": 0, "x-overflow": "drop-head"}
        return Queue(
            f"{self.exchange(Kind.WORK).name}.{PROBE_KEY}",
            exchange=self.exchange(Kind.WORK),
            routing_key=PROBE_KEY,
            durable=True,
            queue_arguments=arguments,
        )

    @property
    def probe_route(self) -> tuple[str, str]:
        """Exchange and routing key of probes."""
        return self.exchange(Kind.WORK).name, PROBE_KEY

    def needed(self, to: Address) -> list[Queue]:
        """The durable queues that whoever sends to or takes from an address needs, its own at the end."""
        queue = self.queue(to)
        if to.kind is Kind.DEAD:
            return [queue]
        # First of all: without it, dead letters would be dropped in silence.
        first = [self.queue(Address(Kind.DEAD))]
        # Those who have to do with reports and may make queues, the orchestrators, make that of the probes for everybody.
        return [*first, *([self.probe()] if self.probes and to.kind is Kind.REPORTS else []), queue]

    def subscriber_queue(self, source: Address, session: str) -> Queue:
        """A queue of one session's own, gone with its connection.

        It is named here, not by the server, so that one permission pattern (`^aiki\\.`) covers all.
        """
        readable = re.sub(r"[^A-Za-z0-9._-]", "-", session)[:64]
        return Queue(
            f"{self.prefix}.{source.kind.value}.{readable}.{secrets.token_hex(8)}",
            exchange=self.exchange(source.kind),
            routing_key=source.key,
            durable=False,
            exclusive=True,
            auto_delete=True,
            queue_arguments={"x-max-length": FANOUT_LIMIT, "x-overflow": "drop-head"},
        )
