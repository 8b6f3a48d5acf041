"""The waterfall of a run: a line a step (or a fold of equal ones), with bars along time.

Each bar is a small SVG of its own whose parts are placed in per cent, so it fits any width. What a part is shows by its pattern
as well as by its colour, and in words to those who see neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aiki.dashboard import formatting
from aiki.history import EVENT, SLEEP
from aiki.model import RunDetail
from aiki.states import State
from aiki.storage.outline import ENDS, Fold, Outline, StepLine

SMALL: Final = 5
"""Equal steps up to this many stand one by one."""
ON_A_PAGE: Final = 60
BAD: Final = frozenset({"failed", "dead", "timed_out", "crashed", "lost"})
WORDS: Final = {
    "queue": "queued",
    "wait": "waiting",
    "backoff": "waiting to try again",
    "run": "running",
    "completed": "ran",
    "failed": "ran and failed",
    "cancelled": "cancelled",
}


class Part(NamedTuple):
    """A piece of a bar: what it is (a key of `WORDS`), from when to when (None: it goes on)."""

    what: str
    begin: int
    end: int | None


@dataclass(slots=True)
class Line:
    """A line of the waterfall, with its bar once `scaled`.

    :ivar number: the ordinal, or the ordinals' range of a fold.
    :ivar query: what leads to the steps of a fold.
    """

    number: str
    name: str
    kind: str
    state: str
    parts: list[Part]
    step: StepLine | None = None
    fold: Fold | None = None
    bars: list[tuple[str, str, str, str]] = field(default_factory=list)
    took: int | None = None

    @property
    def begin(self) -> int:
        """When it begins."""
        return min(part.begin for part in self.parts)


def of_outline(outline: Outline, lines: Sequence[StepLine]) -> list[Line]:
    """The folds of a page; small ones step by step, from `lines`."""
    by_ordinal = {line.ordinal: line for line in lines}
    out = []
    for fold in outline.folds:
        if fold.steps <= SMALL:
            out += [of_step(by_ordinal[at]) for at in range(fold.first, fold.last + 1) if at in by_ordinal]
        else:
            out.append(_of_fold(fold))
    return out


def small_ranges(folds: Iterable[Fold]) -> list[tuple[int, int]]:
    """The ordinals, from and to before, of the folds that stand step by step."""
    out: list[tuple[int, int]] = []
    for fold in folds:
        if fold.steps > SMALL:
            continue
        if out and out[-1][1] == fold.first:
            out[-1] = (out[-1][0], fold.last + 1)
        else:
            out.append((fold.first, fold.last + 1))
    return out


def of_step(step: StepLine) -> Line:
    """One step."""
    end = step.finished_at
    state = step.state
    if step.kind in (SLEEP, EVENT):
        parts = [Part("wait", step.created_at, end)]
    elif step.child_id is not None:
        parts = _of_run(step.created_at, step.started_at, end, state)
    else:
        spent = (step.millis or 0) * 1000
        begun = step.created_at if end is None else end - spent
        parts = [Part("backoff", step.created_at, begun)] if begun > step.created_at and step.attempt > 1 else []
        parts.append(Part(_how(state), min(begun, end or begun), end))
        if end is None and step.due_at is not None:
            parts = [Part("backoff", step.created_at, None)]
    took = None if end is None else end - min(part.begin for part in parts)
    return Line(str(step.ordinal), step.name, step.kind, state, parts, step=step, took=took)


def _of_run(created: int, started: int | None, ended: int | None, state: str) -> list[Part]:
    if started is None:
        return [Part("queue" if state in ("queued", "scheduled") else "wait" if ended is None else _how(state), created, ended)]
    parts = [Part("queue", created, started)] if started > created else []
    return [*parts, Part(_how(state), min(started, ended or started), ended)]


def _how(state: str) -> str:
    if state in BAD:
        return "failed"
    return state if state in ("completed", "cancelled") else "wait" if state == "waiting" else "run"


def _of_fold(fold: Fold) -> Line:
    state = next((item for item in ("failed", "dead", "timed_out") if item in fold.states), "")
    if not state:
        alive = [item for item in fold.states if item not in ENDS]
        state = "running" if "running" in alive else alive[0] if alive else next(iter(fold.states), "completed")
    part = Part("run" if fold.ended_at is None else _how(state), fold.began_at, fold.ended_at)
    took = None if fold.ended_at is None else fold.ended_at - fold.began_at
    return Line(f"{fold.first}–{fold.last}", fold.name, fold.kind, state, [part], fold=fold, took=took)


def of_attempts(detail: RunDetail) -> list[Line]:
    """The attempts of a task: what was waited before each, and how it ended."""
    run = detail.run
    out: list[Line] = []
    since = run.created_at
    begin = detail.attempts[0].started_at if detail.attempts else run.started_at
    if run.due_at is not None and run.due_at > since and (run.state == State.QUEUED if begin is None else run.due_at <= begin):
        since = run.due_at
    first = [Part("wait", run.created_at, since)] if since > run.created_at else []
    for item in detail.attempts:
        begun = item.started_at or item.finished_at
        before = "queue" if not out else "backoff"
        parts = [*(first if not out else []), *([Part(before, since, begun)] if begun > since else [])]
        parts.append(Part("cancelled" if item.outcome == "cancelled" else "failed", begun, item.finished_at))
        out.append(Line(str(item.number), f"attempt {item.number}", "", item.outcome, parts, took=item.finished_at - begun))
        since = item.finished_at
    if run.ended and out and run.state.value != "completed":
        return out
    started, number = run.started_at, run.attempt
    if started is None:
        what = "wait" if run.state.value in ("scheduled", "waiting", "paused", "stalled") else "queue"
        ended = run.finished_at
        part = Part(_how(run.state) if ended is not None else "backoff" if out and what == "wait" else what, since, ended)
        took = None if ended is None else ended - since
        out.append(Line(str(number), f"attempt {number}", "", run.state, [*(first if not out else []), part], took=took))
        return out
    before = "queue" if not out else "backoff"
    parts = [*(first if not out else []), *([Part(before, since, started)] if started > since else [])]
    parts.append(Part(_how(run.state), started, run.finished_at))
    took = None if run.finished_at is None else run.finished_at - started
    out.append(Line(str(number), f"attempt {number}", "", run.state, parts, took=took))
    return out


def scaled(lines: Sequence[Line], now: int) -> tuple[int, int]:
    """Give each line its bars, in per cent of the time that all of them take; from when to when that is."""
    if not lines:
        return now, now
    low = min(line.begin for line in lines)
    high = max((now if part.end is None else part.end) for line in lines for part in line.parts)
    span = max(1, high - low)
    for line in lines:
        line.bars = []
        for part in line.parts:
            end = now if part.end is None else part.end
            x, wide = 100 * (part.begin - low) / span, 100 * max(0, end - part.begin) / span
            wide = max(wide, 0.4)
            told = f"{WORDS[part.what]} {formatting.duration(max(0, end - part.begin))}"
            line.bars.append((part.what, f"{min(x, 99.6):.2f}%", f"{wide:.2f}%", told))
    return low, high
