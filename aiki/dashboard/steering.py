"""What people do to one run: each verb with the words that ask, the form it needs, and when it is possible."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flask import Response, current_app, request, url_for

from aiki import ids
from aiki.api import masking, values
from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import client
from aiki.dashboard import jsonview
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, page
from aiki.errors import PayloadError, RunConflict
from aiki.history import EVENT_SENT, SLEEP
from aiki.model import RunDetail
from aiki.states import State

RETRYABLE: Final = frozenset({State.FAILED, State.DEAD, State.CANCELLED})


class Wrong(Exception):
    """What was filled in cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be done to a run.

    :ivar possible: whether it can be done to this one now.
    :ivar do: does it, with what was filled in; returns the run to look at then.
    :ivar fields: the template of what is to be filled in beside the reason.
    """

    key: str
    title: str
    text: str
    possible: Callable[[RunDetail], bool]
    do: Callable[[RunDetail, dict[str, str]], str]
    icon: str = ""
    danger: bool = False
    primary: bool = False
    fields: str = ""
    button: str = ""


# ---------------------------------------------------------------- when
def _alive(detail: RunDetail) -> bool:
    return not detail.run.ended


def _workflow(detail: RunDetail) -> bool:
    return detail.run.kind == "workflow"


def _retryable(detail: RunDetail) -> bool:
    return detail.run.state in RETRYABLE or (detail.run.state is State.STALLED and _workflow(detail))


def _sleeps(detail: RunDetail) -> bool:
    return detail.waiting is not None and any(item.kind == SLEEP for item in detail.waiting.items)


def _awaited(detail: RunDetail) -> list[str]:
    """The names of the events that a run waits for."""
    return [] if detail.waiting is None else detail.waiting.names(EVENT_SENT)


# ---------------------------------------------------------------- what
def _told(form: dict[str, str]) -> str:
    return form.get("reason", "").strip()[:255]


def _cancel(detail: RunDetail, form: dict[str, str]) -> str:
    return client().cancel(detail.run.id, reason=_told(form)).id


def _terminate(detail: RunDetail, form: dict[str, str]) -> str:
    return client().cancel(detail.run.id, reason=_told(form), at_once=True).id


def _pause(detail: RunDetail, form: dict[str, str]) -> str:
    return client().pause(detail.run.id, reason=_told(form)).id


def _resume(detail: RunDetail, form: dict[str, str]) -> str:
    return client().resume(detail.run.id, reason=_told(form)).id


def _wake(detail: RunDetail, form: dict[str, str]) -> str:
    return client().wake(detail.run.id, reason=_told(form)).id


def _retry(detail: RunDetail, form: dict[str, str]) -> str:
    return client().retry(detail.run.id, reason=_told(form)).id


def _event(detail: RunDetail, form: dict[str, str]) -> str:
    name = form.get("name", "")
    if name not in _awaited(detail):  # what is typed, and not what was filled in or chosen
        name = name.strip()
    if not 0 < len(name) <= 200:
        raise Wrong("name: an event has a name of 1 to 200 characters")
    data = _json(form.get("data", "").strip() or "null", "data")
    payload = None
    if data is not None:
        payload = values.payload_of_data(data, limit=current_app.config["AIKI_MAX_PAYLOAD"], name=name)
    reference = form.get("reference_id", "").strip()[:255] or None
    return client().send_event(detail.run.id, name, payload, reference_id=reference, reason=_told(form)).id


def _rerun(detail: RunDetail, form: dict[str, str]) -> str:
    asked = form.get("from_step", "").strip()
    if asked and not asked.isdecimal():
        raise Wrong(f"from step: {asked[:20]!r} is not the number of a step")
    step = int(asked[:10]) if asked else None
    return client().rerun(detail.run.id, from_step=step, new_id=_form_id(form), reason=_told(form)).id


def _edit(detail: RunDetail, form: dict[str, str]) -> str:
    args, kwargs = _json(form.get("args", "").strip() or "[]", "args"), _json(form.get("kwargs", "").strip() or "{}", "kwargs")
    if not isinstance(args, list):
        raise Wrong("args: positional arguments are a list, such as [1, 2]")
    if not isinstance(kwargs, dict):
        raise Wrong('kwargs: named arguments are an object, such as {"order_id": "o-1"}')
    if not masking.sees_all() and detail.input is not None:
        # What was masked in the form is what it was before.
        args, kwargs = masking.restored([args, kwargs], values.readable(detail.input)[1])
    limit = current_app.config["AIKI_MAX_PAYLOAD"]
    payload = values.payload_of(args, kwargs, limit=limit, name=detail.run.name)
    return client().rerun(detail.run.id, payload=payload, new_id=_form_id(form), reason=_told(form)).id


def _form_id(form: dict[str, str]) -> str:
    """The id that the form was made with: a form that is sent twice makes one run."""
    parsed = ids.parse_id(form.get("new_id", ""))
    return str(parsed) if parsed is not None else str(ids.new_id())


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Wrong(f"{what}: this is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (ValueError, RecursionError):
        raise Wrong(f"{what}: this is not JSON that can be read here") from None


VERBS: Final = {
    verb.key: verb
    for verb in (
        Verb(
            *(
                "retry",
                "Retry",
                "The same run goes on: a task is executed again, a workflow goes on from the step that failed.",
            ),
            *(_retryable, _retry, "play"),
            primary=True,
        ),
        Verb(
            *("edit", "Edit input and run", "A new run of the same task or workflow with changed arguments. This one stays."),
            *(lambda detail: jsonview.editable(detail.input) is not None, _edit),
            fields="fields_edit.html",
        ),
        Verb(
            *("rerun", "Run again", "A new run with the same input. This one stays as it is."),
            *(lambda detail: detail.input is not None, _rerun),
            fields="fields_rerun.html",
        ),
        Verb(
            *("resume", "Resume", "It goes on where it was."),
            *(lambda detail: detail.run.state is State.PAUSED, _resume, "play"),
            primary=True,
        ),
        Verb(
            *(
                "event",
                "Send an event",
                "The workflow takes it where it waits for an event of this name; until then it is kept.",
            ),
            *(lambda detail: _alive(detail) and _workflow(detail), _event),
            fields="fields_event.html",
        ),
        Verb(*("wake", "Wake", "Its sleep ends now.", _sleeps, _wake)),
        Verb(
            *("pause", "Pause", "It does not go on until it is resumed. A task that runs is not interrupted."),
            *(lambda detail: _alive(detail) and detail.run.state not in (State.PAUSED,), _pause, "pause"),
        ),
        Verb(
            *(
                "cancel",
                "Cancel",
                "It ends at once if nobody executes it, else it is interrupted; a workflow may clean up first.",
            ),
            *(_alive, _cancel, "cancelled"),
            danger=True,
            button="Cancel the run",
        ),
        Verb(
            *("terminate", "Terminate", "It ends now, without its code being called again: nothing is cleaned up."),
            *(lambda detail: _alive(detail) and _workflow(detail), _terminate),
            danger=True,
            button="Terminate the run",
        ),
    )
}


def possible(detail: RunDetail) -> list[Verb]:
    """What can be done to a run now."""
    return [verb for verb in VERBS.values() if verb.possible(detail)]


# ---------------------------------------------------------------- pages
@blueprint.get("/runs/<run_id>/do/<key>")
@needs("runs.operate")
def ask(run_id: str, key: str) -> Response:
    """Ask before it is done."""
    return _form(client().detail(run_id), _verb(key), request.args.to_dict())


@blueprint.post("/runs/<run_id>/do/<key>")
@needs("runs.operate")
def do(run_id: str, key: str) -> Response:
    """Do it, and show the run."""
    verb, detail, form = _verb(key), client().detail(run_id), request.form.to_dict()
    try:
        after = verb.do(detail, form)
    except (Wrong, PayloadError, RunConflict) as error:
        return _form(detail, verb, form, str(error))
    return done(url_for("dashboard.run", run_id=after), verb.key)


def _verb(key: str) -> Verb:
    verb = VERBS.get(key)
    if verb is None:
        raise Refused(404, "not_found", f"there is nothing like {key[:40]!r} to be done to a run")
    return verb


def _form(detail: RunDetail, verb: Verb, filled: dict[str, str], problem: str = "") -> Response:
    awaited = _awaited(detail) if verb.key == "event" else []
    if len(awaited) == 1:
        filled = {"name": awaited[0], **filled}
    texts = jsonview.editable(detail.input) or ("[]", "{}") if verb.key == "edit" else ("", "")
    return page(
        "confirm.html",
        status=400 if problem else 200,
        title=f"{verb.title}: {detail.run.name}",
        text=verb.text,
        problem=problem or ("" if verb.possible(detail) else f"The run is {detail.run.state}: this may be refused."),
        action=url_for("dashboard.do", run_id=detail.run.id, key=verb.key),
        button=verb.button or verb.title,
        back=url_for("dashboard.run", run_id=detail.run.id),
        danger=verb.danger,
        fields=verb.fields,
        filled={"args": texts[0], "kwargs": texts[1], **filled},
        hidden={"new_id": filled.get("new_id") or str(ids.new_id())} if verb.key in ("edit", "rerun") else {},
        workflow=detail.run.kind == "workflow",
        awaited=awaited,
        active="dashboard.runs",
    )


__all__ = ["VERBS", "Verb", "possible"]
