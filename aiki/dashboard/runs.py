"""The list of runs, and what finds one."""

from __future__ import annotations

from typing import Any, Final

from flask import Response, jsonify, redirect, request, url_for

from aiki.api.access import needs
from aiki.api.requests import client, store
from aiki.dashboard.blueprint import THEME_COOKIE, THEMES, blueprint
from aiki.dashboard.views import here, page
from aiki.ids import parse_id
from aiki.model import RunFilter

ON_A_PAGE: Final = 50


@blueprint.get("/runs")
@needs("look")
def runs() -> Response:
    """Runs, newest first."""
    after = request.args.get("after")
    found = client().list(RunFilter(), limit=ON_A_PAGE, after=after)
    values: dict[str, Any] = {"runs": found.runs, "q": request.args.get("q", ""), "next": found.next}
    return page("runs.html", parts={"rows": "runs_rows.html"}, **values)


@blueprint.get("/names")
@needs("look")
def names() -> Response:
    """What the palette offers beside the pages: the names of tasks and workflows."""
    known = sorted({item.name for item in store().definitions()})
    return jsonify(
        [{"title": name, "note": "runs of it", "url": url_for("dashboard.runs", q=f"name:{name}")} for name in known]
    )


@blueprint.get("/find")
@needs("look")
def find() -> Any:
    """A run by its id."""
    asked = request.args.get("q", "").strip()
    parsed = parse_id(asked)
    if parsed is not None:
        return redirect(url_for("dashboard.run", run_id=str(parsed)))
    return redirect(url_for("dashboard.runs", q=asked))


@blueprint.post("/theme")
@needs("look")
def set_theme() -> Any:
    """Remember light, dark or as the system has it."""
    chosen = request.form.get("theme", "auto")
    response = redirect(here(request.form.get("next"), url_for("dashboard.runs")), 303)
    response.set_cookie(THEME_COOKIE, chosen if chosen in THEMES else "auto", max_age=31_536_000, samesite="Lax", path="/")
    return response


@blueprint.get("/")
@needs("look")
def home() -> Any:
    """Where one begins."""
    return redirect(url_for("dashboard.runs"))
