"""One run: what it is, why it does not move, what it has done, and what can be done about it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from flask import Response, request, url_for

from aiki.api import masking
from aiki.api.access import needs, principal
from aiki.api.problems import Refused, invalid
from aiki.api.requests import client, store
from aiki.codec import Payload
from aiki.dashboard import jsonview, steering, waterfall
from aiki.dashboard.advice import advice
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page, shared
from aiki.model import RunDetail
from aiki.storage.auditing import AuditFilter, AuditView
from aiki.storage.outline import StepLine

STEPS_ON_A_PAGE: Final = 100
MANY_STEPS: Final = 2_000
MAX_RAW: Final = 512 << 20


@blueprint.get("/runs/<run_id>")
@needs("look")
@shared
def run(run_id: str) -> Response:
    """A run; `?from=1000` begins the steps there, `?steps=1000-1099` shows those one by one."""
    detail = client().detail(run_id)
    values: dict[str, Any] = {"detail": detail, "run": detail.run, "reason": (reason := store().why(run_id))}
    values["advice"] = advice(detail, reason)
    values["verbs"] = steering.possible(detail)
    values["logs"] = store().run_logs(detail.run.id)
    values["deeds"] = _deeds(detail.run.id)
    values |= {"rerun_of": store().rerun_of(run_id), "reruns": store().reruns(run_id)}
    values["input"] = jsonview.shown(detail.input, arguments=True)
    values["result"] = jsonview.shown(detail.result) if detail.run.state == "completed" else None
    values |= _steps(detail) if detail.run.kind == "workflow" else _attempts(detail)
    return page("run.html", parts={"run-body": "run_body.html"}, **values)


def _deeds(run_id: str) -> list[AuditView]:
    """What people did to it, newest first, for those who may see that."""
    return store().audit_log(AuditFilter(subject=run_id), limit=20) if principal().may("audit.look") else []


def _attempts(detail: RunDetail) -> dict[str, Any]:
    lines = waterfall.of_attempts(detail)
    low, high = waterfall.scaled(lines, store().clock())
    return {"lines": lines, "low": low, "high": high, "every": 2, "pages": {}, "total": 0, "events": []}


def _steps(detail: RunDetail) -> dict[str, Any]:
    run_id, at = detail.run.id, store()
    asked = _range(request.args.get("steps", ""))
    pages: dict[str, str] = {}
    if asked is not None:
        first, end = asked
        steps = at.step_lines(run_id, first=first, end=end, limit=STEPS_ON_A_PAGE)
        total = at.outline(run_id, first=first, limit=0).total
        lines = [waterfall.of_step(step) for step in steps]
        shown = f"steps {first:,} to {steps[-1].ordinal if steps else first:,}"
        if first > 0:
            back = max(0, first - STEPS_ON_A_PAGE)
            pages["previous"] = _here(run_id, steps=f"{back}-{first - 1}")
        if steps and steps[-1].ordinal + 1 < min(end, total):
            pages["next"] = _here(run_id, steps=f"{steps[-1].ordinal + 1}-{end - 1}")
    else:
        first = max(0, request.args.get("from", 0, type=int))
        outline = at.outline(run_id, first=first, limit=waterfall.ON_A_PAGE)
        small: list[StepLine] = []
        for low, high in waterfall.small_ranges(outline.folds):
            small += at.step_lines(run_id, first=low, end=high, limit=high - low)
        lines, total = waterfall.of_outline(outline, small), outline.total
        shown = ""
        if first:
            pages["previous"] = _here(run_id)
        if outline.next is not None:
            pages["next"] = _here(run_id, **{"from": outline.next})
            shown = f"steps {first:,} to {outline.next - 1:,}"
    begin, until = waterfall.scaled(lines, at.clock())
    return {
        "lines": lines,
        "low": begin,
        "high": until,
        "total": total,
        "shown": shown,
        "pages": pages,
        "every": 2 if total <= MANY_STEPS else 10,
        "events": [(event, jsonview.shown(event.payload) if event.payload else None) for event in at.events(run_id)],
    }


def _here(run_id: str, **query: Any) -> str:
    return url_for("dashboard.run", run_id=run_id, **query) + "#steps"


def _range(text: str) -> tuple[int, int] | None:
    """`1000-1099` as the first ordinal and the one behind the last."""
    if not text:
        return None
    first, _, last = text.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal() or len(text) > 24:
        raise invalid(f"steps={text[:40]}: it must be two ordinals, such as 1000-1099")
    return min(int(first), 2**31 - 2), min(int(last or first), 2**31 - 2) + 1


# ---------------------------------------------------------------- payloads whole
@blueprint.get("/runs/<run_id>/payload/<role>")
@needs("look")
def payload(run_id: str, role: str) -> Response:
    """A payload as it is, to read, copy or (`?download=1`) keep: `input`, `result`, `step-12`, `event-<id>`."""
    found = _payload(run_id, role)
    text = "null" if found is None else jsonview.text_of(found, MAX_RAW)
    if text is None:
        assert found is not None
        if not masking.sees_all():
            raise Refused(403, "forbidden", "it cannot be looked through for secrets here, so only an admin may have it")
        text = found.text
    response = Response(text + "\n", content_type="application/json; charset=utf-8")
    if request.args.get("download"):
        name = quote(f"{run_id}-{role}.json")
        response.headers["Content-Disposition"] = f"attachment; filename={name}"
    return response


def _payload(run_id: str, role: str) -> Payload | None:
    kind, _, key = role.partition("-")
    if role in ("input", "result"):
        detail = client().detail(run_id)
        return detail.input if role == "input" else detail.result
    if kind == "step" and key.isdecimal() and len(key) < 10:
        return store().step_payload(run_id, int(key))
    if kind == "event" and len(key) == 32 and all(char in "0123456789abcdef" for char in key):
        return store().event_payload(run_id, key)
    raise Refused(404, "not_found", f"a run has no payload {role[:40]!r}")


@blueprint.get("/runs/<run_id>/step/<int:ordinal>")
@needs("look")
def step(run_id: str, ordinal: int) -> Response:
    """One step of a workflow."""
    detail = client().detail(run_id)
    found = [] if ordinal > 2**31 - 2 else store().step_lines(run_id, first=ordinal, end=ordinal + 1, limit=1)
    if not found:
        raise Refused(404, "not_found", f"the run has no step {ordinal}")
    result = store().step_payload(run_id, ordinal) if found[0].has_result else None
    return page("step.html", run=detail.run, step=found[0], result=jsonview.shown(result) if result else None)
