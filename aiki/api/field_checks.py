"""Fields that endpoints take, and their checks: every message names the field and what was given for it.

The schemas that are made of them are in `schemas.py` and in the files of their nouns.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from marshmallow import RAISE, Schema, ValidationError, fields

from aiki import filters
from aiki.api.problems import invalid
from aiki.client import wire
from aiki.errors import ConfigurationError
from aiki.ids import parse_id
from aiki.options import MAX_NAME, MAX_SECONDS, check_step_name
from aiki.settings import check_name
from aiki.states import State

C = TypeVar("C", bound=Callable[..., Any])

MAX_INT: Final = 2**31 - 1
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
        wrong = dict(_flat("", error.messages))
    first = [f"{name}: {'; '.join(messages)}" for name, messages in list(wrong.items())[:3]]
    more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
    raise invalid("; ".join(first) + more, dict(list(wrong.items())[:50]))


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
    """A schema that refuses unknown fields and names the known ones."""

    class Meta:
        """Options of marshmallow's."""

        unknown = RAISE

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.error_messages["unknown"] = f"there is no such field; there are: {', '.join(sorted(self.fields))}"
        self.error_messages["type"] = "it must be an object"


class Checked(fields.Field[Any]):
    """A field whose value goes through a function, which raises `ValueError` or `ConfigurationError` for a wrong one.

    `shape` describes the values that pass, as a JSON schema; by default that which `shaped` gave the function.
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


def text(longest: int, *, printable: bool = True) -> Callable[[Any], str]:
    """Text of 1 to `longest` characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"it must be text, not {_brief.repr(value)}")
        if not 1 <= len(value) <= longest or (printable and (not value.isprintable() or value != value.strip())):
            what = "printable characters, without spaces around them" if printable else "characters"
            raise ValueError(f"{_brief.repr(value)} must be 1 to {longest} {what}")
        return value

    what = {"description": "Printable characters, without spaces around them."} if printable else {}
    return shaped(check, type="string", minLength=1, maxLength=longest, **what)


def reason(value: Any) -> str:
    """Why something is done; what cannot be printed becomes spaces."""
    if not isinstance(value, str) or len(value) > 1000:
        raise ValueError(f"it must be text of at most 1000 characters, not {_brief.repr(value)}")
    return "".join(c if c.isprintable() else " " for c in value)


shaped(reason, type="string", maxLength=1000)


def queue_name(value: Any) -> str:
    """The name of a queue."""
    if not isinstance(value, str):
        raise ValueError(f"it must be text, not {_brief.repr(value)}")
    if not 1 <= len(value) <= 64:
        raise ValueError(f"{_brief.repr(value)} must be 1 to 64 characters")
    return check_name("queue", value)


shaped(queue_name, type="string", minLength=1, maxLength=64, pattern="^[A-Za-z0-9._-]+$")


def number(least: float, most: float, *, whole: bool = False) -> Callable[[Any], Any]:
    """A number within bounds."""
    kinds: Any = int if whole else int | float

    def check(value: Any) -> Any:
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not least <= value <= most:
            what = "a whole number" if whole else "a number"
            raise ValueError(f"{_brief.repr(value)} is not {what} from {least:g} to {most:.0f}")
        return value

    return shaped(check, type="integer" if whole else "number", minimum=least, maximum=most)


seconds = number(0, MAX_SECONDS)
limit = number(0.001, MAX_SECONDS)


def moment(value: Any) -> str:
    """An ISO-8601 time, as it was written."""
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError(f"{_brief.repr(value)} is not an ISO-8601 time such as 2026-01-31T12:00:00Z")
    wire.time_from_json(value)
    return value


shaped(moment, type="string", format="date-time", maxLength=64)


def query_time(value: str) -> int:
    """An ISO-8601 time in a query, as microseconds since the Unix epoch."""
    # A plus sign that was not escaped arrives as a space.
    return wire.time_from_json(_SPACE_FOR_PLUS.sub(r"+\1", _time_text(value))) or 0


shaped(query_time, type="string", format="date-time", maxLength=64)


def _time_text(value: str) -> str:
    if len(value) > 64:
        raise ValueError(f"{_brief.repr(value)} is not an ISO-8601 time such as 2026-01-31T12:00:00Z")
    return value


