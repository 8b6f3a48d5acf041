"""What Aiki is to reach, against the incumbents measured in the same round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Rounds = Mapping[str, Sequence[Mapping[str, Any] | None]]
"""By case, the figures of each round; None where it failed or was not run."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of a case: alone, or as a `ratio` to or `difference` from the same figure of another case.

    :ivar low: the target is a lower bound; otherwise an upper one.
    """

    case: str
    figure: str
    against: str
    relation: Literal["ratio", "difference", "alone"]
    target: float
    low: bool

    def __str__(self) -> str:
        other = {"ratio": f" ÷ {self.against}", "difference": f" − {self.against}", "alone": ""}[self.relation]
        return f"{LABELS[self.figure]}: {self.case}{other}"

    @property
    def bound(self) -> str:
        """The target as text."""
        return f"{'≥' if self.low else '≤'} {self.target:g}{UNITS[self.figure] if self.relation != 'ratio' else ''}"

    def values(self, rounds: Rounds, *, figure: str = "") -> list[float]:
        """The value of each round in which both cases were measured. `figure` is taken of this case instead of its own."""
        out = []
        others = rounds.get(self.against, ()) if self.against else rounds.get(self.case, ())
        for mine, theirs in zip(rounds.get(self.case, ()), others, strict=False):
            a, b = number(mine, figure or self.figure), number(theirs, self.figure)
            if a is None or b is None:
                continue
            if self.relation == "ratio":
                out.append(a / b)
            else:
                out.append(a - b if self.relation == "difference" else a)
        return out

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the median reaches the target."""
        median = statistics.median(values)
        return median >= self.target if self.low else median <= self.target


LABELS: Final = {"tasks_per_s": "tasks/s", "enqueue_per_s": "enqueue/s", "cpu": "CPU-s per 1,000", "p50_ms": "round trip p50"}
UNITS: Final = {"tasks_per_s": "/s", "enqueue_per_s": "/s", "cpu": " s", "p50_ms": " ms"}


def number(figures: Mapping[str, Any] | None, name: str) -> float | None:
    """One figure of a round; `cpu` is the whole system's for enqueueing and running 1,000 tasks."""
    if figures is None:
        return None
    if name != "cpu":
        found = figures.get(name)
        return None if found is None else float(found)
    parts = [figures[phase].get("sum") for phase in ("cpu_enqueue", "cpu_run") if phase in figures]
    return None if not parts or None in parts else float(sum(parts))


def _ratio(case: str, figure: str, against: str, target: float, *, low: bool = True) -> Goal:
    return Goal(case, figure, against, "ratio", target, low=low)


GOALS: Final = [
    _ratio("aiki-many", "tasks_per_s", "celery-mysql", 15),
    _ratio("aiki-many", "tasks_per_s", "celery-none", 3),
    _ratio("aiki-many", "tasks_per_s", "dramatiq-none", 1.75),
    Goal("aiki-many", "cpu", "", "alone", 0.6, low=False),
    _ratio("aiki-many", "enqueue_per_s", "celery-none", 8),
    _ratio("aiki-one-per-message", "tasks_per_s", "dramatiq-none", 1),
    Goal("aiki-one-per-message", "cpu", "", "alone", 1.2, low=False),
    _ratio("aiki-single", "tasks_per_s", "dramatiq-none", 1),
    Goal("aiki-single", "cpu", "", "alone", 1.2, low=False),
    _ratio("aiki-single", "enqueue_per_s", "celery-none-confirm", 1.5),
    Goal("aiki-result", "p50_ms", "celery-rpc", "difference", 3, low=False),
    _ratio("aiki-flows", "tasks_per_s", "dbos-flows", 4),
    _ratio("aiki-flows-8", "tasks_per_s", "dbos-flows", 8),
    _ratio("aiki-flows-8", "tasks_per_s", "restate-flows", 1.2),
    Goal("aiki-flows", "cpu", "", "alone", 6, low=False),  # seconds for 1,000: milliseconds for one
    Goal("aiki-flows-8", "cpu", "", "alone", 6, low=False),
    _ratio("aiki-flow-result", "p50_ms", "restate-flow-result", 0.8, low=False),
]
