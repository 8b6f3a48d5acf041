"""The verbs of the overview: throughput, latencies, what fails, how many runs are in each state.

All but the states are read from `statistics`, sums by minute, ten minutes, hour and day, so that their cost does not depend on
how many runs there are (see `tallying`). They stand a few seconds behind, and outlive the runs that they count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from aiki.clock import SECOND, Clock
from aiki.model import Count
from aiki.states import State
from aiki.storage.engine import Database
from aiki.storage.purging import namespaces_in
from aiki.storage.tallying import COLUMNS, COUNTERS, MINUTE, RAN, SUMS, WAITED, percentile, row_values, summed, widened

DAY: Final = 86400 * SECOND
WIDTHS: Final = {MINUTE: DAY // 4, 10 * MINUTE: 4 * DAY, 60 * MINUTE: 62 * DAY, DAY: 1000 * DAY}
"""The spans that are summed, and how long each is kept; microseconds."""
FOLDED_AT_ONCE: Final = 1000
COUNTED: Final = 10_000
_KEY: Final = ("namespace", "width", "at", "name", "queue")


@dataclass(frozen=True, slots=True)
class Throughput:
    """What happened in a span of time from `at` (microseconds) on: runs begun, and ended in each way; further attempts."""

    at: int
    started: int = 0
    completed: int = 0
    failed: int = 0
    dead: int = 0
    cancelled: int = 0
    retried: int = 0

    @property
    def ended(self) -> int:
        """All that ended."""
        return self.completed + self.failed + self.dead + self.cancelled


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something took, milliseconds, reckoned from a histogram; None: nothing was measured."""

    count: int
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Latencies:
    """`waiting`: from the dispatch to the start; `running`: from the last start to the end, by queue or name as asked."""

    waiting: Latency
    running: Latency