def moment_or_seconds(value: Any) -> Any:
    """A time, or seconds from now."""
    return moment(value) if isinstance(value, str) else limit(value)


shaped(
    moment_or_seconds,
    anyOf=[{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0.001, "maximum": MAX_SECONDS}],
)


def an_id(value: Any) -> str:
    """A run id, canonical."""
    parsed = parse_id(value) if isinstance(value, str) else None
    if parsed is None:
        raise ValueError(f"{_brief.repr(value)} is not a UUID; leave it out to get one, or name the run by reference_id")
    return str(parsed)


shaped(an_id, type="string", format="uuid")


def one_of(*choices: str) -> Callable[[Any], str]:
    """One of these words."""

    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"{_brief.repr(value)} is not one of {', '.join(choices)}")
        return str(value)

    return shaped(check, type="string", enum=[*choices])


def a_list(value: Any) -> list[Any]:
    """A JSON list."""
    if not isinstance(value, list):
        raise ValueError(f"it must be a list, not {_kind(value)}")
    return value


shaped(a_list, type="array", items={})


def boolean(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"it must be true or false, not {_brief.repr(value)}")
    return value


shaped(boolean, type="boolean")


def an_object(value: Any) -> dict[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, not {_kind(value)}")
    return value


shaped(an_object, type="object")


def payload(value: Any) -> dict[str, str]:
    """An encoded value."""
    given = wire.payload_from_json(an_object(value))
    assert given is not None
    if not _ENCODING.fullmatch(given.encoding):
        raise ValueError(f"its encoding {_brief.repr(given.encoding)} must be 1 to 16 of a-z, 0-9, +, ., _ and -")
    return {"encoding": given.encoding, "text": given.text}


shaped(
    payload,
    type="object",
    required=["encoding", "text"],
    properties={
        "encoding": {"type": "string", "pattern": "^[a-z0-9+._-]{1,16}$"},
        "text": {"type": "string", "pattern": "^[\\x00-\\x7f]*$"},
    },
    description="An opaque payload, as the SDK encodes it; its text is ASCII.",
)


def type_names(value: Any) -> list[str]:
    """Names of exception types."""
    if not isinstance(value, list) or len(value) > 50:
        raise ValueError(f"it must be a list of at most 50 names of exception types, not {_brief.repr(value)}")
    return [text(MAX_NAME)(item) for item in value]


shaped(type_names, type="array", maxItems=50, items={"type": "string", "minLength": 1, "maxLength": MAX_NAME})


def states(value: Any) -> tuple[State, ...]:
    """States of runs: several parameters, or one with commas."""
    names = [part for item in value for part in item.split(",") if part]
    wrong = [name for name in names if name not in _STATES]
    if wrong:
        raise ValueError(f"{_brief.repr(wrong[0])} is not a state; there are: {', '.join(State)}")
    return tuple(dict.fromkeys(State(name) for name in names))


_STATE: Final = f"({'|'.join(State)})"
shaped(states, type="array", items={"type": "string", "pattern": f"^{_STATE}?(,{_STATE}?)*$"})


def topics(value: Any) -> tuple[str, ...]:
    """The topics of a stream, separated by commas."""
    return tuple(dict.fromkeys(one_of("runs", "overview")(name) for name in str(value).split(",")))


shaped(topics, type="string", pattern="^(runs|overview)(,(runs|overview))*$")


def from_text(check: Callable[[Any], Any], kind: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A check of a number that comes as text, in a query."""

    def checked(value: str) -> Any:
        try:
            found: Any = kind(value[:32])
        except ValueError:
            found = value
        return check(found)

    return shaped(checked, **getattr(check, "shape", {}))


def step_name(value: Any) -> str:
    """The name of a step, a sleep or an event."""
    return check_step_name(value)


shaped(step_name, type="string", minLength=1, maxLength=MAX_NAME)


def filter_of(value: str) -> filters.Filter:
    """A filter, read."""
    return filters.parse(value)


shaped(filter_of, type="string", maxLength=filters.MAX_TEXT)


def filter_text(value: Any) -> str:
    """A filter, checked, in its canonical spelling."""
    if not isinstance(value, str):
        raise ValueError(f"it must be text, not {_brief.repr(value)}")
    return filters.parse(value).text


shaped(filter_text, type="string", maxLength=filters.MAX_TEXT)
token = text(200)
"""The token of a page, from an earlier answer."""
