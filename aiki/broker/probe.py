"""Whether the node that a session is with still serves: it is asked by messages that a majority of the nodes must confirm.

A node of RabbitMQ that is cut off from the majority of its cluster may keep its connections: one that stores its metadata in
Khepri (RabbitMQ 4) does, whatever `cluster_partition_handling` says. It answers heartbeats, takes and confirms what goes to
queues of its own, and delivers nothing more from quorum queues. Who only listens does not notice.

So whoever has heard nothing of a quorum queue for a while (neither a delivery nor a confirm) sends one empty message to the
probe queue of the topology, which keeps no message. Its confirm says that a majority is there. If none comes, and nothing else
of a quorum queue either, the session is to be given up, and the next one is made with another node, if there is one. That the
broker refuses a message (nack) is no sign of a majority: a node without one may do so, after some ten seconds.

No session is given up for a lack of confirms that the broker has announced (`connection.blocked`), nor for time in which this
process did not look, for it was stopped or had not read all that had come. What may not be asked (the account has no right to
it, or the exchange is missing) is not asked again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

from amqp import Message, spec

_log = logging.getLogger("aiki.broker")

LOOK: Final = 1.0
"""Seconds between two looks at what has been heard."""
QUIET: Final = 8.0
"""Seconds without a word of a quorum queue after which it is asked, a quarter more or less: processes that have begun together
do not ask together."""
PATIENCE: Final = 20.0
"""Seconds without an answer after which a session is given up."""
STEP: Final = 6.0
"""Seconds between two looks that count as waiting at most: after more this process was not there, or the whole machine."""
MAX_PATIENCE: Final = 640.0
AVOIDED: Final = 60.0
"""Seconds for which a node that did not answer is tried after the others."""


class Nodes:
    """The nodes of a cluster by their URLs, and what the sessions of one broker have learnt of them.

    :ivar patience: seconds without an answer after which a session is given up. It doubles each time, until an answer comes: if
        no node answers, that is the probe queue's fault perhaps, and not the nodes'.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        self.urls = list(urls)
        self.patience = PATIENCE
        self._avoided: dict[str, float] = {}

    def in_order(self, now: float) -> list[str]:
        """All of them, as they are to be tried: by chance, those that did not answer lately at the end."""
        mixed = random.sample(self.urls, len(self.urls))
        return sorted(mixed, key=lambda url: self._avoided.get(url, 0.0) > now)

    def silent(self, url: str, now: float) -> None:
        """A session with this node has been given up."""
        self._avoided[url] = now + AVOIDED
        self.patience = min(2 * self.patience, MAX_PATIENCE)

    def answered(self, url: str) -> None:
        """This node has answered."""
        self._avoided.pop(url, None)
        self.patience = PATIENCE


class ProbeChannel:
    """The channel for it, of its own: what the broker says against a probe concerns nothing else. Opened with the first one.

    It never waits: opening, confirm mode and message go out together. As everywhere, handlers only record what came.

    :ivar answers: how many confirms have come.
    :ivar denied: how many times the broker has said that it cannot keep a message: a node without a majority may say so.
    :ivar refused: why the broker has closed it, or None.
    """

    def __init__(self, connection: Any, exchange: str, key: str) -> None:
        self._connection = connection
        self._where = (0, exchange, key, False, False)
        self._channel: Any = None
        self.answers = 0
        self.denied = 0
        self.refused: str | None = None

    def ask(self) -> None:
        """Send a message that must be confirmed."""
        if self._channel is None:
            self._channel = self._open()
        self._channel.send_method(spec.Basic.Publish, "Bssbb", self._where, Message(b"", delivery_mode=2))

    def agree(self) -> None:
        """Say to the broker that the channel is closed."""
        self._channel.send_method(spec.Channel.CloseOk)

    def _open(self) -> Any:
        channel = self._connection.Channel(self._connection)
        channel._callbacks[spec.Basic.Ack] = self._on_answer
        channel._callbacks[spec.Basic.Nack] = self._on_denial
        channel._callbacks[spec.Channel.Close] = self._on_close
        channel.send_method(spec.Channel.Open, "s", ("",))
        channel.send_method(spec.Confirm.Select, "b", (True,))
        return channel

    def _on_answer(self, *_: object) -> None:
        self.answers += 1

    def _on_denial(self, *_: object) -> None:
        self.denied += 1

    def _on_close(self, _code: int, text: str, *_: object) -> None:
        self.refused = text or "no reason given"


class Vigil:
    """Watches over one session. All times are monotonic seconds.

    :param url: the node that the session is with.
    :ivar due: when to call `look`; infinite where it cannot ask.
    """

    def __init__(
        self,
        channel: ProbeChannel,
        nodes: Nodes,
        url: str,
        now: float,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._channel = channel
        self._nodes = nodes
        self._url = url
        self._uniform = uniform
        self.due = now + LOOK
        self._looked = now
        self._heard = 0
        self._answers = 0
        self._denied = 0
        self._asking = False
        self._waited = 0.0
        self._ask_at = 0.0
        self._rest(now)

    def look(self, now: float, heard: int, *, blocked: bool) -> None:
        """Ask if it has been quiet for long enough; raises `TimeoutError` when the session is to be given up.

        To be called when all has been read that has come.

        :param heard: how many confirms and how much of deliveries of quorum queues the session has had.
        :param blocked: the broker takes no messages at present.
        """
        passed, self._looked = now - self._looked, now
        self.due = now + LOOK
        if self._channel.refused is not None:
            self._stop(self._channel.refused)
        elif self._channel.answers != self._answers:
            self._answers = self._channel.answers
            self._nodes.answered(self._url)
            self._rest(now)
        elif heard != self._heard or blocked:
            self._heard = heard
            self._rest(now)
        elif self._asking:
            self._wait(min(passed, STEP), now)
            if self._channel.denied != self._denied:  # which is no answer, but perhaps the queue was choosing its leader
                self._denied = self._channel.denied
                self._channel.ask()
        elif now >= self._ask_at:
            self._asking = True
            self._channel.ask()

    def _wait(self, passed: float, now: float) -> None:
        self._waited += passed
        if self._waited >= self._nodes.patience:
            self._nodes.silent(self._url, now)
            raise TimeoutError(f"no quorum queue has answered for {self._waited:.0f} s: has its node lost its cluster?")

    def _stop(self, why: str) -> None:
        self.due = float("inf")
        self._channel.agree()
        _log.info("whether RabbitMQ's node still has a majority of its cluster cannot be asked: %s", why)

    def _rest(self, now: float) -> None:
        self._asking = False
        self._waited = 0.0
        self._ask_at = now + self._uniform(0.75 * QUIET, 1.25 * QUIET)