@dataclass(frozen=True, slots=True)
class Failing:
    """A name whose runs failed or died, of how many that ended."""

    name: str
    failed: int
    ended: int

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.failed / self.ended if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters and histograms for metrics, since `since`: by name and queue, in the order of `tallying.COLUMNS`."""

    since: int
    rows: list[tuple[str, str, list[int]]] = field(default_factory=list)


class Statistics:
    """Sums over what runs did."""

    db: Database
    namespace: str
    clock: Clock

    # ------------------------------------------------------------ looking
    def throughput(
        self, since: int, until: int, step: int, *, name: str | None = None, queue: str | None = None
    ) -> list[Throughput]:
        """What happened from `since` to `until`, in steps of so many microseconds, the empty ones too; at most 2,000.

        Steps begin at multiples of `step`, which is rounded up to a width that is summed.
        """
        width = _width(since, self.clock())
        step = max(step - step % width, width)
        step = max(step, -(-(until - since) // 2000 // width) * width)
        start = since - since % step
        columns = ", ".join(f"SUM({column})" for column in COUNTERS)
        where, parameters = self._where(width, start, until, name, queue)
        sql = f"SELECT at, {columns} FROM aiki_statistics WHERE {where} GROUP BY at ORDER BY at"
        sums: dict[int, list[int]] = {}
        for at, *counts in self._look(sql, parameters):
            into = sums.setdefault(at - at % step, [0] * len(COUNTERS))
            for position, number in enumerate(counts):
                into[position] += int(number)
        return [Throughput(at, *sums.get(at, [0] * len(COUNTERS))) for at in range(start, until, step)]

    def latencies(self, since: int, until: int, *, name: str | None = None, queue: str | None = None) -> Latencies:
        """How long runs waited and ran, of those that started or ended from `since` to `until`."""
        where, parameters = self._where(_coarse_width(since, self.clock()), since, until, name, queue)
        columns = ", ".join(f"SUM({column})" for column in (*SUMS, *WAITED, *RAN))
        row = self._look(f"SELECT {columns} FROM aiki_statistics WHERE {where}", parameters)[0]
        waited_ms, ran_ms, *buckets = (int(value or 0) for value in row)
        return Latencies(_latency(waited_ms, buckets[: len(WAITED)]), _latency(ran_ms, buckets[len(WAITED) :]))

    def top_failing(self, since: int, until: int, limit: int = 10) -> list[Failing]:
        """The names of which most runs failed or died, most first."""
        where, parameters = self._where(_coarse_width(since, self.clock()), since, until, None, None)
        sql = (
            "SELECT name, SUM(failed + dead), SUM(completed + failed + dead + cancelled) FROM aiki_statistics "
            f"WHERE {where} GROUP BY name HAVING SUM(failed + dead) > 0 ORDER BY 2 DESC, name LIMIT {int(limit)}"
        )
        return [Failing(name, int(failed), int(ended)) for name, failed, ended in self._look(sql, parameters)]

    def state_counts(self, cap: int = COUNTED) -> dict[State, Count]:
        """How many runs are in each state now, by the index of states, exact up to `cap`."""

        def work(connection: sa.Connection) -> dict[State, Count]:
            hint = self.db.dialect.use_index("ix_aiki_runs_state")
            inner = f"SELECT 1 FROM aiki_runs {hint} WHERE namespace = ? AND state = ? LIMIT {int(cap) + 1}"
            out = {}
            for state in State:
                key = (self.namespace, state.value)
                number = int(self.db.look(connection, f"SELECT COUNT(*) FROM ({inner}) t", key)[0][0])
                out[state] = Count(min(number, cap), number <= cap)
            return out

        return self.db.read(work)

    def totals(self, since: int) -> Totals:
        """Sums since a time, of all columns, by name and queue."""
        where, parameters = self._where(_coarse_width(since, self.clock()), since, self.clock() + MINUTE, None, None)
        columns = ", ".join(f"SUM({column})" for column in COLUMNS)
        sql = f"SELECT name, queue, {columns} FROM aiki_statistics WHERE {where} GROUP BY name, queue"
        rows = [(name, queue, [int(value) for value in values]) for name, queue, *values in self._look(sql, parameters)]
        return Totals(since, rows)

    def _where(self, width: int, since: int, until: int, name: str | None, queue: str | None) -> tuple[str, list[Any]]:
        where, parameters = "namespace = ? AND width = ? AND at >= ? AND at < ?", [self.namespace, width // SECOND]
        parameters += [since - since % width, until]
        for column, value in (("name", name), ("queue", queue)):
            if value is not None:
                where += f" AND {column} = ?"
                parameters.append(value)
        return where, parameters

    def _look(self, sql: str, parameters: list[Any]) -> list[Any]:
        return self.db.read(lambda connection: self.db.look(connection, sql, parameters))

    # ------------------------------------------------------------ summing
    def fold_tallies(self) -> int:
        """Add what transactions have counted to the sums, of all namespaces; how many rows of theirs were folded.

        Several may call it at once: each takes rows that no other has.
        """

        def work(connection: sa.Connection) -> int:
            sql = (
                f"SELECT namespace, id, body FROM aiki_tallies ORDER BY namespace, id LIMIT {FOLDED_AT_ONCE} "
                f"{self.db.dialect.skip_locked}"
            )
            rows = self.db.execute(connection, sql).fetchall()
            bodies: dict[str, list[str]] = {}
            taken: dict[str, list[bytes]] = {}
            for namespace, raw, body in rows:
                bodies.setdefault(namespace, []).append(body)
                taken.setdefault(namespace, []).append(bytes(raw))
            sums = []
            for namespace, found in bodies.items():
                counts = summed(found)
                for width in WIDTHS:
                    for key, numbers in widened(counts, width).items():
                        sums.append((namespace, width // SECOND, *key, *row_values(numbers)))
            self._add(connection, sorted(sums, key=lambda row: row[:5]))
            for namespace, found_ids in taken.items():
                self.db.where_in(connection, "DELETE FROM aiki_tallies WHERE namespace = ? AND id", (namespace,), found_ids)
            return len(rows)

        return self.db.transaction(work, repeatable=True)

    def _add(self, connection: sa.Connection, rows: list[Any]) -> None:
        if not rows:
            return
        columns = (*_KEY, *COLUMNS)
        marks = f"({', '.join('?' * len(columns))})"
        after = self.db.dialect.adding("aiki_statistics", _KEY, COLUMNS)
        for start in range(0, len(rows), 100):
            chunk = rows[start : start + 100]
            sql = f"INSERT INTO aiki_statistics ({', '.join(columns)}) VALUES {', '.join([marks] * len(chunk))} {after}"
            self.db.execute(connection, sql, [value for row in chunk for value in row])

    def drop_old_statistics(self) -> int:
        """Drop sums that are older than they are kept, of all namespaces; how many."""
        now = self.clock()
        namespaces = namespaces_in(self.db, "aiki_statistics")

        def work(connection: sa.Connection) -> int:
            dropped = 0
            for namespace in namespaces:
                for width, kept in WIDTHS.items():
                    sql = "DELETE FROM aiki_statistics WHERE namespace = ? AND width = ? AND at < ?"
                    dropped += int(self.db.execute(connection, sql, (namespace, width // SECOND, now - kept)).rowcount)
            return dropped

        return self.db.transaction(work, repeatable=True)


def _width(since: int, now: int) -> int:
    """The shortest width that is kept for as long as that."""
    return next((width for width, kept in WIDTHS.items() if now - since <= kept - width), max(WIDTHS))


def _coarse_width(since: int, now: int) -> int:
    """The shortest width that is kept for as long as that, and of which it takes no more than 200."""
    least = _width(since, now)
    return next((width for width in WIDTHS if width >= least and (now - since) // width <= 200), max(WIDTHS))


def _latency(total: int, buckets: list[int]) -> Latency:
    count = sum(buckets)
    return Latency(count, total / count if count else None, *(percentile(buckets, share) for share in (0.5, 0.95, 0.99)))
