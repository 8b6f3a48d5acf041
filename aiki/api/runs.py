"""The endpoints of runs: record, look, wait, list, and what people do to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response, current_app, request, url_for

from aiki import tracing
from aiki.api import answers, idempotency, masking, paging, schemas, values
from aiki.api.access import needs
from aiki.api.backend import Backend
from aiki.api.openapi import describe
from aiki.api.problems import answer, invalid
from aiki.api.requests import backend, body, client, given, namespace, query, store
from aiki.client import wire
from aiki.codec import Payload
from aiki.errors import RunNotFound
from aiki.filters import Filter
from aiki.ids import parse_id
from aiki.messages import OPT_SHAPE, OPT_TRACE
from aiki.model import Accepted, NewRun, RunDetail, RunFilter, RunView
from aiki.states import State
from aiki.storage import filter_of
from aiki.storage.why import Why

blueprint = Blueprint("runs", __name__)

_RUN: Final = schemas.RunSchema()
_BATCH: Final = schemas.BatchSchema()
_CANCEL: Final = schemas.CancelSchema()
_REASON: Final = schemas.ReasonSchema()
_WAKE: Final = schemas.WakeSchema()
_EVENT: Final = schemas.EventSchema()
_RERUN: Final = schemas.RerunSchema()
_EMPTY: Final = schemas.EmptySchema()
_WAIT_QUERY: Final = schemas.WaitQuery()
_DETAIL_QUERY: Final = schemas.DetailQuery()
_HISTORY_QUERY: Final = schemas.HistoryQuery()
_LIST_QUERY: Final = schemas.ListQuery()
_FILTER_QUERY: Final = schemas.FilterQuery()
_EXAMPLE: Final = {"name": "shop.charge", "args": ["o-1", 4200], "queue": "payments", "reference_id": "order-o-1"}
_AS_THEY_ARE: Final = ("id", "name", "queue", "reference_id", "on_conflict", "countdown", "expires_in")
_SHAPE: Final = re.compile("[0-9a-f]{8}")
_OPTIONS: Final = ("retry", "time_limit", "soft_time_limit", "max_crashes")


# ---------------------------------------------------------------- new runs
@blueprint.post("/runs")
@needs("runs.enqueue")
@describe(
    body=_RUN,
    answers={200: answers.Accepted, 201: answers.Accepted},
    errors=("unknown_task", "reference_conflict", "conflict"),
    example=_EXAMPLE,
)
def enqueue() -> Response:
    """Record a run: 201, or 200 if it was there already."""
    run = _new_run(backend(), _named(body(_RUN)))
    return _accepted(client().enqueue([run])[0])


def _accepted(accepted: Accepted) -> Response:
    response = answer(wire.accepted_to_json(accepted), 201 if accepted.created else 200)
    response.headers["Location"] = url_for("runs.show", run_id=accepted.id)
    return response


@blueprint.post("/runs/batch")
@needs("runs.enqueue")
@describe(
    body=_BATCH,
    answer=answers.AcceptedMany,
    errors=("unknown_task", "reference_conflict", "conflict"),
    example={"runs": [_EXAMPLE]},
)
def enqueue_many() -> Response:
    """Record many runs, all or none."""
    data = body(_BATCH)
    runs = [_new_run(backend(), _named(item, number)) for number, item in enumerate(data["runs"])]
    accepted = client().enqueue(runs, batch=data.get("batch")) if runs else []
    return answer({"runs": [wire.accepted_to_json(item) for item in accepted]})


def _named(data: dict[str, Any], number: int = 0) -> dict[str, Any]:
    """With an id of its own, if the request has a key under which it may come again."""
    derived = idempotency.derived_id(number)
    return data if derived is None or data.get("id") is not None else {**data, "id": derived}


def _new_run(at: Backend, data: dict[str, Any]) -> NewRun:
    """A checked body as a new run; what it leaves open is the definition's."""
    limit = current_app.config["AIKI_MAX_PAYLOAD"]
    # The SDK, whose input is opaque, leaves out what is the default, not what the definition says.
    version = data.get("version", "1" if "input" in data else None)
    definition = at.definition(store(), data["name"], version, data.get("kind"))
    item: dict[str, Any] = {key: data[key] for key in _AS_THEY_ARE if key in data}
    if "input" in data:
        item["input"] = data["input"]
    else:
        payload = values.payload_of(data.get("args", []), data.get("kwargs", {}), limit=limit, name=data["name"])
        item["input"] = wire.payload_to_json(payload)
    expires = data.get("expires")
    item["due_at"] = given(data, "due_at", "eta")
    item["expires_at"] = expires if isinstance(expires, str) else data.get("expires_at")
    if isinstance(expires, int | float):
        item["expires_in"] = expires
    item["options"] = {**data.get("options", {}), **{key: data[key] for key in _OPTIONS if key in data}}
    present = {key: value for key, value in item.items() if value is not None}
    try:
        run = wire.new_run_from_json(present, now=at.now(), definition=definition, limit=limit)
    except wire.WireError as error:
        raise invalid(str(error)) from None
    trace = tracing.checked(request.headers.get("traceparent", ""))
    if trace:
        run.options = {**run.options, OPT_TRACE: trace}
    shape = request.headers.get(wire.SHAPE_HEADER, "")
    if _SHAPE.fullmatch(shape):
        run.options = {**run.options, OPT_SHAPE: shape}
    run.blind = not masking.shows_payloads()
    return run


