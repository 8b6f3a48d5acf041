"""The endpoints of batches: an operation on everything that matches, looked at before, watched and stopped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from flask import Blueprint, Response, url_for
from marshmallow import ValidationError, fields, validate, validates_schema

from aiki import ids
from aiki.api import answers, field_checks, masking, schemas
from aiki.api.access import needs
from aiki.api.answers import Answer, a_time, an_id
from aiki.api.openapi import describe
from aiki.api.problems import Refused, answer
from aiki.api.requests import body, client, query, store
from aiki.client import wire
from aiki.errors import RunConflict
from aiki.filters import parse
from aiki.ids import parse_id
from aiki.storage.batches import MAX_IDS, BatchItem, BatchState, BatchView, Operation, Preview, Target

blueprint = Blueprint("batches", __name__)

FREE: Final = 100
"""Number of runs up to which an operation needs no confirmation."""
_REASON: Final = schemas.ReasonSchema()
_EMPTY: Final = schemas.EmptySchema()


def _ids(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_IDS:
        raise ValueError(f"it must be a list of 1 to {MAX_IDS:,} run ids")
    return tuple(dict.fromkeys(field_checks.an_id(item) for item in value))


field_checks.shaped(_ids, type="array", items={"type": "string", "format": "uuid"}, minItems=1, maxItems=MAX_IDS)


def _hex(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 32 or not all(c in "0123456789abcdef" for c in value):
        raise ValueError("it must be 32 hexadecimal digits, as a group of failures has it")
    return value


field_checks.shaped(_hex, type="string", pattern="^[0-9a-f]{32}$")


def _confirm(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str) or (isinstance(value, str) and len(value) > 64):
        raise ValueError("it must be the number of runs, or the operation's name")
    return value


field_checks.shaped(_confirm, anyOf=[{"type": "integer", "minimum": 0}, {"type": "string", "maxLength": 64}])


class TargetSchema(field_checks.Strict):
    """Which runs: all that match a filter, all that failed of one error, or those named."""

    q = field_checks.Checked(field_checks.filter_text)
    fingerprint = field_checks.Checked(_hex)
    ids = field_checks.Checked(_ids)

    @validates_schema
    def _one_way(self, data: dict[str, Any], **_rest: Any) -> None:
        if len([name for name in ("q", "fingerprint", "ids") if name in data]) != 1:
            raise ValidationError("give one of q, fingerprint and ids", "q")


class PreviewSchema(TargetSchema):
    """What would be done to which runs."""

    operation = field_checks.Checked(field_checks.one_of(*Operation))


class NewBatchSchema(TargetSchema):
    """What is to be done to which runs. `id` makes asking again harmless."""

    id = field_checks.Checked(field_checks.an_id)
    operation = field_checks.Checked(field_checks.one_of(*Operation), required=True)
    reason = field_checks.Checked(field_checks.reason)
    expected = field_checks.Checked(field_checks.number(0, 2**31 - 1, whole=True))
    confirm = field_checks.Checked(_confirm)


class PageQuery(field_checks.Strict):
    """Which page."""

    limit = field_checks.Checked(field_checks.from_text(field_checks.number(1, 200, whole=True), int))
    after = field_checks.Checked(field_checks.an_id)


_PREVIEW: Final = PreviewSchema()
_NEW: Final = NewBatchSchema()
_PAGE: Final = PageQuery()


# ---------------------------------------------------------------- answers
class Counted(Answer):
    """How many runs have a value."""

    value = fields.String()
    count = fields.Integer()


class BatchPreview(Answer):
    """What an operation would be done to. `states` and `names` count those of the newest `looked` runs.

    `confirm`: whether the number must be confirmed."""

    matched = fields.Integer()
    exact = fields.Boolean()
    confirm = fields.Boolean()
    sample = fields.List(fields.Nested(answers.Run))
    states = fields.List(fields.Nested(Counted))
    names = fields.List(fields.Nested(Counted))
    looked = fields.Integer()


class BatchTarget(Answer):
    """Which runs; of runs that were named, how many."""

    q = fields.String(allow_none=True)
    fingerprint = fields.String(allow_none=True)
    ids = fields.Integer(allow_none=True)


class BatchSample(Answer):
    """A run that was skipped, or failed, and why."""

    run = fields.String()
    outcome = fields.String()
    detail = fields.String()


class Batch(Answer):
    """A batch and how far it is. `rate`: runs a second; `eta`: seconds that are left at that rate."""

    id = an_id()
    operation = fields.String(validate=validate.OneOf([*Operation]))
    state = fields.String(validate=validate.OneOf([*BatchState]))
    target = fields.Nested(BatchTarget)
    reason = fields.String()
    actor = fields.String()
    expected = fields.Integer()
    matched = fields.Integer()
    processed = fields.Integer()
    done = fields.Integer()
    skipped = fields.Integer()
    failed = fields.Integer()
    samples = fields.List(fields.Nested(BatchSample))
    rate = fields.Float(allow_none=True)
    eta = fields.Float(allow_none=True)
    created_at = a_time()
    started_at = a_time(allow_none=True)
    finished_at = a_time(allow_none=True)
    updated_at = a_time()


class Batches(Answer):
    """A page of batches, newest first; `next` is null on the last."""

    batches = fields.List(fields.Nested(Batch))
    next = an_id(allow_none=True)


class BatchRun(Answer):
    """A run of a batch; `outcome` is null while nothing was done to it."""

    run = an_id()
    outcome = fields.String(validate=validate.OneOf(["done", "skipped", "failed"]), allow_none=True)
    detail = fields.String(allow_none=True)


class BatchRuns(Answer):
    """A page of a batch's runs, by id; `next` is null on the last."""

    runs = fields.List(fields.Nested(BatchRun))
    next = an_id(allow_none=True)


