"""Working on batches (`aiki.storage.batchwork`): a chunk at a time, as fast as the rate allows, one orchestrator a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from aiki import ids
from aiki.clock import SECOND
from aiki.orchestrator.isolation import Failed, Isolation
from aiki.storage import Store
from aiki.storage.batchwork import Lease, Worked

CHUNK: Final = 500
"""Runs a transaction."""
CHUNKS_A_TURN: Final = 4
LOOK_EVERY: Final = 1.0
"""Seconds between searches for batches that no orchestrator works on."""
KEPT: Final = 30 * 86400 * SECOND
"""Retention of finished batches and of the outcomes of their runs. Audit records are kept."""
PURGE_EVERY: Final = 10.0
MAX_REST: Final = 300.0
"""Seconds for which a batch that cannot be brought on is left alone, at most."""
BURST: Final = 0.5
"""Seconds for which what was not used of the rate may be caught up."""


class Batching:
    """The batches of one orchestrator. Every method may raise `StorageUnavailable`.

    :param rate: runs a second, of all batches together.
    """

    def __init__(self, store: Store, rate: float, isolation: Isolation) -> None:
        self._store = store
        self._isolation = isolation
        self._failures: dict[tuple[str, bytes], tuple[float, float]] = {}
        """Batches that could not be brought on: until when they are left alone, and for how long that was."""
        self._rate = rate
        self._owner = ids.new_id().hex
        self._leases: list[Lease] = []
        self._next_look = self._next_purge = 0.0
        self._tokens = 0.0
        self._at = 0.0

    def run_once(self, now: float) -> Iterator[tuple[str, Worked]]:
        """Work on each batch as far as the rate allows by now; what it yields is to be followed."""
        self._tokens = min(max(1.0, self._rate * BURST), self._tokens + self._rate * max(0.0, now - self._at))
        self._at = now
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            self._leases = [lease for lease in self._store.claim_batches(self._owner) if not self._rests(lease, now)]
        if now >= self._next_purge:
            # Sooner while there is something: it is deleted a little at a time.
            self._next_purge = now + (0.0 if self._store.purge_batches(self._store.clock() - KEPT) else PURGE_EVERY)
        for _ in range(CHUNKS_A_TURN):
            if not self._leases or self._tokens < 1:
                return
            lease = self._leases.pop(0)
            found = self._isolation.attempt(self._store.of(lease.namespace).work_batch, lease, min(CHUNK, int(self._tokens)))
            if isinstance(found, Failed):
                self._rest(lease, found.why, now)
                continue
            worked = found.value
            self._failures.pop((lease.namespace, lease.id), None)
            self._tokens -= worked.count
            if not worked.over:
                self._leases.append(lease)  # so that they take turns
            yield lease.namespace, worked
            if worked.collecting:
                return  # looking up takes a moment: reports come between

    def _rests(self, lease: Lease, now: float) -> bool:
        return now < self._failures.get((lease.namespace, lease.id), (0.0, 0.0))[0]

    def _rest(self, lease: Lease, why: str, now: float) -> None:
        """This batch cannot be brought on at present; the others go on meanwhile."""
        key = (lease.namespace, lease.id)
        pause = min(MAX_REST, 2 * self._failures.get(key, (0.0, LOOK_EVERY))[1])
        self._failures[key] = (now + pause, pause)
        self._isolation.note(
            "batches", f"batch {lease.id.hex()} in namespace {lease.namespace}: {why}; next try in {pause:g} s"
        )

    def release(self) -> None:
        """This orchestrator stops: others need not wait for its leases to end."""
        if self._leases:
            self._store.release_batches(self._owner)
