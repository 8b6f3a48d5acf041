"""The verbs about queues: pause and resume them, and tell how full they are.

A pause is one row. Workers are told of it (`messages.QUEUES`, and with each snapshot): they take nothing more from the queue,
and what they took and have not begun goes back into it. Runs are recorded and published as ever, so they wait in the broker in
their order, and a resume needs to do nothing but let the workers take them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from aiki.clock import SECOND, Clock
from aiki.errors import RunConflict
from aiki.lifecycle.effects import Audited
from aiki.states import State
from aiki.storage.auditing import Auditing
from aiki.storage.engine import Database
from aiki.words import moment

HEARD: Final = 30 * SECOND
"""A worker that was not heard for so long is not counted on."""
COUNTED: Final = 20_000
"""Runs of a state, oldest first, that are counted by queue; of more it is said that there are more."""

RECORDED: Final = 50_000
"""Runs of a queue that are counted as recorded in the last minute."""


class Pause(NamedTuple):
    """That a queue is paused: by whom, since when, why."""

    queue: str
    by: str
    at: int
    reason: str

    def told(self, now: int) -> str:
        """In words."""
        return f"queue {self.queue} is paused by {self.by or 'an operator'} at {moment(self.at, now)}" + (
            f": {self.reason}" if self.reason else ""
        )


class Pauses(NamedTuple):
    """The paused queues of a namespace, and the version of that list, which rises with each change."""

    number: int
    queues: dict[str, Pause]


@dataclass(frozen=True, slots=True)
class QueueCount:
    """How many runs of a queue are in each state, by the database; `exact` is False if there are more.

    :ivar oldest_at: since when the first of those that are queued waits.
    """

    queued: int = 0
    running: int = 0
    scheduled: int = 0
    oldest_at: int | None = None
    exact: bool = True


class Rates(NamedTuple):
    """Runs a second of a queue: recorded (in the last minute), started and ended (in about the last five)."""

    recorded: float = 0.0
    started: float = 0.0
    ended: float = 0.0


class Queues(Auditing):
    """Pausing queues, and counting what is in them."""

    db: Database
    namespace: str
    clock: Clock

    def pause_queue(self, queue: str, *, reason: str = "", actor: str = "") -> Pauses:
        """Have no run of a queue begun until it is resumed. Pausing it again changes nothing."""
        return self._set_paused(queue, actor, reason, paused=True)

    def resume_queue(self, queue: str, *, reason: str = "", actor: str = "") -> Pauses:
        """Have the runs of a paused queue begun again. Raises `RunConflict` if it is not paused."""
        return self._set_paused(queue, actor, reason, paused=False)

    def _set_paused(self, queue: str, actor: str, reason: str, *, paused: bool) -> Pauses:
        key = (self.namespace, queue)

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            sql = f"SELECT paused FROM aiki_queues WHERE namespace = ? AND name = ? {self.db.dialect.for_update}"
            row = self.db.execute(connection, sql, key).fetchone()
            if not paused and not (row and row[0]):
                raise RunConflict(f"queue {queue} is not paused")
            if paused and row and row[0]:
                return
            newest = self.db.execute(
                connection, "SELECT MAX(changed_at) FROM aiki_queues WHERE namespace = ?", key[:1]
            ).fetchone()
            number = max(now, (newest[0] or 0) + 1)
            values = (1, actor[:255], now, reason[:1000], number) if paused else (0, None, None, None, number)
            if row is None:
                columns = ("namespace", "name", "paused", "paused_by", "paused_at", "reason", "changed_at")
                self.db.insert(connection, "aiki_queues", columns, [(*key, *values)])
            else:
                sql = "UPDATE aiki_queues SET paused = ?, paused_by = ?, paused_at = ?, reason = ?, changed_at = ? "
                self.db.execute(connection, f"{sql} WHERE namespace = ? AND name = ?", (*values, *key))
            self.write_audit(connection, [Audited(actor, verb, f"queue {queue}", reason=reason)])

        verb = "pause_queue" if paused else "resume_queue"
        try:
            self._do(work, verb, queue, lambda: None)
        except IntegrityError as error:  # somebody else has paused it for the first time, too
            if not self.db.dialect.is_duplicate(error):
                raise
            self._do(work, verb, queue, lambda: None)
        return self.pauses()

    def pauses(self, connection: sa.Connection | None = None) -> Pauses:
        """The paused queues of the namespace."""
        sql = "SELECT name, paused, paused_by, paused_at, reason, changed_at FROM aiki_queues WHERE namespace = ?"

        def read(at: sa.Connection) -> list[Any]:
            return list(self.db.execute(at, sql, (self.namespace,)).fetchall())

        rows = self.db.read(read) if connection is None else read(connection)
        paused = {row[0]: Pause(row[0], row[2] or "", row[3] or 0, row[4] or "") for row in rows if row[1]}
        return Pauses(max((row[5] for row in rows), default=0), paused)

    def pause_is_heard(self, queue: str) -> bool:
        """Whether all workers that live and take from a queue have said that they hold it to be paused."""
        sql = "SELECT queues, paused FROM aiki_workers WHERE namespace = ? AND state = 'alive' AND heard_at > ?"
        key = (self.namespace, self.clock() - HEARD)
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
        return all(queue in json.loads(paused or "[]") for queues, paused in rows if queue in json.loads(queues))

    def all_pauses(self) -> dict[str, tuple[int, list[str]]]:
        """The number and the names of the paused queues of each namespace that has ever paused one; for an orchestrator."""
        sql = "SELECT namespace, name, paused, changed_at FROM aiki_queues"
        found: dict[str, tuple[int, list[str]]] = {}
        for namespace, name, paused, changed_at in self.db.read(lambda c: self.db.execute(c, sql).fetchall()):
            number, names = found.get(namespace, (0, []))
            found[namespace] = (max(number, changed_at), [*names, name] if paused else names)
        return found

    def queue_names(self) -> list[str]:
        """The queues that are known: those of definitions, of workers that live, of dispatches, and those that were paused."""

        def work(connection: sa.Connection) -> set[str]:
            key = (self.namespace,)
            named = {"default"}
            for (options,) in self.db.execute(connection, "SELECT options FROM aiki_definitions WHERE namespace = ?", key):
                queue = json.loads(options).get("queue")
                named |= {queue} if isinstance(queue, str) else set()
            sql = "SELECT queues FROM aiki_workers WHERE namespace = ? AND state = 'alive'"
            for (queues,) in self.db.execute(connection, sql, key):
                named.update(json.loads(queues))
            for table, column in (("aiki_queues", "name"), ("aiki_markers", "queue")):
                sql = f"SELECT {column} FROM {table} WHERE namespace = ?"
                named.update(row[0] for row in self.db.execute(connection, sql, key))
            return named

        return sorted(self.db.read(work))

    def rates(self, queues: Sequence[str]) -> dict[str, Rates]:
        """How fast runs come into each queue, and how fast they are worked on."""

        def work(connection: sa.Connection) -> dict[str, Rates]:
            now = self.clock()
            since = now - 300 * SECOND
            since -= since % (60 * SECOND)
            sql = (
                "SELECT queue, SUM(started), SUM(completed + failed + dead + cancelled) FROM aiki_statistics "
                "WHERE namespace = ? AND width = 60 AND at >= ? GROUP BY queue"
            )
            rows = self.db.execute(connection, sql, (self.namespace, since)).fetchall()
            seconds = (now - since) / SECOND
            worked = {row[0]: (float(row[1] or 0) / seconds, float(row[2] or 0) / seconds) for row in rows}
            hint = self.db.dialect.suggest_index("ix_aiki_runs_queue")
            sql = (
                f"SELECT COUNT(*) FROM (SELECT 1 FROM aiki_runs {hint} WHERE namespace = ? AND queue = ? AND created_at > ? "
                f"LIMIT {RECORDED}) t"
            )
            out = {}
            for queue in queues:
                count = self.db.execute(connection, sql, (self.namespace, queue, now - 60 * SECOND)).fetchone()[0]
                out[queue] = Rates(count / 60, *worked.get(queue, (0.0, 0.0)))
            return out

        return self.db.read(work)

    def count_by_queue(self, limit: int = COUNTED) -> dict[str, QueueCount]:
        """What the database has of each queue: at most `limit` runs of a state are looked at, the oldest."""

        def work(connection: sa.Connection) -> dict[str, QueueCount]:
            counts: dict[str, dict[str, Any]] = {}
            exact = True
            for state in (State.QUEUED, State.RUNNING, State.SCHEDULED):
                hint = self.db.dialect.suggest_index("ix_aiki_runs_state")
                sql = (
                    "SELECT queue, COUNT(*), MIN(COALESCE(dispatched_at, created_at)) FROM (SELECT queue, dispatched_at, "
                    f"created_at FROM aiki_runs {hint} WHERE namespace = ? AND state = ? ORDER BY created_at LIMIT "
                    f"{int(limit)}) t "
                    "GROUP BY queue"
                )
                rows = self.db.execute(connection, sql, (self.namespace, state.value)).fetchall()
                exact = exact and sum(row[1] for row in rows) < limit
                for queue, count, oldest in rows:
                    counts.setdefault(queue, {})[state.value] = count
                    if state is State.QUEUED:
                        counts[queue]["oldest_at"] = oldest
            return {queue: QueueCount(**found, exact=exact) for queue, found in counts.items()}

        return self.db.read(work)
