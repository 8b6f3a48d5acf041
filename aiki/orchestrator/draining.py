"""Workers that say in their reports that they are about to stop: on record, so that nobody is charged for what is killed."""

from __future__ import annotations

from typing import Final

from aiki.orchestrator.context import Context

AGAIN_SECONDS: Final = 5.0
"""A worker whose heartbeats do not say it yet is noted again after so long: its record may have come only now."""
WORKERS: Final = 10_000
"""How many workers are remembered as noted."""


class Draining:
    """What an orchestrator has put on record of them: each worker once in a while, however many messages say it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._noted: dict[str, float] = {}
        """Worker to monotonic seconds, the oldest first."""

    def note(self, namespace: str, worker: str) -> None:
        """A message of this worker says that it stops."""
        known = self._context.live.workers.get(worker)
        if known is not None and known.said.draining:
            return  # its heartbeats say so, and are on record
        now = self._context.monotonic()
        if now < self._noted.get(worker, 0.0):
            return
        self._context.store.note_draining(namespace, worker)
        self._noted.pop(worker, None)
        self._noted[worker] = now + AGAIN_SECONDS
        if len(self._noted) > WORKERS:
            del self._noted[next(iter(self._noted))]
