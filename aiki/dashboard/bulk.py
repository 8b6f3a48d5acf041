"""One verb on many runs: those that were selected, or all that match the filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from flask import Response, request, url_for

from aiki.api.access import needs
from aiki.api.problems import Refused, invalid
from aiki.api.requests import client
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, page
from aiki.errors import RunConflict, RunNotFound
from aiki.ids import parse_id

AT_ONCE: Final = 200
"""Selected runs that one request may change: more than stand on a page."""
TYPED_ABOVE: Final = 100


class Bulk(NamedTuple):
    """A verb on many: its words, and what it does to one run."""

    title: str
    text: str
    do: Callable[[str, str], Any]
    danger: bool = False


VERBS: Final = {
    "retry": Bulk(
        "Retry", "Failed, dead and cancelled runs go on; others are left as they are.", lambda run, _: client().retry(run)
    ),
    "rerun": Bulk("Run again", "A new run with the same input for each.", lambda run, _: client().rerun(run)),
    "pause": Bulk("Pause", "They do not go on until they are resumed.", lambda run, why: client().pause(run, reason=why)),
    "resume": Bulk("Resume", "Paused runs go on.", lambda run, _: client().resume(run)),
    "cancel": Bulk(
        "Cancel", "Those that have not ended are cancelled.", lambda run, why: client().cancel(run, reason=why), True
    ),
}


@blueprint.get("/runs/bulk")
@needs("runs.operate")
def bulk() -> Response:
    """Ask before anything is done."""
    return _form(request.args.get("verb", ""), request.args.getlist("run"))


def _form(key: str, given: list[str], problem: str = "") -> Response:
    verb, chosen = _verb(key), _chosen(given)
    if not chosen:
        return _nothing(request.values.get("q", ""))
    many = len(chosen)
    return page(
        "confirm.html",
        title=f"{verb.title}: {many} {'run' if many == 1 else 'runs'}",
        text=verb.text,
        problem=problem,
        action=url_for("dashboard.do_bulk"),
        button=f"{verb.title} {many} {'run' if many == 1 else 'runs'}",
        back=url_for("dashboard.runs", q=request.values.get("q") or None),
        danger=verb.danger,
        fields="fields_bulk.html",
        filled={"runs": chosen, "verb": key, "q": request.values.get("q", "")},
        typed=str(many) if many > TYPED_ABOVE else "",
        active="dashboard.runs",
        status=400 if problem else 200,
    )


def _nothing(q: str) -> Response:
    return page(
        "confirm.html",
        title="No run is selected",
        text="Select runs by the boxes before their names, or choose all that match.",
        action=url_for("dashboard.runs"),
        button="Go back",
        back=url_for("dashboard.runs", q=q or None),
        reason=False,
        status=400,
        method="get",
        active="dashboard.runs",
    )


@blueprint.post("/runs/bulk")
@needs("runs.operate")
def do_bulk() -> Response:
    """Do it to those that were selected."""
    key, chosen = request.form.get("verb", ""), _chosen(request.form.getlist("run"))
    verb, why, refused = _verb(key), request.form.get("reason", "").strip()[:255], 0
    if len(chosen) > TYPED_ABOVE and request.form.get("typed", "").strip() != str(len(chosen)):
        return _form(key, chosen, f"Type {len(chosen)} to go on.")
    for run_id in chosen:
        try:
            verb.do(run_id, why)
        except (RunConflict, RunNotFound):
            refused += 1
    back = url_for("dashboard.runs", q=request.form.get("q") or None, done=len(chosen) - refused, refused=refused or None)
    return done(back, key)


def _verb(key: str) -> Bulk:
    if key not in VERBS:
        raise Refused(404, "not_found", f"there is nothing like {key[:40]!r} to be done to runs")
    return VERBS[key]


def _chosen(given: list[str]) -> list[str]:
    parsed = [parse_id(item) for item in given]
    if None in parsed:
        raise invalid("run: this is not a run's id")
    chosen = list(dict.fromkeys(str(item) for item in parsed))
    if len(chosen) > AT_ONCE:
        raise invalid(f"run: at most {AT_ONCE} at a time; for more choose all that match a filter")
    return chosen
