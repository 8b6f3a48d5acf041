"""Payloads: arguments and results as JSON text, exact or refused.

A payload is ASCII JSON. What JSON cannot say is tagged, `{"$aiki": "<tag>", "v": …}`: datetime, date, time,
timedelta, UUID, Decimal, bytes, tuple, set, frozenset, enum, dataclass, mappings with keys that are not
strings, integers beyond 64 bits, NaN and the infinities. Decoding gives back an equal value of the same type.
Nothing is ever pickled, and nothing is imported to decode: an enum or a dataclass must be loaded already.

On the wire and in the database a payload is its text with an encoding name beside it (`json`, `json+zlib`), so that
the server can store and pass on what it does not read.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import sys
import uuid
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from aiki.errors import DecodeError, EncodeError, PayloadTooLarge

TAG = "$aiki"
JSON = "json"
JSON_ZLIB = "json+zlib"
DEFAULT_LIMIT = 8 * 1024 * 1024
MAX_DEPTH = 200
_PLAIN_INT = 2**63


class Payload(NamedTuple):
    """An encoded value: `text` is ASCII. With `json` it is the JSON itself, with `json+zlib` base64 of it, deflated."""

    encoding: str
    text: str


def encode(value: Any, *, limit: int = DEFAULT_LIMIT, what: str = "value", compress_above: int | None = None) -> Payload:
    """Encode `value`.

    :param limit: the largest encoded size, in bytes.
    :param what: how errors name the value, for example `result of shop.charge`.
    :param compress_above: compress JSON larger than this many bytes.
    :raises EncodeError: it holds something that cannot be carried; the message names the place.
    :raises PayloadTooLarge: its encoded size is over `limit`.
    """
    try:
        text = _dumps(value if _is_plain(value, 0) else _lower(value, "$", 0))
    except _Refused as error:
        raise EncodeError(f"cannot encode the {what} at {error.place}: {error.why}") from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise EncodeError(f"cannot encode the {what}: {type(error).__name__}: {error}") from None
    encoding = JSON
    if compress_above is not None and len(text) > compress_above:
        packed = base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")
        if len(packed) < len(text):
            encoding, text = JSON_ZLIB, packed
    if len(text) > limit:
        raise PayloadTooLarge(
            f"the {what} is {len(text):,} bytes encoded, over the limit of {limit:,}; keep large data elsewhere and pass "
            "a reference to it, or raise AIKI_MAX_PAYLOAD (the database's max_allowed_packet must be more than twice that)"
        )
    return Payload(encoding, text)


def canonical(value: Any, *, what: str = "value") -> str:
    """ASCII JSON of `value` that is the same for equal values: mappings are sorted by key.

    :raises EncodeError: it holds something that cannot be carried.
    """
    try:
        return _dumps_sorted(value if _is_plain(value, 0) else _ordered(_lower(value, "$", 0)))
    except _Refused as error:
        raise EncodeError(f"cannot encode the {what} at {error.place}: {error.why}") from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise EncodeError(f"cannot encode the {what}: {type(error).__name__}: {error}") from None


def decode(payload: Payload, *, what: str = "value") -> Any:
    """The value that `payload` holds.

    :raises DecodeError: it is damaged, of an unknown encoding, or names a type that is not loaded in this process.
    """
    try:
        plain = json.loads(json_text(payload))
        return _raise(plain)
    except DecodeError as error:
        raise DecodeError(f"cannot decode the {what}: {error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ArithmeticError) as error:
        raise DecodeError(f"cannot decode the {what}: {type(error).__name__}: {error}") from None


def json_text(payload: Payload) -> str:
    """The payload's JSON text, decompressed where needed; raises `DecodeError`."""
    if payload.encoding == JSON:
        return payload.text
    if payload.encoding == JSON_ZLIB:
        try:
            return zlib.decompress(base64.b64decode(payload.text, validate=True)).decode("ascii")
        except (ValueError, zlib.error) as error:
            raise DecodeError(f"damaged {JSON_ZLIB} payload: {error}") from None
    raise DecodeError(f"payload encoding {payload.encoding!r} is not known here; is this Aiki older than the sender's?")


_dumps: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":")
).encode
_dumps_sorted: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"), sort_keys=True
).encode


# ---------------------------------------------------------------- values to plain JSON
class _Refused(Exception):
    def __init__(self, place: str, why: str) -> None:
        self.place = place
        self.why = why


_AS_IS = frozenset({str, bool, type(None)})