# ---------------------------------------------------------------- looking
@blueprint.get("/runs/<run_id>")
@needs("look")
@describe(query=_WAIT_QUERY, answer=answers.RunAndWaits, conditional=True)
def show(run_id: str) -> Response:
    """A run; `?wait=30` answers when it has ended, or after so many seconds."""
    asked = query(_WAIT_QUERY)
    run = _run(backend(), checked_id(run_id), asked.get("wait", 0.0))
    waiting = store().waiting(run.id) if run.state is State.WAITING else None
    return answer({**wire.run_to_json(run), "waiting": wire.waiting_to_json(waiting)})


@blueprint.get("/runs/<run_id>/detail")
@needs("look")
@describe(query=_DETAIL_QUERY, answer=answers.Detail, conditional=True)
def detail(run_id: str) -> Response:
    """A run with its payloads and attempts, and as `values` what of the payloads can be read (`?values=false`: without)."""
    asked = query(_DETAIL_QUERY)
    at, checked = backend(), checked_id(run_id)
    if asked.get("wait"):
        _run(at, checked, asked["wait"])
    found = client().detail(checked)
    out = wire.detail_to_json(found)
    if not masking.shows_payloads():
        out |= {"input": None, "result": None, "withheld": True}
    if asked.get("values") != "false":
        out["values"], out["masked"] = _values(found)
        out["why"] = why_to_json(store().why(checked))
        out["rerun_of"], out["reruns"] = store().rerun_of(checked), store().reruns(checked)
    return answer(out)


@blueprint.get("/runs/<run_id>/why")
@needs("look")
@describe(query=_EMPTY, answer=answers.Why)
def why(run_id: str) -> Response:
    """Why a run is not moving: a sentence, and a code for programs."""
    query(_EMPTY)
    return answer(why_to_json(store().why(checked_id(run_id))))


def why_to_json(found: Why) -> dict[str, Any]:
    """Why a run is not moving, as JSON data."""
    return {"code": found.code, "text": found.text, "until": wire.time_to_json(found.until)}


def _run(at: Backend, run_id: str, wait: float) -> RunView:
    run = client().get(run_id)
    if wait > 0 and not run.ended:
        at.hold(namespace(), run_id, min(wait, wire.MAX_WAIT))
        run = client().get(run_id)
    return run


def _values(found: RunDetail) -> masking.Masked:
    """Arguments and result as JSON, each only if it can be read here, secrets masked."""
    out: dict[str, Any] = {}
    can, plain = values.readable(found.input)
    if can and isinstance(plain, list) and len(plain) == 2:
        out["args"], out["kwargs"] = plain
    can, plain = values.readable(found.result)
    if can and found.run.state == "completed":
        out["result"] = plain
    return masking.masked(out)


