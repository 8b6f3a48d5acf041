"""The duties of an orchestrator, each with its period.

A duty that fails is done less often until it works again, and does not hold up the others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiki.orchestrator.isolation import Failed, Isolation

logger = logging.getLogger("aiki.orchestrator")

MAX_PAUSE: Final = 60.0
"""Seconds between tries of a duty that keeps failing."""
BROKEN: Final = 3
SAID_AGAIN: Final = 300.0
"""Seconds between log lines of one that keeps failing in the same way."""


@dataclass(slots=True)
class Duty:
    """A task with a period of `every` seconds; `work` gets the time (monotonic seconds)."""

    name: str
    every: float
    work: Callable[[float], object]
    next: float = 0.0
    failures: int = 0
    why: str = ""
    said: float = 0.0


class Duties:
    """The duties of one orchestrator, in the order in which they are done."""

    def __init__(self, isolation: Isolation, duties: Iterable[Duty]) -> None:
        self._isolation = isolation
        self._duties = {duty.name: duty for duty in duties}

    def run(self, now: float) -> None:
        """Do what is due. Raises `StorageUnavailable`, `BrokerUnavailable`."""
        for duty in self._duties.values():
            if now >= duty.next:
                duty.next = now + duty.every
                found = self._isolation.attempt(duty.work, now)
                if isinstance(found, Failed):
                    self._failed(duty, found.why, now)
                elif duty.failures:
                    logger.info("duty %s works again, after it had failed %d times", duty.name, duty.failures)
                    duty.failures = 0

    def _failed(self, duty: Duty, why: str, now: float) -> None:
        duty.failures += 1
        pause = min(MAX_PAUSE, max(duty.every, 0.1) * 2 ** min(duty.failures, 20))
        duty.next = now + pause
        source = f"duty {duty.name}"
        if why == duty.why and duty.failures > 1 and now < duty.said + SAID_AGAIN:
            self._isolation.counted[source] += 1
            return
        duty.why, duty.said = why, now
        self._isolation.note(source, f"{why}; next try in {pause:.1f} s")

    def soon(self, name: str) -> None:
        """Do this one in the next turn, unless it is failing."""
        duty = self._duties[name]
        if not duty.failures:
            duty.next = 0.0

    def later(self, name: str, at: float) -> None:
        """Do this one not before `at` (monotonic seconds)."""
        duty = self._duties[name]
        duty.next = max(duty.next, at)

    def at_once(self, name: str) -> bool:
        """Whether it asked to be done in the next turn."""
        return self._duties[name].next == 0.0

    def restart(self, now: float, later: Iterable[str] = ()) -> None:
        """Begin anew, with a new session; those named wait for their period first."""
        for duty in self._duties.values():
            if not duty.failures:
                duty.next = 0.0
        for name in later:
            self._duties[name].next = now + self._duties[name].every

    @property
    def failing(self) -> dict[str, str]:
        """The duties that failed when they were last done, with the reason."""
        return {duty.name: duty.why for duty in self._duties.values() if duty.failures}

    @property
    def broken(self) -> dict[str, str]:
        """The duties that have failed `BROKEN` times in a row, with the last reason."""
        return {duty.name: duty.why for duty in self._duties.values() if duty.failures >= BROKEN}
