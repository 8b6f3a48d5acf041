"""What the endpoints answer, as schemas: for the OpenAPI document and for the tests that hold live answers to it.

The JSON itself is made by `aiki.client.wire`. Every field is there in every answer, unless it says
`metadata={"optional": True}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from marshmallow import Schema, fields, validate

from aiki.states import State
from aiki.storage.why import CODES

_ID: Final = {"format": "uuid"}
_TIME: Final = {"format": "date-time"}


class Answer(Schema):
    """The base of all answers; see the module."""

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:  # noqa: ARG002
        """See marshmallow."""
        field_obj.required = not field_obj.metadata.get("optional", False)


def all_answers(root: type[Answer] = Answer) -> Iterator[type[Answer]]:
    """All kinds of answers."""
    for kind in root.__subclasses__():
        yield kind
        yield from all_answers(kind)


def an_id(**options: Any) -> fields.String:
    """An id: a UUID."""
    return fields.String(metadata=_ID, **options)


def a_time(**options: Any) -> fields.String:
    """A time: UTC, microseconds."""
    return fields.String(metadata=_TIME, **options)


def a_state() -> fields.String:
    """A run's state."""
    return fields.String(validate=validate.OneOf([*State]))


class Problem(Answer):
    """Problem details (RFC 9457). `code` is for programs, `detail` for people; more fields depend on the code."""

    class Meta:
        """Options of marshmallow's: others come with some codes."""

        unknown = "include"

    type = fields.String(metadata={"description": "urn:aiki: and the code."})
    title = fields.String()
    status = fields.Integer(metadata={"minimum": 400, "maximum": 599})
    detail = fields.String(metadata={"description": "What is wrong, with which value, and what to do."})
    code = fields.String(metadata={"description": "See the list of codes."})
    request_id = fields.String(metadata={"description": "What the server's log has too."})
    errors = fields.Dict(
        keys=fields.String(),
        values=fields.List(fields.String()),
        metadata={"optional": True, "description": "What is wrong, by field."},
    )


class Accepted(Answer):
    """A run that is recorded; `created` is false if it was there before."""

    id = an_id()
    state = a_state()
    created = fields.Boolean()


class AcceptedMany(Answer):
    """Runs that are recorded, in the order asked."""

    runs = fields.List(fields.Nested(Accepted))


class Payload(Answer):
    """An opaque payload, as the SDK encodes it."""

    encoding = fields.String()
    text = fields.String()


class Run(Answer):
    """A run. `waiting_on` says why one that is not running does not move."""

    id = an_id()
    namespace = fields.String()
    kind = fields.String(validate=validate.OneOf(["task", "workflow"]))
    name = fields.String()
    version = fields.String()
    queue = fields.String()
    state = a_state()
    attempt = fields.Integer()
    crashes = fields.Integer()
    reference_id = fields.String(allow_none=True)
    waiting_on = fields.String(allow_none=True)
    worker = fields.String(allow_none=True)
    cancel_requested = fields.Boolean()
    progress = fields.Float(allow_none=True)
    progress_message = fields.String(allow_none=True)
    error_type = fields.String(allow_none=True)
    error_message = fields.String(allow_none=True)
    created_at = a_time()
    due_at = a_time(allow_none=True)
    started_at = a_time(allow_none=True)
    finished_at = a_time(allow_none=True)
    expires_at = a_time(allow_none=True)
    updated_at = a_time()
    parent_id = an_id(allow_none=True)
    pause_requested = fields.Boolean()
    cancel_reason = fields.String(allow_none=True)


class Runs(Answer):
    """A page of runs, newest first; `next` is null on the last, `previous` on the first."""

    runs = fields.List(fields.Nested(Run))
    next = fields.String(allow_none=True)
    previous = fields.String(allow_none=True)
    complete = fields.Boolean(metadata={"description": "False: looking was stopped before the page was full."})
    looked = fields.Integer(metadata={"description": "How many runs were looked at beyond what an index decided."})


class RunCount(Answer):
    """How many runs match; `exact` is false where counting stopped, and then `text` says so: `10,000+`."""

    count = fields.Integer(metadata={"minimum": 0})
    exact = fields.Boolean()
    text = fields.String()


