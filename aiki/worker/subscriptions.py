"""The queues that a child takes from: which of them, whose turn it is, and how much is taken ahead."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from aiki.broker.base import Address, work
from aiki.worker.connection import Connection
from aiki.worker.inbox import Job
from aiki.worker.slots import Shared, Slot

START_PREFETCH: Final = 2
SHORT_MS: Final = 5
FAIR_MS: Final = 100
"""A child prefetches about this much work, and with tasks that are not short, no more than it needs."""
SHORT_STREAK: Final = 5
SLOW_STREAK: Final = 2
"""One run that took a little longer amid short ones perhaps only waited for a processor; it takes several in a row to count."""
SETTLE_PREFETCH: Final = 8
"""Messages that a busy child takes ahead to have them settled."""


class Subscriptions:
    """Of one child. It consumes from all its queues that are not paused, or from none.

    :param most: messages that it may take ahead.
    :ivar active: whether it consumes.
    :ivar paused: those of its queues that are paused.
    """

    def __init__(
        self, namespace: str, queues: Sequence[str], most: int, connection: Connection, slot: Slot, shared: Shared
    ) -> None:
        self.active = False
        self.paused: frozenset[str] = frozenset()
        self._queues = queues
        self._sources = [work(namespace, queue) for queue in queues]
        self._most = most
        self._connection = connection
        self._slot = slot
        self._shared = shared
        self._lost_at = 0
        """Monotonic nanoseconds: consume only with a snapshot asked for after this."""
        self._served = dict.fromkeys(queues, 0)
        """For each queue the number of the slice that began with it last."""
        self._slices = 0
        self._pauses = 0
        """How often the paused queues had changed when they were last looked at."""
        self._unwanted: frozenset[Address] = frozenset()
        self._prefetch = min(START_PREFETCH, most)
        self._wanted = self._prefetch
        self._streak = 0
        """How many short runs were the last ones, or below zero how many that were not short."""

    def lost(self) -> None:
        """The session is lost: consume again only with a snapshot of the revocations that is newer."""
        self.active = False
        self._lost_at = self._slot.want = time.monotonic_ns()

    def subscribe(self) -> None:
        """Consume from what is wanted, with the prefetch that is wanted; nothing where that is so already."""
        if self.active and self._prefetch == self._wanted:
            return
        if self._shared.go <= self._lost_at:
            return  # the link writes `wake` when it has the snapshot
        # With slow tasks each subscription brings what stands first in the queue that is named first: so all get their turn.
        named = sorted(zip(self._queues, self._sources, strict=True), key=lambda pair: self._served[pair[0]])
        sources = [source for _, source in named if source not in self._unwanted]
        share = max(1, self._wanted // max(1, len(sources)))
        if all(self._connection.subscribe(source, share) for source in sources):
            self.active = True
            self._prefetch = self._wanted

    def unsubscribe(self) -> None:
        """Take no more."""
        if self.active:
            self.active = False
            for source in self._sources:
                self._connection.unsubscribe(source)

    # ------------------------------------------------------------ pauses
    @property
    def pauses_matter(self) -> bool:
        """Whether a queue is paused, or that has changed."""
        return bool(self.paused) or self._shared.pauses != self._pauses

    def follow_pauses(self) -> None:
        """See which queues are paused now. Where that has changed, the next turn subscribes anew."""
        if self._shared.pauses != self._pauses:
            self._pauses = self._shared.pauses
            named = zip(self._queues, self._sources, self._shared.paused, strict=True)
            paused = {queue: source for queue, source, is_ in named if is_}
            self.paused, self._unwanted = frozenset(paused), frozenset(paused.values())
            self.unsubscribe()

    # ------------------------------------------------------------ whose turn it is
    def alternate(self, jobs: deque[Job]) -> None:
        """Begin with the queue that was begun with the longest ago: the slow tasks of one do not hold up those of another."""
        served = self._served
        if len(served) <= 1:
            return
        queue = min({job.message.queue for job in jobs}, key=lambda name: served.get(name, 0))
        at = next(at for at, job in enumerate(jobs) if job.message.queue == queue)
        if at:
            first = jobs[at]
            del jobs[at]
            jobs.appendleft(first)
        self._slices += 1
        served[queue] = self._slices

    # ------------------------------------------------------------ how much is taken ahead
    @property
    def takes_ahead(self) -> bool:
        """Whether there may be more here than the run that is executed."""
        return self.active and self._prefetch + len(self._sources) > 2

    def take_much(self) -> None:
        """From the next subscription on as much as may be."""
        self._wanted = self._most

    def take_one(self) -> None:
        """From the next subscription on one message, until runs are short again."""
        self._wanted, self._streak = 1, 0

    def take_to_settle(self) -> None:
        """Consume, if it does not yet, a few messages that are not to be executed here."""
        if not self.active:
            self._wanted = min(SETTLE_PREFETCH, self._most)
            self.subscribe()

    def note_duration(self, took: int) -> bool:
        """Adapt to how long a run took, in milliseconds. Gives whether the runs are slow: others should have what is here."""
        if took < SHORT_MS:
            self._streak = max(self._streak, 0) + 1
            if self._streak == SHORT_STREAK:
                self._wanted = self._most
            return False
        self._streak = min(self._streak, 0) - 1
        if took < FAIR_MS and self._streak > -SLOW_STREAK:
            return False
        self._wanted = min(self._wanted, max(1, FAIR_MS // took))
        return True
