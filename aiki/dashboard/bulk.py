"""One verb on many runs, those that were selected or all that match a filter: asked for with the number, done by a batch."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from flask import Response, request, url_for

from aiki import ids
from aiki.api import batches, masking
from aiki.api.access import needs
from aiki.api.problems import Refused, invalid
from aiki.api.requests import store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, page
from aiki.dashboard.zone import meant
from aiki.errors import FilterError, RunConflict
from aiki.filters import parse
from aiki.ids import parse_id
from aiki.storage.batches import Operation, Preview, Target

AT_ONCE: Final = 200
"""Runs that may be selected one by one: more than stand on a page."""
TYPED_ABOVE: Final = batches.FREE


class Words(NamedTuple):
    """How an operation is asked for."""

    title: str
    text: str
    danger: bool = False


OPERATIONS: Final = {
    Operation.RETRY: Words("Retry", "Failed, dead and cancelled runs go on; others are left as they are."),
    Operation.RERUN: Words("Run again", "A new run with the same input for each."),
    Operation.PAUSE: Words("Pause", "They do not go on until they are resumed."),
    Operation.RESUME: Words("Resume", "Paused runs go on."),
    Operation.CANCEL: Words("Cancel", "Those that have not ended are cancelled; workflows may clean up first.", True),
    Operation.TERMINATE: Words("Terminate", "Those that have not ended end now; nothing is cleaned up.", True),
}


@blueprint.get("/runs/bulk")
@needs("runs.operate")
def bulk() -> Response:
    """Ask before anything is done."""
    return _form()


@blueprint.post("/runs/bulk")
@needs("runs.operate")
def do_bulk() -> Response:
    """Begin a batch, and show how far it is."""
    operation, asked = _operation(), request.form
    number = asked.get("number", 0, type=int)
    if number > TYPED_ABOVE and asked.get("typed", "").strip() != str(number):
        return _form(f"Type {number} to go on.")
    parsed = parse_id(asked.get("batch", ""))
    batch_id = str(parsed or ids.new_id())
    reason = asked.get("reason", "").strip()[:255]
    # The number may have changed since it was typed, and would at once again: what was typed stands for "all of them".
    confirm = operation.value if number > TYPED_ABOVE else None
    try:
        made, _ = batches.begin(operation, _target(), batch_id=batch_id, reason=reason, confirm=confirm)
    except (RunConflict, FilterError) as error:
        return _form(str(error))
    return done(url_for("dashboard.batch", batch_id=made.id), "batch")


def _form(problem: str = "") -> Response:
    operation, values = _operation(), request.values
    chosen, everything, q = _chosen(), "all" in values, values.get("q", "").strip()
    back = url_for("dashboard.runs", q=q or None)
    words = OPERATIONS[operation]
    found: Preview | None = None
    if chosen or everything:
        try:
            found = store().preview(_target(), sample=5)
        except FilterError as error:
            problem = str(error)
    if found is None or not found.number:
        return _nothing(back, problem)
    many = f"{found.number:,}{'' if found.exact else ' or more'} {'run' if found.number == 1 else 'runs'}"
    return page(
        "confirm.html",
        title=f"{words.title}: {many}",
        text=words.text,
        problem=problem,
        action=url_for("dashboard.do_bulk"),
        button=f"{words.title} {many}",
        back=back,
        danger=words.danger,
        fields="fields_bulk.html",
        filled={"runs": [] if everything else chosen, "q": q, "all": everything},
        found=found,
        hidden={"verb": operation.value, "number": found.number, "batch": _batch_id()},
        typed=str(found.number) if found.number > TYPED_ABOVE else "",
        active="dashboard.runs",
        status=400 if problem else 200,
    )


def _batch_id() -> str:
    """The id that the form was made with: a form that is sent twice makes one batch."""
    return str(parse_id(request.form.get("batch", "")) or ids.new_id())


def _nothing(back: str, problem: str) -> Response:
    values: dict[str, Any] = {"title": "No run is selected", "action": back, "button": "Go back", "back": back}
    text = "Select runs by the boxes before their names, or choose all that match."
    return page(
        "confirm.html", **values, text=text, problem=problem, reason=False, method="get", status=400, active="dashboard.runs"
    )


def _operation() -> Operation:
    key = request.values.get("verb", "")
    if key not in list(Operation):
        raise Refused(404, "not_found", f"there is nothing like {key[:40]!r} to be done to runs")
    return Operation(key)


def _target() -> Target:
    if "all" in request.values:
        return Target(q=meant(masking.check_filter(parse(request.values.get("q", "")))).text)
    return Target(ids=tuple(_chosen()))


def _chosen() -> list[str]:
    parsed = [parse_id(item) for item in request.values.getlist("run")]
    if None in parsed:
        raise invalid("run: this is not a run's id")
    chosen = list(dict.fromkeys(str(item) for item in parsed))
    if len(chosen) > AT_ONCE:
        raise invalid(f"run: at most {AT_ONCE} at a time; for more choose all that match a filter")
    return chosen
