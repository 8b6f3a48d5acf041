"""A broker session that is reopened whenever it is lost, and the messages that it has not confirmed.

Invariant: a message that was posted is kept until the broker has confirmed it and all messages posted before it. After each
gap everything from the first unconfirmed message on is sent again, in order: so a receiver that reads in order never misses a
message before another. A gap is a lost session, a refused or a returned message. Used by one thread at a time.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiki.broker.base import Address, Broker, Delivery, Session
from aiki.errors import BrokerUnavailable, MessageTooLarge

_log = logging.getLogger(__name__)

FIRST_BACKOFF = 0.1
MAX_BACKOFF = 3.0
CONNECT_TIMEOUT = 5.0
LOG_SECONDS = 30.0
STABLE_SECONDS = 5.0
SIGNATURE = 1024
"""Bytes that are kept for what is added to a body on its way."""


@dataclass(slots=True, eq=False)
class Sent:
    """A message on its way. `again`: whether it is sent again after a gap. `token` is the owner's."""

    to: Address
    body: bytes
    token: Any = None
    again: bool = True
    confirmed: bool = field(default=False, init=False)


class Connection:
    """See the module. `on_lost` is called once for each session that is lost, before anything else happens.

    :ivar shrink: gives a smaller body for a message that the broker does not take because of its size, in its place; None
        where there is none. By default there is none.
    """

    def __init__(
        self,
        broker: Broker,
        name: str,
        on_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._broker = broker
        self._name = name
        self._on_lost = on_lost
        self._clock = clock
        self._uniform = uniform
        self.session: Session | None = None
        self.why = ""
        """Why there is no session; empty while there is one, or before the first try."""
        self._sent: dict[int, Sent] = {}
        """In the order of sending, from the first that is not confirmed on."""
        self._waiting: list[Sent] = []
        self.shrink: Callable[[Sent, int], bytes | None] = lambda _sent, _limit: None
        self._open = 0
        self._backoff = 0.0
        self._next_try = 0.0
        self._next_log = 0.0
        self._born = 0.0

    @property
    def unconfirmed(self) -> int:
        """How many messages are not confirmed."""
        return self._open

    # ------------------------------------------------------------ connecting
    def connect(self) -> bool:
        """Return the session, or open a new one if it is time to try. Unconfirmed messages are sent again first."""
        if self.session is not None:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        try:
            self.session = self._broker.connect(self._name, CONNECT_TIMEOUT)
        except BrokerUnavailable as error:
            self._put_off(error)
            return False
        if self._next_log:
            _log.info("connected to the broker again")
        self._born, self.why = now, ""
        waiting, self._waiting = self._waiting, []
        for number, sent in enumerate(waiting):
            if not self._send(sent):
                self._waiting.extend(waiting[number + 1 :])
                return False
        return True

    def retry_in(self) -> float:
        """Seconds until `connect` would try again; 0 when it would now."""
        return max(0.0, self._next_try - self._clock())

    def lose(self, error: Exception | str) -> None:
        """Give the session up; all that is unconfirmed waits for the next one."""
        session, self.session = self.session, None
        if session is None:
            return
        session.close()
        if self._clock() - self._born > STABLE_SECONDS:
            # Only a session that lasted starts the backoff anew: one that breaks at once must not be made in a tight loop.
            self._backoff = self._next_log = 0.0
        self._waiting = [sent for sent in (*self._sent.values(), *self._waiting) if sent.again]
        self._sent.clear()
        self._open = sum(not sent.confirmed for sent in self._waiting)
        self._put_off(error)
        self._on_lost()

    def _put_off(self, error: Exception | str) -> None:
        now, self.why = self._clock(), str(error)
        self._backoff = min(MAX_BACKOFF, self._backoff * 2 or FIRST_BACKOFF)
        self._next_try = now + self._uniform(self._backoff / 2, self._backoff)
        if now >= self._next_log:
            _log.warning("no connection to the broker: %s; trying again until there is one", error)
            self._next_log = now + LOG_SECONDS

    def close(self) -> None:
        """Leave; nothing is sent again."""
        if self.session is not None:
            self.session.close()
            self.session = None

    # ------------------------------------------------------------ sending
    def post(self, to: Address, body: bytes, token: Any = None, *, again: bool = True) -> Sent:
        """Send a message that must be confirmed; it may have to wait for a session."""
        sent = Sent(to, body, token, again)
        self._open += 1
        self._send(sent)
        return sent

    def _send(self, sent: Sent) -> bool:
        if self.session is None:
            if sent.again:
                self._waiting.append(sent)
            elif not sent.confirmed:
                self._open -= 1
            return False
        try:
            try:
                seq = self.session.send(sent.to, sent.body)
            except MessageTooLarge as error:
                body = self.shrink(sent, error.limit)
                if body is None:
                    _log.error("a message to %s %s is given up: %s", sent.to.kind, sent.to.key, error)
                    self._open -= not sent.confirmed
                    return True
                sent.body = body
                seq = self.session.send(sent.to, sent.body)
            self._sent[seq] = sent
        except BrokerUnavailable as error:
            self._waiting.insert(0, sent)
            self.lose(error)  # puts what was sent before in front of it
            return False
        return True

    def tell(self, to: Address, body: bytes) -> bool:
        """Send a transient message, which is not confirmed; False if there is no session."""
        if self.session is None:
            return False
        try:
            self.session.send(to, body)
        except MessageTooLarge as error:
            _log.error("a message to %s %s is given up: %s", to.kind, to.key, error)
        except BrokerUnavailable as error:
            self.lose(error)
            return False
        return True

    def settle(self) -> list[Sent]:
        """The messages confirmed since the last call. A refused one ends the session."""
        if self.session is None:
            return []
        confirmed = []
        refused = None
        try:
            for seq, ok in self.session.settled():
                if not ok:
                    refused = self._sent.get(seq) or refused
                    continue
                sent = self._sent.get(seq)
                if sent is not None and not sent.confirmed:  # else it was sent again for the sake of one before it
                    sent.confirmed = True
                    self._open -= 1
                    confirmed.append(sent)
            while self._sent and (first := next(iter(self._sent.items())))[1].confirmed:
                del self._sent[first[0]]
        except BrokerUnavailable as error:
            self.lose(error)
        if refused is not None:
            self.lose(f"it refused a message to {refused.to.kind} {refused.to.key}")
        return confirmed

    # ------------------------------------------------------------ the rest of a session, with its loss made quiet
    def receive(self, timeout: float, wake: int | None = None) -> list[Delivery]:
        """`Session.receive`; nothing when there is no session."""
        if self.session is None:
            return []
        try:
            return self.session.receive(timeout, wake)
        except BrokerUnavailable as error:
            self.lose(error)
            return []

    def subscribe(self, source: Address, prefetch: int) -> bool:
        """`Session.subscribe`; False when the session was lost."""
        return self._do(lambda session: session.subscribe(source, prefetch))

    def unsubscribe(self, source: Address) -> bool:
        """`Session.unsubscribe`; False when the session was lost."""
        return self._do(lambda session: session.unsubscribe(source))

    def ack(self, deliveries: Sequence[Delivery]) -> bool:
        """`Session.ack`; False when the session was lost."""
        return self._do(lambda session: session.ack(deliveries))

    def reject(self, delivery: Delivery) -> bool:
        """`Session.reject`; False when the session was lost."""
        return self._do(lambda session: session.reject(delivery))

    def beat(self) -> bool:
        """`Session.beat`; False when the session was lost."""
        return self._do(lambda session: session.beat())

    def _do(self, action: Callable[[Session], None]) -> bool:
        if self.session is None:
            return False
        try:
            action(self.session)
        except BrokerUnavailable as error:
            self.lose(error)
            return False
        return True