@blueprint.get("/runs/<run_id>/history")
@needs("look")
@describe(query=_HISTORY_QUERY, answer=answers.History, conditional=True)
def history(run_id: str) -> Response:
    """What a workflow has issued, by ordinal; `?after=` takes the `next` of the page before."""
    asked = query(_HISTORY_QUERY)
    limit = asked.get("limit", 1000)
    steps = client().history(checked_id(run_id), after=asked.get("after", -1), limit=limit + 1)
    out = wire.history_to_json(steps[:limit], more=len(steps) > limit)
    if not masking.shows_payloads():
        for step in out["steps"]:
            step |= {"result": None, "input": step["input"] and masking.visible_text(step["input"])}
        out["withheld"] = True
    return answer(out)


@blueprint.get("/runs")
@needs("look")
@describe(query=_LIST_QUERY, repeatable=("state",), answer=answers.Runs, conditional=True)
def list_runs() -> Response:
    """A page of runs, newest first, by a filter (`q`) and by fields, all of which must match.

    `complete` is false if looking was stopped before the page was full, because few runs match and it took long: `looked` says
    how many were looked at, and `next` goes on there. `previous`, sent as `before`, is the page of newer runs.
    """
    asked = query(_LIST_QUERY, repeatable=("state",))
    where = where_of(asked)
    after, before = (paging.place_of(where, asked[name], name) if name in asked else None for name in ("after", "before"))
    if after and before:
        raise invalid("give after or before, not both", {"before": ["give after or before, not both"]})
    found = store().search(where, limit=asked.get("limit", 50), after=after, before=before)
    return answer(
        {
            "runs": [wire.run_to_json(run) for run in found.runs],
            "next": paging.token_of(where, found.next),
            "previous": paging.token_of(where, found.previous),
            "complete": found.complete,
            "looked": found.looked,
        }
    )


@blueprint.get("/runs/count")
@needs("look")
@describe(query=_FILTER_QUERY, repeatable=("state",), answer=answers.RunCount)
def count_runs() -> Response:
    """How many runs match: exact up to 10,000, beyond it at least that many."""
    found = store().count(where_of(query(_FILTER_QUERY, repeatable=("state",))))
    return answer({"count": found.number, "exact": found.exact, "text": found.text})


def where_of(asked: Mapping[str, Any]) -> Filter:
    """The filter that a checked query names, by `q` and by fields."""
    by_fields = filter_of(
        RunFilter(
            states=asked.get("state", ()),
            name=asked.get("name"),
            kind=asked.get("kind"),
            queue=asked.get("queue"),
            parent_id=asked.get("parent"),
            reference_id=asked.get("reference_id"),
            created_after=asked.get("created_after"),
            created_before=asked.get("created_before"),
        )
    )
    return masking.check_filter(Filter((*asked.get("q", Filter()).terms, *by_fields.terms)))


# ---------------------------------------------------------------- changing
@blueprint.post("/runs/<run_id>/cancel")
@needs("runs.operate")
@describe(
    body=_CANCEL,
    optional_body=True,
    answer=answers.Run,
    errors=("conflict",),
    example={"reason": "ordered twice"},
)
def cancel(run_id: str) -> Response:
    """Cancel a run; one that has ended stays as it is. A second cancel ends a workflow at once, unless `once` is true."""
    asked = body(_CANCEL, optional=True)
    return _told(
        client().cancel(checked_id(run_id), reason=asked.get("reason", ""), once=asked.get("once", idempotency.repeated()))
    )


@blueprint.post("/runs/<run_id>/terminate")
@needs("runs.operate")
@describe(
    body=_REASON,
    optional_body=True,
    answer=answers.Run,
    errors=("conflict",),
    example={"reason": "ordered twice"},
)
def terminate(run_id: str) -> Response:
    """End a run now, without calling its code again."""
    asked = body(_REASON, optional=True)
    return _told(client().cancel(checked_id(run_id), reason=asked.get("reason", ""), at_once=True))


@blueprint.post("/runs/<run_id>/pause")
@needs("runs.operate")
@describe(
    body=_REASON, optional_body=True, answer=answers.Run, errors=("conflict",), example={"reason": "until the bank is back"}
)
def pause(run_id: str) -> Response:
    """Keep a run from going on."""
    asked = body(_REASON, optional=True)
    return _told(client().pause(checked_id(run_id), reason=asked.get("reason", "")))


