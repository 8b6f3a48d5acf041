"""The endpoints of what is dead: failed runs by their error, and dead letters, the messages that nobody could read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flask import Blueprint, Response
from marshmallow import fields

from aiki.api import answers, field_checks, letters, schemas
from aiki.api.access import needs
from aiki.api.answers import Answer, a_time, an_id
from aiki.api.openapi import describe
from aiki.api.problems import Refused, answer
from aiki.api.requests import backend, body, client, query, store
from aiki.client import wire
from aiki.storage.dead import DeadLetter, FailureGroup

blueprint = Blueprint("dead", __name__)

SHOWN: Final = 64 * 1024
"""Bytes of a letter's body that are shown as text."""
MAX_LETTERS: Final = 1000


def _letter_id(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 32 or not all(c in "0123456789abcdef" for c in value):
        raise ValueError("it must be the 32 hexadecimal digits of a letter's id")
    return value


field_checks.shaped(_letter_id, type="string", pattern="^[0-9a-f]{32}$")


def _letters(value: Any) -> list[str]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_LETTERS:
        raise ValueError(f"it must be a list of 1 to {MAX_LETTERS:,} ids of letters")
    return [_letter_id(item) for item in value]


field_checks.shaped(
    _letters, type="array", items={"type": "string", "pattern": "^[0-9a-f]{32}$"}, minItems=1, maxItems=MAX_LETTERS
)


class GroupQuery(field_checks.Strict):
    """Which page of a group's runs."""

    limit = field_checks.Checked(field_checks.from_text(field_checks.number(1, 200, whole=True), int))
    after = field_checks.Checked(field_checks.an_id)


class LettersQuery(field_checks.Strict):
    """Which page of the letters."""

    limit = field_checks.Checked(field_checks.from_text(field_checks.number(1, 200, whole=True), int))
    after = field_checks.Checked(_letter_id)


class LettersSchema(schemas.ReasonSchema):
    """Which letters, and why."""

    letters = field_checks.Checked(_letters, required=True)


_EMPTY: Final = schemas.EmptySchema()
_GROUP: Final = GroupQuery()
_PAGE: Final = LettersQuery()
_WHICH: Final = LettersSchema()


class FailureName(Answer):
    """How many runs of a name."""

    name = fields.String()
    count = fields.Integer()


class Failure(Answer):
    """Runs that are failed or dead of one error. `sample` is the newest of them; its error is told, and where it was raised.

    `POST /batches` with its `fingerprint` does something to all of them."""

    fingerprint = fields.String()
    count = fields.Integer()
    error_type = fields.String()
    message = fields.String()
    frame = fields.String()
    first_at = a_time()
    last_at = a_time()
    sample = an_id()
    names = fields.List(fields.Nested(FailureName))


class Failures(Answer):
    """Failures by their error, the most frequent first."""

    groups = fields.List(fields.Nested(Failure))


class FailureRuns(Answer):
    """A group and a page of its runs, newest first; `next` is null on the last."""

    group = fields.Nested(Failure)
    runs = fields.List(fields.Nested(answers.Run))
    next = an_id(allow_none=True)


class Letter(Answer):
    """A message that nobody could read or place. `source`: the kind and key of the queue where it was; `size`: bytes."""

    id = fields.String()
    source = fields.String()
    reason = fields.String()
    size = fields.Integer()
    created_at = a_time()


class LetterWhole(Letter):
    """A dead letter with its headers and the beginning of its body, what is no text in it escaped."""

    headers = fields.Dict(keys=fields.String(), values=fields.Raw(allow_none=True))
    body = fields.String()


class Letters(Answer):
    """A page of dead letters; `next` is null on the last."""

    letters = fields.List(fields.Nested(Letter))
    next = fields.String(allow_none=True)


class LettersDone(Answer):
    """How many letters were dealt with; those that are gone already are not counted."""

    letters = fields.Integer()


# ---------------------------------------------------------------- failures
@blueprint.get("/dead/failures")
@needs("look")
@describe(query=_EMPTY, answer=Failures)
def failures() -> Response:
    """Runs that are failed or dead, grouped by the fingerprint of their error."""
    query(_EMPTY)
    return answer({"groups": [group_to_json(group) for group in store().failure_groups()]})


@blueprint.get("/dead/failures/<fingerprint>")
@needs("look")
@describe(query=_GROUP, answer=FailureRuns)
def failure(fingerprint: str) -> Response:
    """One group, with its runs."""
    asked = query(_GROUP)
    mark = _mark(fingerprint)
    group = None if mark is None else store().failure_group(mark)
    if group is None or mark is None:
        raise Refused(404, "not_found", f"no run has failed with the fingerprint {fingerprint[:64]!r}")
    limit = asked.get("limit", 50)
    runs = store().failures_of(mark, limit=limit + 1, after=asked.get("after"))
    more = runs[limit - 1].id if len(runs) > limit else None
    return answer({"group": group_to_json(group), "runs": [wire.run_to_json(run) for run in runs[:limit]], "next": more})


def _mark(fingerprint: str) -> bytes | None:
    try:
        return bytes.fromhex(_letter_id(fingerprint))
    except ValueError:
        return None


# ---------------------------------------------------------------- letters
@blueprint.get("/dead/letters")
@needs("look")
@describe(query=_PAGE, answer=Letters)
def list_letters() -> Response:
    """Dead letters."""
    asked = query(_PAGE)
    limit = asked.get("limit", 50)
    found = store().dead_letters(limit=limit + 1, after=asked.get("after"))
    more = found[limit - 1].id if len(found) > limit else None
    return answer({"letters": [_letter(item) for item in found[:limit]], "next": more})


@blueprint.get("/dead/letters/<letter_id>")
@needs("payloads.unmasked")
@describe(query=_EMPTY, answer=LetterWhole)
def show_letter(letter_id: str) -> Response:
    """One dead letter, with what is in it: arguments of runs may be, unmasked."""
    query(_EMPTY)
    found = store().dead_letter(letter_id)
    if found is None:
        raise _no_letter(letter_id)
    text = found.body[:SHOWN].decode("utf-8", "backslashreplace")
    headers = {
        str(key): value if isinstance(value, str | int | float | None) else str(value) for key, value in found.headers.items()
    }
    return answer({**_letter(found), "headers": headers, "body": text})


@blueprint.post("/dead/letters/requeue")
@needs("dead.operate")
@describe(
    body=_WHICH,
    answer=LettersDone,
    errors=("conflict", "not_found"),
    example={"letters": ["0" * 32], "reason": "workers upgraded"},
)
def requeue() -> Response:
    """Publish dead letters again, to the queues where they were, and forget them once the broker has them.

    A dispatch is marked, so that nobody executes it while its run is elsewhere by now."""
    asked = body(_WHICH)
    there = _found(asked["letters"])
    letters.requeue(backend().settings, store(), there, store().namespace)
    return _done(there, requeued=True, reason=asked.get("reason", ""))


@blueprint.post("/dead/letters/discard")
@needs("dead.operate")
@describe(body=_WHICH, answer=LettersDone, errors=("not_found",), example={"letters": ["0" * 32], "reason": "sent by a test"})
def discard() -> Response:
    """Delete dead letters."""
    asked = body(_WHICH)
    return _done(_found(asked["letters"]), requeued=False, reason=asked.get("reason", ""))


def _found(letter_ids: Sequence[str]) -> list[DeadLetter]:
    found = [(letter_id, store().dead_letter(letter_id)) for letter_id in dict.fromkeys(letter_ids)]
    missing = [letter_id for letter_id, letter in found if letter is None]
    if missing:
        raise _no_letter(missing[0])
    return [letter for _, letter in found if letter is not None]


def _done(there: Sequence[DeadLetter], *, requeued: bool, reason: str) -> Response:
    gone = client().forget_letters([letter.id for letter in there], requeued=requeued, reason=reason)
    return answer({"letters": gone})


def _no_letter(letter_id: str) -> Refused:
    return Refused(404, "not_found", f"there is no dead letter {letter_id[:64]!r}; it may have been dealt with")


# ---------------------------------------------------------------- JSON
def group_to_json(group: FailureGroup) -> dict[str, Any]:
    """A group of failures; times as text."""
    return {
        **{name: getattr(group, name) for name in ("fingerprint", "count", "error_type", "message", "frame", "sample")},
        "first_at": wire.time_to_json(group.first_at),
        "last_at": wire.time_to_json(group.last_at),
        "names": [{"name": name, "count": count} for name, count in group.names.items()],
    }


def _letter(letter: DeadLetter) -> dict[str, Any]:
    at = wire.time_to_json(letter.created_at)
    return {"id": letter.id, "source": letter.source, "reason": letter.reason, "size": len(letter.body), "created_at": at}
