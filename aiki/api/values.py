"""Arguments that come as plain JSON, and payloads shown as JSON.

Raw HTTP may write the codec's tags (`{"$aiki": "datetime", "v": "2026-01-31T12:00:00+00:00"}`). Tagged scalars are decoded and
encoded again, so that equal arguments have equal payloads however they were written, and a damaged one is told here and not
by the worker. Classes (enum, dataclass) are not loaded in the server: only their shape is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from aiki import codec
from aiki.codec import JSON, MAX_DEPTH, TAG, Payload
from aiki.errors import DecodeError, EncodeError, PayloadTooLarge

SHOWN: Final = 256 * 1024
"""Payloads up to this many bytes of JSON are shown as values."""

MAX_SHOWN_DEPTH: Final = 250

_SCALARS: Final = frozenset(
    {
        *("int", "float", "bytes", "bytearray", "uuid", "decimal", "datetime", "date", "time", "timedelta", "complex"),
        *("fraction", "ip", "path", "range", "zone"),
    }
)
_SEQUENCES: Final = frozenset({"tuple", "set", "frozenset", "deque"})
_BESIDE: Final[Mapping[str, Mapping[str, tuple[type, ...]]]] = {
    "datetime": {"z": (str,)},
    "time": {"z": (str,)},
    "path": {"c": (str,)},
    "dict": {"c": (str,)},
    "deque": {"n": (int, type(None))},
    "tuple": {"t": (str,), "n": (list,), "u": (list,)},
}
"""The fields that may stand beside `v` in a tagged value, and their types."""
_CLASSES: Final[Mapping[str, tuple[type, Mapping[str, tuple[type, ...]]]]] = {
    "enum": (str, {}),
    "flag": (object, {}),
    "dataclass": (dict, {"u": (list,), "x": (dict,)}),
    "attrs": (dict, {"u": (list,), "x": (dict,)}),
    "model": (object, {"f": (list,), "x": (dict,), "j": (int,)}),
    "custom": (object, {}),
}
"""By tag of a class: the type of `v`, and what may stand beside it."""
_BIG: Final = 2**63
_dumps = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


def payload_of(args: list[Any], kwargs: dict[str, Any], *, limit: int, name: str) -> Payload:
    """Encode arguments that came as JSON.

    :raises EncodeError: a tag is unknown or damaged, or it is nested too deeply; the message names the place.
    :raises PayloadTooLarge: over `limit` bytes.
    """
    text = _dumps([[_canonical(item, f"args[{i}]", 1) for i, item in enumerate(args)], _canonical_items(kwargs, "kwargs", 1)])
    if len(text) > limit:
        raise too_large(f"the arguments of {name}", len(text), limit)
    return Payload(JSON, text)


def payload_of_data(data: Any, *, limit: int, name: str) -> Payload:
    """Encode an event's data that came as JSON; raises as `payload_of`."""
    text = _dumps(_canonical(data, "data", 1))
    if len(text) > limit:
        raise too_large(f"the data of event {name}", len(text), limit)
    return Payload(JSON, text)


def too_large(what: str, size: int, limit: int) -> PayloadTooLarge:
    """Over the server's limit."""
    return PayloadTooLarge(f"{what} are {size:,} bytes encoded, over the server's limit of {limit:,}")


def _canonical(plain: Any, place: str, depth: int) -> Any:
    kind = type(plain)
    if kind is int and not -_BIG <= plain < _BIG:
        return {TAG: "int", "v": hex(plain)}
    if kind is not list and kind is not dict:
        return plain
    if depth > MAX_DEPTH:
        raise EncodeError(f"{place[:200]}: it is nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        return [_canonical(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(plain)]
    if TAG not in plain:
        return _canonical_items(plain, place, depth)
    return _canonical_tag(plain, place, depth)


def _canonical_items(plain: dict[str, Any], place: str, depth: int) -> dict[str, Any]:
    return {key: _canonical(item, f"{place}.{key}", depth + 1) for key, item in plain.items()}


def _canonical_tag(plain: dict[str, Any], place: str, depth: int) -> Any:
    tag, value = plain[TAG], plain.get("v")
    if not isinstance(tag, str):
        raise EncodeError(f"{place[:200]}: {TAG} must name a tag")
    if tag in _CLASSES:
        return _canonical_class(plain, tag, value, place, depth)
    beside = {key: plain[key] for key in plain if key not in (TAG, "v")}
    if "v" not in plain or not _is_beside(beside, _BESIDE.get(tag, {})):
        raise EncodeError(f'{place[:200]}: a tagged value is {{"{TAG}": "{tag[:20]}", "v": …}} and nothing else')
    if tag in _SCALARS:
        return _scalar(plain, tag, place)
    if tag in _SEQUENCES and isinstance(value, list):
        items = [_canonical(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]
        return {TAG: tag, "v": sorted(items, key=_dumps) if tag in ("set", "frozenset") else items, **beside}
    if tag == "dict" and isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = [[_canonical(part, f"{place}{{{i}}}", depth + 1) for part in pair] for i, pair in enumerate(value)]
        return {TAG: tag, "v": pairs, **beside}
    raise EncodeError(f"{place[:200]}: there is no tag {tag[:40]!r}, or its value is not of the right shape")


def _is_beside(beside: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]) -> bool:
    return all(key in known and type(item) in known[key] for key, item in beside.items())


def _canonical_class(plain: dict[str, Any], tag: str, value: Any, place: str, depth: int) -> dict[str, Any]:
    kind, known = _CLASSES[tag]
    beside = {key: item for key, item in plain.items() if key not in (TAG, "t", "v")}
    right = "v" in plain and isinstance(value, kind) and isinstance(plain.get("t"), str) and _is_beside(beside, known)
    if not right:
        raise EncodeError(f'{place[:200]}: a tagged {tag} is {{"{TAG}": "{tag}", "t": "module:Class", "v": …}}')
    inner = value if tag == "enum" else _canonical(value, place, depth)
    if "x" in beside:
        beside["x"] = _canonical_items(beside["x"], place, depth)
    return {TAG: tag, "t": plain["t"], "v": inner, **beside}


def _scalar(plain: dict[str, Any], tag: str, place: str) -> Any:
    try:
        value = codec.decode(Payload(JSON, _dumps(plain)), what=place[:200])
        return json.loads(codec.encode(value).text)
    except (DecodeError, LookupError, AttributeError, ValueError, TypeError) as error:
        raise EncodeError(f"{place[:200]}: its value is no {tag}: {str(error)[:200]}") from None


# ---------------------------------------------------------------- showing
def readable(payload: Payload | None) -> tuple[bool, Any]:
    """Whether the payload can be shown as JSON, and the JSON (with the codec's tags). No payload is shown as null."""
    if payload is None:
        return True, None
    try:
        text = codec.text_within(payload, SHOWN) if len(payload.text) <= SHOWN else None
        plain = None if text is None else json.loads(text)
        return (False, None) if text is None or is_deep(plain) else (True, plain)
    except (ValueError, RecursionError):
        return False, None


def is_deep(plain: Any) -> bool:
    """Whether JSON is nested so deeply that what walks through it, a few calls a level, could not reach its ground."""
    level, depth = [plain], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > MAX_SHOWN_DEPTH:
            return True
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return False
