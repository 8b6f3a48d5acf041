"""The endpoints of what belongs to a run: its children, what came to it, its attempts."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response
from marshmallow import fields

from aiki.api import answers, field_checks, masking, paging
from aiki.api.access import needs
from aiki.api.answers import Answer, a_time
from aiki.api.openapi import describe
from aiki.api.problems import answer
from aiki.api.requests import client, query, store
from aiki.api.runs import checked_id
from aiki.client import wire
from aiki.filters import parse
from aiki.storage.outside import CameIn

blueprint = Blueprint("parts", __name__)


class PartsQuery(field_checks.Strict):
    """Which page."""

    limit = field_checks.Checked(field_checks.from_text(field_checks.number(1, 200, whole=True), int))
    after = field_checks.Checked(field_checks.token)


_PAGE: Final = PartsQuery()


class Event(Answer):
    """What came to a run from outside: `event`, `wake`, the end of a `child`, or a parent's order (`cancel`, `retry`).

    `step`: the ordinal of the step that took it, null while none has; `outcome` and `error`: how a child ended. What is secret
    in the payload is masked for those who may not see it."""

    id = fields.String()
    kind = fields.String()
    name = fields.String()
    step = fields.Integer(allow_none=True)
    outcome = fields.String()
    payload = fields.Nested(answers.Payload, allow_none=True)
    error_type = fields.String(allow_none=True)
    error_message = fields.String(allow_none=True)
    created_at = a_time()


class Events(Answer):
    """A page of what came to a run, oldest first; `next` is null on the last."""

    events = fields.List(fields.Nested(Event))
    next = fields.String(allow_none=True)


class Attempts(Answer):
    """A page of a run's attempts, oldest first; `next` is null on the last. One that ended in a result is not among them."""

    attempts = fields.List(fields.Nested(answers.Attempt))
    next = fields.String(allow_none=True)


@blueprint.get("/runs/<run_id>/children")
@needs("look")
@describe(query=_PAGE, answer=answers.Runs)
def children(run_id: str) -> Response:
    """The runs that a workflow's run started, newest first."""
    asked = query(_PAGE)
    parent = client().get(checked_id(run_id)).id
    where = parse(f"parent:{parent}")
    after = paging.place_of(where, asked["after"]) if "after" in asked else None
    found = store().search(where, limit=asked.get("limit", 50), after=after)
    return answer(
        {
            "runs": [wire.run_to_json(run) for run in found.runs],
            "next": paging.token_of(where, found.next),
            "previous": paging.token_of(where, found.previous),
            "complete": found.complete,
            "looked": found.looked,
        }
    )


@blueprint.get("/runs/<run_id>/events")
@needs("look")
@describe(query=_PAGE, answer=Events)
def events(run_id: str) -> Response:
    """What came to a run from outside: events, ends of children, orders."""
    asked = query(_PAGE)
    limit = asked.get("limit", 100)
    run, list_ = checked_id(run_id), f"events {checked_id(run_id)}"
    after = paging.place_of(list_, asked["after"]) if "after" in asked else None
    found = store().came_in(run, limit=limit + 1, after=after)
    more = found[limit - 1].place if len(found) > limit else None
    return answer({"events": [_event(item) for item in found[:limit]], "next": paging.token_of(list_, more)})


@blueprint.get("/runs/<run_id>/attempts")
@needs("look")
@describe(query=_PAGE, answer=Attempts)
def attempts(run_id: str) -> Response:
    """A run's attempts with their errors, tracebacks, workers and signals."""
    asked = query(_PAGE)
    limit = asked.get("limit", 50)
    run, list_ = checked_id(run_id), f"attempts {checked_id(run_id)}"
    after = int(paging.place_of(list_, asked["after"])) if "after" in asked else -1
    found = store().attempts(run, limit=limit + 1, after=after)
    more = str(found[limit - 1].epoch) if len(found) > limit else None
    return answer({"attempts": [wire.attempt_to_json(item) for item in found[:limit]], "next": paging.token_of(list_, more)})


def _event(item: CameIn) -> dict[str, Any]:
    return {
        "id": item.id,
        "kind": item.kind,
        "name": item.name,
        "step": item.ordinal,
        "outcome": item.outcome,
        "payload": wire.payload_to_json(masking.visible(item.payload)),
        "error_type": item.error_type,
        "error_message": item.error_message,
        "created_at": wire.time_to_json(item.created_at),
    }
