"""Messages' bodies, as checks and traces read them; whatever they are."""

from __future__ import annotations

import json
from typing import Any


def shortly(body: bytes) -> str:
    """A message as the trace has it."""
    try:
        return _shortly(*json.loads(body)[1:])
    except (ValueError, TypeError, KeyError, IndexError):
        return f"odd: {body[:200]!r}"


def _shortly(kind: str, header: Any, items: Any) -> str:
    if kind == "dispatch":
        marks = [mark for mark in ("again", "marker") if mark in header]
        return " ".join([f"{run[0][-6:]} epoch {run[1]}" for run in items] + marks)
    if kind == "reports":
        return f"{header['x'][-5:]}: " + ", ".join(f"{r[0]} {r[1][-6:]} epoch {r[2]} {str(r[3])[:100]}" for r in items)
    return f"{items[0]} " + " ".join(f"{run_id[-6:]} epoch {epoch}" for run_id, epoch in items[1])


def runs_of(body: bytes) -> set[tuple[str, int]]:
    """(run, epoch) of all that a message speaks of; none of a broken one."""
    try:
        return _runs_of(*json.loads(body)[1:])
    except (ValueError, TypeError, KeyError, IndexError):
        return set()


def _runs_of(kind: str, _header: Any, items: Any) -> set[tuple[str, int]]:
    if kind == "dispatch":
        return {(run[0], run[1]) for run in items}
    found = set()
    for report, run_id, epoch, more in items if kind == "reports" else ():
        found |= {(run, at) for run, at in more["runs"]} if report == "sync" else {(run_id, epoch)}
    return found
