"""The audit: what people and programs did, to what, how often, why, and what became of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlencode

from flask import Response, request, url_for

from aiki import filters
from aiki.api import paging, people
from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page
from aiki.dashboard.zone import reader_zone
from aiki.ids import parse_id
from aiki.storage.auditing import AuditFilter, AuditView

ON_A_PAGE: Final = 50
FIELDS: Final = ("actor", "action", "subject", "since", "until")


@blueprint.get("/audit")
@needs("audit.look")
def audit() -> Response:
    """Records, newest first."""
    asked = {name: text for name in FIELDS if (text := request.args.get(name, "").strip()[:255])}
    now, problem = store().clock(), ""
    moments: dict[str, int] = {}
    for name in ("since", "until"):
        try:
            if name in asked:
                moments[name] = filters.moments_of(asked[name], now, reader_zone())[0]
        except ValueError:
            problem = f"{name}: {asked[name][:40]!r} is not a time; say 15m, 24h, 7d (ago), today or 2026-11-01T12:00Z"
    where = AuditFilter(
        asked.get("actor"), asked.get("action"), asked.get("subject"), moments.get("since"), moments.get("until")
    )
    # Relative times move on between pages; the token belongs to what was asked for in words.
    about, place = repr(sorted(asked.items())), None
    try:
        place = paging.place_of(about, request.args["after"]) if request.args.get("after") else None
    except Refused:
        pass  # out of date, or made up: begin again
    found = [] if problem else store().audit_log(where, limit=ON_A_PAGE + 1, after=place)
    following = ""
    if len(found) > ON_A_PAGE:
        place = paging.token_of(about, found[ON_A_PAGE - 1].id)
        following = f"{url_for('dashboard.audit')}?{urlencode({**asked, 'after': place})}"
    return page(
        "audit.html",
        records=[people.visible_record(item) for item in found[:ON_A_PAGE]],
        asked=asked,
        fields=FIELDS,
        link_of=link_of,
        problem=problem,
        following=following,
        status=400 if problem else 200,
    )


def link_of(record: AuditView) -> str:
    """The page of what a record is about, or nothing."""
    kind, _, name = record.subject.partition(" ")
    run = parse_id(record.subject.removeprefix("run "))
    if run is not None:
        return url_for("dashboard.run", run_id=str(run))
    if kind == "queue" and name:
        return url_for("dashboard.queue", queue=name)
    if kind == "batch" and name:
        return url_for("dashboard.batch", batch_id=name)
    return ""
