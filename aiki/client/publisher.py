"""Publishing what was just recorded: one background thread a process, so that `enqueue` never waits for the broker.

The database is the truth; this thread is only the fast way. A delivery handed over here is claimed in the database for
`CLAIM` seconds. When the broker has confirmed it, it is deleted; whatever else happens (a refusal, a dead session, a
time-out, the end of this process) it is left alone, the claim runs out, and the orchestrator's sweeper publishes it, marked
`again`. Nothing is ever sent twice from here, and nothing is sent when its claim is about to run out. Only what was
certainly never sent is released to the sweeper at once, unmarked.

`accepting()` says whether it is of use to claim at all: not while the broker is known to be down, blocked or silent, and
not when the queue here is full. Then the sweeper publishes what is recorded, as soon as it can.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from aiki.broker import CONTROL, Broker, Session
from aiki.errors import BrokerUnavailable, MessageTooLarge, StorageUnavailable
from aiki.messages import Control
from aiki.model import Outgoing
from aiki.publishing import Packed, pack

log = logging.getLogger(__name__)

CLAIM: Final = 10.0
"""Seconds for which a delivery is claimed for this process."""
MARGIN: Final = 2.0
"""Nothing is sent in the last seconds of its claim: what is sent must reach the broker before the sweeper looks."""
MAX_QUEUED: Final = 10_000
MAX_UNCONFIRMED: Final = 400
"""Messages sent and not confirmed; beyond it the thread waits for confirms."""
SILENT: Final = 5.0
"""Seconds without the confirm that is due after which the broker counts as down."""
DELETE_RUNS: Final = 500
DELETE_AFTER: Final = 0.05
DELETE_GIVE_UP: Final = 60.0
GATHER: Final = 0.01
"""Seconds between two sendings while confirms are owed, unless `GATHER_RUNS` are queued."""
GATHER_RUNS: Final = 64
GATHER_FROM: Final = 3
"""Messages without a confirm from which on this is a load, and not one run after the other."""
FLUSH: Final = 3.0
"""Seconds that the end of the process waits for confirms."""
_IDLE: Final = 5.0
_MAX_BACKOFF: Final = 10.0


class Outbox(Protocol):
    """The verbs of the store that are needed here."""

    def delivered(self, delivery_ids: Sequence[bytes], namespace: str) -> None:
        """Published and confirmed: forget them."""

    def released(self, delivery_ids: Sequence[bytes], namespace: str) -> None:
        """Certainly never sent: the sweeper's, unmarked."""


class Pending:
    """Deliveries whose transaction is the caller's: handed over when it commits, and sent once they can be seen.

    :ivar visible: asks the database, from another connection, whether they are committed.
    """

    def __init__(self, outgoing: list[Outgoing], claimed_at: float, visible: Callable[[], bool]) -> None:
        self.outgoing = outgoing
        self.claimed_at = claimed_at
        self.visible = visible
        self.next_look = 0.0
        self.pause = 0.0005


