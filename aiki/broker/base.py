"""What Aiki asks of a broker: one small protocol, implemented over AMQP (`amqp.py`) and over SQLite (`sqlite.py`).

A `Session` is one connection, used by one thread at a time (several threads may take turns under a lock of theirs)
and never across a fork. Whatever goes wrong with it raises `BrokerUnavailable`; from then on the session is dead,
and so are its deliveries: acking one is a silent no-op, because the broker hands the message out again, flagged
`redelivered`. The owner connects anew, with backoff, and subscribes again.

What a session is given to do (`send`, `ack`, `requeue`, `reject`) may wait in this process for company until the next
`receive`, `settled`, `beat` or `close`, which hand it on: many small messages in one system call or one transaction
are several times cheaper than one by one. So call one of these soon after; `receive(0)` will do.

Both implementations pass `tests/broker/contract.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from aiki.errors import BrokerUnavailable, ConfigurationError, MessageTooLarge


class BrokerMisconfigured(ConfigurationError, BrokerUnavailable):
    """The broker has what we need under the same name with other settings; somebody has to mend one of the two.

    Both a `ConfigurationError`, for a command that starts, and a `BrokerUnavailable`, for a loop that tries again.
    """


class BrokerForeign(BrokerMisconfigured):
    """The broker is another installation's, whose id is `owner`."""

    def __init__(self, owner: str, message: str = "") -> None:
        super().__init__(message or f"the broker is that of installation {owner}")
        self.owner = owner


class Kind(StrEnum):
    """The six roads through the broker."""

    WORK = "work"
    """Dispatches, one durable queue a namespace and user queue; shared by all who subscribe."""
    REPORTS = "reports"
    """Reports, one durable queue a partition, one active consumer each: the longest subscribed gets all, in order."""
    DEAD = "dead"
    """The dead letters of both: rejected, expired and undeliverable messages. Durable."""
    CONTROL = "control"
    """Fanout to supervisors: each subscriber has a queue of its own, which dies with it. Transient."""
    HEARTBEAT = "heartbeat"
    """Fanout to orchestrators, the same way."""
    ANSWERS = "control.answers"
    """Values of histories, to the one child that asked; `key` is a name that it has made up, so that nobody else can listen.
    Transient: what is lost is asked for again."""


class Address(NamedTuple):
    """Where a message goes or comes from. `key` tells the queue of a kind: `namespace/queue`, or a partition's number."""

    kind: Kind
    key: str = ""


def work(namespace: str, queue: str) -> Address:
    """The work queue `queue` of a namespace."""
    return Address(Kind.WORK, f"{namespace}/{queue}")


def reports(partition: int) -> Address:
    """A partition of the reports."""
    return Address(Kind.REPORTS, str(partition))


def answers(name: str) -> Address:
    """Where the questions of the child that listens under a name are answered."""
    return Address(Kind.ANSWERS, name)


DEAD = Address(Kind.DEAD)
CONTROL = Address(Kind.CONTROL)
HEARTBEAT = Address(Kind.HEARTBEAT)


@dataclass(slots=True, eq=False)
class Delivery:
    """A message taken and not acked. `tag` belongs to its session.

    `headers` are for people. Those of a dead letter: `reason` (rejected, expired, maxlen, …), `queue` (kind and key of
    where it was, such as `work/default/payments`), `time` (Unix seconds). `namespace` is that for which it is signed, empty
    where it is not; `believed` is whether its signature is right, or none is asked for (see `aiki.broker.signed`).
    """

    source: Address
    body: bytes
    redelivered: bool
    tag: int
    headers: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    believed: bool = True


class Settled(NamedTuple):
    """What became of a message sent: `ok` means the broker answers for it; otherwise it was refused or had no queue."""

    seq: int
    ok: bool


class Depth(NamedTuple):
    """Messages ready in a queue (not those taken and unacked), and how many consumers it has."""

    ready: int
    consumers: int

    def without_marker(self) -> Depth:
        """The same without the one message that carries no runs."""
        return self._replace(ready=max(0, self.ready - 1))


