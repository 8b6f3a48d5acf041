"""The list of runs: filtered, live, page by page in both directions; and what finds one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from flask import Response, current_app, jsonify, make_response, redirect, request, url_for

from aiki.api import masking
from aiki.api.access import needs
from aiki.api.requests import store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.bulk import OPERATIONS
from aiki.dashboard.views import COLUMNS_COOKIE, page, shared
from aiki.dashboard.zone import meant
from aiki.errors import ConfigurationError, FilterError
from aiki.filters import Filter, parse
from aiki.ids import parse_id
from aiki.model import Found

ON_A_PAGE: Final = 50
COUNTED: Final = 10_000
COLUMNS: Final = {
    "run": "Run",
    "queue": "Queue",
    "attempt": "Attempt",
    "worker": "Worker",
    "reference": "Reference",
    "version": "Version",
    "created": "Created",
    "took": "Took",
}
"""Columns that can be chosen; name and state are always there."""
USUAL: Final = ("run", "queue", "created", "took")
TABS: Final = (
    ("All", ""),
    ("Failed", "failed"),
    ("Dead", "dead"),
    ("Stalled", "stalled"),
    ("Running", "running"),
    ("Queued", "queued"),
    ("Waiting", "waiting"),
    ("Scheduled", "scheduled"),
    ("Paused", "paused"),
    ("Completed", "completed"),
    ("Cancelled", "cancelled"),
)


BULK: Final = tuple((operation.value, words.title) for operation, words in OPERATIONS.items())


class Chip(NamedTuple):
    """A term of the filter, and where it is not part of it."""

    text: str
    without: str


class Tab(NamedTuple):
    """A state to look at."""

    title: str
    url: str
    current: bool


@blueprint.get("/runs")
@needs("look")
@shared
def runs() -> Response:
    """Runs, newest first: `?q=` filters them, `?after=` and `?before=` begin where another page ended."""
    q = request.args.get("q", "").strip()
    values: dict[str, Any] = {"q": q, "asked": q, "runs": [], "error": None, "chips": [], "found": None, "count": None}
    status = 200
    try:
        where = masking.check_filter(parse(q))
        asked = meant(where)
        values["asked"] = asked.text
        found = _found(asked, request.args)
        values |= {"runs": found.runs, "found": found, "chips": _chips(where), "tabs": _tabs(where)}
        if request.args.get("part") is None and q and found.complete:  # counting looks at least as long as finding did
            values["count"] = store().count(asked, COUNTED)
    except FilterError as error:
        status = 400
        values |= {"error": (str(error), error.position), "tabs": _tabs(Filter())}
    values["columns"] = columns = _columns()
    values["exports"] = _exports(values["asked"])
    values["pages"] = {} if values["found"] is None else _pages(q, values["found"])
    response = page(
        "runs.html", parts={"rows": "runs_rows.html"}, status=status, all_columns=COLUMNS, bulk_verbs=BULK, **values
    )
    if "cols" in request.args:
        response.set_cookie(
            COLUMNS_COOKIE, ".".join(columns), max_age=31_536_000, samesite="Lax", path=url_for("dashboard.runs")
        )
    return response


def _found(where: Filter, asked: Mapping[str, str]) -> Found:
    try:
        return store().search(where, limit=ON_A_PAGE, after=asked.get("after"), before=asked.get("before"))
    except ConfigurationError:  # a page that is out of date, or made up: begin again
        return store().search(where, limit=ON_A_PAGE)


def _pages(q: str, found: Found) -> dict[str, str]:
    out = {}
    if found.previous is not None:
        out["previous"] = url_for("dashboard.runs", q=q or None, before=found.previous)
    if found.next is not None:
        out["next"] = url_for("dashboard.runs", q=q or None, after=found.next)
    return out


def _chips(where: Filter) -> list[Chip]:
    return [Chip(term.text, url_for("dashboard.runs", q=where.without(term).text or None)) for term in where.terms]


def _tabs(where: Filter) -> list[Tab]:
    """One state each, with the rest of the filter as it is."""
    rest, now = where.without("status"), [term.text for term in where.of("status")]
    out = []
    for title, state in TABS:
        q = rest.with_(f"status:{state}").text if state else rest.text
        out.append(Tab(title, url_for("dashboard.runs", q=q or None), now == ([f"status:{state}"] if state else [])))
    return out


def _exports(q: str) -> list[tuple[str, str]]:
    """Where all that match can be had as a file."""
    name = "export.export_runs"
    if name not in current_app.view_functions:
        return []
    return [(title, url_for(name, q=q or None, format=form)) for title, form in (("CSV", "csv"), ("NDJSON", "ndjson"))]


def _columns() -> list[str]:
    """The chosen columns, in the order in which they stand."""
    if "cols" in request.args:
        chosen = request.args.getlist("cols")
    else:
        cookie = request.cookies.get(COLUMNS_COOKIE)
        chosen = list(USUAL) if cookie is None else cookie.split(".")
    return [name for name in COLUMNS if name in chosen]


# ---------------------------------------------------------------- finding
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
def find() -> Response:
    """A run by its id or the beginning of it."""
    asked = request.args.get("q", "").strip()
    parsed = parse_id(asked)
    if parsed is not None:
        return make_response(redirect(url_for("dashboard.run", run_id=str(parsed))))
    return make_response(redirect(url_for("dashboard.runs", q=f"id:{asked}*" if asked else None)))