def _tag(tag: str, value: Any) -> dict[str, Any]:
    return {TAG: tag, "v": value}


def _is_plain(value: Any, depth: int) -> bool:
    """Whether `value` is JSON as it stands. Most are, and looking is several times cheaper than copying."""
    kind = type(value)
    if kind in _AS_IS:
        return True
    if kind is int:
        return bool(-_PLAIN_INT <= value < _PLAIN_INT)
    if kind is float:
        return math.isfinite(value)
    if depth > MAX_DEPTH:
        return False  # `_lower` says what is wrong
    if kind is list:
        for item in value:  # noqa: SIM110  (half the time of a generator)
            if type(item) is not str and not _is_plain(item, depth + 1):
                return False
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or key == TAG or (type(item) is not str and not _is_plain(item, depth + 1)):
                return False
        return True
    return False


def _lower(value: Any, place: str, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IS:
        return value
    if kind is int:
        return value if -_PLAIN_INT <= value < _PLAIN_INT else _tag("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else _tag("float", str(value))
    if depth > MAX_DEPTH:
        raise _Refused(place[:200], f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
    if kind is list:
        return [_lower(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
    if kind is dict:
        return _lower_dict(value, place, depth)
    lower = _LOWER.get(kind)
    if lower is not None:
        return lower(value, place, depth)
    if isinstance(value, enum.Enum):
        return {TAG: "enum", "t": _class_name(kind, place), "v": value.name}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _lower_dataclass(value, place, depth)
    raise _Refused(
        place,
        f"objects of type {kind.__module__}.{kind.__qualname__} cannot be carried; pass plain data (JSON types, "
        "datetime, UUID, Decimal, bytes, tuple, set, enum, dataclass) or an id",
    )


def _lower_dict(value: dict[Any, Any], place: str, depth: int) -> Any:
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: _lower(item, f"{place}.{key}", depth + 1) for key, item in value.items()}
    pairs = [
        [_lower(key, f"{place} key {i}", depth + 1), _lower(item, f"{place}[{_brief(key)}]", depth + 1)]
        for i, (key, item) in enumerate(value.items())
    ]
    return _tag("dict", pairs)


def _ordered(plain: Any) -> Any:
    """Lowered data with the pairs of each mapping whose keys are not text in the order of those keys."""
    if isinstance(plain, list):
        return [_ordered(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    out = {key: _ordered(item) for key, item in plain.items()}
    if out.get(TAG) == "dict":
        out["v"].sort(key=_dumps_sorted)
    return out


def _lower_items(tag: str) -> Callable[[Any, str, int], Any]:
    def lower(value: Any, place: str, depth: int) -> Any:
        return _tag(tag, [_lower(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)])

    return lower


def _lower_set(tag: str) -> Callable[[Any, str, int], Any]:
    def lower(value: Any, place: str, depth: int) -> Any:
        # Sorted by their encoded form, so that equal sets have equal payloads: reference ids compare them.
        return _tag(tag, sorted((_lower(item, f"{place}{{…}}", depth + 1) for item in value), key=_dumps))

    return lower


def _lower_dataclass(value: Any, place: str, depth: int) -> Any:
    if any(not item.init for item in dataclasses.fields(value)):
        raise _Refused(place, f"dataclass {type(value).__qualname__} has fields with init=False")
    fields = {
        item.name: _lower(getattr(value, item.name), f"{place}.{item.name}", depth + 1) for item in dataclasses.fields(value)
    }
    return {TAG: "dataclass", "t": _class_name(type(value), place), "v": fields}


def _lower_datetime(value: dt.datetime, place: str, depth: int) -> Any:
    zone = value.tzinfo
    if zone is None or isinstance(zone, dt.timezone):
        return _tag("datetime", value.isoformat() + ("/1" if value.fold else ""))
    # A named zone is carried as its fixed offset: the same instant, in every process.
    return _tag("datetime", value.replace(tzinfo=dt.timezone(value.utcoffset() or dt.timedelta(0)), fold=0).isoformat())


def _lower_time(value: dt.time, place: str, depth: int) -> Any:
    if value.tzinfo is not None and not isinstance(value.tzinfo, dt.timezone):
        raise _Refused(place, "a time with a named zone has no fixed offset; pass a datetime")
    return _tag("time", value.isoformat() + ("/1" if value.fold else ""))


_LOWER: dict[type, Callable[[Any, str, int], Any]] = {
    tuple: _lower_items("tuple"),
    set: _lower_set("set"),
    frozenset: _lower_set("frozenset"),
    bytes: lambda value, place, depth: _tag("bytes", base64.b64encode(value).decode("ascii")),
    bytearray: lambda value, place, depth: _tag("bytearray", base64.b64encode(value).decode("ascii")),
    uuid.UUID: lambda value, place, depth: _tag("uuid", str(value)),
    decimal.Decimal: lambda value, place, depth: _tag("decimal", str(value)),
    dt.datetime: _lower_datetime,
    dt.date: lambda value, place, depth: _tag("date", value.isoformat()),
    dt.time: _lower_time,
    dt.timedelta: lambda value, place, depth: _tag("timedelta", [value.days, value.seconds, value.microseconds]),
    complex: lambda value, place, depth: _tag("complex", [_lower(value.real, place, depth), _lower(value.imag, place, depth)]),
}


def _class_name(kind: type, place: str) -> str:
    if "<locals>" in kind.__qualname__:
        raise _Refused(place, f"class {kind.__qualname__} is local to a function; define it at the top of its module")
    module = kind.__module__
    if module == "__main__":
        # A script's classes are found under its module's name by the worker that imports it.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        path = getattr(sys.modules["__main__"], "__file__", None)
        module = spec.name if spec else (path or "__main__").rsplit("/", 1)[-1].removesuffix(".py")
    return f"{module}:{kind.__qualname__}"


def _brief(key: Any) -> str:
    try:
        return repr(key)[:40]
    except Exception:  # noqa: BLE001  a user's __repr__ may raise anything; the place in the message is a courtesy
        return type(key).__name__


# ---------------------------------------------------------------- plain JSON to values
def _raise(plain: Any) -> Any:
    kind = type(plain)
    if kind is list:
        return [_raise(item) for item in plain]
    if kind is not dict:
        return plain
    tag = plain.get(TAG)
    if tag is None:
        return {key: _raise(item) for key, item in plain.items()}
    if not isinstance(tag, str):
        raise DecodeError(f"{TAG} must name a tag, not {tag!r}")
    raiser = _RAISE.get(tag)
    if raiser is not None:
        return raiser(plain["v"])
    if tag == "enum":
        return _find_class(plain["t"], enum.Enum)[plain["v"]]
    if tag == "dataclass":
        found = _find_class(plain["t"], None)
        return found(**{key: _raise(item) for key, item in plain["v"].items()})
    raise DecodeError(f"unknown tag {tag!r}")


def _raise_datetime(text: str) -> dt.datetime:
    body, _, fold = text.partition("/")
    value = dt.datetime.fromisoformat(body)
    return value.replace(fold=1) if fold else value


def _raise_time(text: str) -> dt.time:
    body, _, fold = text.partition("/")
    value = dt.time.fromisoformat(body)
    return value.replace(fold=1) if fold else value


def _raise_dict(pairs: list[Any]) -> dict[Any, Any]:
    return {_raise(key): _raise(item) for key, item in pairs}


_RAISE: dict[str, Callable[[Any], Any]] = {
    "int": lambda v: int(v, 16),
    "float": float,
    "tuple": lambda v: tuple(_raise(item) for item in v),
    "set": lambda v: {_raise(item) for item in v},
    "frozenset": lambda v: frozenset(_raise(item) for item in v),
    "dict": _raise_dict,
    "bytes": lambda v: base64.b64decode(v, validate=True),
    "bytearray": lambda v: bytearray(base64.b64decode(v, validate=True)),
    "uuid": uuid.UUID,
    "decimal": decimal.Decimal,
    "datetime": _raise_datetime,
    "date": dt.date.fromisoformat,
    "time": _raise_time,
    "timedelta": lambda v: dt.timedelta(v[0], v[1], v[2]),
    "complex": lambda v: complex(_raise(v[0]), _raise(v[1])),
}


def _find_class(name: str, base: type | None) -> Any:
    """The loaded class of that name; payloads cannot make this process import or call anything else."""
    module_name, _, path = name.partition(":")
    found: Any = sys.modules.get(module_name)
    if found is None:
        main = sys.modules.get("__main__")
        stem = (getattr(main, "__file__", None) or "").rsplit("/", 1)[-1].removesuffix(".py")
        found = main if stem == module_name else None
    for part in path.split("."):
        found = getattr(found, part, None)
    is_class = isinstance(found, type)
    if not is_class or not (issubclass(found, base) if base else dataclasses.is_dataclass(found)):
        raise DecodeError(f"class {name} is not loaded in this process; import its module before decoding")
    return found
