"""A broker in this process, for simulations: it keeps the contract of `tests/broker/contract.py`, and has faults to switch on.

What a session is given to do stands in its pipe until it is handed on; what the broker answers stands in another. A session
that is lost loses what is in both, but for as much as had come through: that is where lost messages, lost confirmations and
redeliveries come from, just as with TCP.
"""

from __future__ import annotations

import select
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from aiki.broker.base import DEAD, Address, Broker, BrokerForeign, Delivery, Depth, Kind, Session, Settled, SizeLimit, first_tag
from aiki.ceilings import MAX_MESSAGE
from aiki.errors import BrokerUnavailable, ConfigurationError

FANOUTS: Final = (Kind.CONTROL, Kind.HEARTBEAT, Kind.ANSWERS)


class Message:
    """A message in a queue. `at` is when it can be taken; `number` its place."""

    __slots__ = ("at", "body", "headers", "number", "redelivered", "sender")

    def __init__(self, number: float, body: bytes, at: float, sender: str, headers: dict[str, Any] | None = None) -> None:
        self.number = number
        self.body = body
        self.at = at
        self.sender = sender
        self.headers = headers or {}
        self.redelivered = False

    def __lt__(self, other: Message) -> bool:
        return self.number < other.number


class Queue:
    """Messages in order, and who subscribes, the longest subscribed first."""

    __slots__ = ("address", "ready", "subscriptions")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.ready: list[Message] = []
        self.subscriptions: list[Subscription] = []


class Subscription:
    """A session's consumer. A fanout's has a queue of its own."""

    __slots__ = ("prefetch", "queue", "session", "unacked")

    def __init__(self, session: SimulatedSession, queue: Queue, prefetch: int) -> None:
        self.session = session
        self.queue = queue
        self.prefetch = prefetch
        self.unacked = 0


class Faults:
    """No faults. Simulations have others."""

    def delay(self) -> float:
        """Seconds until a message, or an answer, arrives."""
        return 0.0

    def refuse(self, to: Address) -> bool:
        """Whether the broker refuses a message."""
        return False

    def handed_on(self, count: int) -> int:
        """How many of `count` things in a pipe go through now."""
        return count

    def place(self, queue: Queue, number: float) -> float:
        """Where in the queue a message goes; its number, or a smaller one to overtake others."""
        return number

    def altered(self, body: bytes) -> bytes:
        """A message as it arrives."""
        return body

    def point(self) -> None:
        """Between two operations."""

    def told(self, what: str, session: SimulatedSession, to: Address, body: bytes) -> None:
        """Something was sent, taken, acked or given back; for a trace."""

    def alive(self) -> None:
        """Raises in a process that is dead."""

    def confirmed(self, session: SimulatedSession, to: Address, body: bytes) -> None:
        """A session learns that its message was confirmed."""