class SizeLimit:
    """The largest message that a broker takes, shared by all its sessions; it becomes smaller when the broker says so."""

    __slots__ = ("bytes",)

    def __init__(self, size: int) -> None:
        self.bytes = size

    def check(self, body: bytes) -> None:
        """Raise `MessageTooLarge` for a body that is over it."""
        if len(body) > self.bytes:
            raise MessageTooLarge(len(body), self.bytes)

    def learn(self, said: str) -> None:
        """Take over the limit that a broker's refusal tells, if it is one of a size."""
        found = _TOO_LARGE.search(said)
        if found is not None:
            self.bytes = min(self.bytes, int(found.group(1)))


_TOO_LARGE = re.compile(r"message size \d+ .*?max size (\d+)")
"""RabbitMQ's words when it closes a channel because of a message's size."""


RECEIVED_BYTES: Final = 16 * 1024 * 1024
"""About how many bytes of messages one `receive` takes at most, whatever the prefetch; a larger message comes alone. The others
wait at the broker, or on their way from it."""
TAG_BITS: Final = 48
_sessions = count(1)


def first_tag() -> int:
    """A session's number, shifted, to be added to its tags: so it knows its own deliveries from those of others."""
    return next(_sessions) << TAG_BITS


@runtime_checkable
class Session(Protocol):
    """One connection to the broker. Every method may raise `BrokerUnavailable`, and none blocks beyond its time-out."""

    def send(self, to: Address, body: bytes) -> int:
        """Send a message without waiting and return its number (1, 2, 3, … within this session).

        Work, reports and dead letters are persistent and confirmed; a message that finds no queue settles as not ok.
        The queue of the address is declared first, once a session. Control, heartbeats and answers are transient and
        settle ok even if nobody listens.

        :raises MessageTooLarge: it is over `Broker.limit`; nothing was sent, and the session goes on.
        """

    def settled(self) -> list[Settled]:
        """What has settled since the last call, in the order in which it settled; each number once."""

    def prepare(self, to: Address) -> None:
        """See that the durable queue of an address is there, for those who may not make it."""

    def receive(self, timeout: float, wake: int | None = None) -> list[Delivery]:
        """Wait until there is a delivery, something settled, or `wake` (a file descriptor) is readable, or `timeout` seconds.

        Then take all that can be taken without waiting. Time-out 0 never blocks. Keeps the connection alive.
        """

    def subscribe(self, source: Address, prefetch: int) -> None:
        """Take deliveries from `source` (declared first), at most `prefetch` unacked at a time.

        Control, heartbeats and answers need no ack. Subscribing again changes the prefetch. If the broker ends the
        subscription (a deleted queue), `receive` raises.
        """

    def unsubscribe(self, source: Address) -> None:
        """Take no more from `source`; what was taken stays taken. Deliveries already on the way may still be received."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """These are done. Deliveries of another session are passed over."""

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """Give these back, to be handed out again flagged `redelivered`."""

    def reject(self, delivery: Delivery) -> None:
        """Send a message that cannot be read to the dead letters. A dead letter that is rejected is thrown away."""

    def depth(self, source: Address) -> Depth | None:
        """How full the queue is, or None if it does not exist."""

    def purge(self, source: Address) -> int:
        """Throw away the ready messages of a queue; how many there were."""

    def claim(self, installation: str, *, anew: bool = False) -> None:
        """Record that the broker, under this prefix, is this installation's, unless it is on record as somebody's.

        :param anew: whosever it was.
        :raises BrokerForeign: it is another's.
        """

    def is_claimed(self) -> bool:
        """Whether it is on record as somebody's."""

    def beat(self) -> None:
        """Keep the connection alive. To be called every few seconds while `receive` is not."""

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages at present (a memory or disk alarm), or None."""

    def close(self) -> None:
        """Leave. What was taken and not acked goes back to its queue. Never raises, never blocks for long."""


@runtime_checkable
class Broker(Protocol):
    """A broker that one can connect to. Cheap to make; safe to keep across a fork as long as no session is."""

    url: str
    limit: SizeLimit

    def connect(self, name: str, timeout: float = 5.0) -> Session:
        """A new session; `name` is shown to operators. Raises `BrokerUnavailable` after `timeout` seconds at the latest."""