@blueprint.post("/runs/<run_id>/resume")
@needs("runs.operate")
@describe(body=_REASON, optional_body=True, answer=answers.Run, errors=("conflict",))
def resume(run_id: str) -> Response:
    """Have a paused run go on."""
    asked = body(_REASON, optional=True)
    return _told(client().resume(checked_id(run_id), reason=asked.get("reason", "")))


@blueprint.post("/runs/<run_id>/wake")
@needs("runs.operate")
@describe(body=_WAKE, optional_body=True, answer=answers.Run, errors=("conflict",), example={"name": "settle"})
def wake(run_id: str) -> Response:
    """End a workflow's sleep early."""
    asked = body(_WAKE, optional=True)
    return _told(client().wake(checked_id(run_id), name=asked.get("name", ""), reason=asked.get("reason", "")))


@blueprint.post("/runs/<run_id>/events")
@needs("runs.operate")
@describe(
    body=_EVENT,
    answer=answers.Run,
    errors=("conflict",),
    example={"name": "approved", "data": {"by": "ann"}},
)
def send_event(run_id: str) -> Response:
    """Send an event to a workflow, with an opaque payload or with plain JSON."""
    asked = body(_EVENT)
    limit, name = current_app.config["AIKI_MAX_PAYLOAD"], asked["name"]
    payload = wire.payload_from_json(asked.get("payload"), "payload")
    if payload is not None and len(payload.text) > limit:
        raise values.too_large(f"the data of event {name}", len(payload.text), limit)
    if asked.get("data") is not None:
        payload = values.payload_of_data(asked["data"], limit=limit, name=name)
    told = {"reference_id": given(asked, "reference_id") or idempotency.reference(), "reason": asked.get("reason", "")}
    return _told(client().send_event(checked_id(run_id), name, payload, **told))


@blueprint.post("/runs/<run_id>/retry")
@needs("runs.operate")
@describe(body=_REASON, optional_body=True, answer=answers.Run, errors=("conflict",), example={"reason": "the bank is back"})
def retry(run_id: str) -> Response:
    """Have a failed, dead or cancelled run go on."""
    asked = body(_REASON, optional=True)
    return _told(client().retry(checked_id(run_id), reason=asked.get("reason", "")))


@blueprint.post("/runs/<run_id>/rerun")
@needs("runs.operate")
@describe(
    body=_RERUN,
    optional_body=True,
    answers={200: answers.Accepted, 201: answers.Accepted},
    errors=("conflict", "unknown_task"),
    example={"args": ["o-1", 4200], "reason": "the amount was wrong"},
)
def rerun(run_id: str) -> Response:
    """A new run with the same input, or with an edited one; of a workflow, from a step on: what was before it is copied.

    `args` and `kwargs` (or `input`, opaque) take the place of the whole input. The old run stays as it is; the new one says
    `rerun_of`, and the audit has hashes of both inputs."""
    asked = body(_RERUN, optional=True)
    checked = checked_id(run_id)
    return _accepted(
        client().rerun(
            checked,
            from_step=asked.get("from_step"),
            new_id=given(asked, "id") or idempotency.derived_id(),
            payload=_edited(checked, asked),
            reason=asked.get("reason", ""),
        )
    )


def _edited(run_id: str, asked: dict[str, Any]) -> Payload | None:
    """The input that a rerun is given, or None; what is masked in it still, is what it was."""
    if not {"args", "kwargs", "input"}.intersection(asked):
        return None
    limit, old = current_app.config["AIKI_MAX_PAYLOAD"], client().detail(run_id)
    name = old.run.name
    if "input" not in asked:
        args, kwargs = masking.restored([asked.get("args", []), asked.get("kwargs", {})], values.readable(old.input)[1])
        return values.payload_of(args, kwargs, limit=limit, name=name)
    payload = wire.payload_from_json(asked["input"])
    if payload is not None and len(payload.text) > limit:
        raise values.too_large(f"the arguments of {name}", len(payload.text), limit)
    return payload


def _told(run: RunView) -> Response:
    return answer(wire.run_to_json(run))


def checked_id(run_id: str) -> str:
    """A run's id of a path, canonical; raises `RunNotFound`."""
    parsed = parse_id(run_id)
    if parsed is None:
        raise RunNotFound(run_id[:64])
    return str(parsed)
