"""What the endpoints take: bodies and queries. Unknown fields are refused."""

from __future__ import annotations

from typing import Any, Final

from marshmallow import ValidationError, fields, validate, validates_schema

from aiki.api import field_checks as checks
from aiki.api.field_checks import MAX_INT, Checked, Strict
from aiki.client import wire
from aiki.errors import ConfigurationError
from aiki.options import MAX_NAME, MAX_REFERENCE, MAX_SECONDS
from aiki.retry import RetryPolicy

MAX_EXPORT: Final = 200_000
MAX_PAGE: Final = 200
MAX_DEFINITIONS: Final = 1000


# ---------------------------------------------------------------- bodies
class RetrySchema(Strict):
    """A retry policy on the wire."""

    max_attempts = Checked(checks.number(1, MAX_INT, whole=True))
    delay = Checked(checks.number(0, MAX_SECONDS))
    factor = Checked(checks.number(1, 1e6))
    max_delay = Checked(checks.number(0, MAX_SECONDS))
    jitter = Checked(checks.number(0, 1))
    retry_on = Checked(checks.type_names)
    give_up_on = Checked(checks.type_names)

    @validates_schema
    def _whole(self, data: dict[str, Any], **_rest: Any) -> None:
        try:
            RetryPolicy.from_wire(data)
        except ConfigurationError as error:
            raise ValidationError(str(error)) from None


class LimitsSchema(Strict):
    """Options that a run and a definition have in common."""

    time_limit = Checked(checks.limit)
    soft_time_limit = Checked(checks.limit)
    max_crashes = Checked(checks.number(1, 1000, whole=True))
    retry = fields.Nested(RetrySchema)

    @validates_schema
    def _limits(self, data: dict[str, Any], **_rest: Any) -> None:
        soft, hard = data.get("soft_time_limit"), data.get("time_limit")
        if soft is not None and hard is not None and soft >= hard:
            raise ValidationError(f"{soft:g} must be below time_limit, {hard:g}, or it never fires", "soft_time_limit")


class RunSchema(LimitsSchema):
    """A new run. Options may stand in `options` or beside it."""

    id = Checked(checks.an_id)
    name = Checked(checks.text(MAX_NAME), required=True)
    args = Checked(checks.a_list)
    kwargs = Checked(checks.an_object)
    input = Checked(checks.payload)
    queue = Checked(checks.queue_name)
    version = Checked(checks.text(64))
    kind = Checked(checks.one_of("task", "workflow"))
    countdown = Checked(checks.seconds, allow_none=True)
    eta = Checked(checks.moment, allow_none=True)
    due_at = Checked(checks.moment, allow_none=True)
    expires = Checked(checks.moment_or_seconds, allow_none=True)
    expires_in = Checked(checks.limit, allow_none=True)
    expires_at = Checked(checks.moment, allow_none=True)
    options = fields.Nested(LimitsSchema)
    reference_id = Checked(checks.text(MAX_REFERENCE), allow_none=True)
    on_conflict = Checked(checks.one_of("error", "return_existing", "retry_failed"))

    @validates_schema
    def _one_way(self, data: dict[str, Any], **_rest: Any) -> None:
        ways = (("countdown", "eta", "due_at"), ("expires", "expires_in", "expires_at"), ("input", "args"), ("input", "kwargs"))
        for names in ways:
            given = [name for name in names if data.get(name) is not None]
            if len(given) > 1:
                raise ValidationError(f"give {given[0]} or {given[1]}, not both", given[1])


class BatchSchema(Strict):
    """Many new runs: all of them or none."""

    runs = fields.List(
        fields.Nested(RunSchema),
        required=True,
        validate=validate.Length(max=wire.MAX_BATCH, error=f"at most {wire.MAX_BATCH} runs a request"),
    )
    batch = Checked(checks.number(1, 50, whole=True), allow_none=True)


class DefinitionOptionsSchema(LimitsSchema):
    """What a definition says for all its runs."""

    queue = Checked(checks.queue_name)
    expires = Checked(checks.limit)


class DefinitionSchema(Strict):
    """A definition."""

    name = Checked(checks.text(MAX_NAME), required=True)
    version = Checked(checks.text(64))
    kind = Checked(checks.one_of("task", "workflow"))
    options = fields.Nested(DefinitionOptionsSchema)


