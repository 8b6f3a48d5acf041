"""Workers that announce in their reports that they are about to stop. It is put on record, so that no run is charged for being
killed then."""

from __future__ import annotations

from typing import Final

from aiki.orchestrator.context import Context

AGAIN_SECONDS: Final = 5.0
"""Seconds after which a worker is recorded again whose heartbeats do not announce it yet: its row may be newer than the last
record."""
WORKERS: Final = 10_000
"""How many workers are remembered as noted."""


class Draining:
    """The draining workers that one orchestrator has recorded: each once in a while, however many messages announce it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._noted: dict[str, float] = {}
        """Worker to monotonic seconds, the oldest first."""

    def note(self, namespace: str, worker: str) -> None:
        """A message of this worker announces that it stops."""
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
