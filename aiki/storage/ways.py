"""Ways through the runs that a filter is looked for on: places in their order, indexes, and how far a search has come.

`aiki.storage.searching` says how ways are chosen and walked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki.errors import ConfigurationError
from aiki.filters import Term
from aiki.storage.conditions import ArgumentTest, Condition, Window

ALL_COVERED: Final = frozenset({"created_at", "id"})


class Place(NamedTuple):
    """Where a run stands in the order of lists."""

    created_at: int
    id: bytes

    @property
    def text(self) -> str:
        """For tokens."""
        return f"{self.created_at:x}.{self.id.hex()}"

    @classmethod
    def of(cls, text: str) -> Place:
        """Read `text`; raises `ConfigurationError`."""
        try:
            moment, _, raw = text.partition(".")
            if len(raw) == 32:
                return cls(int(moment, 16), bytes.fromhex(raw))
        except ValueError:
            pass
        raise ConfigurationError(f"{text[:60]!r} is not the `next` of an earlier page")


@dataclass(frozen=True)
class Way:
    """An index to walk: its name, its columns that hold one value in each lane, and the columns that it holds besides."""

    index: str
    column: str | None = None
    lanes: tuple[Any, ...] = (None,)
    covered: frozenset[str] = ALL_COVERED
    decided: frozenset[Term] = frozenset()
    """Terms that need no more looking at."""


@dataclass
class Plan:
    """How a filter is looked up.

    :ivar few: the runs' ids, where they are few and known.
    """

    way: Way
    window: Window
    rest: list[Condition] = field(default_factory=list)
    arguments: ArgumentTest | None = None
    few: list[bytes] | None = None

    @property
    def in_index(self) -> bool:
        """Whether the index holds all that the rest looks at."""
        return self.arguments is None and all(condition.columns <= self.way.covered for condition in self.rest)


@dataclass
class Walk:
    """Where a walk is: between `start` (not included) and `stop` (included) lies the present chunk."""

    down: bool
    start: Place | None
    looked: int = 0
    done: bool = False