class DefinitionsSchema(Strict):
    """Definitions to be made known."""

    definitions = fields.List(
        fields.Nested(DefinitionSchema),
        required=True,
        validate=validate.Length(max=MAX_DEFINITIONS, error=f"at most {MAX_DEFINITIONS} definitions a request"),
    )


class ReasonSchema(Strict):
    """Why something is done to a run."""

    reason = Checked(checks.reason)


class CancelSchema(ReasonSchema):
    """Why a run is cancelled, and whether that counts only if it is the first time."""

    once = Checked(checks.boolean)


class StopSchema(ReasonSchema):
    """Why a worker is to stop, and whether at once."""

    at_once = Checked(checks.boolean)


class WakeSchema(ReasonSchema):
    """Which sleep is to end."""

    name = Checked(checks.step_name)


class EventSchema(ReasonSchema):
    """An event for a workflow."""

    name = Checked(checks.step_name, required=True)
    payload = Checked(checks.payload, allow_none=True)
    data = fields.Raw(allow_none=True)
    reference_id = Checked(checks.text(MAX_REFERENCE), allow_none=True)

    @validates_schema
    def _one_way(self, data: dict[str, Any], **_rest: Any) -> None:
        if data.get("payload") is not None and data.get("data") is not None:
            raise ValidationError("give payload or data, not both", "data")


class RerunSchema(Strict):
    """From where on or with what input a run is to be done again, and under which id."""

    id = Checked(checks.an_id)
    from_step = Checked(checks.number(0, MAX_INT, whole=True), allow_none=True)
    args = Checked(checks.a_list)
    kwargs = Checked(checks.an_object)
    input = Checked(checks.payload)
    reason = Checked(checks.reason)

    @validates_schema
    def _one_way(self, data: dict[str, Any], **_rest: Any) -> None:
        edited = [name for name in ("args", "kwargs", "input") if name in data]
        if "input" in edited and len(edited) > 1:
            raise ValidationError(f"give input or {edited[0]}, not both", "input")
        if edited and data.get("from_step") is not None:
            raise ValidationError(f"give from_step or {edited[0]}: steps were done with the old input", "from_step")


class EmptySchema(Strict):
    """Nothing."""


# ---------------------------------------------------------------- queries
class WaitQuery(Strict):
    """The query of one run. More than the longest wait is the longest wait."""

    wait = Checked(checks.from_text(checks.number(0, 86400), float))


class DetailQuery(WaitQuery):
    """The query of one run's detail."""

    values = Checked(checks.one_of("true", "false"))


class FilterQuery(Strict):
    """The filters of a list."""

    q = Checked(checks.filter_of)
    state = Checked(checks.states)
    name = Checked(checks.text(MAX_NAME))
    kind = Checked(checks.one_of("task", "workflow"))
    queue = Checked(checks.queue_name)
    parent = Checked(checks.an_id)
    reference_id = Checked(checks.text(MAX_REFERENCE))
    created_after = Checked(checks.query_time)
    created_before = Checked(checks.query_time)


class ListQuery(FilterQuery):
    """The filters of a list, and which page of it."""

    limit = Checked(checks.from_text(checks.number(1, MAX_PAGE, whole=True), int))
    after = Checked(checks.text(200))
    before = Checked(checks.text(200))


class ExportQuery(FilterQuery):
    """Which runs are exported, how many at most, and as what."""

    format = Checked(checks.one_of("ndjson", "csv"))
    limit = Checked(checks.from_text(checks.number(1, MAX_EXPORT, whole=True), int))


class StreamQuery(FilterQuery):
    """What a stream tells of: `topics` (`runs`, `overview`), and of which runs."""

    topics = Checked(checks.topics)
    limit = Checked(checks.from_text(checks.number(1, 50, whole=True), int))


class HistoryQuery(Strict):
    """Which page of a workflow's steps."""

    after = Checked(checks.from_text(checks.number(-1, MAX_INT, whole=True), int))
    limit = Checked(checks.from_text(checks.number(1, wire.MAX_STEPS, whole=True), int))


class WorkersQuery(Strict):
    """Which workers."""

    state = Checked(checks.one_of("alive", "stopped", "lost"))
