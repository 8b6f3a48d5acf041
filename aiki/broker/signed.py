"""A broker whose sessions sign what they send and hand on only what is believed; see `aiki.signing`.

What is not believed goes to the dead letters where it can be acked (dispatches, reports), and is dropped where not (control
messages, heartbeats). Either is counted, and said in a log line, once in a while.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from aiki import signing
from aiki.broker.base import Address, Broker, Delivery, Depth, Kind, Session, Settled
from aiki.signing import Ring

log = logging.getLogger("aiki.broker")

SAY_EVERY: Final = 60.0
"""Seconds between two log lines about messages of one kind that are not believed."""

_INTRODUCTION = re.compile(rb'\},\["(?:hello|keys)",')
"""By these two a worker that has no key yet, or an old one, comes to have it: they are handed on as not believed."""
_HEAD: Final = 512


class SignedBroker:
    """See the module.

    :param claim: called with each new session before anything else is done with it; what it raises ends the session.
    """

    def __init__(self, broker: Broker, ring: Ring, claim: Callable[[Session], None] | None = None) -> None:
        self.url = broker.url
        self.limit = broker.limit
        self._broker = broker
        self._ring = ring
        self._claim = claim
        self.refused: Counter[str] = Counter()
        """How many messages were not believed, by kind."""
        self._said: dict[str, float] = {}

    def __repr__(self) -> str:
        return repr(self._broker)

    def connect(self, name: str, timeout: float = 5.0) -> Session:
        """See `Broker.connect`."""
        session = self._broker.connect(name, timeout)
        if self._claim is not None:
            try:
                self._claim(session)
            except BaseException:
                session.close()
                raise
        return SignedSession(session, self._ring, self._refuse)

    def take_refused(self) -> Counter[str]:
        """How many messages were not believed since the last call, by kind."""
        taken, self.refused = self.refused, Counter()
        return taken

    def _refuse(self, delivery: Delivery, why: str) -> None:
        kind = delivery.source.kind.value
        self.refused[kind] += 1
        now = monotonic()
        if now >= self._said.get(kind, 0.0):
            self._said[kind] = now + SAY_EVERY
            kept = "goes to the dead letters" if delivery.source.kind in (Kind.WORK, Kind.REPORTS) else "is dropped"
            log.error("a message of %s %s is not believed: %s; it %s", kind, delivery.source.key, why, kept)


class SignedSession:
    """See `aiki.broker.base.Session`."""

    def __init__(self, session: Session, ring: Ring, refuse: Callable[[Delivery, str], None]) -> None:
        self._session = session
        self._ring = ring
        self._refuse = refuse

    def send(self, to: Address, body: bytes) -> int:
        """See `Session.send`."""
        return self._session.send(to, signing.sign(body, self._ring))

    def receive(self, timeout: float, wake: int | None = None) -> list[Delivery]:
        """See `Session.receive`."""
        return [delivery for delivery in self._session.receive(timeout, wake) if self._believe(delivery)]

    def _believe(self, delivery: Delivery) -> bool:
        if delivery.source.kind is Kind.DEAD:
            return True
        found = signing.check(delivery.body, self._ring)
        delivery.namespace = found.namespace
        if not found.refused:
            return True
        if delivery.source.kind in (Kind.WORK, Kind.REPORTS):
            self._refuse(delivery, found.refused)
            self._session.reject(delivery)
            return False
        if _INTRODUCTION.search(delivery.body, 0, _HEAD):
            delivery.believed = False
            return True
        self._refuse(delivery, found.refused)
        return False

    # ------------------------------------------------------------ as they are
    def prepare(self, to: Address) -> None:
        """See `Session.prepare`."""
        self._session.prepare(to)

    def settled(self) -> list[Settled]:
        """See `Session.settled`."""
        return self._session.settled()

    def subscribe(self, source: Address, prefetch: int) -> None:
        """See `Session.subscribe`."""
        self._session.subscribe(source, prefetch)

    def unsubscribe(self, source: Address) -> None:
        """See `Session.unsubscribe`."""
        self._session.unsubscribe(source)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Session.ack`."""
        self._session.ack(deliveries)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """See `Session.requeue`."""
        self._session.requeue(deliveries)

    def reject(self, delivery: Delivery) -> None:
        """See `Session.reject`."""
        self._session.reject(delivery)

    def depth(self, source: Address) -> Depth | None:
        """See `Session.depth`."""
        return self._session.depth(source)

    def purge(self, source: Address) -> int:
        """See `Session.purge`."""
        return self._session.purge(source)

    def claim(self, installation: str, *, anew: bool = False) -> None:
        """See `Session.claim`."""
        self._session.claim(installation, anew=anew)

    def is_claimed(self) -> bool:
        """See `Session.is_claimed`."""
        return self._session.is_claimed()

    def beat(self) -> None:
        """See `Session.beat`."""
        self._session.beat()

    @property
    def blocked(self) -> str | None:
        """See `Session.blocked`."""
        return self._session.blocked

    def close(self) -> None:
        """See `Session.close`."""
        self._session.close()
