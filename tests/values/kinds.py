"""Classes as people write them, and values of them: what a generated value may hold."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import zoneinfo
from dataclasses import KW_ONLY, InitVar, dataclass, field, make_dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import attr
import pydantic
import pydantic.dataclasses
from hypothesis import strategies as st

from aiki.codec import TAG

T = TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"
    CRIMSON = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "y"
    NO = "n"


class Right(enum.Flag):
    READ = 1
    WRITE = 2
    OWN = 4


class Bit(enum.IntFlag):
    A = 1
    B = 8


@dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@dataclass
class Taxed:
    """What `__post_init__` does must be done once."""

    net: Any
    gross: Any = field(init=False)
    rate: InitVar[int] = 19

    def __post_init__(self, rate: int) -> None:
        self.gross = [self.net, rate]
        self.net = (self.net,)


@dataclass(slots=True, kw_only=True)
class Slotted:
    a: Any
    b: list[Any] = field(default_factory=list)


@dataclass
class Base:
    a: Any
    note: str = "n"


@dataclass
class Derived(Base):
    _: KW_ONLY
    b: int = 3
    unset: int = field(init=False, repr=False, default=7)

    @functools.cached_property
    def doubled(self) -> list[Any]:
        return [self.a, self.a]


@dataclass
class Box(Generic[T]):
    held: T

    def __post_init__(self) -> None:
        self.aside = "not a field"


class Pair(NamedTuple):
    a: Any
    b: int = 2


@attr.s(auto_attribs=True)
class Shelf:
    size: Any = attr.ib(converter=lambda value: [value])
    label: str = "s"

    def __attrs_post_init__(self) -> None:
        self.size = [*self.size, "made"]


@attr.s(auto_attribs=True, frozen=True, slots=True)
class Bolt:
    width: int = attr.ib(validator=attr.validators.instance_of(int))
    more: Any = attr.ib(default=None, eq=True)


class Customer(pydantic.BaseModel):
    name: str
    born: dt.date | None = None
    tags: list[str] = []
    alias: int = pydantic.Field(default=1, alias="otherName")


class Site(pydantic.BaseModel):
    """Of a type that only pydantic knows."""

    where: pydantic.AnyUrl


class Doubling(pydantic.BaseModel):
    """Its validator makes something else each time: it must be refused."""

    amount: int

    @pydantic.field_validator("amount")
    @classmethod
    def twice(cls, value: int) -> int:
        return value * 2


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Listed(pydantic.RootModel[list[int]]):
    pass


class Sites(pydantic.RootModel[list[pydantic.AnyUrl]]):
    pass


@pydantic.dataclasses.dataclass
class Checked:
    a: int


class Undeclared(enum.Enum):
    A = 1


class Text(str):
    """A subclass of what is carried."""


class Mine(dict[Any, Any]):
    pass


class Strict(str):
    """Equal to no plain text: it must be refused."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Strict and str.__eq__(self, other)

    __hash__ = str.__hash__


class Money:
    """Registered with functions of its own."""

    def __init__(self, amount: Any, unit: str) -> None:
        self.amount = amount
        self.unit = unit

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and (self.amount, self.unit) == (other.amount, other.unit)

    def __hash__(self) -> int:
        return hash(self.unit)


class Opaque:
    """Cannot be carried."""


DECLARED = [Colour, Level, Word, Right, Bit, Point, Taxed, Slotted, Derived, Box, Pair, Shelf, Bolt, Customer, Site, Doubling]

# ---------------------------------------------------------------- values
_zones = st.none() | st.just(dt.UTC) | st.integers(-1439, 1439).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
_named = st.sampled_from(
    [zoneinfo.ZoneInfo(key) for key in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")]
)
_text = st.text(st.characters(codec=None, categories=None), max_size=6)
_moments = st.builds(lambda at, fold: at.replace(fold=fold), st.datetimes(timezones=_zones | _named), st.integers(0, 1))
_paths = st.sampled_from([pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:\\x"), pathlib.Path("a/../b")])

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False),
    _text,
    st.binary(max_size=5),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.fractions(),
    _moments,
    st.dates(),
    st.times(timezones=_zones | _named),
    st.timedeltas(),
    st.complex_numbers(allow_nan=False),
    _paths,
    st.ip_addresses(),
    st.sampled_from([*Colour, *Level, *Word, *Right, *Bit, Right.READ | Right.OWN, Bit.A | Bit.B, Right(0), Bit(0)]),
    st.builds(range, st.integers(), st.integers(), st.integers(1, 9)),
    _text.map(Text),
)
hashable = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(inner, max_size=2)
        | st.builds(Point, inner)
        | st.builds(Pair, inner, st.integers())
        | st.builds(Bolt, st.integers(), inner)
    ),
    max_leaves=4,
)
_keys = _text | st.sampled_from([TAG, "v", "t"])


