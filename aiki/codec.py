"""Payloads: arguments and results as JSON text, exact or refused.

A payload is ASCII JSON. What JSON cannot say is tagged, `{"$aiki": "<tag>", "v": …}`: datetime, date, time,
timedelta, UUID, Decimal, bytes, tuple, set, frozenset, deque, paths, enum, dataclass, mappings with keys that are not
strings, integers beyond 64 bits, NaN and the infinities, and more (`aiki.lowering`). Decoding gives back an equal value of the
same type (`aiki.raising`). Nothing is ever pickled, and nothing is imported or looked up to decode: classes must be declared
(`aiki.classes`).

On the wire and in the database a payload is its text with an encoding name beside it (`json`, `json+zlib`), so that
the server can store and pass on what it does not read.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from aiki.classes import CLASSES, Classes
from aiki.errors import DecodeError, EncodeError, PayloadTooLarge, ShapeMismatch
from aiki.lowering import AS_IS, MAX_DEPTH, PLAIN_INT, TAG, Lowering, Refused
from aiki.raising import PASSES, Raising

JSON: Final = "json"
JSON_ZLIB: Final = "json+zlib"
DEFAULT_LIMIT: Final = 8 * 1024 * 1024
MAX_INFLATED: Final = 64 * 1024 * 1024
"""Bytes of JSON that may be compressed, and that are made of what is compressed."""

__all__ = [
    "DEFAULT_LIMIT",
    "JSON",
    "JSON_ZLIB",
    "MAX_DEPTH",
    "MAX_INFLATED",
    "TAG",
    "Payload",
    "canonical",
    "decode",
    "encode",
    "json_text",
]


class Payload(NamedTuple):
    """An encoded value: `text` is ASCII. With `json` it is the JSON itself, with `json+zlib` base64 of it, deflated."""

    encoding: str
    text: str


def encode(
    value: Any,
    *,
    limit: int = DEFAULT_LIMIT,
    what: str = "value",
    compress_above: int | None = None,
    known: Classes = CLASSES,
) -> Payload:
    """Encode `value`.

    :param limit: the largest encoded size, in bytes.
    :param what: how errors name the value, for example `result of shop.charge`.
    :param compress_above: compress JSON larger than this many bytes.
    :param known: the classes that may occur in it.
    :raises EncodeError: it holds something that cannot be carried; the message names the place and the way out.
    :raises PayloadTooLarge: its encoded size is over `limit`.
    """
    text = _text(value, what, known)
    encoding = JSON
    if compress_above is not None and compress_above < len(text) <= MAX_INFLATED:
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
    """ASCII JSON of `value` that is the same for equal values: mappings are sorted by key. It is compared, and never decoded.

    :raises EncodeError: it holds something that cannot be carried, whatever was declared.
    """
    return _text(value, what, None)


def _text(value: Any, what: str, known: Classes | None) -> str:
    dumps = _dumps_sorted if known is None else _dumps
    try:
        if _is_plain(value, 0):
            return dumps(value)
        lowered = Lowering(known, Raising(known or CLASSES).value, _dumps).lower(value, "$", 0)
        return dumps(_ordered(lowered) if known is None else lowered)
    except Refused as error:
        raise EncodeError(f"cannot encode the {what} at {error.place}: {error.why}") from None
    except PASSES:
        raise
    except Exception as error:  # noqa: BLE001  properties, comparisons and what is registered are users' code
        raise EncodeError(f"cannot encode the {what}: {type(error).__name__}: {_said(error)}") from None


def decode(payload: Payload, *, what: str = "value", known: Classes = CLASSES) -> Any:
    """The value that `payload` holds.

    :param known: the classes that may be constructed.
    :raises ShapeMismatch: it is sound, and this process cannot read it: the code has other classes than its sender had.
    :raises DecodeError: it is damaged.
    """
    try:
        text = json_text(payload)
        plain = json.loads(text)
        # What holds no tag is itself. The letters of a tag might also be written as escapes: $ is 24, a 61, i 69, k 6b.
        if TAG not in text and "\\u002" not in text and "\\u006" not in text:
            return plain
        return Raising(known).value(plain)
    except DecodeError as error:
        raise type(error)(f"cannot decode the {what}: {error}") from None
    except PASSES:
        raise
    except Exception as error:  # noqa: BLE001  comparisons and hashes are users' code; so is what damaged data meet there
        raise DecodeError(f"cannot decode the {what}: {type(error).__name__}: {_said(error)}") from None


def _said(error: Exception) -> str:
    try:
        return str(error)[:1000]
    except Exception:  # noqa: BLE001  the same
        return "(its message cannot be shown)"


class TooLarge(ValueError):
    """What is compressed is larger than it may be."""


def inflate(text: str | bytes, limit: int) -> bytes:
    """The JSON of a `json+zlib` payload, and never more than `limit` bytes in memory.

    :raises TooLarge: it is longer than `limit`.
    :raises ValueError: it is damaged, or its end is missing.
    """
    unpacked = zlib.decompressobj()
    try:
        raw = unpacked.decompress(base64.b64decode(text, validate=True), limit)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if unpacked.eof:
        return raw
    if unpacked.unconsumed_tail or len(raw) >= limit:
        raise TooLarge(f"it is longer than {limit:,} bytes")
    raise ValueError("it is incomplete")


def text_within(payload: Payload, limit: int) -> str | None:
    """The payload's JSON text; None where it is longer than `limit`, is damaged, or has an encoding that is not known here."""
    if payload.encoding == JSON:
        return payload.text if len(payload.text) <= limit else None
    if payload.encoding != JSON_ZLIB:
        return None
    try:
        return inflate(payload.text, limit).decode("ascii")
    except ValueError:
        return None


def json_text(payload: Payload) -> str:
    """The payload's JSON text, decompressed where needed, at most `MAX_INFLATED` of it; raises `DecodeError`."""
    if payload.encoding == JSON:
        return payload.text
    if payload.encoding == JSON_ZLIB:
        try:
            return inflate(payload.text, MAX_INFLATED).decode("ascii")
        except TooLarge:
            raise DecodeError(f"a {JSON_ZLIB} payload that would inflate to more than {MAX_INFLATED:,} bytes") from None
        except ValueError as error:
            raise DecodeError(f"damaged {JSON_ZLIB} payload: {error}") from None
    raise ShapeMismatch(f"payload encoding {payload.encoding!r} is not known here; is this Aiki older than the sender's?")


_dumps: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":")
).encode
_dumps_sorted: Callable[[Any], str] = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, check_circular=False, separators=(",", ":"), sort_keys=True
).encode


def _is_plain(value: Any, depth: int) -> bool:
    """Whether `value` is JSON as it stands. Most are, and looking is several times cheaper than copying."""
    kind = type(value)
    if kind in AS_IS:
        return True
    if kind is int:
        return bool(-PLAIN_INT <= value < PLAIN_INT)
    if kind is float:
        return math.isfinite(value)
    if depth > MAX_DEPTH:
        return False  # `Lowering` says what is wrong
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
