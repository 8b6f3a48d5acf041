"""The pages of queues: how full they are, who takes from them, how fast; pause, resume and purge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, request, url_for

from aiki import filters
from aiki.api import batches as api_batches
from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import backend, client, store
from aiki.broker.base import Depth
from aiki.clock import SECOND
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, one_of, page, shared, why
from aiki.errors import ConfigurationError, RunConflict
from aiki.settings import check_name
from aiki.storage.batches import Operation, Target
from aiki.storage.queues import Pause, QueueCount
from aiki.storage.roster import ALIVE, WorkerRow
from aiki.storage.tallying import COLUMNS, COUNTERS

RATED: Final = 15
"""Minutes over which rates are told."""
_STARTED: Final = COLUMNS.index("started")
_ENDS: Final = [COLUMNS.index(name) for name in COUNTERS if name not in ("started", "retried")]


@dataclass(frozen=True, slots=True)
class Line:
    """A queue. `begun`, `ended`: runs a minute."""

    name: str
    count: QueueCount
    paused: Pause | None
    depth: Depth | None
    workers: Sequence[WorkerRow]
    begun: float
    ended: float


@blueprint.get("/queues")
@needs("look")
@shared
def queues() -> Response:
    """All queues."""
    return page("queues.html", parts={"rows": "queues_rows.html"}, queues=_lines(), rated=RATED)


@blueprint.get("/queues/<queue>")
@needs("look")
@shared
def queue(queue: str) -> Response:
    """One queue."""
    name = _known(queue)
    at = store()
    until = at.clock()
    steps = at.throughput(until - 3600 * SECOND, until, 60 * SECOND, queue=name)
    took = at.latencies(until - 3600 * SECOND, until, queue=name)
    return page(
        "queue.html", parts={"queue": "queue_body.html"}, queue=_lines(name)[0], steps=steps, took=took, rated=RATED,
        active="dashboard.queues",
    )  # fmt: skip


def _lines(*only: str) -> list[Line]:
    at = store()
    counts, paused, workers = at.count_by_queue(), at.pauses().queues, at.workers(ALIVE)
    names = sorted(only or {*at.queue_names(), *counts, *paused})
    depths = backend().depths.of(at, names)
    begun: dict[str, int] = {}
    ended: dict[str, int] = {}
    for _name, queue, numbers in at.totals(at.clock() - RATED * 60 * SECOND).rows:
        begun[queue] = begun.get(queue, 0) + numbers[_STARTED]
        ended[queue] = ended.get(queue, 0) + sum(numbers[column] for column in _ENDS)
    return [
        Line(
            *(name, counts.get(name, QueueCount()), paused.get(name), depths[name]),
            [worker for worker in workers if name in worker.queues],
            *(begun.get(name, 0) / RATED, ended.get(name, 0) / RATED),
        )
        for name in names
    ]


def _known(name: str) -> str:
    try:
        return check_name("queue", name)
    except ConfigurationError:
        raise Refused(404, "not_found", "There is no such queue here.") from None


# ---------------------------------------------------------------- doing
_TEXTS: Final = {
    "pause": "No run of the queue is begun until it is resumed. What runs is finished; new runs are accepted and wait.",
    "resume": "Its runs are begun again, in their order.",
}


@blueprint.get("/queues/<queue>/<verb>")
@needs("queues.operate")
def ask_queue(queue: str, verb: str) -> Response:
    """Ask before it is paused or resumed."""
    return _form(_known(queue), one_of(verb, _TEXTS))


@blueprint.post("/queues/<queue>/<verb>")
@needs("queues.operate")
def do_queue(queue: str, verb: str) -> Response:
    """Pause or resume."""
    name, verb = _known(queue), one_of(verb, _TEXTS)
    try:
        (client().pause_queue if verb == "pause" else client().resume_queue)(name, reason=why())
    except RunConflict as error:
        return _form(name, verb, str(error))
    return done(url_for("dashboard.queue", queue=name), f"queue-{verb}")


def _form(name: str, verb: str, problem: str = "") -> Response:
    return page(
        "confirm.html",
        title=f"{verb.capitalize()} queue {name}",
        text=_TEXTS[verb],
        problem=problem,
        action=url_for("dashboard.do_queue", queue=name, verb=verb),
        button=verb.capitalize(),
        back=url_for("dashboard.queue", queue=name),
        active="dashboard.queues",
        status=400 if problem else 200,
    )


@blueprint.get("/queues/<queue>/purge")
@needs("queues.purge")
def ask_purge(queue: str) -> Response:
    """Ask before a queue is emptied."""
    return _purge_form(_known(queue))


@blueprint.post("/queues/<queue>/purge")
@needs("queues.purge")
def purge(queue: str) -> Response:
    """Cancel all queued runs of a queue, by a batch."""
    name = _known(queue)
    if request.form.get("typed", "").strip() != name:
        return _purge_form(name, f"Type {name} to go on.")
    try:
        made, _ = api_batches.begin(Operation.CANCEL, _queued(name), reason=why(), confirm=Operation.CANCEL.value)
    except RunConflict as error:
        return _purge_form(name, str(error))
    return done(url_for("dashboard.batch", batch_id=made.id), "batch")


def _queued(name: str) -> Target:
    return Target(q=filters.parse(f"queue:{filters.quoted(name)} status:queued").text)


def _purge_form(name: str, problem: str = "") -> Response:
    count = store().count_by_queue().get(name, QueueCount())
    found: dict[str, Any] = {"number": f"{count.queued:,}" + ("" if count.exact else " or more")}
    return page(
        "confirm.html",
        title=f"Purge queue {name}",
        text=f"Its queued runs ({found['number']}) are cancelled, by a batch that can be stopped. "
        "Runs that are scheduled for later, wait or run are left alone.",
        problem=problem,
        action=url_for("dashboard.purge", queue=name),
        button="Purge",
        back=url_for("dashboard.queue", queue=name),
        danger=True,
        typed=name,
        active="dashboard.queues",
        status=400 if problem else 200,
    )
