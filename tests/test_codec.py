"""Payloads: whatever can be carried comes back equal and of its type; whatever cannot is refused at the call, readably."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import enum
import json
import math
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiki.classes import CLASSES
from aiki.codec import MAX_DEPTH, TAG, Payload, decode, encode
from aiki.errors import DecodeError, EncodeError, PayloadTooLarge


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@dataclass
class Derived:
    a: int
    b: int = field(init=False, default=0)


class Pair(NamedTuple):
    a: int
    b: int


class Text(str):
    pass


for declared in (Colour, Level, Point, Derived):
    CLASSES.register(declared)


# ---------------------------------------------------------------- what can be carried
_offsets = st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
_zones = st.none() | _offsets | st.just(dt.UTC)
_text = st.text(st.characters(codec=None, categories=None), max_size=8)  # lone surrogates and NUL too
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False),
    _text,
    st.binary(max_size=16),
    st.binary(max_size=16).map(bytearray),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=_zones),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(), st.integers(0, 1)),
    st.dates(),
    st.times(timezones=_zones),
    st.timedeltas(),
    st.complex_numbers(allow_nan=False),
    st.sampled_from([*Colour, *Level]),
)
_hashable = st.recursive(
    scalars.filter(lambda value: not isinstance(value, bytearray)),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3) | st.builds(Point, inner),
    max_leaves=6,
)
_keys = _text | st.sampled_from([TAG, "v", "t"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(_hashable, max_size=3),
        st.dictionaries(_keys, inner, max_size=4),
        st.dictionaries(_hashable, inner, max_size=3),
        st.builds(Point, inner, inner),
    ),
    max_leaves=15,
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(k, m) and same(v, w) for (k, v), (m, w) in zip(a.items(), b.items(), strict=True))
    if isinstance(a, dt.datetime | dt.time):
        return a == b and a.utcoffset() == b.utcoffset() and a.fold == b.fold
    if isinstance(a, decimal.Decimal):
        return a.as_tuple() == b.as_tuple()
    if isinstance(a, Point):
        return same(a.x, b.x) and same(a.y, b.y)
    return bool(a == b)


@settings(max_examples=400, deadline=None)
@given(values, st.sampled_from([None, 0, 50]))
def test_what_is_encoded_comes_back_equal_and_of_its_type(value: Any, compress_above: int | None) -> None:
    payload = encode(value, compress_above=compress_above)
    assert payload.text.isascii()
    assert same(decode(Payload(*json.loads(json.dumps(payload)))), value)


@pytest.mark.parametrize("value", [math.nan, [math.inf, -math.inf, -0.0], decimal.Decimal("NaN"), decimal.Decimal("-0.00")])
def test_numbers_that_json_cannot_say_come_back(value: Any) -> None:
    back = decode(encode(value))
    assert repr(back) == repr(value)


@settings(max_examples=100, deadline=None)
@given(st.sets(_hashable, max_size=6))
def test_equal_sets_have_equal_payloads(value: set[Any]) -> None:
    other: set[Any] = set()
    for item in sorted(value, key=repr):  # made in another order
        other.add(item)
    assert encode(value) == encode(other)


@settings(max_examples=60, deadline=None)
@given(st.datetimes(timezones=st.sampled_from([zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("America/New_York")])))
def test_a_named_zone_is_kept(value: dt.datetime) -> None:
    back = decode(encode(value))
    assert back == value
    assert (back.tzinfo, back.fold) == (value.tzinfo, value.fold)
    assert back.utcoffset() == value.utcoffset()
    assert back.replace(tzinfo=None) == value.replace(tzinfo=None)


# ---------------------------------------------------------------- what cannot
def _cycle() -> Any:
    value: dict[str, Any] = {"a": [1]}
    value["a"].append(value)
    return value


def _deep() -> Any:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def _local() -> Any:
    @dataclass
    class Local:
        a: int = 1

    return Local()


class HostileKey:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), r"\$: objects of type builtins.object"),
        ({"items": [1, 2, {"x": object()}]}, r"\$\.items\[2\]\.x"),
        (_cycle(), "contains itself"),
        (_deep(), f"deeper than {MAX_DEPTH}"),
        (_local(), "local to a function"),
        (lambda: 1, "function"),
        (int, "type"),
        ((i for i in ()), "generator"),
        (ValueError("x"), "ValueError"),
        ({HostileKey(): 1}, "HostileKey"),
        (memoryview(b"a"), "memoryview"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_carried_is_refused_with_its_place(value: Any, says: str) -> None:
    with pytest.raises(EncodeError, match=says) as caught:
        encode(value, what="arguments of shop.charge")
    text = str(caught.value)
    assert text.startswith("cannot encode the arguments of shop.charge")
    assert len(text) < 1000


def test_the_limit_is_on_the_encoded_size() -> None:
    assert len(encode("x" * 98, limit=100).text) == 100
    with pytest.raises(PayloadTooLarge, match=r"101 bytes encoded, over the limit of 100.*AIKI_MAX_PAYLOAD"):
        encode("x" * 99, limit=100)
    assert encode("x" * 10_000, limit=200, compress_above=100).encoding == "json+zlib"


# ---------------------------------------------------------------- reading what others wrote
_junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([TAG, "v", "t", "x"]), inner, max_size=3),
    max_leaves=8,
)
_tagged = st.builds(
    lambda tag, value: {TAG: tag, "v": value, "t": "os:system"},
    st.sampled_from(
        ["int", "float", "tuple", "set", "frozenset", "dict", "bytes", "uuid", "decimal", "datetime", "date", "time"]
    )
    | st.sampled_from(["timedelta", "complex", "bytearray", "enum", "dataclass", "made-up"]),
    _junk,
)


@settings(max_examples=500, deadline=None)
@given(_tagged | _junk | st.lists(_tagged, max_size=2))
def test_damaged_payloads_raise_one_error_or_give_a_value(plain: Any) -> None:
    with contextlib.suppress(DecodeError):
        decode(Payload("json", json.dumps(plain)))


@pytest.mark.parametrize(
    "payload",
    [
        Payload("json", "{"),
        Payload("json", ""),
        Payload("json", "[" * 100_000),
        Payload("json+zlib", "!"),
        Payload("json+zlib", "AAAA"),
        Payload("pickle", "gASVBAAAAAAAAABLAS4="),
        Payload("json", '{"$aiki":"enum","t":"os:environ","v":"x"}'),
        Payload("json", '{"$aiki":"dataclass","t":"subprocess:Popen","v":{"args":"true"}}'),
        Payload("json", '{"$aiki":"dataclass","t":"not_loaded:Point","v":{}}'),
        Payload("json", '{"$aiki":"dataclass","t":"tests.test_codec:Point","v":{"nope":1}}'),
        Payload("json", '{"$aiki":"int","v":"0x"}'),
    ],
    ids=range(11),
)
def test_what_cannot_be_read_raises_a_decode_error(payload: Payload) -> None:
    with pytest.raises(DecodeError):
        decode(payload)


def test_ids_of_the_wire_are_no_code() -> None:
    assert same(decode(encode(uuid.UUID(int=5))), uuid.UUID(int=5))
    assert encode({TAG: "bytes", "v": "!"}).text == '{"$aiki":"dict","v":[["$aiki","bytes"],["v","!"]]}'