def _defaulting(factory: Any, items: dict[str, Any]) -> Any:
    return collections.defaultdict(factory, items)


_made: dict[tuple[str, ...], type] = {}


def _generated(names: tuple[str, ...], values: list[Any], frozen: bool, slots: bool) -> Any:
    """A value of a class that was made for it."""
    key = (*names, str(frozen), str(slots))
    if key not in _made:
        cls = make_dataclass(f"Made{len(_made)}", [(name, Any) for name in names], frozen=frozen, slots=slots)
        cls.__module__ = __name__
        from aiki.classes import CLASSES

        CLASSES.register(cls)
        _made[key] = cls
    return _made[key](*(values * len(names))[: len(names)])


values = st.recursive(
    scalars | st.binary(max_size=4).map(bytearray),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.sets(hashable, max_size=2),
        st.dictionaries(_keys, inner, max_size=3),
        st.dictionaries(hashable, inner, max_size=2),
        st.dictionaries(_keys, inner, max_size=2).map(Mine),
        st.dictionaries(_keys, inner, max_size=2).map(collections.OrderedDict),
        st.lists(_text, max_size=4).map(collections.Counter),
        st.builds(_defaulting, st.sampled_from([None, int, list, lambda: 4]), st.dictionaries(_keys, inner, max_size=2)),
        st.builds(collections.deque, st.lists(inner, max_size=3), st.none() | st.integers(3, 5)),
        st.builds(Point, inner, inner),
        st.builds(Taxed, inner, rate=st.integers()),
        st.builds(Slotted, a=inner, b=st.lists(inner, max_size=2)),
        st.builds(Derived, inner, st.just("x"), b=st.integers()),
        st.builds(Derived, inner).map(lambda made: [made.doubled, made][1]),
        st.builds(Box, inner),
        st.builds(Box[int], st.integers()),
        st.builds(Pair, inner, st.integers() | inner),
        st.builds(Shelf, inner),
        st.builds(Money, inner, _text),
        st.builds(Customer, name=st.text(max_size=3), born=st.none() | st.dates(), otherName=st.integers(-9, 9)),
        st.sampled_from(["https://a.example/x", "ftp://b.example"]).map(lambda url: Site(where=url)),
        st.builds(
            _generated,
            st.lists(st.sampled_from(["a", "b", "v", "t", "x"]), min_size=1, max_size=3, unique=True).map(tuple),
            st.lists(inner, min_size=1, max_size=3),
            st.booleans(),
            st.booleans(),
        ),
    ),
    max_leaves=8,
)
refused = st.sampled_from(
    [Opaque(), Undeclared.A, Strict("x"), Doubling(amount=2), object(), len, Opaque, (i for i in ()), memoryview(b"x")]
)
anything = st.one_of(values, values, values, st.builds(lambda a, b: [a, {"k": b}], values, refused))


def equal(a: Any, b: Any) -> bool:
    """Equal, and of the same type, or of the type that it is a subclass of."""
    if isinstance(a, float) and isinstance(b, float) and (math.isnan(a) or math.isnan(b)):
        return math.isnan(a) and math.isnan(b)
    if isinstance(a, dt.datetime) and isinstance(b, dt.datetime):
        # Two times of one zone are compared by the clock on the wall.
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and (a.utcoffset(), a.fold) == (b.utcoffset(), b.fold)
    return isinstance(a, type(b)) and bool(a == b)


__all__ = ["DECLARED", "Money", "anything", "decimal", "equal", "fractions", "ipaddress", "values"]
