"""The verbs of monitoring: what can be counted at a bounded cost, however many runs there are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from aiki.clock import SECOND, Clock
from aiki.states import TERMINAL, State
from aiki.storage.engine import Database

COUNTED: Final = 100_000
"""Counts of a state, of the outbox and of the dead letters are capped at this number."""
LISTENING: Final = 15.0
"""Seconds within which an orchestrator that works is heard."""
OLDEST_OF: Final = 5_000
"""How many of the oldest queued runs are looked at for the age of each queue."""


@dataclass(slots=True)
class Gauged:
    """What was counted, over all namespaces.

    :ivar runs: by namespace and state; states that end a run are left out, for they only grow.
    :ivar queues: when the oldest run of each queue that has any was queued, by namespace and queue (microseconds).
    :ivar workers: live workers by namespace; `children`: by namespace and whether they are busy.
    :ivar orchestrators: those that were heard in the last `LISTENING` seconds; `orchestrator_heard`: when any was last.
    :ivar paused: queues that people have paused; `webhooks`: deliveries that wait and that were given up, by namespace.
    :ivar names: the queues that definitions and live workers name.
    """

    runs: dict[tuple[str, str], int] = field(default_factory=dict)
    queues: dict[tuple[str, str], int] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    children: dict[tuple[str, str], int] = field(default_factory=dict)
    names: set[tuple[str, str]] = field(default_factory=set)
    dead_letters: dict[str, int] = field(default_factory=dict)
    outbox: int = 0
    due: int = 0
    oldest_due: int | None = None
    orchestrators: int = 0
    orchestrator_heard: int | None = None
    paused: set[tuple[str, str]] = field(default_factory=set)
    webhooks: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    """How often orchestrators refused something, by what it was."""


class Gauging:
    """Counting. Not bound to one namespace: who runs the servers sees all of them."""

    db: Database
    clock: Clock

    def gauge(self) -> Gauged:
        """Count. A few index ranges of bounded length; raises `StorageUnavailable`."""
        return self.db.read(self._gauge)

    def _gauge(self, connection: sa.Connection) -> Gauged:
        out = Gauged()
        namespaces = [
            row[0] for row in self.db.execute(connection, "SELECT DISTINCT namespace FROM aiki_definitions").fetchall()
        ]
        for namespace in namespaces:
            # A zero is told: nobody could be warned of a series that is not there.
            out.workers[namespace] = out.children[namespace, "busy"] = out.children[namespace, "idle"] = 0
            out.webhooks[namespace] = (0, 0)
            for state in State:
                if state not in TERMINAL:
                    sql = f"SELECT 1 FROM aiki_runs WHERE namespace = ? AND state = ? LIMIT {COUNTED}"
                    out.runs[namespace, state.value] = self._counted(connection, sql, (namespace, state.value))
            self._gauge_queues(connection, namespace, out)
            sql = f"SELECT 1 FROM aiki_dead_letters WHERE namespace = ? LIMIT {COUNTED}"
            out.dead_letters[namespace] = self._counted(connection, sql, (namespace,))
        self._gauge_workers(connection, out)
        self._gauge_others(connection, out)
        now = self.clock()
        out.outbox = self._counted(connection, f"SELECT 1 FROM aiki_deliveries LIMIT {COUNTED}", ())
        out.due = self._counted(connection, f"SELECT 1 FROM aiki_deliveries WHERE due_at <= ? LIMIT {COUNTED}", (now,))
        oldest = self.db.execute(connection, "SELECT MIN(due_at) FROM aiki_deliveries WHERE due_at <= ?", (now,)).fetchone()
        out.oldest_due = oldest[0] if oldest else None
        return out

    def _counted(self, connection: sa.Connection, sql: str, parameters: tuple[object, ...]) -> int:
        row = self.db.execute(connection, f"SELECT COUNT(*) FROM ({sql}) counted", parameters).fetchone()
        return int(row[0])

    def _gauge_queues(self, connection: sa.Connection, namespace: str, out: Gauged) -> None:
        # In the order of the index: the oldest stand first, and a queue whose oldest run is not among them has none that is
        # old by comparison.
        sql = (
            "SELECT queue, MIN(since) FROM (SELECT queue, COALESCE(dispatched_at, created_at) AS since FROM aiki_runs "
            f"WHERE namespace = ? AND state = ? ORDER BY created_at LIMIT {OLDEST_OF}) oldest GROUP BY queue"
        )
        for queue, since in self.db.execute(connection, sql, (namespace, State.QUEUED.value)).fetchall():
            out.queues[namespace, queue] = since
            out.names.add((namespace, queue))
        for (options,) in self.db.execute(
            connection, "SELECT options FROM aiki_definitions WHERE namespace = ? LIMIT 2000", (namespace,)
        ).fetchall():
            out.names.add((namespace, str(json.loads(options).get("queue") or "default")))

    def _gauge_workers(self, connection: sa.Connection, out: Gauged) -> None:
        sql = "SELECT namespace, queues, concurrency, children FROM aiki_workers WHERE state = 'alive' LIMIT 5000"
        for namespace, queues, concurrency, children in self.db.execute(connection, sql).fetchall():
            out.workers[namespace] = out.workers.get(namespace, 0) + 1
            busy = sum(1 for child in json.loads(children) if child.get("run"))
            out.children[namespace, "busy"] = out.children.get((namespace, "busy"), 0) + busy
            out.children[namespace, "idle"] = out.children.get((namespace, "idle"), 0) + max(0, concurrency - busy)
            out.names |= {(namespace, str(queue)) for queue in json.loads(queues)}

    def _gauge_others(self, connection: sa.Connection, out: Gauged) -> None:
        sql = "SELECT heard_at FROM aiki_orchestrators WHERE state = 'alive' ORDER BY heard_at DESC LIMIT 100"
        heard = [row[0] for row in self.db.execute(connection, sql).fetchall()]
        since = self.clock() - int(LISTENING * SECOND)
        out.orchestrators = sum(1 for at in heard if at >= since)
        out.orchestrator_heard = max(heard, default=None)
        sql = "SELECT source, SUM(times) FROM aiki_refusals GROUP BY source ORDER BY source LIMIT 200"
        out.refused = {row[0]: int(row[1]) for row in self.db.execute(connection, sql).fetchall()}
        sql = "SELECT namespace, name FROM aiki_queues WHERE paused = 1 LIMIT 1000"
        out.paused = {(row[0], row[1]) for row in self.db.execute(connection, sql).fetchall()}
        out.names |= out.paused
        sql = (
            "SELECT namespace, COUNT(due_at), COUNT(*) FROM (SELECT namespace, due_at FROM aiki_webhook_deliveries "
            f"LIMIT {COUNTED}) d GROUP BY namespace"
        )
        for namespace, waiting, every in self.db.execute(connection, sql).fetchall():
            out.webhooks[namespace] = (int(waiting), int(every - waiting))
