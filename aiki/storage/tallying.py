"""What runs did, counted in the transaction in which they did it.

The transaction that changes runs (`applying`) also inserts one row of `tallies`: what began and what ended in it, by minute,
name and queue, with histograms of how long runs waited and ran. So a report that comes twice, a transaction that is repeated,
an orchestrator that dies: none of it counts anything twice or not at all, and two orchestrators never meet on a row.
`statistics` are sums of these rows, made by a chore some seconds later (`Statistics.fold_tallies`).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiki.lifecycle.record import RUN_FIELDS, RunRow
from aiki.states import State

MINUTE: Final = 60_000_000
COUNTERS: Final = ("started", "completed", "failed", "dead", "cancelled", "retried")
BOUNDS: Final = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500),
    *(1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 60_000),
    *(120_000, 300_000, 600_000, 1_800_000, 3_600_000, 14_400_000, 86_400_000),
)
"""Upper bounds of the histograms' buckets, milliseconds; one more holds what is longer."""
BUCKETS: Final = len(BOUNDS) + 1
WAITED: Final = tuple(f"w{at}" for at in range(BUCKETS))
RAN: Final = tuple(f"r{at}" for at in range(BUCKETS))
SUMS: Final = ("waited_ms", "ran_ms")
COLUMNS: Final = (*COUNTERS, *SUMS, *WAITED, *RAN)

_AT: Final = {column: at for at, column in enumerate(COLUMNS)}
_STARTED: Final = _AT["started"]
_RETRIED: Final = _AT["retried"]
_WAITED_MS: Final = _AT["waited_ms"]
_RAN_MS: Final = _AT["ran_ms"]
_FIRST_W: Final = _AT["w0"]
_FIRST_R: Final = _AT["r0"]
_ENDS: Final = {state.value: _AT[state.value] for state in (State.COMPLETED, State.FAILED, State.DEAD, State.CANCELLED)}
_BEFORE_STATE: Final = RUN_FIELDS.index("state")
_BEFORE_STARTED: Final = RUN_FIELDS.index("started_at")
_BEFORE_DISPATCHED: Final = RUN_FIELDS.index("dispatched_at")
_BEFORE_ATTEMPT: Final = RUN_FIELDS.index("attempt")

Key = tuple[int, str, str]
Counts = dict[int, int]
"""How many, by the position of the column in `COLUMNS`."""


class Tally:
    """What the runs of one transaction did."""

    def __init__(self, now: int) -> None:
        self._minute = now - now % MINUTE
        self._counts: dict[tuple[str, str], Counts] = {}

    def add(self, row: RunRow) -> None:
        """A run that a decision has changed."""
        before = row.before
        ended = _ENDS.get(row.state) if row.state != before[_BEFORE_STATE] else None
        begun = before[_BEFORE_STARTED] is None and row.started_at is not None
        retried = row.attempt > before[_BEFORE_ATTEMPT] and ended is None
        if ended is None and not begun and not retried:
            return
        key = (row.name, row.queue)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = {}
        if begun:
            counts[_STARTED] = counts.get(_STARTED, 0) + 1
            dispatched = before[_BEFORE_DISPATCHED]
            if dispatched is not None:
                _measure(counts, _FIRST_W, _WAITED_MS, (row.started_at or 0) - dispatched)
        if retried:
            counts[_RETRIED] = counts.get(_RETRIED, 0) + 1
        if ended is not None:
            counts[ended] = counts.get(ended, 0) + 1
            if row.started_at is not None and row.finished_at is not None:
                _measure(counts, _FIRST_R, _RAN_MS, row.finished_at - row.started_at)

    @property
    def body(self) -> str | None:
        """As a row of `tallies` has it, or None if there is nothing to count."""
        if not self._counts:
            return None
        return json.dumps(
            [
                [self._minute, name, queue, *(part for item in counts.items() for part in item)]
                for (name, queue), counts in self._counts.items()
            ],
            separators=(",", ":"),
        )


def _measure(counts: Counts, first: int, total: int, micros: int) -> None:
    millis = max(0, micros // 1000)
    bucket = first + bisect_left(BOUNDS, millis)
    counts[bucket] = counts.get(bucket, 0) + 1
    counts[total] = counts.get(total, 0) + millis


def summed(bodies: Iterable[str]) -> dict[Key, Counts]:
    """What rows of `tallies` say, together, by minute, name and queue."""
    out: dict[Key, Counts] = {}
    for body in bodies:
        for minute, name, queue, *pairs in json.loads(body):
            counts = out.setdefault((minute, name, queue), {})
            for at, number in zip(pairs[::2], pairs[1::2], strict=True):
                counts[at] = counts.get(at, 0) + number
    return out


def widened(counts: Mapping[Key, Counts], width: int) -> dict[Key, Counts]:
    """The same by longer spans of time, microseconds."""
    out: dict[Key, Counts] = {}
    for (minute, name, queue), found in counts.items():
        sums = out.setdefault((minute - minute % width, name, queue), {})
        for at, number in found.items():
            sums[at] = sums.get(at, 0) + number
    return out


def percentile(buckets: list[int], share: float) -> float | None:
    """The milliseconds below which so large a share lies, reckoned within its bucket; None if nothing was measured."""
    wanted = share * sum(buckets)
    if not wanted:
        return None
    seen = 0
    for at, count in enumerate(buckets):
        if count and seen + count >= wanted:
            low = BOUNDS[at - 1] if at else 0
            high = BOUNDS[at] if at < len(BOUNDS) else 2 * low
            return low + (high - low) * (wanted - seen) / count
        seen += count
    return None


def row_values(counts: Counts) -> list[Any]:
    """Values of `COLUMNS`."""
    return [counts.get(at, 0) for at in range(len(COLUMNS))]
