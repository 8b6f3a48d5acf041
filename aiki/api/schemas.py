"""What the endpoints take. Unknown fields are refused, and every message names the field and what was given for it."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from aiki import filters
from aiki.api.problems import invalid
from aiki.client import wire
from aiki.errors import ConfigurationError
from aiki.ids import parse_id
from aiki.options import MAX_NAME, MAX_REFERENCE, MAX_SECONDS, check_step_name
from aiki.retry import RetryPolicy
from aiki.settings import check_name
from aiki.states import State

C = TypeVar("C", bound=Callable[..., Any])

MAX_EXPORT: Final = 200_000
MAX_PAGE: Final = 200
MAX_DEFINITIONS: Final = 1000
_INT: Final = 2**31 - 1
_STATES: Final = frozenset(State)
_ENCODING: Final = re.compile(r"[a-z0-9+._-]{1,16}")
_SPACE_FOR_PLUS: Final = re.compile(r" (\d\d:?\d\d)$")

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 60
_brief.maxlevel = 2


def load(schema: Schema, data: Any) -> dict[str, Any]:
    """`data` as the schema has it; raises `Refused` (400) with all that is wrong with it, by field."""
    if not isinstance(data, Mapping):
        raise invalid(f"the body must be a JSON object, not {_kind(data)}")
    try:
        return dict(schema.load(data))
    except ValidationError as error:
        told = dict(_flat("", error.messages))
    first = [f"{name}: {'; '.join(messages)}" for name, messages in list(told.items())[:3]]
    more = f" (and {len(told) - 3} more)" if len(told) > 3 else ""
    raise invalid("; ".join(first) + more, dict(list(told.items())[:50]))


def _flat(place: str, messages: Any) -> list[tuple[str, list[str]]]:
    """Nested messages as `runs[3].retry.delay` and what is wrong there."""
    if not isinstance(messages, dict):
        return [(place or "body", [str(item) for item in messages])]
    out: list[tuple[str, list[str]]] = []
    for key, inner in messages.items():
        if key == "_schema":
            name = place
        elif isinstance(key, int):
            name = f"{place}[{key}]"
        else:
            name = f"{place}.{str(key)[:60]}" if place else str(key)[:60]
        out += _flat(name, inner)
    return out


def _kind(data: Any) -> str:
    names = {list: "a list", str: "text", bool: "a boolean", type(None): "null", int: "a number", float: "a number"}
    return names.get(type(data), type(data).__name__)


class Strict(Schema):
    """A schema that refuses unknown fields and says which there are."""

    class Meta:
        """Options of marshmallow's."""

        unknown = RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.error_messages["unknown"] = f"there is no such field; there are: {', '.join(sorted(self.fields))}"
        self.error_messages["type"] = "it must be an object"


class Checked(fields.Field[Any]):
    """A field whose value goes through a function, which raises `ValueError` or `ConfigurationError` for a wrong one.

    `shape` describes the values that pass, as a JSON schema; by default what `shaped` says of the function.
    """

    def __init__(self, check: Callable[[Any], Any], *, shape: Mapping[str, Any] | None = None, **options: Any) -> None:
        messages: dict[str, Any] = {"required": "it is missing", "null": "it must not be null"}
        super().__init__(error_messages=messages, **options)
        self._check = check
        self.shape: Mapping[str, Any] = getattr(check, "shape", {}) if shape is None else shape

    def _deserialize(self, value: Any, *_rest: Any, **_more: Any) -> Any:
        try:
            return self._check(value)
        except (ValueError, ConfigurationError) as error:
            raise ValidationError(str(error)) from None


# ---------------------------------------------------------------- checks
def shaped(check: C, **shape: Any) -> C:
    """Describe the values that a check lets pass, as a JSON schema."""
    marked: Any = check
    marked.shape = shape
    return check


