"""Batches: what is done to many runs, how far it is, and how it is stopped."""

from __future__ import annotations

from flask import Response, request, url_for

from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import client, store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, page, shared
from aiki.errors import RunConflict
from aiki.ids import parse_id
from aiki.storage.batches import BatchView

ON_A_PAGE = 50


@blueprint.get("/batches")
@needs("look")
@shared
def batches() -> Response:
    """Batches, newest first."""
    after = parse_id(request.args.get("after", ""))
    found = store().batches(limit=ON_A_PAGE + 1, after=None if after is None else str(after))
    following = url_for("dashboard.batches", after=found[ON_A_PAGE - 1].id) if len(found) > ON_A_PAGE else ""
    return page("batches.html", parts={"rows": "batches_rows.html"}, batches=found[:ON_A_PAGE], following=following)


@blueprint.get("/batches/<batch_id>")
@needs("look")
@shared
def batch(batch_id: str) -> Response:
    """A batch, and what became of its runs."""
    found, after = _there(batch_id), parse_id(request.args.get("after", ""))
    items = store().batch_items(found.id, limit=ON_A_PAGE + 1, after=None if after is None else str(after))
    following = ""
    if len(items) > ON_A_PAGE:
        following = url_for("dashboard.batch", batch_id=found.id, after=items[ON_A_PAGE - 1].run_id) + "#items"
    return page(
        "batch.html",
        parts={"batch": "batch_body.html"},
        batch=found,
        items=items[:ON_A_PAGE],
        following=following,
        active="dashboard.batches",
    )


@blueprint.get("/batches/<batch_id>/stop")
@needs("runs.operate")
def ask_stop_batch(batch_id: str) -> Response:
    """Ask before it is stopped."""
    return _form(_there(batch_id))


@blueprint.post("/batches/<batch_id>/stop")
@needs("runs.operate")
def stop_batch(batch_id: str) -> Response:
    """Have nothing more done."""
    found = _there(batch_id)
    try:
        client().stop_batch(found.id, reason=request.form.get("reason", "").strip()[:255])
    except RunConflict as error:
        return _form(found, str(error))
    return done(url_for("dashboard.batch", batch_id=found.id), "stopped")


def _form(found: BatchView, problem: str = "") -> Response:
    return page(
        "confirm.html",
        title=f"Stop: {found.operation} {found.matched:,} runs",
        text=f"{found.processed:,} are done; the others stay as they are.",
        problem=problem,
        action=url_for("dashboard.stop_batch", batch_id=found.id),
        button="Stop",
        back=url_for("dashboard.batch", batch_id=found.id),
        danger=True,
        active="dashboard.batches",
        status=400 if problem else 200,
    )


def _there(batch_id: str) -> BatchView:
    parsed = parse_id(batch_id)
    found = None if parsed is None else store().batch(str(parsed))
    if found is None:
        raise Refused(404, "not_found", "There is no such batch here.")
    return found
