"""The overview: what runs did in a span of time, how long they took, what fails, and what an operator should look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from flask import Response, request, url_for

from aiki import zones
from aiki.api.access import needs
from aiki.api.requests import store
from aiki.clock import SECOND
from aiki.dashboard import zone
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page, shared
from aiki.storage.attention import Attention
from aiki.storage.statistics import Throughput

MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE


class Range(NamedTuple):
    """A span of time to look at, and in which steps it is drawn; microseconds."""

    title: str
    span: int
    step: int


RANGES: Final = {
    "15m": Range("15 minutes", 15 * MINUTE, MINUTE),
    "1h": Range("1 hour", HOUR, MINUTE),
    "6h": Range("6 hours", 6 * HOUR, 10 * MINUTE),
    "24h": Range("24 hours", 24 * HOUR, 30 * MINUTE),
    "7d": Range("7 days", 168 * HOUR, 3 * HOUR),
}
USUAL: Final = "1h"
KINDS: Final = ("completed", "failed", "dead", "cancelled")


@dataclass(frozen=True, slots=True)
class Todo:
    """Something that needs attention, with what to do about it."""

    item: Attention
    state: str
    text: str
    link: str = ""
    link_text: str = ""
    command: str = ""


@blueprint.get("/")
@needs("look")
@shared
def overview() -> Response:
    """What runs did since `?range=`, and what needs attention."""
    chosen = request.args.get("range", USUAL)
    chosen = chosen if chosen in RANGES else USUAL
    span, at = RANGES[chosen], store()
    until = at.clock()
    since = until - span.span
    steps = at.throughput(since, until, span.step)
    return page(
        "overview.html",
        parts={"overview": "overview_body.html"},
        chosen=chosen,
        ranges=RANGES,
        kinds=KINDS,
        sums={name: sum(getattr(step, name) for step in steps) for name in (*KINDS, "started", "retried", "ended")},
        minutes=span.span / MINUTE,
        steps=steps,
        titles=[_told(step) for step in steps],
        took=at.latencies(since, until),
        failing=at.top_failing(since, until, 8),
        states=at.state_counts(),
        todos=[_todo(item) for item in at.needs_attention()],
        any_names=bool(steps and any(step.started or step.ended for step in steps)) or bool(at.definitions()),
    )


def _told(step: Throughput) -> str:
    counts = ", ".join(f"{getattr(step, kind):,} {kind}" for kind in KINDS if getattr(step, kind))
    return f"{zone.minute(step.at)} {zones.name_of(zone.reader_zone())}: {counts or 'nothing ended'}"


def _todo(item: Attention) -> Todo:
    """What to do about something, and where."""
    runs = url_for("dashboard.runs", q=item.where) if item.where else ""
    queue = url_for("dashboard.queue", queue=item.subject) if item.kind.startswith("queue_") else ""
    name = item.subject.partition(".")[0] or "yourmodule"
    table = {
        "no_orchestrator": Todo(item, "dead", "Start an orchestrator.", command="aiki orchestrator"),
        "no_worker": Todo(
            *(item, "failed", "Start a worker that takes from this queue.", runs, "The runs that wait"),
            f"aiki-worker -A yourmodule -Q {item.subject}",
        ),
        "stalled": Todo(
            *(item, "stalled", "Start or deploy a worker that has this name and version.", runs, "The stalled runs"),
            f"aiki-worker -A {name}",
        ),
        "stuck": Todo(item, "stalled", "See what they do; give the task a time limit, or cancel them.", runs, "The runs"),
        "dead": Todo(item, "dead", "See which signal killed them; mend the cause, then retry them.", runs, "The dead runs"),
        "dead_letters": Todo(
            *(item, "failed", "See why nobody could read them; requeue or discard them."),
            *(url_for("dashboard.letters"), "Unreadable messages"),
        ),
        "queue_behind": Todo(item, "waiting", "Start more workers, or see what keeps those there are.", queue, "The queue"),
        "queue_paused": Todo(item, "paused", "Resume it once that is over.", queue, "The queue"),
    }
    return table[item.kind]
