"""The clock that decides: microseconds since the Unix epoch. Handed in wherever time matters, so that tests can set it.

Spans of time are measured with `monotonic_us`, which nobody sets. A `LearntClock` is another machine's clock as it is known
here: what was learnt of it, and monotonic time since.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Final

Clock = Callable[[], int]
SECOND = 1_000_000
TOO_SLOW: Final = SECOND
"""Microseconds. An answer that took longer tells little of the time: it is only better than nothing."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

# Unlike CLOCK_MONOTONIC it goes on while the machine is suspended.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_us() -> int:
    """The time now, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


def monotonic_us() -> int:
    """Microseconds since some moment in the past, the same for all processes of a machine; never set, never back."""
    return time.clock_gettime_ns(_CLOCK) // 1000


def iso(at: int, timespec: str = "microseconds") -> str:
    """A moment as ISO-8601 text in UTC: `2026-01-31T12:00:00.000000Z`.

    :param at: microseconds since the Unix epoch; :param timespec: as `datetime.isoformat` has it.
    :raises OverflowError: its year has more than four digits.
    """
    return (_EPOCH + dt.timedelta(microseconds=at)).isoformat(timespec=timespec).removesuffix("+00:00") + "Z"


class LearntClock:
    """Another machine's clock. Threads may share it, and it survives a fork.

    :param monotonic: microseconds; :param local: what is answered before anything was learnt.
    """

    def __init__(self, monotonic: Clock = monotonic_us, local: Clock = now_us) -> None:
        self.monotonic = monotonic
        self._local = local
        self._offset: int | None = None
        self._learnt_at = 0

    def __call__(self) -> int:
        """The time there, microseconds since the Unix epoch."""
        offset = self._offset
        return self._local() if offset is None else offset + self.monotonic()

    @property
    def known(self) -> bool:
        """Whether anything was learnt."""
        return self._offset is not None

    def age(self) -> float:
        """Seconds since something was learnt last; infinite if nothing was."""
        return float("inf") if self._offset is None else (self.monotonic() - self._learnt_at) / SECOND

    def learn(self, there: int, asked: int, answered: int) -> None:
        """The other machine said `there` between two moments of `monotonic`: half way between them is the best guess."""
        if self._offset is None or answered - asked < TOO_SLOW:
            self._offset = there - (asked + answered) // 2
            self._learnt_at = answered
