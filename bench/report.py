"""The tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.cases import CASES, Case
from bench.goals import GOALS, Goal, Rounds, number

COMPONENTS: Final = ("client", "broker", "database", "orchestrator", "server", "worker", "sum")
NONE: Final = "-"


def render(rounds: Rounds, notes: Mapping[str, str]) -> str:
    """All tables, with the cases that have rounds or a note. `notes` says of cases without figures why they have none."""
    cases = [case for case in CASES if case.name in rounds or case.name in notes]
    tables = {
        "Tasks or workflows a second: median (lowest – highest of the rounds)": throughput(cases, rounds, notes),
        "CPU seconds of the whole system for 1,000 tasks or workflows, medians": cpu(cases, rounds, notes),
        "Round trips with nothing else to do, milliseconds": latency(cases, rounds, notes),
        "Goals: median (lowest – highest) of what each round gave": goals(cases, rounds),
    }
    return "\n\n".join(f"{title}\n\n{text}" for title, text in tables.items() if text)


def throughput(cases: Sequence[Case], rounds: Rounds, notes: Mapping[str, str]) -> str:
    """Enqueueing and running, a row a case."""
    header = ["case", "enqueue/s", "in the broker/s", "tasks/s", "stored/s", "enqueued by"]
    figures = ("enqueue_per_s", "in_broker_per_s", "tasks_per_s", "stored_per_s")
    rows = []
    for case in cases:
        if case.kind != "latency":
            cells = [spread(column(rounds, case.name, figure), 0) for figure in figures]
            rows.append([case.name, *cells, case.what + remark(case, notes)])
    return table(header, rows)


def cpu(cases: Sequence[Case], rounds: Rounds, notes: Mapping[str, str]) -> str:
    """CPU by component, a row a case and phase. What is enqueued and run in one has no phase of enqueueing."""
    rows = []
    for case in cases:
        measured = [figures for figures in rounds.get(case.name, ()) if figures is not None]
        phases = {"enqueue": ("enqueue",), "latency": ()}.get(case.kind, ("enqueue", "run"))
        for phase in phases:
            if measured and not any(f"cpu_{phase}" in figures for figures in measured):
                continue
            taken = [figures.get(f"cpu_{phase}") or {} for figures in measured]
            cells = [median([each[name] for each in taken if name in each]) for name in COMPONENTS]
            rows.append([f"{case.name} {phase}", *cells, remark(case, notes).strip()])
        if case.kind in ("throughput", "flows"):
            both = median(column(rounds, case.name, "cpu"))
            rows.append([f"{case.name} both", *[""] * (len(COMPONENTS) - 1), both, ""])
    return table(["case and phase", *COMPONENTS, ""], rows)


def latency(cases: Sequence[Case], rounds: Rounds, notes: Mapping[str, str]) -> str:
    """Round trips, a row a case."""
    rows = []
    for case in cases:
        if case.kind == "latency":
            cells = [spread(column(rounds, case.name, f"p{q}_ms"), 2) for q in (50, 95, 99)]
            rows.append([case.name, *cells, case.what + remark(case, notes)])
    return table(["case", "p50", "p95", "p99", "by"], rows)


def goals(cases: Sequence[Case], rounds: Rounds) -> str:
    """The goals of these cases, each with its verdict."""
    names = {"", *(case.name for case in cases)}
    header = ["goal", "target", "measured", "verdict", "the same for stored/s"]
    shown = [goal for goal in GOALS if goal.case in names and goal.against in names]
    return table(header, [[str(goal), goal.bound, *judge(goal, rounds)] for goal in shown])


def judge(goal: Goal, rounds: Rounds) -> list[str]:
    """What was measured, the verdict, and the figure that the storing of Aiki's last result gives."""
    values = goal.values(rounds)
    stored = goal.values(rounds, figure="stored_per_s") if goal.figure == "tasks_per_s" else []
    if not values:
        return [NONE, "not measured", NONE]
    return [spread(values, 2), "PASS" if goal.reached(values) else "MISS", spread(stored, 2)]


def remark(case: Case, notes: Mapping[str, str]) -> str:
    """Why a case has no figures."""
    return f"  [{notes[case.name]}]" if case.name in notes else ""


def column(rounds: Rounds, case: str, figure: str) -> list[float]:
    """A figure of every round that has it."""
    return [value for figures in rounds.get(case, ()) if (value := number(figures, figure)) is not None]


def spread(values: Sequence[float], digits: int) -> str:
    """The median, and the range if there are several."""
    if not values:
        return NONE
    text = f"{statistics.median(values):,.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):,.{digits}f} – {max(values):,.{digits}f})"


def median(values: Sequence[float]) -> str:
    """CPU seconds."""
    return f"{statistics.median(values):.3f}" if values else NONE


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns side by side; the first and the last to the left, figures to the right. Nothing if there are no rows."""
    if not rows:
        return ""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    out = []
    for line in lines:
        cells = [
            cell.ljust(width) if n in (0, len(widths) - 1) else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    return "\n".join([out[0], "  ".join("-" * width for width in widths).rstrip(), *out[1:]])
