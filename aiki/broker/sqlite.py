"""The embedded broker: a SQLite file shared by the processes of one machine. No server, the same semantics as RabbitMQ.

What a session is given is collected and written in one transaction, together with taking what is ready; so the cost is
a transaction for many messages. A session that waits looks every few milliseconds whether somebody has committed, less often
the longer nothing happens. What a dead session held goes back as soon as a living one notices, about once a second.

Invariants:
- A message has at most one owner, and an owner's death (`owners.py`) gives it back flagged `redelivered`.
- Nothing settles before its transaction is committed.
- A session that was taken for dead, rightly or not, notices in its next transaction and changes nothing more.
"""

from __future__ import annotations

import json
import math
import select
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

from aiki.broker import owners, sqlite_store
from aiki.broker.base import (
    RECEIVED_BYTES,
    TAG_BITS,
    Address,
    BrokerForeign,
    BrokerMisconfigured,
    Delivery,
    Depth,
    Kind,
    Settled,
    SizeLimit,
    first_tag,
)
from aiki.broker.owners import OwnerLock
from aiki.broker.sqlite_file import BrokerFile, FileBusy
from aiki.ceilings import MAX_MESSAGE
from aiki.errors import BrokerUnavailable, ConfigurationError

WRITE_TIMEOUT: Final = 5.0
"""Seconds after which a file that other processes keep locked counts as unavailable."""
LOOK_FOR_DEAD: Final = 1.0
"""Seconds between looks for sessions that have died."""

_PATIENCE = 0.02
_PENDING_LIMIT = 200
_PENDING_BYTES = 4 << 20
_PAUSE_SHORT = 0.0015
_PAUSE_LONG = 0.025
_EAGER = 0.1


