"""The verb that tells what is wrong: what an operator should look at, worst first. Everything it asks for is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from aiki.clock import SECOND
from aiki.filters import Filter, Pattern, Term
from aiki.model import Count
from aiki.states import State
from aiki.storage.queues import HEARD, Queues
from aiki.storage.roster import ALIVE

SILENT: Final = 30 * SECOND
"""An orchestrator says every few seconds that it lives."""
BEHIND: Final = 60 * SECOND
"""A queue is behind when its oldest run has waited for so long."""
STUCK: Final = 3600 * SECOND
"""A run that has been executing for so long, and has told of no progress meanwhile, may be stuck."""
LOOKED_AT: Final = 5000
"""Runs of a state that are looked at, the oldest."""
CAP: Final = 1000
GROUPS: Final = 20

Kind = Literal["no_orchestrator", "no_worker", "stalled", "dead", "dead_letters", "queue_behind", "queue_paused", "stuck"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Something to look at.

    :ivar subject: the queue, or the name and version, that it is about.
    :ivar count: of how many runs or messages.
    :ivar since: when it began, as far as can be told; microseconds.
    :ivar where: the runs that it is about, as a filter's text; empty where it is about none.
    """

    kind: Kind
    text: str
    subject: str = ""
    count: Count | None = None
    since: int | None = None
    where: str = ""


class NeedsAttention(Queues):
    """Telling what is wrong."""

    def needs_attention(self) -> list[Attention]:
        """What is wrong, worst first; empty if nothing is."""
        return self.db.read(lambda connection: list(self._attention(connection)))

    def _attention(self, connection: sa.Connection) -> Iterator[Attention]:
        now = self.clock()
        yield from self._orchestrators(connection, now)
        yield from self._queues(connection, now)
        yield from self._stalled(connection)
        yield from self._stuck(connection, now)
        yield from self._dead(connection)

    def _orchestrators(self, connection: sa.Connection, now: int) -> Iterator[Attention]:
        # Each orchestrator works for all namespaces.
        sql = "SELECT MAX(heard_at) FROM aiki_orchestrators WHERE state = ?"
        heard = self.db.look(connection, sql, (ALIVE,))[0][0]
        if heard is None:
            yield Attention("no_orchestrator", "no orchestrator runs: results are not recorded and nothing is retried")
        elif heard < now - SILENT:
            text = "the orchestrators are silent: results are not recorded and nothing is retried"
            yield Attention("no_orchestrator", text, since=heard)

    def _queues(self, connection: sa.Connection, now: int) -> Iterator[Attention]:
        served: set[str] = set()
        sql = "SELECT queues FROM aiki_workers WHERE namespace = ? AND state = ? AND heard_at > ? LIMIT 2000"
        for (queues,) in self.db.look(connection, sql, (self.namespace, ALIVE, now - HEARD)):
            served.update(json.loads(queues))
        paused = self.pauses(connection).queues
        sql = (
            "SELECT queue, COUNT(*), MIN(since) FROM (SELECT queue, COALESCE(dispatched_at, created_at) AS "
            "since FROM aiki_runs "
            f"{self._by_state()} WHERE namespace = ? AND state = ? ORDER BY created_at LIMIT {LOOKED_AT}) t "
            "GROUP BY queue ORDER BY 3"
        )
        rows = self.db.look(connection, sql, (self.namespace, State.QUEUED.value))
        exact = sum(row[1] for row in rows) < LOOKED_AT
        for queue, number, oldest in rows[:GROUPS]:
            count = Count(number, exact)
            rest = {"subject": queue, "count": count, "since": oldest, "where": _where(status="queued", queue=queue)}
            runs = f"{count.text} {'run waits' if number == 1 else 'runs wait'}"
            if queue in paused:
                yield Attention("queue_paused", f"{runs}: {paused[queue].told(now)}", **rest)
            elif queue not in served and oldest < now - 5 * SECOND:
                yield Attention("no_worker", f"no worker takes from queue {queue}; {runs}", **rest)
            elif oldest < now - BEHIND:
                text = f"queue {queue} is behind; {runs}, the oldest for {_span(now - oldest)}"
                yield Attention("queue_behind", text, **rest)

    def _stalled(self, connection: sa.Connection) -> Iterator[Attention]:
        sql = (
            "SELECT name, version, MIN(waiting_on), COUNT(*), MIN(updated_at) "
            f"FROM (SELECT name, version, waiting_on, updated_at FROM aiki_runs {self._by_state()} "
            f"WHERE namespace = ? AND state = ? ORDER BY created_at DESC LIMIT {LOOKED_AT}) t "
            f"GROUP BY name, version ORDER BY 4 DESC LIMIT {GROUPS}"
        )
        for name, version, waiting_on, number, since in self.db.look(connection, sql, (self.namespace, State.STALLED.value)):
            count = Count(number, number < LOOKED_AT)
            why = waiting_on or f"no worker has {name}@{version}"
            runs = f"{count.text} {'run is' if number == 1 else 'runs are'} stalled"
            where = _where(status="stalled", name=name, version=version)
            yield Attention("stalled", f"{why}; {runs}", f"{name}@{version}", count, since, where)

    def _stuck(self, connection: sa.Connection, now: int) -> Iterator[Attention]:
        sql = (
            "SELECT name, COUNT(*), MIN(started_at) FROM (SELECT name, started_at, updated_at FROM aiki_runs "
            f"{self._by_state()} WHERE namespace = ? AND state = ? ORDER BY created_at LIMIT {LOOKED_AT}) t "
            f"WHERE started_at < ? AND updated_at < ? GROUP BY name ORDER BY 3 LIMIT {GROUPS}"
        )
        key = (self.namespace, State.RUNNING.value, now - STUCK, now - STUCK)
        for name, number, started in self.db.look(connection, sql, key):
            runs = f"{number:,} {'run' if number == 1 else 'runs'} of {name}"
            text = f"{runs} without progress, the longest for {_span(now - started)}"
            where = f"{_where(status='running', name=name)} duration:>1h"
            yield Attention("stuck", text, name, Count(number), started, where)

    def _dead(self, connection: sa.Connection) -> Iterator[Attention]:
        inner = (
            f"SELECT finished_at FROM aiki_runs {self._by_state()} WHERE namespace = ? AND state = ? ORDER BY created_at DESC"
        )
        sql = f"SELECT COUNT(*), MAX(finished_at) FROM ({inner} LIMIT {CAP + 1}) t"
        number, last = self.db.look(connection, sql, (self.namespace, State.DEAD.value))[0]
        if number:
            count = Count(min(number, CAP), number <= CAP)
            runs = f"{count.text} {'run is' if number == 1 else 'runs are'} dead: executing them killed their processes"
            yield Attention("dead", runs, count=count, since=last, where=_where(status="dead"))
        inner = "SELECT created_at FROM aiki_dead_letters WHERE namespace = ? ORDER BY id DESC"
        number, last = self.db.look(
            connection, f"SELECT COUNT(*), MAX(created_at) FROM ({inner} LIMIT {CAP + 1}) t", (self.namespace,)
        )[0]
        if number:
            count = Count(min(number, CAP), number <= CAP)
            yield Attention("dead_letters", f"{count.text} dead letter{'s' if number > 1 else ''}", count=count, since=last)

    def _by_state(self) -> str:
        return self.db.dialect.use_index("ix_aiki_runs_state")


def _where(**terms: Any) -> str:
    return Filter(tuple(Term(field, (Pattern((value,)),)) for field, value in terms.items())).text


def _span(micros: int) -> str:
    seconds = micros // SECOND
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} s"