def _text(longest: int, *, printable: bool = True) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"it must be text, not {_brief.repr(value)}")
        if not 1 <= len(value) <= longest or (printable and (not value.isprintable() or value != value.strip())):
            what = "printable characters, without spaces around them" if printable else "characters"
            raise ValueError(f"{_brief.repr(value)} must be 1 to {longest} {what}")
        return value

    what = {"description": "Printable characters, without spaces around them."} if printable else {}
    return shaped(check, type="string", minLength=1, maxLength=longest, **what)


def _reason(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError(f"it must be text of at most 1000 characters, not {_brief.repr(value)}")
    return "".join(c if c.isprintable() else " " for c in value)


shaped(_reason, type="string", maxLength=1000)


def _queue(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it must be text, not {_brief.repr(value)}")
    if not 1 <= len(value) <= 64:
        raise ValueError(f"{_brief.repr(value)} must be 1 to 64 characters")
    return check_name("queue", value)


shaped(_queue, type="string", minLength=1, maxLength=64, pattern="^[A-Za-z0-9._-]+$")


def _number(least: float, most: float, *, whole: bool = False) -> Callable[[Any], Any]:
    kinds: Any = int if whole else int | float

    def check(value: Any) -> Any:
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not least <= value <= most:
            what = "a whole number" if whole else "a number"
            raise ValueError(f"{_brief.repr(value)} is not {what} from {least:g} to {most:.0f}")
        return value

    return shaped(check, type="integer" if whole else "number", minimum=least, maximum=most)


_seconds = _number(0, MAX_SECONDS)
_limit = _number(0.001, MAX_SECONDS)


def _time(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError(f"{_brief.repr(value)} is not an ISO-8601 time such as 2026-01-31T12:00:00Z")
    wire.time_from_json(value)
    return value


shaped(_time, type="string", format="date-time", maxLength=64)


def _query_time(value: str) -> int:
    # A plus sign that was not escaped arrives as a space.
    text = _SPACE_FOR_PLUS.sub(r"+\1", _time_text(value))
    return wire.time_from_json(text) or 0


shaped(_query_time, type="string", format="date-time", maxLength=64)


def _time_text(value: str) -> str:
    if len(value) > 64:
        raise ValueError(f"{_brief.repr(value)} is not an ISO-8601 time such as 2026-01-31T12:00:00Z")
    return value


def _time_or_seconds(value: Any) -> Any:
    return _time(value) if isinstance(value, str) else _limit(value)


shaped(
    _time_or_seconds,
    anyOf=[{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0.001, "maximum": MAX_SECONDS}],
)


def _id(value: Any) -> str:
    parsed = parse_id(value) if isinstance(value, str) else None
    if parsed is None:
        raise ValueError(f"{_brief.repr(value)} is not a UUID; leave it out to get one, or name the run by reference_id")
    return str(parsed)


shaped(_id, type="string", format="uuid")


def _one_of(*choices: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{_brief.repr(value)} is not one of {', '.join(choices)}")
        return str(value)

    return shaped(check, type="string", enum=[*choices])


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"it must be a list, not {_kind(value)}")
    return value


shaped(_list, type="array", items={})


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"it must be true or false, not {_brief.repr(value)}")
    return value


shaped(_boolean, type="boolean")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, not {_kind(value)}")
    return value


shaped(_object, type="object")


def _payload(value: Any) -> dict[str, str]:
    payload = wire.payload_from_json(_object(value))
    assert payload is not None
    if not _ENCODING.fullmatch(payload.encoding):
        raise ValueError(f"its encoding {_brief.repr(payload.encoding)} must be 1 to 16 of a-z, 0-9, +, ., _ and -")
    return {"encoding": payload.encoding, "text": payload.text}


shaped(
    _payload,
    type="object",
    required=["encoding", "text"],
    properties={
        "encoding": {"type": "string", "pattern": "^[a-z0-9+._-]{1,16}$"},
        "text": {"type": "string", "pattern": "^[\\x00-\\x7f]*$"},
    },
    description="An opaque payload, as the SDK encodes it; its text is ASCII.",
)


def _types(value: Any) -> list[str]:
    if not isinstance(value, list) or len(value) > 50:
        raise ValueError(f"it must be a list of at most 50 names of exception types, not {_brief.repr(value)}")
    return [_text(MAX_NAME)(item) for item in value]


shaped(_types, type="array", maxItems=50, items={"type": "string", "minLength": 1, "maxLength": MAX_NAME})


def _states(value: Any) -> tuple[State, ...]:
    names = [part for item in value for part in item.split(",") if part]
    wrong = [name for name in names if name not in _STATES]
    if wrong:
        raise ValueError(f"{_brief.repr(wrong[0])} is not a state; there are: {', '.join(State)}")
    return tuple(dict.fromkeys(State(name) for name in names))


_STATE: Final = f"({'|'.join(State)})"
shaped(_states, type="array", items={"type": "string", "pattern": f"^{_STATE}?(,{_STATE}?)*$"})


def _topics(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_one_of("runs", "overview")(name) for name in str(value).split(",")))


shaped(_topics, type="string", pattern="^(runs|overview)(,(runs|overview))*$")


def _from_text(check: Callable[[Any], Any], kind: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A check of a number that comes as text, in a query."""

    def checked(value: str) -> Any:
        try:
            number: Any = kind(value[:32])
        except ValueError:
            number = value
        return check(number)

    return shaped(checked, **getattr(check, "shape", {}))


def _step_name(value: Any) -> str:
    return check_step_name(value)


shaped(_step_name, type="string", minLength=1, maxLength=MAX_NAME)


def filter_text(value: Any) -> str:
    """A filter, checked, in its canonical spelling."""
    if not isinstance(value, str):
        raise ValueError(f"it must be text, not {_brief.repr(value)}")
    return filters.parse(value).text


shaped(filter_text, type="string", maxLength=filters.MAX_TEXT)
token = _text(200)
"""Where a page begins, as an answer said it."""
an_id, number, one_of, from_text, reason, queue_name = _id, _number, _one_of, _from_text, _reason, _queue
"""The checks that nouns with schemas of their own use, too."""


# ---------------------------------------------------------------- bodies
class RetrySchema(Strict):
    """A retry policy on the wire."""

    max_attempts = Checked(_number(1, _INT, whole=True))
    delay = Checked(_number(0, MAX_SECONDS))
    factor = Checked(_number(1, 1e6))
    max_delay = Checked(_number(0, MAX_SECONDS))
    jitter = Checked(_number(0, 1))
    retry_on = Checked(_types)
    give_up_on = Checked(_types)

    @validates_schema
    def _whole(self, data: dict[str, Any], **_rest: Any) -> None:
        try:
            RetryPolicy.from_wire(data)
        except ConfigurationError as error:
            raise ValidationError(str(error)) from None


class LimitsSchema(Strict):
    """Options that a run and a definition have in common."""

    time_limit = Checked(_limit)
    soft_time_limit = Checked(_limit)
    max_crashes = Checked(_number(1, 1000, whole=True))
    retry = fields.Nested(RetrySchema)

    @validates_schema
    def _limits(self, data: dict[str, Any], **_rest: Any) -> None:
        soft, hard = data.get("soft_time_limit"), data.get("time_limit")
        if soft is not None and hard is not None and soft >= hard:
            raise ValidationError(f"{soft:g} must be below time_limit, {hard:g}, or it never fires", "soft_time_limit")


class RunSchema(LimitsSchema):
    """A new run. Options may stand in `options` or beside it."""

    id = Checked(_id)
    name = Checked(_text(MAX_NAME), required=True)
    args = Checked(_list)
    kwargs = Checked(_object)
    input = Checked(_payload)
    queue = Checked(_queue)
    version = Checked(_text(64))
    kind = Checked(_one_of("task", "workflow"))
    countdown = Checked(_seconds, allow_none=True)
    eta = Checked(_time, allow_none=True)
    due_at = Checked(_time, allow_none=True)
    expires = Checked(_time_or_seconds, allow_none=True)
    expires_in = Checked(_limit, allow_none=True)
    expires_at = Checked(_time, allow_none=True)
    options = fields.Nested(LimitsSchema)
    reference_id = Checked(_text(MAX_REFERENCE), allow_none=True)
    on_conflict = Checked(_one_of("error", "return_existing", "retry_failed"))

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
    batch = Checked(_number(1, 50, whole=True), allow_none=True)


class DefinitionOptionsSchema(LimitsSchema):
    """What a definition says for all its runs."""

    queue = Checked(_queue)
    expires = Checked(_limit)


class DefinitionSchema(Strict):
    """A definition."""

    name = Checked(_text(MAX_NAME), required=True)
    version = Checked(_text(64))
    kind = Checked(_one_of("task", "workflow"))
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

    reason = Checked(_reason)


class CancelSchema(ReasonSchema):
    """Why a run is cancelled, and whether that counts only if it is the first time."""

    once = Checked(_boolean)


class StopSchema(ReasonSchema):
    """Why a worker is to stop, and whether at once."""

    at_once = Checked(_boolean)


class WakeSchema(ReasonSchema):
    """Which sleep is to end."""

    name = Checked(_step_name)


class EventSchema(ReasonSchema):
    """An event for a workflow."""

    name = Checked(_step_name, required=True)
    payload = Checked(_payload, allow_none=True)
    data = fields.Raw(allow_none=True)
    reference_id = Checked(_text(MAX_REFERENCE), allow_none=True)

    @validates_schema
    def _one_way(self, data: dict[str, Any], **_rest: Any) -> None:
        if data.get("payload") is not None and data.get("data") is not None:
            raise ValidationError("give payload or data, not both", "data")


class RerunSchema(Strict):
    """From where on or with what input a run is to be done again, and under which id."""

    id = Checked(_id)
    from_step = Checked(_number(0, _INT, whole=True), allow_none=True)
    args = Checked(_list)
    kwargs = Checked(_object)
    input = Checked(_payload)
    reason = Checked(_reason)

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
def _filter(value: str) -> filters.Filter:
    return filters.parse(value)


shaped(_filter, type="string", maxLength=filters.MAX_TEXT)


class WaitQuery(Strict):
    """The query of one run. More than the longest wait is the longest wait."""

    wait = Checked(_from_text(_number(0, 86400), float))


class DetailQuery(WaitQuery):
    """The query of one run's detail."""

    values = Checked(_one_of("true", "false"))


class FilterQuery(Strict):
    """The filters of a list."""

    q = Checked(_filter)
    state = Checked(_states)
    name = Checked(_text(MAX_NAME))
    kind = Checked(_one_of("task", "workflow"))
    queue = Checked(_queue)
    parent = Checked(_id)
    reference_id = Checked(_text(MAX_REFERENCE))
    created_after = Checked(_query_time)
    created_before = Checked(_query_time)


class ListQuery(FilterQuery):
    """The filters of a list, and which page of it."""

    limit = Checked(_from_text(_number(1, MAX_PAGE, whole=True), int))
    after = Checked(_text(200))
    before = Checked(_text(200))


class ExportQuery(FilterQuery):
    """Which runs are exported, how many at most, and as what."""

    format = Checked(_one_of("ndjson", "csv"))
    limit = Checked(_from_text(_number(1, MAX_EXPORT, whole=True), int))


class StreamQuery(FilterQuery):
    """What a stream tells of: `topics` (`runs`, `overview`), and of which runs."""

    topics = Checked(_topics)
    limit = Checked(_from_text(_number(1, 50, whole=True), int))


class HistoryQuery(Strict):
    """Which page of a workflow's steps."""

    after = Checked(_from_text(_number(-1, _INT, whole=True), int))
    limit = Checked(_from_text(_number(1, wire.MAX_STEPS, whole=True), int))


class WorkersQuery(Strict):
    """Which workers."""

    state = Checked(_one_of("alive", "stopped", "lost"))


# For the schemas of other files.
text, number, one_of, from_text, boolean = _text, _number, _one_of, _from_text, _boolean
moment, query_time, seconds = _time, _query_time, _seconds