class SqliteBroker:
    """A broker in a file. Its directory is made when first connected to; lock files lie beside it, in `<file>.sessions/`.

    :param url: `sqlite:///relative/path` or `sqlite:////absolute/path`.
    """

    def __init__(self, url: str, *, max_message: int = MAX_MESSAGE) -> None:
        path = url.removeprefix("sqlite:///")
        if path in (url, "", ":memory:"):
            raise ConfigurationError(
                f"broker URL {url!r}: it must name a file that processes can share: sqlite:////path/to/broker.db"
            )
        self.url = url
        self.path = Path(path).absolute()
        self.limit = SizeLimit(max_message)

    def __repr__(self) -> str:
        return f"SqliteBroker({self.path})"

    def connect(self, name: str, timeout: float = 5.0) -> SqliteSession:
        """A new session; raises `BrokerUnavailable` after about `timeout` seconds at the latest."""
        with _told(self.path):
            return SqliteSession(self.path, name, timeout, self.limit)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the file in words that name it."""
    try:
        yield
    except BrokerMisconfigured as error:
        raise BrokerMisconfigured(f"broker file {path}: {error}") from None
    except FileBusy as error:
        raise BrokerUnavailable(f"broker file {path}: {error}") from None
    except sqlite3.Error as error:
        raise BrokerUnavailable(f"broker file {path} cannot be used: {error}") from None
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise BrokerUnavailable(f"broker file {path} cannot be used: {error.strerror or error}{where}") from None


@dataclass(slots=True, eq=False)
class _Subscription:
    source: Address
    queue: int
    prefetch: int
    unacked: int = 0


class SqliteSession:
    """One session on the file; see `aiki.broker.base.Session`."""

    def __init__(self, path: Path, name: str, timeout: float, limit: SizeLimit) -> None:
        self._path = path
        self._limit = limit
        self._name = name
        self._directory = path.with_name(path.name + ".sessions")
        self._dead: str | None = None
        self._sent = 0
        self._first_tag = first_tag()
        self._outbox: list[tuple[int, Address, bytes]] = []
        self._outbox_bytes = 0
        self._first = 0
        self._acks: list[int] = []
        self._requeues: list[int] = []
        self._rejects: list[tuple[int, Address]] = []
        self._settled: list[Settled] = []
        self._inbox: list[Delivery] = []
        self._unacked: dict[int, _Subscription] = {}
        self._subscriptions: dict[Address, _Subscription] = {}
        self._declared: set[Address] = set()
        self._look = True
        self._busy_since: float | None = None
        self._active = monotonic()
        self._pause = _PAUSE_SHORT
        self._file = BrokerFile(path, timeout)
        try:
            self._lock = OwnerLock(self._directory)
            try:
                with self._file.transaction(timeout) as db:
                    self._id = sqlite_store.enter(db, name, self._lock.name)
            except BaseException:
                self._lock.release()
                raise
        except BaseException:
            self._file.close()
            raise
        self._next_round = 0.0

    # ------------------------------------------------------------ sending
    def send(self, to: Address, body: bytes) -> int:
        """See `Session.send`."""
        self._check()
        self._limit.check(body)
        self._sent += 1
        self._outbox.append((self._sent, to, body))
        self._outbox_bytes += len(body)
        if len(self._outbox) >= _PENDING_LIMIT or self._outbox_bytes >= _PENDING_BYTES:
            self._exchange(WRITE_TIMEOUT)
        return self._sent

    def settled(self) -> list[Settled]:
        """See `Session.settled`."""
        if self._dead is None:
            self._exchange(_PATIENCE)
        elif not self._settled:
            self._check()
        settled, self._settled = self._settled, []
        return settled

    # ------------------------------------------------------------ receiving
    def receive(self, timeout: float, wake: int | None = None) -> list[Delivery]:
        """See `Session.receive`."""
        self._check()
        deadline = monotonic() + timeout
        self._step()
        while not (self._inbox or self._settled):
            left = deadline - monotonic()
            if left <= 0:
                break
            woken = self._sleep(min(left, self._next_pause()), wake)
            self._step()
            if woken:
                break
        inbox, self._inbox = self._inbox, []
        return inbox

    def _step(self) -> None:
        """Write what is pending, and take what is ready if anything may have changed."""
        self._look_around()
        with self._guard():
            if self._file.changed():
                self._look = True
        if self._pending() or (self._look and self._worth_taking()):
            self._exchange(_PATIENCE, take=True)
        if self._inbox or self._settled:
            self._active = monotonic()

    def _next_pause(self) -> float:
        if monotonic() - self._active < _EAGER:
            self._pause = _PAUSE_SHORT
        else:
            self._pause = min(self._pause * 1.3, _PAUSE_LONG)
        return self._pause

    @staticmethod
    def _sleep(seconds: float, wake: int | None) -> bool:
        if wake is None:
            time.sleep(seconds)
            return False
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        return bool(poll.poll(math.ceil(seconds * 1000)))

    def _worth_taking(self) -> bool:
        """Whether a subscription with room has messages; only reads, so it disturbs nobody."""
        self._look = False
        with self._guard(), self._file.reading() as db:
            for subscription in self._subscriptions.values():
                if not sqlite_store.exists(db, subscription.queue):
                    raise self._fail(f"the queue of {sqlite_store.queue_name(subscription.source)} was deleted")
                if subscription.unacked < subscription.prefetch and sqlite_store.ready(db, subscription.queue):
                    return True
        return False

    # ------------------------------------------------------------ the transaction
    def _pending(self) -> bool:
        return bool(self._outbox or self._acks or self._requeues or self._rejects)

    def _exchange(self, patience: float, *, take: bool = False) -> None:
        """Write what is pending in one transaction, and take what is ready if asked to.

        If another process is writing for all of `patience` it stays pending; for too long, and the session is dead.
        """
        if not take and not self._pending():
            return
        taken: list[Delivery] = []
        with self._guard():
            try:
                with self._file.transaction(patience) as db:
                    if not sqlite_store.is_known(db, self._id):
                        raise self._fail("others took it for dead and gave its messages back (was its lock file removed?)")
                    settled = self._write(db)
                    if take:
                        room = RECEIVED_BYTES - sum(len(delivery.body) for delivery in self._inbox)
                        self._first += 1  # each queue is the first in its turn: the room may be over after one
                        order = list(self._subscriptions.values())
                        first = self._first % max(1, len(order))
                        for subscription in (*order[first:], *order[:first]):
                            if room <= 0:
                                break
                            found = self._take(db, subscription, room)
                            room -= sum(len(delivery.body) for delivery in found)
                            taken += found
            except FileBusy:
                self._look = True
                now = monotonic()
                self._busy_since = self._busy_since or now
                if now - self._busy_since + patience >= WRITE_TIMEOUT:
                    raise
                return
        self._busy_since = None
        self._settled += settled
        self._inbox += taken
        self._outbox, self._acks, self._requeues, self._rejects = [], [], [], []
        self._outbox_bytes = 0

    def _write(self, db: sqlite3.Connection) -> list[Settled]:
        found: dict[Address, int | None] = {}
        bodies: dict[Address, list[bytes]] = {}
        for _, to, body in self._outbox:
            bodies.setdefault(to, []).append(body)
        for to, several in bodies.items():
            if to.kind in sqlite_store.FANOUTS:
                sqlite_store.put_fanout(db, to, several)
                continue
            queue = sqlite_store.find(db, to) if to in self._declared else sqlite_store.declare(db, to)
            self._declared.add(to)
            found[to] = queue
            if queue is not None:
                sqlite_store.put(db, queue, several)
                # A commit of one's own does not show as a change.
                self._look = self._look or to in self._subscriptions
        sqlite_store.ack(db, self._id, self._acks)
        sqlite_store.give_back(db, self._id, self._requeues)
        for message, source in self._rejects:
            self._bury(db, message, source)
        if self._subscriptions:
            self._look = True
        return [Settled(seq, found.get(to, 0) is not None) for seq, to, _ in self._outbox]

    def _bury(self, db: sqlite3.Connection, message: int, source: Address) -> None:
        if source.kind is Kind.DEAD:
            sqlite_store.ack(db, self._id, [message])
            return
        headers = {"reason": "rejected", "queue": sqlite_store.queue_name(source), "time": time.time()}
        sqlite_store.bury(db, self._id, message, headers)

    def _take(self, db: sqlite3.Connection, subscription: _Subscription, most: int) -> list[Delivery]:
        room = subscription.prefetch - subscription.unacked
        source, queue = subscription.source, subscription.queue
        if room <= 0 or not sqlite_store.ready(db, queue):
            return []
        first = self._first_tag
        if source.kind in sqlite_store.FANOUTS:
            rows = sqlite_store.take_away(db, queue, subscription.prefetch, most)
            return [Delivery(source, row.body, False, first) for row in rows]
        if source.kind is Kind.REPORTS:
            if not sqlite_store.is_active(db, queue, self._id):
                return []
        else:
            room = sqlite_store.share(db, queue, room)
        rows = sqlite_store.take(db, queue, self._id, room, most)
        subscription.unacked += len(rows)
        for row in rows:
            self._unacked[row.id] = subscription
        return [Delivery(source, row.body, bool(row.redelivered), first + row.id, _headers(row.headers)) for row in rows]

    # ------------------------------------------------------------ subscriptions
    def subscribe(self, source: Address, prefetch: int) -> None:
        """See `Session.subscribe`."""
        if prefetch < 1:
            raise ConfigurationError(f"prefetch={prefetch}: it must be 1 or more")
        self._check()
        self._look = True
        known = self._subscriptions.get(source)
        if known is not None:
            known.prefetch = prefetch
            return
        with self._guard(), self._file.transaction(WRITE_TIMEOUT) as db:
            if source.kind in sqlite_store.FANOUTS:
                queue = sqlite_store.declare_private(db, source, self._id)
            else:
                queue = sqlite_store.declare(db, source)
                self._declared.add(source)
            sqlite_store.subscribe(db, queue, self._id)
        self._subscriptions[source] = _Subscription(source, queue, prefetch)
        self._next_round = 0.0  # whoever comes wants what the dead have left

    def unsubscribe(self, source: Address) -> None:
        """See `Session.unsubscribe`."""
        self._check()
        subscription = self._subscriptions.pop(source, None)
        if subscription is None:
            return
        with self._guard(), self._file.transaction(WRITE_TIMEOUT) as db:
            sqlite_store.unsubscribe(db, subscription.queue, self._id)
            if source.kind in sqlite_store.FANOUTS:
                sqlite_store.drop(db, subscription.queue)

    # ------------------------------------------------------------ acks
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `Session.ack`."""
        self._acks += self._let_go(deliveries)

    def requeue(self, deliveries: Sequence[Delivery]) -> None:
        """See `Session.requeue`."""
        self._requeues += self._let_go(deliveries)

    def reject(self, delivery: Delivery) -> None:
        """See `Session.reject`."""
        self._rejects += [(message, delivery.source) for message in self._let_go([delivery])]

    def _let_go(self, deliveries: Sequence[Delivery]) -> list[int]:
        """The ids of those deliveries that are this session's and still held; they no longer count as held."""
        if self._dead is not None:
            return []
        ids = []
        for delivery in deliveries:
            message = delivery.tag - self._first_tag
            if 0 < message < 1 << TAG_BITS:
                subscription = self._unacked.pop(message, None)
                if subscription is not None:
                    subscription.unacked -= 1
                    ids.append(message)
        return ids

    # ------------------------------------------------------------ questions
    def depth(self, source: Address) -> Depth | None:
        """See `Session.depth`. Of a fanout: this session's own subscription."""
        self._check()
        self._exchange(WRITE_TIMEOUT)
        with self._guard(), self._file.reading() as db:
            queue = self._queue_of(db, source)
            return None if queue is None else Depth(*sqlite_store.depth(db, queue))

    def purge(self, source: Address) -> int:
        """See `Session.purge`."""
        self._check()
        self._exchange(WRITE_TIMEOUT)
        with self._guard(), self._file.transaction(WRITE_TIMEOUT) as db:
            queue = self._queue_of(db, source)
            return 0 if queue is None else sqlite_store.purge(db, queue)

    def _queue_of(self, db: sqlite3.Connection, source: Address) -> int | None:
        if source.kind in sqlite_store.FANOUTS:
            own = self._subscriptions.get(source)
            return None if own is None else own.queue
        return sqlite_store.find(db, source)

    def claim(self, installation: str, *, anew: bool = False) -> None:
        """See `Session.claim`."""
        self._check()
        with self._guard(), self._file.transaction(WRITE_TIMEOUT) as db:
            owner = sqlite_store.claim(db, installation, anew)
        if owner != installation:
            raise BrokerForeign(owner)

    def prepare(self, to: Address) -> None:
        """See `Session.prepare`: a queue is there when something is in it."""
        del to
        self._check()

    def is_claimed(self) -> bool:
        """See `Session.is_claimed`."""
        self._check()
        with self._guard(), self._file.reading() as db:
            return sqlite_store.owner(db) is not None

    def beat(self) -> None:
        """See `Session.beat`."""
        self._check()
        self._exchange(_PATIENCE)
        self._look_around()

    @property
    def blocked(self) -> str | None:
        """See `Session.blocked`. A file takes messages or fails."""
        return None

    # ------------------------------------------------------------ the dead
    def _look_around(self) -> None:
        """Now and then: give back what dead sessions held, and see that the file is still the one that others open."""
        now = monotonic()
        if now < self._next_round:
            return
        self._next_round = now + LOOK_FOR_DEAD
        with self._guard():
            if self._file.is_replaced():
                raise self._fail("the file was removed or replaced")
            with self._file.reading() as db:
                known = sqlite_store.others(db, self._id)
            dead = [(session, lock) for session, lock in known if owners.is_dead(self._directory, lock)]
            if not dead:
                return
            try:
                with self._file.transaction(_PATIENCE) as db:
                    for session, _ in dead:
                        sqlite_store.leave(db, session)
            except FileBusy:
                return
            for _, lock in dead:
                owners.forget(self._directory, lock)
        self._look = True

    def close(self) -> None:
        """See `Session.close`."""
        if self._dead is None:
            try:
                self._exchange(_PATIENCE * 10)
                with self._guard(), self._file.transaction(_PATIENCE * 10) as db:
                    sqlite_store.leave(db, self._id)
            except BrokerUnavailable:
                pass  # others find the lock dropped and do it
        self._end("it was closed")

    def _end(self, reason: str) -> None:
        self._dead = self._dead or reason
        self._lock.release()
        self._file.close()

    # ------------------------------------------------------------ errors
    def _check(self) -> None:
        if self._dead is None and not self._lock.held:
            self._dead = "it belongs to the parent process; connect after the fork"
        if self._dead is not None:
            raise BrokerUnavailable(f"session {self._name} with broker file {self._path} is over: {self._dead}")

    def _fail(self, reason: str) -> BrokerUnavailable:
        """The session is dead from here on; the error to raise."""
        self._dead = self._dead or reason
        return BrokerUnavailable(f"session {self._name} with broker file {self._path}: {reason}")

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Whatever goes wrong with the file inside ends the session."""
        try:
            with _told(self._path):
                yield
        except BrokerUnavailable as error:
            self._end(str(error))
            raise


def _headers(text: str | None) -> dict[str, Any]:
    return json.loads(text) if text else {}