# ---------------------------------------------------------------- endpoints
@blueprint.post("/batches/preview")
@needs("runs.operate")
@describe(body=_PREVIEW, answer=BatchPreview, example={"q": "status:failed name:shop.charge"})
def preview() -> Response:
    """What an operation would be done to; changes nothing."""
    return answer(preview_to_json(store().preview(_target(body(_PREVIEW)))))


@blueprint.post("/batches")
@needs("runs.operate")
@describe(
    body=_NEW,
    answers={200: Batch, 201: Batch},
    errors=("conflict",),
    example={"operation": "retry", "q": "status:failed name:shop.charge", "reason": "the bank is back", "confirm": 1234},
)
def create() -> Response:
    """Do something to many runs: 201, or 200 if there is a batch of that `id` already.

    Of more than 100, `confirm` must be their number, or the operation's name. The orchestrators do it, at most AIKI_BATCH_RATE
    runs a second; each run is done once, and those that match only later are left out."""
    asked = body(_NEW)
    made, created = begin(
        Operation(asked["operation"]),
        _target(asked),
        batch_id=asked.get("id"),
        reason=asked.get("reason", ""),
        expected=asked.get("expected"),
        confirm=asked.get("confirm"),
    )
    response = answer(batch_to_json(made), 201 if created else 200)
    response.headers["Location"] = url_for("batches.show", batch_id=made.id)
    return response


def begin(
    operation: Operation,
    target: Target,
    *,
    batch_id: str | None = None,
    reason: str = "",
    expected: int | None = None,
    confirm: int | str | None = None,
) -> tuple[BatchView, bool]:
    """Make a batch, if it is confirmed as it must be; False: there was one of that id. Raises `RunConflict`."""
    there = None if batch_id is None else store().batch(batch_id)
    if there is None:
        found = store().preview(target, sample=0)
        _check(operation, found, expected, confirm)
        expected = found.number
    return client().begin_batch(batch_id or str(ids.new_id()), operation, target, expected=expected or 0, reason=reason)