class RealTime:
    """Time and threads as they are, for the contract."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self._changed = threading.Condition(self.lock)  # type: ignore[arg-type]

    def now(self) -> float:
        return time.monotonic()

    def wait(self, session: SimulatedSession, until: float, wake: int | None) -> bool:
        """Wait for a change, or until the time; whether to look again."""
        if wake is not None and select.select([wake], [], [], 0)[0]:
            return False
        self._changed.wait(max(0.0, min(until - time.monotonic(), 3600.0 if wake is None else 0.01)))
        return time.monotonic() < until

    def notify(self, session: SimulatedSession, at: float) -> None:
        self._changed.notify_all()


class SimulatedBroker:
    """See the module.

    :param clock: `RealTime`, or the simulation's (`now`, `wait`, `notify`, `lock`).
    """

    def __init__(self, clock: Any = None, faults: Faults | None = None) -> None:
        self.url = "simulated://"
        self.limit = SizeLimit(MAX_MESSAGE)
        self.clock = clock or RealTime()
        self.faults = faults or Faults()
        self.queues: dict[Address, Queue] = {}
        self.fanouts: dict[Kind, list[Subscription]] = {kind: [] for kind in FANOUTS}
        self.sessions: list[SimulatedSession] = []
        self.away = False
        self.owner: str | None = None
        self._number = 0

    def connect(self, name: str, timeout: float = 5.0) -> Session:
        self.faults.point()
        with self.clock.lock:
            if self.away:
                raise BrokerUnavailable("the broker is away")
            session = SimulatedSession(self, name.rstrip("0123456789 "))  # a process's number differs from run to run
            self.sessions.append(session)
            return session

    # ------------------------------------------------------------ inside
    def declare(self, address: Address) -> Queue:
        queue = self.queues.get(address)
        if queue is None:
            queue = self.queues[address] = Queue(address)
        return queue

    def put(self, queue: Queue, body: bytes, sender: str, headers: dict[str, Any] | None = None) -> None:
        self._number += 1
        at = self.clock.now() + self.faults.delay()
        insort(queue.ready, Message(self.faults.place(queue, self._number), self.faults.altered(body), at, sender, headers))
        self.poke(queue)

    def give_back(self, queue: Queue, messages: Sequence[Message]) -> None:
        for message in messages:
            message.redelivered = True
            message.at = self.clock.now() + self.faults.delay()
            insort(queue.ready, message)
        self.poke(queue)

    def broadcast(self, to: Address, body: bytes, sender: str) -> None:
        self._number += 1
        body = self.faults.altered(body)
        for subscription in self.fanouts[to.kind]:
            if subscription.queue.address != to:
                continue
            at = self.clock.now() + self.faults.delay()
            subscription.queue.ready.append(Message(self._number, body, at, sender))
            self.poke(subscription.queue)

    def poke(self, queue: Queue) -> None:
        """Tell those who might take from a queue."""
        if queue.ready:
            for subscription in queue.subscriptions:
                self.clock.notify(subscription.session, queue.ready[0].at)

    def delete(self, address: Address) -> None:
        """Delete a queue; sessions that subscribe to it end."""
        with self.clock.lock:
            queue = self.queues.pop(address, None)
            for subscription in list(queue.subscriptions) if queue else []:
                subscription.session.lose(f"queue {address.kind}/{address.key} was deleted", 0)

    def restart(self) -> None:
        """All sessions are lost; what is kept comes back flagged, all of it (a classic queue after kill -9)."""
        for session in list(self.sessions):
            session.lose("the broker was killed", None)
        for queue in self.queues.values():
            for message in queue.ready:
                message.redelivered = True


class SimulatedSession:
    """See `aiki.broker.base.Session`."""

    def __init__(self, broker: SimulatedBroker, name: str) -> None:
        self.broker = broker
        self.name = name
        self.dead: str | None = None
        self._tag = first_tag()
        self._seq = 0
        self._declared: set[Address] = set()
        self._pipe: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._answers: deque[tuple[float, Settled, Address, bytes]] = deque()
        self._subscriptions: dict[Address, Subscription] = {}
        self._unacked: dict[int, tuple[Subscription, Message]] = {}
        self.owner: Any = None
        """The actor that waits in `receive`, for the clock."""

    def _check(self) -> None:
        self.broker.faults.point()
        if self.dead is not None:
            raise BrokerUnavailable(f"session {self.name!r}: {self.dead}")

    # ------------------------------------------------------------ the client's side
    def send(self, to: Address, body: bytes) -> int:
        with self.broker.clock.lock:
            self._check()
            self.broker.limit.check(body)
            if to.kind not in FANOUTS and to not in self._declared:
                self.broker.declare(to)
                self._declared.add(to)
            self._seq += 1
            self._pipe.append((self._sent, (self._seq, to, body)))
            if len(self._pipe) > 200:
                self._hand_on()
            return self._seq

    def settled(self) -> list[Settled]:
        with self.broker.clock.lock:
            self._check()
            self._hand_on()
            out, now = [], self.broker.clock.now()
            while self._answers and self._answers[0][0] <= now:
                _, settled, to, body = self._answers.popleft()
                out.append(settled)
                if settled.ok:
                    self.broker.faults.confirmed(self, to, body)
            return out

    def receive(self, timeout: float, wake: int | None = None) -> list[Delivery]:
        clock = self.broker.clock
        with clock.lock:
            self._check()
            until = clock.now() + timeout
            while True:
                self._hand_on()
                got = self._take()
                if got or timeout <= 0 or (self._answers and self._answers[0][0] <= clock.now()):
                    return got
                if not clock.wait(self, until, wake):
                    self._check()
                    self._hand_on()
                    return self._take()
                self._check()

    def subscribe(self, source: Address, prefetch: int) -> None:
        if prefetch < 1:
            raise ConfigurationError(f"prefetch={prefetch}: it must be 1 or more")
        with self.broker.clock.lock:
            self._check()
            self._flush()
            known = self._subscriptions.get(source)
            if known is not None:
                known.prefetch = prefetch
            elif source.kind in FANOUTS:
                known = Subscription(self, Queue(source), prefetch)
                known.queue.subscriptions.append(known)
                self.broker.fanouts[source.kind].append(known)
            else:
                queue = self.broker.declare(source)
                known = Subscription(self, queue, prefetch)
                queue.subscriptions.append(known)
            self._subscriptions[source] = known
            self.broker.poke(known.queue)

    def unsubscribe(self, source: Address) -> None:
        with self.broker.clock.lock:
            self._check()
            self._flush()
            self._end(self._subscriptions.pop(source, None))

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._settle(self._acked, deliveries)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        self._settle(self._requeued, deliveries)

    def reject(self, delivery: Delivery) -> None:
        self._settle(self._rejected, [delivery])

    def _settle(self, how: Callable[..., None], deliveries: Sequence[Delivery]) -> None:
        with self.broker.clock.lock:
            self.broker.faults.point()
            if self.dead is None:
                self._pipe.append((how, ([delivery.tag for delivery in deliveries],)))

    def depth(self, source: Address) -> Depth | None:
        with self.broker.clock.lock:
            self._check()
            self._flush()
            queue = self.broker.queues.get(source)
            return None if queue is None else Depth(len(queue.ready), len(queue.subscriptions))

    def purge(self, source: Address) -> int:
        with self.broker.clock.lock:
            self._check()
            self._flush()
            queue = self.broker.queues.get(source)
            if queue is None:
                return 0
            count = len(queue.ready)
            queue.ready.clear()
            return count

    def claim(self, installation: str, *, anew: bool = False) -> None:
        if self.broker.owner is None or anew:
            self.broker.owner = installation
        if self.broker.owner != installation:
            raise BrokerForeign(self.broker.owner)

    def prepare(self, to: Address) -> None:
        """Queues are there when they are named."""

    def is_claimed(self) -> bool:
        return self.broker.owner is not None

    def beat(self) -> None:
        with self.broker.clock.lock:
            self._check()
            self._hand_on()

    @property
    def blocked(self) -> str | None:
        return None

    def close(self) -> None:
        self.broker.faults.alive()
        with self.broker.clock.lock:
            if self.dead is None:
                self._flush()
                self.lose("it is closed", 0)

    # ------------------------------------------------------------ the broker's side
    def lose(self, why: str, through: int | None) -> None:
        """The session ends; `through` more things of its pipe had come through, None: as many as chance has it."""
        if self.dead is not None:
            return
        for _ in range(self.broker.faults.handed_on(len(self._pipe)) if through is None else through):
            self._step()
        self.dead = why
        self._pipe.clear()
        self._answers.clear()
        if self in self.broker.sessions:
            self.broker.sessions.remove(self)
        for subscription in list(self._subscriptions.values()):
            self._end(subscription)
        self._subscriptions.clear()
        back: dict[Address, list[Message]] = {}
        for subscription, message in self._unacked.values():
            back.setdefault(subscription.queue.address, []).append(message)
        self._unacked.clear()
        for address, messages in back.items():
            queue = self.broker.queues.get(address)
            if queue is not None:
                self.broker.give_back(queue, messages)
        self.broker.clock.notify(self, self.broker.clock.now())

    def _end(self, subscription: Subscription | None) -> None:
        if subscription is None:
            return
        queue = subscription.queue
        if subscription in queue.subscriptions:
            queue.subscriptions.remove(subscription)
        if queue.address.kind in FANOUTS and subscription in self.broker.fanouts[queue.address.kind]:
            self.broker.fanouts[queue.address.kind].remove(subscription)
        self.broker.poke(queue)

    def _flush(self) -> None:
        while self._pipe:
            self._step()

    def _hand_on(self) -> None:
        for _ in range(self.broker.faults.handed_on(len(self._pipe))):
            self._step()

    def _step(self) -> None:
        how, arguments = self._pipe.popleft()
        how(*arguments)

    def _sent(self, seq: int, to: Address, body: bytes) -> None:
        broker = self.broker
        broker.faults.told("sent", self, to, body)
        ok = True
        if to.kind in FANOUTS:
            broker.broadcast(to, body, self.name)
        elif to not in broker.queues or broker.faults.refuse(to):
            ok = False
        else:
            broker.put(broker.queues[to], body, self.name)
        at = broker.clock.now() + broker.faults.delay()
        if self._answers:
            at = max(at, self._answers[-1][0])
        self._answers.append((at, Settled(seq, ok), to, body))
        broker.clock.notify(self, at)

    def _open(self, tags: Sequence[int]) -> list[tuple[Subscription, Message]]:
        found = [self._unacked.pop(tag) for tag in tags if tag in self._unacked]
        for subscription, _ in found:
            subscription.unacked -= 1
        for queue in {id(s.queue): s.queue for s, _ in found}.values():
            self.broker.poke(queue)
        return found

    def _acked(self, tags: Sequence[int]) -> None:
        for subscription, message in self._open(tags):
            self.broker.faults.told("acked", self, subscription.queue.address, message.body)

    def _requeued(self, tags: Sequence[int]) -> None:
        for subscription, message in self._open(tags):
            self.broker.give_back(subscription.queue, [message])

    def _rejected(self, tags: Sequence[int]) -> None:
        for subscription, message in self._open(tags):
            source = subscription.queue.address
            if source != DEAD:
                where = f"{source.kind.value}/{source.key}"
                headers = {"reason": "rejected", "queue": where, "time": int(time.time())}
                self.broker.put(self.broker.declare(DEAD), message.body, self.name, headers)

    def next_at(self) -> float:
        """When there will be something to receive, by all that is known now."""
        at = self._answers[0][0] if self._answers else float("inf")
        if self._pipe:
            at = min(at, self.broker.clock.now() + 0.001)
        for source, subscription in self._subscriptions.items():
            if subscription.queue.ready and self._may_take(source, subscription):
                at = min(at, subscription.queue.ready[0].at)
        return at

    def _may_take(self, source: Address, subscription: Subscription) -> bool:
        if source.kind in FANOUTS:
            return True
        if source.kind is Kind.REPORTS and subscription.queue.subscriptions[0] is not subscription:
            return False
        return subscription.unacked < subscription.prefetch

    def _take(self) -> list[Delivery]:
        out: list[Delivery] = []
        now = self.broker.clock.now()
        for source, subscription in self._subscriptions.items():
            ready = subscription.queue.ready
            while ready and ready[0].at <= now and self._may_take(source, subscription):
                message = ready.pop(0)
                self.broker.faults.told("taken again" if message.redelivered else "taken", self, source, message.body)
                self._tag += 1
                out.append(Delivery(source, message.body, message.redelivered, self._tag, message.headers))
                if source.kind not in FANOUTS:
                    subscription.unacked += 1
                    self._unacked[self._tag] = (subscription, message)
        return out


_: type[Broker] = SimulatedBroker
