"""The pages of workers: what each child runs and for how long; drain and stop. Orchestrators stand with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import Response, request, url_for

from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import client, store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, one_of, page, shared, why
from aiki.errors import RunConflict
from aiki.ids import parse_id
from aiki.storage.attention import SILENT
from aiki.storage.queues import HEARD
from aiki.storage.roster import ALIVE, Wanted, WorkerRow

SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class Child:
    """A child of a worker, as it was last heard: `run` None does nothing; `memory` in bytes."""

    slot: int
    pid: int
    run: str | None
    name: str
    since: int | None
    memory: int


@blueprint.get("/workers")
@needs("look")
@shared
def workers() -> Response:
    """Workers that live, or with `?all=1` those that stopped or were lost, too."""
    everybody = request.args.get("all") == "1"
    found = store().workers(None if everybody else ALIVE)
    found.sort(key=lambda row: (row.state != ALIVE, -row.heard_at if row.state != ALIVE else 0, row.name))
    return page(
        "workers.html",
        parts={"rows": "workers_rows.html"},
        workers=[(row, children_of(row)) for row in found[:SHOWN]],
        left=max(0, len(found) - SHOWN),
        everybody=everybody,
        orchestrators=store().orchestrators(),
        silent=store().clock() - max(HEARD, SILENT),
    )


@blueprint.get("/workers/<worker_id>")
@needs("look")
@shared
def worker(worker_id: str) -> Response:
    """A worker and its children."""
    found = _there(worker_id)
    return page(
        "worker.html",
        parts={"worker": "worker_body.html"},
        worker=found,
        children=children_of(found),
        silent=store().clock() - HEARD,
        active="dashboard.workers",
    )


def children_of(row: WorkerRow) -> list[Child]:
    """What the last beat said of the children; it said how long a run had taken by then."""
    out = []
    for child in row.children:
        run = parse_id(str(child.get("run") or ""))
        since = None if run is None else row.heard_at - int(child.get("ms", 0)) * 1000
        name = "" if run is None else str(child.get("name") or "")
        ids = (int(child.get("slot", 0)), int(child.get("pid", 0)), None if run is None else str(run))
        out.append(Child(*ids, name, since, int(child.get("rss", 0)) * 1024))
    return out


# ---------------------------------------------------------------- doing
_ASKED: Final = {
    Wanted.DRAIN: ("Drain", "It finishes what runs, however long that takes, takes nothing new, and exits."),
    Wanted.STOP: ("Stop", "As TERM does: what runs has the worker's grace to finish, then it is given back."),
    Wanted.KILL: ("Stop at once", "What runs is killed and given back; other workers execute it again, and it is not charged."),
}


@blueprint.get("/workers/<worker_id>/<verb>")
@needs("workers.operate")
def ask_worker(worker_id: str, verb: str) -> Response:
    """Ask before a worker is drained or stopped."""
    return _form(_there(worker_id), Wanted(one_of(verb, _ASKED)))


@blueprint.post("/workers/<worker_id>/<verb>")
@needs("workers.operate")
def do_worker(worker_id: str, verb: str) -> Response:
    """Have a worker drain or stop."""
    found, wanted = _there(worker_id), Wanted(one_of(verb, _ASKED))
    try:
        client().stop_worker(found.id, wanted, reason=why())
    except RunConflict as error:
        return _form(found, wanted, str(error))
    return done(url_for("dashboard.worker", worker_id=found.id), wanted.value)


def _form(found: WorkerRow, wanted: Wanted, problem: str = "") -> Response:
    title, text = _ASKED[wanted]
    return page(
        "confirm.html",
        title=f"{title}: {found.name}",
        text=text,
        problem=problem,
        action=url_for("dashboard.do_worker", worker_id=found.id, verb=wanted.value),
        button=title,
        back=url_for("dashboard.worker", worker_id=found.id),
        danger=wanted is not Wanted.DRAIN,
        active="dashboard.workers",
        status=400 if problem else 200,
    )


def _there(worker_id: str) -> WorkerRow:
    parsed = parse_id(worker_id)
    found = None if parsed is None else store().worker(parsed.hex)
    if found is None:
        raise Refused(404, "not_found", "There is no such worker here; those that have long stopped are forgotten.")
    return found
