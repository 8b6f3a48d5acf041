"""Exceptions of all kinds, raised in an orchestrator wherever it calls the store, the broker, or decides something.

Two ways: at any call, now and then; and at every decision about one certain run, for ever. Neither may keep any other run from
its end, and of the run itself one must be able to read what became of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from aiki.lifecycle import reports

if TYPE_CHECKING:
    from tests.simulation.world import World


class Unheard(Exception):
    """An exception that nobody can have put into a list."""


def error_of(rng: random.Random, where: str) -> Exception:
    """One of any kind; the kinds of the standard library, one of our own, and one that cannot even be written."""
    kinds: tuple[type[Exception], ...] = (
        *(OverflowError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError),
        *(MemoryError, RecursionError, UnicodeError, ZeroDivisionError, OSError, TimeoutError, StopIteration, Unheard),
    )
    return rng.choice(kinds)(f"raised by the simulation {where}")


MOST: Final = 40
"""Exceptions in one world, so that it comes to an end."""


class Raising:
    """What is raised in one world.

    :ivar chance: at each call of an orchestrator's.
    :ivar cursed: about which run (hex) no decision can be made; None: about any.
    :ivar culprits: runs about which something was raised.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._left = MOST
        self.chance = 0.0
        self.cursed: str | None = None
        self.culprits: set[str] = set()
        self.happened = 0

    def point(self, where: str) -> None:
        """A call of something that may raise."""
        if not self.chance or self._left <= 0 or not self._world.in_orchestrator:
            return
        if self._world.rng.random() < self.chance:
            self._left -= 1
            self._raise(where)

    def decide(self, run_id: str) -> None:
        """A decision about a run."""
        if run_id == self.cursed:
            self.culprits.add(run_id)
            self._raise(f"at run {run_id}")
        self.point("at a decision")

    def _raise(self, where: str) -> None:
        self.happened += 1
        error = error_of(self._world.rng, where)
        self._world.say(f"! {type(error).__name__} {where}")
        raise error

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Decisions ask here first."""
        real = reports.apply_report

        def apply_report(row: Any, *rest: Any) -> None:
            self.decide(row.run_id)
            real(row, *rest)

        with patch.object(reports, "apply_report", apply_report):
            yield
