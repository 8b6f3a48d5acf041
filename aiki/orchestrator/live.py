"""The liveness of workers, as one orchestrator sees it: heartbeats in, losses out. No I/O; time is handed in.

A worker is lost when no heartbeat of it has come for a lease **during which this orchestrator was listening**: after a gap
(the process was stopped, the broker or the database was away) every worker gets a full term again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiki import messages as m
from aiki.lifecycle.skills import Skill, Skills
from aiki.messages import Heartbeat, Held, RunKey
from aiki.storage.roster import Said

GAP = 5.0
"""Seconds between two ticks above which this process has not been listening."""


@dataclass(slots=True)
class Worker:
    """A live worker. `held` is what its last beat or hello named; `definitions` gives the kind of each (name, version)."""

    namespace: str
    id: str
    heard: float
    definitions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    held: dict[RunKey, Held] = field(default_factory=dict)
    queues: frozenset[str] = frozenset()
    paused: frozenset[str] = frozenset()
    """The queues that it took for paused, by the beat before."""
    said: Said = field(default_factory=lambda: Said([]))
    fetches: bool = False
    """Whether its children fetch values that a history leaves out (`messages.FETCH`)."""
    reads_failures: bool | None = None
    """Whether its children read the details of a failed run's error; None: this orchestrator has not received its hello."""
    beats: int = 0
    """Beats that this orchestrator has received in a row."""


class Live:
    """The live workers of all namespaces."""

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self.workers: dict[str, Worker] = {}
        self._listening_since: float | None = None
        self._last_tick = 0.0
        self._fresh: dict[str, Worker] = {}
        self._asked: dict[str, list[str]] = {}

    # ------------------------------------------------------------ listening
    def listen(self, now: float) -> None:
        """Heartbeats are received from now on."""
        self._listening_since = self._last_tick = now
        for worker in self.workers.values():
            worker.beats = 0

    def deaf(self) -> None:
        """Heartbeats are not received at present."""
        self._listening_since = None
        self._asked = {}

    def tick(self, now: float) -> None:
        """To be called often. A gap since the last call means that this process was not listening."""
        if self._listening_since is not None and now - self._last_tick > GAP:
            self.listen(now)
        self._last_tick = now

    def listened(self, now: float) -> float:
        """Seconds of uninterrupted listening."""
        return 0.0 if self._listening_since is None else now - self._listening_since

    # ------------------------------------------------------------ hearing
    def know(
        self, namespace: str, worker: str, definitions: Iterable[tuple[str, str, str]], queues: Iterable[str], now: float
    ) -> None:
        """A worker that the database has as alive; it gets a full term for its first heartbeat. `definitions`: name, version,
        kind."""
        if worker not in self.workers:
            self.workers[worker] = Worker(namespace, worker, now, _kinds(definitions), queues=frozenset(queues))

    def hear(self, beat: Heartbeat, now: float) -> bool:
        """Take in a heartbeat. False: the worker is not known and should say hello."""
        worker = self.workers.get(beat.worker)
        if beat.kind == m.HELLO:
            said = Said([]) if worker is None else worker.said
            worker = self.workers[beat.worker] = Worker(
                beat.namespace, beat.worker, now, _kinds(beat.fields.get("definitions", [])), said=said
            )
            worker.queues = frozenset(map(str, beat.fields.get("queues", ())))
            can = beat.fields.get("can")
            worker.fetches = isinstance(can, list) and m.CAN_FETCH in can
            worker.reads_failures = isinstance(can, list) and m.CAN_READ_FAILURES in can
        if worker is None:
            return False
        worker.heard = now
        if beat.kind in (m.HELLO, m.BEAT):
            worker.held = {RunKey(item.run_id, item.epoch): item for item in beat.held}
            if beat.kind == m.BEAT:
                worker.said = _said(beat.fields)
                if beat.fields.get("ask"):
                    self._asked.setdefault(worker.namespace, []).append(worker.id)
            worker.beats += 1
            self._fresh[worker.id] = worker
        return True

    def leave(self, worker: str) -> None:
        """The worker has sent its bye."""
        self.workers.pop(worker, None)
        self._fresh.pop(worker, None)

    # ------------------------------------------------------------ asking
    def lost(self, now: float) -> list[Worker]:
        """Workers whose lease has run out; they are live no more."""
        if self._listening_since is None:
            return []
        limit = now - self.lease
        gone = [w for w in self.workers.values() if max(w.heard, self._listening_since) < limit]
        for worker in gone:
            self.leave(worker.id)
        return gone

    def of(self, namespace: str) -> set[str]:
        """The ids of a namespace's live workers."""
        return {worker.id for worker in self.workers.values() if worker.namespace == namespace}

    def can_fetch(self, namespace: str) -> bool:
        """Whether all live workers of a namespace fetch values that a history leaves out."""
        return all(worker.fetches for worker in self.workers.values() if worker.namespace == namespace)

    def read_failures(self, namespace: str) -> bool:
        """Whether no live worker of a namespace is known to be unable to read the details of a failed run's error.

        Workers whose hello has not come yet do not count: code would miss exceptions that it catches whenever an orchestrator
        starts. Should one of them be of a former release, what it has met is met so in replays (`WorkflowRun`).
        """
        return not any(w.reads_failures is False for w in self.workers.values() if w.namespace == namespace)

    def skills(self, namespace: str) -> Skills:
        """The definitions that the live workers of a namespace can execute."""
        known: dict[tuple[str, str], dict[str, Skill]] = {}
        for worker in self.workers.values():
            if worker.namespace == namespace:
                for definition, kind in worker.definitions.items():
                    known.setdefault(definition, {})[worker.id] = Skill(kind, worker.queues)
        return known

    def queues(self, namespace: str) -> frozenset[str]:
        """The queues that live workers of a namespace take from, or will once they are resumed."""
        return frozenset(queue for worker in self.workers.values() if worker.namespace == namespace for queue in worker.queues)

    def take_fresh(self) -> dict[str, dict[str, Said]]:
        """Workers whose heartbeats have come since the last call, with their content: by namespace, then id."""
        out: dict[str, dict[str, Said]] = {}
        for worker in self._fresh.values():
            out.setdefault(worker.namespace, {})[worker.id] = worker.said
        self._fresh = {}
        return out

    def take_asking(self) -> dict[str, list[str]]:
        """Workers that have asked since the last call whether their beats are received, by namespace."""
        asked, self._asked = self._asked, {}
        return asked


def _kinds(definitions: Iterable[Sequence[Any]]) -> dict[tuple[str, str], str]:
    return {(str(item[0]), str(item[1])): str(item[2]) if len(item) > 2 else "task" for item in definitions}


def _said(fields: dict[str, Any]) -> Said:
    memory, paused = fields.get("rss"), fields.get("paused")
    names = [str(item) for item in paused] if isinstance(paused, list) else []
    return Said(
        list(fields.get("children", ())), memory if isinstance(memory, int) else None, bool(fields.get("draining")), names
    )