class Publisher:
    """The thread, its queue and its session. One a process; after a fork the child makes its own.

    :param clock: monotonic seconds.
    """

    def __init__(self, broker: Broker, outbox: Outbox, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._outbox = outbox
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[tuple[Sequence[Outgoing], float]] = deque()
        self._queued = 0
        self._messages: deque[tuple[Packed, float]] = deque()
        self._pending: deque[Pending] = deque()
        self._controls: deque[Control] = deque()
        self._unconfirmed: dict[int, tuple[Packed, float]] = {}
        self._confirmed: dict[str, list[bytes]] = {}
        """By namespace."""
        self._delete_at = self._confirmed_at = self._sent_at = 0.0
        self._session: Session | None = None
        self._down = ""
        self._connect_at = 0.0
        self._failures = 0
        self._asleep = False
        self._closing = 0.0
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = -1, -1
        self.sent = self.confirmed = 0

    # ------------------------------------------------------------ for those who enqueue
    def accepting(self) -> bool:
        """Whether deliveries should be claimed for `put`; False leaves them to the sweeper. Starts the thread."""
        if self._thread is None and not self._start():
            return False
        return not self._down and self._queued < MAX_QUEUED and not self._closing

    def put(self, outgoing: Sequence[Outgoing], claimed_at: float) -> None:
        """Publish these, claimed at `claimed_at` (monotonic). Never blocks."""
        if outgoing:
            with self._lock:
                self._queue.append((outgoing, claimed_at + CLAIM - MARGIN))
                self._queued += len(outgoing)
            self._wake()

    def put_pending(self, pending: Pending) -> None:
        """Publish these as soon as their transaction can be seen."""
        self._pending.append(pending)
        self._wake()

    def control(self, message: Control) -> None:
        """Send control messages to the workers, if the broker is there. Best effort: the orchestrator sends them, too."""
        if self.accepting():
            self._controls.append(message)
            self._wake()

    @property
    def down(self) -> str:
        """Why the broker is not used at present; empty if it is, or is not known to be down."""
        return self._down

    def close(self, timeout: float = FLUSH) -> None:
        """Publish what is queued, wait for its confirms, and end; at most `timeout` seconds."""
        thread = self._thread
        if thread is None:
            return
        self._closing = self._clock() + timeout
        self._wake()
        thread.join(timeout + 0.5)

    def _start(self) -> bool:
        with self._lock:
            if self._thread is None:
                self._wake_read, self._wake_write = os.pipe()
                os.set_blocking(self._wake_read, False)
                os.set_blocking(self._wake_write, False)
                thread = threading.Thread(target=self._work, name="aiki-publisher", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is shutting down: the sweeper publishes
                    os.close(self._wake_read)
                    os.close(self._wake_write)
                    return False
                self._thread = thread
                _open.add(self)
        return True

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            try:
                os.write(self._wake_write, b"x")
            except OSError:  # full: it is awake already; closed: it has ended
                pass

    # ------------------------------------------------------------ the thread
    def _work(self) -> None:
        try:
            while not self._done():
                self.run_once()
        finally:
            self._forget_session("the publisher ended")
            self._release()
            with self._lock:
                read, write = self._wake_read, self._wake_write
                self._wake_read = self._wake_write = -1
                self._asleep = False
                self._thread = None
            os.close(read)
            os.close(write)

    def _done(self) -> bool:
        if not self._closing:
            return False
        # What could not be seen for half a second was rolled back, most likely, or is the sweeper's.
        pending = any(item.pause < 0.25 for item in tuple(self._pending))
        busy = self._queue or self._messages or self._unconfirmed or self._confirmed or pending
        return not busy or self._clock() >= self._closing or bool(self._down and not self._confirmed)

    def run_once(self, longest: float = _IDLE) -> None:
        """Send what there is, wait for confirms or for work, at most `longest` seconds, and settle what is confirmed."""
        try:
            self._look_at_pending()
            self._gather()
            if self._ready():
                self._send()
            session = self._session
            self._asleep = True  # from here on whoever adds work writes to the pipe, so what `_pause` sees is enough
            timeout = min(longest, self._pause())
            wake = self._wake_read if self._wake_read >= 0 else None
            if session is not None:
                session.receive(timeout, wake)
            elif wake is not None:
                select.select([wake], [], [], timeout)
            self._asleep = False
            self._drain_wake()
            if session is not None:
                self._settle(session)
        except BrokerUnavailable as error:
            self._forget_session(str(error))
        if self._confirmed:
            late = self._clock() - self._delete_at
            if sum(map(len, self._confirmed.values())) >= DELETE_RUNS or late >= 0.2 or (late >= 0 and not self._queue):
                self._delete()

    def _gather(self) -> None:
        """Under load, let a few runs come together before the next sending.

        A lone run leaves at once; after that this thread would wake for each run, contend for the GIL with whoever
        enqueues, and have the broker sync each message by itself.
        """
        if len(self._unconfirmed) >= GATHER_FROM and self._queued < GATHER_RUNS and not self._closing:
            rest = self._sent_at + GATHER - self._clock()
            if rest > 0:
                time.sleep(rest)

    def _pause(self) -> float:
        """Seconds until there is something to do again without being woken."""
        sendable = self._queue or self._messages or self._controls
        if sendable and self._session is not None and not self._down and len(self._unconfirmed) < MAX_UNCONFIRMED:
            return 0.0
        now = self._clock()
        until = now + _IDLE
        if self._confirmed:
            until = min(until, self._delete_at)
        if pending := tuple(self._pending):
            until = min(until, *(item.next_look for item in pending))
        if self._unconfirmed or (self._down and self._session is not None):
            until = min(until, now + 0.5)
        if self._session is None and (sendable or self._failures):
            until = min(until, self._connect_at)
        if self._closing:
            until = min(until, now + 0.02)
        return max(0.0, until - now)

    def _drain_wake(self) -> None:
        if self._wake_read < 0:
            return
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    # ------------------------------------------------------------ the session
    def _ready(self) -> bool:
        """Whether there is a session that takes messages; connects when it is time to."""
        if self._session is None:
            if self._clock() < self._connect_at or not (self._queue or self._messages or self._controls or self._failures):
                return False
            try:
                self._session = self._broker.connect("aiki publisher")
            except BrokerUnavailable as error:
                self._failures += 1
                backoff = min(0.1 * 2**self._failures, _MAX_BACKOFF) * random.uniform(0.5, 1.0)  # noqa: S311  (jitter)
                self._connect_at = self._clock() + backoff
                self._went_down(str(error))
                return False
            self._failures = 0
        blocked = self._session.blocked
        silent = self._silent()
        if blocked:
            self._went_down(f"it takes no messages at present: {blocked}")
        elif silent:
            self._went_down(f"it has confirmed nothing for {silent:.0f} s")
        elif self._down:
            log.info("the broker is used again (it was not: %s)", self._down)
            self._down = ""
        return not self._down

    def _silent(self) -> float:
        """For how long the broker has owed a confirm, if that is too long; a session silent for a claim's time is given up."""
        if not self._unconfirmed:
            return 0.0
        oldest = self._clock() - next(iter(self._unconfirmed.values()))[1]
        if oldest > CLAIM:
            raise BrokerUnavailable(f"no confirm in {oldest:.0f} s")
        return oldest if oldest > SILENT else 0.0

    def _went_down(self, why: str) -> None:
        if not self._down:
            log.warning("the broker is not used for now: %s; runs are recorded, and dispatched when it is back", why)
        self._down = why or "unknown"
        self._controls.clear()
        self._release()

    def _release(self) -> None:
        """Give what was certainly never sent to the sweeper; what is about to be the sweeper's anyway is left alone."""
        with self._lock:
            queued, self._queue = self._queue, deque()
            messages, self._messages = self._messages, deque()
            self._queued = 0
        never_sent: dict[str, list[tuple[bytes, float]]] = {}
        for outgoing, until in queued:
            for item in outgoing:
                never_sent.setdefault(item.namespace, []).append((item.delivery_id, until))
        for message, until in messages:
            never_sent.setdefault(message.namespace, []).extend((delivery_id, until) for delivery_id in message.delivery_ids)
        try:
            for namespace, deliveries in never_sent.items():
                for start in range(0, len(deliveries), DELETE_RUNS):
                    self._release_batch(namespace, deliveries[start : start + DELETE_RUNS])
        except StorageUnavailable as error:
            log.info("deliveries wait for their claims to run out: %s", error)

    def _release_batch(self, namespace: str, deliveries: Sequence[tuple[bytes, float]]) -> None:
        if self._clock() < min(until for _, until in deliveries):
            self._outbox.released([delivery_id for delivery_id, _ in deliveries], namespace)

    def _forget_session(self, why: str) -> None:
        session, self._session = self._session, None
        self._asleep = False
        if session is None:
            return
        if self._unconfirmed:
            log.warning("%d messages are unconfirmed (%s); the sweeper sees to them", len(self._unconfirmed), why)
        self._unconfirmed.clear()
        self._failures = max(1, self._failures)  # connect anew without waiting for work
        self._connect_at = self._clock()
        session.close()

    # ------------------------------------------------------------ sending
    def _look_at_pending(self) -> None:
        """Queue the deliveries of callers' transactions that can be seen by now; drop those whose claim is over."""
        for _ in range(len(self._pending)):
            pending = self._pending.popleft()
            now = self._clock()
            if now >= pending.claimed_at + CLAIM - MARGIN:
                continue
            if now < pending.next_look:
                self._pending.append(pending)
                continue
            try:
                visible = pending.visible()
            except StorageUnavailable:
                visible = False
            if visible:
                with self._lock:
                    self._queue.append((pending.outgoing, pending.claimed_at + CLAIM - MARGIN))
                    self._queued += len(pending.outgoing)
                continue
            pending.next_look = now + pending.pause
            pending.pause = min(pending.pause * 2, 0.25)
            self._pending.append(pending)

    def _send(self) -> None:
        assert self._session is not None
        while self._controls:
            self._session.send(CONTROL, self._controls.popleft().encode())
        while len(self._unconfirmed) < MAX_UNCONFIRMED:
            if not self._messages:
                if not self._queue:
                    return
                with self._lock:
                    outgoing, until = self._queue.popleft()
                    self._queued -= len(outgoing)
                self._messages.extend((message, until) for message in pack(outgoing))
            message, until = self._messages.popleft()
            now = self._clock()
            if now < until:
                # If this raises, the message may be on its way: it is the sweeper's, while those behind it stay ours.
                try:
                    seq = self._session.send(message.to, message.body)
                except MessageTooLarge as error:
                    # Nothing can carry it: the sweeper, which meets the same, fails the runs.
                    log.error("a dispatch of %d runs cannot be sent: %s", len(message.delivery_ids), error)
                    continue
                self._unconfirmed[seq] = (message, now)
                self._sent_at = now
                self.sent += 1

    def _settle(self, session: Session) -> None:
        for seq, ok in session.settled():
            found = self._unconfirmed.pop(seq, None)
            if found is None:
                continue
            if ok:
                if not self._confirmed:
                    self._confirmed_at = self._clock()
                    self._delete_at = self._confirmed_at + DELETE_AFTER
                self._confirmed.setdefault(found[0].namespace, []).extend(found[0].delivery_ids)
                self.confirmed += 1
            else:
                log.warning("the broker refused a message of %d runs; the sweeper sees to them", len(found[0].delivery_ids))

    def _delete(self) -> None:
        """Forget confirmed deliveries. If the database is away it is tried again, until the sweeper has had them anyway."""
        try:
            for namespace, delivery_ids in list(self._confirmed.items()):
                while delivery_ids:
                    self._outbox.delivered(delivery_ids[:DELETE_RUNS], namespace)
                    del delivery_ids[:DELETE_RUNS]
                del self._confirmed[namespace]
        except StorageUnavailable as error:
            now = self._clock()
            self._delete_at = now + 1.0
            if now - self._confirmed_at > DELETE_GIVE_UP:
                log.warning("%d confirmed deliveries could not be deleted: %s", sum(map(len, self._confirmed.values())), error)
                self._confirmed.clear()


_open: weakref.WeakSet[Publisher] = weakref.WeakSet()


@atexit.register
def _flush() -> None:
    deadline = time.monotonic() + FLUSH
    for publisher in list(_open):
        publisher.close(max(0.0, deadline - time.monotonic()))


os.register_at_fork(after_in_child=_open.clear)