def _check(operation: Operation, found: Preview, expected: int | None, confirm: int | str | None) -> None:
    about = f"{found.number:,}" if found.exact else f"{found.number:,} or more"
    if not found.number and found.exact:
        raise RunConflict("no run matches, so there is nothing to do")
    if expected is not None and expected != found.number:
        raise RunConflict(f"{about} runs match by now, not {expected:,}; look at them and ask again")
    # Where counting stopped the number says little: only the operation's name confirms it.
    ways: tuple[int | str, ...] = (operation.value,)
    if found.exact:
        ways = (operation.value, found.number, str(found.number))
    if (found.number > FREE or not found.exact) and confirm not in ways:
        given = "" if confirm is None else f", not {str(confirm)[:64]!r}"
        number = f"confirm: {found.number} or " if found.exact else ""
        raise RunConflict(f'this would {operation} {about} runs: to confirm it, send {number}confirm: "{operation}"{given}')


@blueprint.get("/batches")
@needs("look")
@describe(query=_PAGE, answer=Batches)
def list_batches() -> Response:
    """Batches, newest first."""
    asked = query(_PAGE)
    limit = asked.get("limit", 50)
    found = store().batches(limit=limit + 1, after=asked.get("after"))
    more = found[limit - 1].id if len(found) > limit else None
    return answer({"batches": [batch_to_json(item) for item in found[:limit]], "next": more})


@blueprint.get("/batches/<batch_id>")
@needs("look")
@describe(query=_EMPTY, answer=Batch)
def show(batch_id: str) -> Response:
    """One batch, and how far it is."""
    query(_EMPTY)
    return answer(batch_to_json(_there(batch_id)))


@blueprint.get("/batches/<batch_id>/runs")
@needs("look")
@describe(query=_PAGE, answer=BatchRuns)
def runs(batch_id: str) -> Response:
    """The runs of a batch, and what became of each."""
    asked = query(_PAGE)
    limit = asked.get("limit", 200)
    found = store().batch_items(_there(batch_id).id, limit=limit + 1, after=asked.get("after"))
    more = found[limit - 1].run_id if len(found) > limit else None
    return answer({"runs": [_item(item) for item in found[:limit]], "next": more})


@blueprint.post("/batches/<batch_id>/stop")
@needs("runs.operate")
@describe(body=_REASON, optional_body=True, answer=Batch, errors=("conflict",), example={"reason": "wrong filter"})
def stop(batch_id: str) -> Response:
    """Have nothing more done: once this has answered, no further run is touched."""
    asked = body(_REASON, optional=True)
    stopped = client().stop_batch(_there(batch_id).id, reason=asked.get("reason", ""))
    assert stopped is not None
    return answer(batch_to_json(stopped))


def _there(batch_id: str) -> BatchView:
    parsed = parse_id(batch_id)
    found = None if parsed is None else store().batch(str(parsed))
    if found is None:
        raise Refused(404, "not_found", f"there is no batch {batch_id[:64]!r}")
    return found


def _target(asked: Mapping[str, Any]) -> Target:
    if asked.get("q") is not None:
        masking.check_filter(parse(asked["q"]))
    return Target(asked.get("q"), asked.get("fingerprint"), asked.get("ids"))


# ---------------------------------------------------------------- JSON
def batch_to_json(batch: BatchView) -> dict[str, Any]:
    """A batch; times as text."""
    rate, eta, q = batch.rate(), batch.eta(), batch.target["q"]
    return {
        **{name: getattr(batch, name) for name in ("id", "operation", "state", "reason", "actor", "expected", "matched")},
        **{name: getattr(batch, name) for name in ("processed", "done", "skipped", "failed", "samples")},
        "target": dict(batch.target) if q is None else {**batch.target, "q": masking.visible_filter(q)},
        "rate": None if rate is None else round(rate, 2),
        "eta": None if eta is None else round(eta, 1),
        **{name: wire.time_to_json(getattr(batch, name)) for name in ("created_at", "started_at", "finished_at", "updated_at")},
    }


def preview_to_json(found: Preview) -> dict[str, Any]:
    """What an operation would be done to."""
    return {
        "matched": found.number,
        "exact": found.exact,
        "confirm": found.number > FREE or not found.exact,
        "sample": [wire.run_to_json(run) for run in found.sample],
        "states": _counted(found.states),
        "names": _counted(found.names),
        "looked": found.looked,
    }


def _counted(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"value": value, "count": count} for value, count in ordered]


def _item(item: BatchItem) -> dict[str, Any]:
    return {"run": item.run_id, "outcome": item.outcome, "detail": item.detail}