class Attempt(Answer):
    """One execution that did not end in a result."""

    number = fields.Integer()
    epoch = fields.Integer()
    outcome = fields.String()
    error_type = fields.String()
    error_message = fields.String()
    traceback = fields.String()
    worker = fields.String()
    signal = fields.String(allow_none=True)
    exit_code = fields.Integer(allow_none=True)
    started_at = a_time(allow_none=True)
    finished_at = a_time()


class Values(Answer):
    """What of the payloads can be read here, as JSON."""

    args = fields.List(fields.Raw(), metadata={"optional": True})
    kwargs = fields.Dict(keys=fields.String(), values=fields.Raw(), metadata={"optional": True})
    result = fields.Raw(allow_none=True, metadata={"optional": True})


class Why(Answer):
    """Why a run is not moving. `until` is null where nobody knows."""

    code = fields.String(validate=validate.OneOf([*CODES]))
    text = fields.String()
    until = a_time(allow_none=True)


class WaitItem(Answer):
    """One thing that a run waits for. `name` is empty for runs of several names; `count` and `run_ids` are of runs: how many
    they are, and the first of those that have not ended."""

    kind = fields.String(validate=validate.OneOf(["sleep", "event", "run", "retry"]))
    name = fields.String()
    due_at = a_time(allow_none=True)
    count = fields.Integer()
    run_ids = fields.List(fields.String(metadata={"format": "uuid"}))


class Waiting(Answer):
    """What a run waits for: any of the items brings it on, or only all of them (`every`). `more`: items that are not told."""

    every = fields.Boolean()
    items = fields.List(fields.Nested(WaitItem))
    more = fields.Integer()


class RunAndWaits(Run):
    """A run, with what it waits for: null if it is not `waiting`."""

    waiting = fields.Nested(Waiting, allow_none=True)


class Detail(Answer):
    """A run with its payloads and attempts."""

    run = fields.Nested(Run)
    input = fields.Nested(Payload, allow_none=True)
    result = fields.Nested(Payload, allow_none=True)
    traceback = fields.String()
    attempts = fields.List(fields.Nested(Attempt))
    waiting = fields.Nested(Waiting, allow_none=True)
    values = fields.Nested(Values, metadata={"optional": True})
    masked = fields.Integer(metadata={"optional": True, "description": "How many of the values are masked for your role."})
    withheld = fields.Boolean(metadata={"optional": True, "description": "`input` and `result` are null for your role."})
    why = fields.Nested(Why, metadata={"optional": True})
    rerun_of = fields.String(allow_none=True, metadata={"format": "uuid", "optional": True})
    reruns = fields.List(
        fields.String(metadata={"format": "uuid"}),
        metadata={"optional": True, "description": "The newest runs that were made from this one."},
    )


class Step(Answer):
    """A step of a workflow."""

    ordinal = fields.Integer()
    kind = fields.String()
    name = fields.String()
    state = fields.String()
    attempt = fields.Integer()
    input = fields.String(allow_none=True)
    result = fields.Nested(Payload, allow_none=True)
    error_type = fields.String(allow_none=True)
    error_message = fields.String(allow_none=True)
    traceback = fields.String()
    child_id = an_id(allow_none=True)
    due_at = a_time(allow_none=True)
    millis = fields.Integer(allow_none=True)
    worker = fields.String(allow_none=True)
    created_at = a_time()
    finished_at = a_time(allow_none=True)


class History(Answer):
    """A page of a workflow's steps by ordinal; `next` is null on the last."""

    steps = fields.List(fields.Nested(Step))
    next = fields.Integer(allow_none=True)
    withheld = fields.Boolean(metadata={"optional": True, "description": "The `result`s are null for your role."})


class Registered(Answer):
    """How many definitions were made known."""

    registered = fields.Integer()


class Definition(Answer):
    """A definition; `options` are what its runs get that do not say otherwise."""

    name = fields.String()
    version = fields.String()
    kind = fields.String(validate=validate.OneOf(["task", "workflow"]))
    options = fields.Dict(keys=fields.String(), values=fields.Raw())


class Definitions(Answer):
    """All definitions."""

    definitions = fields.List(fields.Nested(Definition))


class DefinitionName(Answer):
    """A definition that a worker has."""

    name = fields.String()
    version = fields.String()


class Health(Answer):
    """How the server is."""

    status = fields.String(validate=validate.OneOf(["ok", "unavailable"]))
    database = fields.String(validate=validate.OneOf(["ok", "down"]), metadata={"optional": True})
    broker = fields.String(validate=validate.OneOf(["up", "down", "unknown"]), metadata={"optional": True})
