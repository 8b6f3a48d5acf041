"""Values to plain JSON data, with tags for what JSON cannot say. See `aiki.codec`.

One rule for all values: what is carried comes back equal, in every process, or it is refused here, with its place and what to
do.
"""

from __future__ import annotations

import base64
import collections
import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final

from aiki import classes
from aiki.classes import Classes, Declared
from aiki.errors import ShapeMismatch
from aiki.shapes import shape_of

TAG: Final = "$aiki"
MAX_DEPTH: Final = 200
PLAIN_INT: Final = 2**63
AS_IS: Final = frozenset({str, bool, type(None)})
FACTORIES: Final = {kind.__name__: kind for kind in (int, float, complex, str, bytes, bool, list, dict, set, tuple, frozenset)}
"""What makes the missing values of a `defaultdict` that is carried as one."""
_DECLARE: Final = (
    "name it in the signature of a task, a workflow or the step (as a parameter, as the result, or as a field of what stands "
    "there), or call app.register_type({0})"
)
_REGISTER: Final = (
    "pass plain data (JSON types, datetime, UUID, Decimal, bytes, tuple, set, path, enum, dataclass, attrs class, pydantic "
    "model) or an id, or say how it is carried: app.register_type({0}, encode, decode)"
)


class Refused(Exception):
    """A value that cannot be carried: where in the whole it is, and why."""

    def __init__(self, place: str, why: str) -> None:
        self.place = place[:200]
        self.why = why


class Lowering:
    """Makes plain data of values.

    :param known: the classes that may be carried. None: any; the data are compared and never read back, and are the same for
        equal values and in every release.
    :param back: makes a value of plain data again: by that it is checked what code of users' own must do.
    :param dumps: makes text of plain data, by which sets are sorted.
    """

    def __init__(self, known: Classes | None, back: Callable[[Any], Any], dumps: Callable[[Any], str]) -> None:
        self._known = known
        self._back = back
        self._dumps = dumps

    def lower(self, value: Any, place: str, depth: int) -> Any:
        """The plain data of a value at that place. Raises `Refused`."""
        kind = type(value)
        if kind in AS_IS:
            return value
        if kind is int:
            return value if -PLAIN_INT <= value < PLAIN_INT else _tag("int", hex(value))
        if kind is float:
            return value if math.isfinite(value) else _tag("float", str(value))
        if depth > MAX_DEPTH:
            raise Refused(place, f"it is nested deeper than {MAX_DEPTH} levels, or contains itself")
        if kind is list:
            return self._items(value, place, depth)
        if kind is dict:
            return self._mapping(value, place, depth)
        method = _METHODS.get(kind)
        if method is not None:
            return method(self, value, place, depth)
        return self._other(kind, value, place, depth)

    # ------------------------------------------------------------ containers
    def _items(self, value: Any, place: str, depth: int) -> list[Any]:
        return [self.lower(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value)]

    def _mapping(self, value: dict[Any, Any], place: str, depth: int) -> Any:
        if all(type(key) is str for key in value) and TAG not in value:
            return {key: self.lower(item, f"{place}.{key}", depth + 1) for key, item in value.items()}
        return self._pairs(value, place, depth)

    def _pairs(self, value: dict[Any, Any], place: str, depth: int) -> dict[str, Any]:
        pairs = [
            [self.lower(key, f"{place} key {i}", depth + 1), self.lower(item, f"{place}[{_brief(key)}]", depth + 1)]
            for i, (key, item) in enumerate(dict.items(value))
        ]
        return _tag("dict", pairs)

    def _tuple(self, value: tuple[Any, ...], place: str, depth: int) -> Any:
        return _tag("tuple", self._items(value, place, depth))

    def _set(self, value: Any, place: str, depth: int) -> Any:
        # Sorted by their encoded form, so that equal sets have equal payloads: reference ids compare them.
        items = (self.lower(item, f"{place}{{…}}", depth + 1) for item in value)
        return _tag(type(value).__name__, sorted(items, key=self._dumps))

    def _counter(self, value: Any, place: str, depth: int) -> Any:
        return self._special(value, type(value).__name__, place, depth)

    def _defaultdict(self, value: Any, place: str, depth: int) -> Any:
        name = getattr(value.default_factory, "__name__", "")
        if value.default_factory is None or FACTORIES.get(name) is not value.default_factory:
            name = ""
        return self._special(value, f"defaultdict {name}".strip(), place, depth)

    def _special(self, value: Any, name: str, place: str, depth: int) -> Any:
        """A mapping of the standard library's: a mapping, for whoever does not know it."""
        if self._known is None:
            return self._mapping(dict(dict.items(value)), place, depth)
        return {**self._pairs(value, place, depth), "c": name}

    def _deque(self, value: collections.deque[Any], place: str, depth: int) -> Any:
        return {**_tag("deque", self._items(value, place, depth)), "n": value.maxlen}

    # ------------------------------------------------------------ times, places
    def _datetime(self, value: dt.datetime, place: str, depth: int) -> Any:
        zone = value.tzinfo
        if zone is None or isinstance(zone, dt.timezone):
            return _tag("datetime", value.isoformat() + ("/1" if value.fold else ""))
        offset = value.utcoffset()
        if offset is None:
            raise Refused(place, f"its zone, a {type(zone).__qualname__}, says no offset; use a zoneinfo.ZoneInfo")
        fixed = value.replace(tzinfo=dt.timezone(offset))
        key = _zone_key(zone)
        if key is None or self._known is None:
            # Another kind of zone is carried as its offset: the same instant, in every process.
            return _tag("datetime", fixed.replace(fold=0).isoformat())
        return {**_tag("datetime", fixed.isoformat() + ("/1" if value.fold else "")), "z": key}

    def _time(self, value: dt.time, place: str, depth: int) -> Any:
        zone = value.tzinfo
        if zone is None or isinstance(zone, dt.timezone):
            return _tag("time", value.isoformat() + ("/1" if value.fold else ""))
        key = _zone_key(zone)
        if key is None:
            raise Refused(place, "a time with a zone that has no key has no fixed offset; pass a datetime")
        return {**_tag("time", value.replace(tzinfo=None).isoformat() + ("/1" if value.fold else "")), "z": key}

    def _zone(self, value: zoneinfo.ZoneInfo, place: str, depth: int) -> Any:
        key = _zone_key(value)
        if key is None:
            raise Refused(place, "it is a time zone without a key that could be looked up")
        return _tag("zone", key)

    def _path(self, value: pathlib.PurePath, place: str, depth: int) -> Any:
        return {**_tag("path", str(value)), "c": type(value).__name__}

    def _complex(self, value: complex, place: str, depth: int) -> Any:
        return _tag("complex", [self.lower(value.real, place, depth), self.lower(value.imag, place, depth)])

    def _range(self, value: range, place: str, depth: int) -> Any:
        return _tag("range", [self.lower(item, place, depth) for item in (value.start, value.stop, value.step)])

    # ------------------------------------------------------------ classes
    def _other(self, kind: type, value: Any, place: str, depth: int) -> Any:
        found = (self._known or classes.CLASSES).of(kind)
        if found is not None and found.kind == classes.CUSTOM:
            return self._custom(found, value, place, depth)
        if self._known is None:
            found = None
        sort = classes.kind_of(kind) if found is None else found.kind
        if sort is not None and found is None:
            if "<locals>" in kind.__qualname__:
                raise Refused(place, f"class {kind.__qualname__} is local to a function; define it at the top of its module")
            if self._known is None:
                found = Declared(classes.CLASSES.first_name(kind), kind, sort)
        if sort == classes.NAMED_TUPLE:
            return self._named_tuple(found, value, place, depth)
        if sort is None:
            return self._subclass(kind, value, place, depth)
        if found is None:
            told = _DECLARE.format(kind.__qualname__)
            raise Refused(place, f"class {classes.wire_name(kind)} occurs in no definition, so no worker would take it: {told}")
        if sort == classes.ENUM:
            return self._enum(found, value, place)
        if sort == classes.MODEL:
            return self._model(found, value, place, depth)
        return self._record(found, value, place, depth)

    def _enum(self, found: Declared, value: enum.Enum, place: str) -> Any:
        kind = type(value)
        if kind._member_map_.get(value._name_ or "") is value:
            return {TAG: "enum", "t": found.name, "v": value._name_}
        if isinstance(value, enum.Flag) and type(value._value_) is int:
            return {TAG: "flag", "t": found.name, "v": self.lower(value._value_, place, 0)}
        raise Refused(place, f"{kind.__qualname__} has no member of that name; {_REGISTER.format(kind.__qualname__)}")

    def _record(self, found: Declared, value: Any, place: str, depth: int) -> Any:
        shape = shape_of(found)
        name = found.cls.__qualname__
        if shape.refusal is not None:
            raise Refused(place, f"class {name} cannot be carried: {shape.refusal}; {_REGISTER.format(name)}")
        try:
            fields, more = shape.apart(value)
        except ShapeMismatch as error:
            raise Refused(place, f"the {name} cannot be carried: {error}") from None
        inner = {key: self.lower(item, f"{place}.{key}", depth + 1) for key, item in fields.items()}
        plain = {TAG: found.kind, "t": found.name, "v": inner}
        if self._known is None:
            return plain  # what is not a field says nothing of whether two are equal
        if more:
            plain["x"] = {key: self.lower(item, f"{place}.{key}", depth + 1) for key, item in sorted(more.items())}
        unfit = shape.unfit(fields)
        if unfit:
            plain["u"] = unfit
        return plain

    def _named_tuple(self, found: Declared | None, value: Any, place: str, depth: int) -> Any:
        """A named tuple that occurs in no definition is carried as a tuple, and equal to it."""
        plain: dict[str, Any] = _tag("tuple", self._items(tuple.__iter__(value), place, depth))
        if found is None or self._known is None:
            self._check_base(value, tuple(tuple.__iter__(value)), tuple, place)
            return plain
        shape = shape_of(found)
        plain |= {"t": found.name, "n": list(shape.fields)}
        unfit = shape.unfit(dict(zip(shape.fields, tuple.__iter__(value), strict=True)))
        return {**plain, "u": unfit} if unfit else plain

    def _model(self, found: Declared, value: Any, place: str, depth: int) -> Any:
        """A pydantic model: read back by its own validators, which is tried here."""
        name = found.cls.__qualname__
        fields = {key: item for key, item in value.__dict__.items() if key in found.cls.model_fields}  # type: ignore[attr-defined]
        plain: dict[str, Any] = {TAG: "model", "t": found.name}
        given = sorted(value.model_fields_set)
        try:
            inner = {key: self.lower(item, f"{place}.{key}", depth + 1) for key, item in fields.items()}
            plain |= {"v": inner, "f": given}
            extra = {key: self.lower(item, f"{place}.{key}", depth + 1) for key, item in (value.model_extra or {}).items()}
            if extra:
                plain["x"] = extra
        except Refused as error:
            # A type of pydantic's own, say: its text may be enough for the validators.
            written = value.model_dump(mode="json", by_alias=False)
            plain |= {"v": self.lower({"": written}, place, depth + 1)[""], "f": given, "j": 1}
            plain.pop("x", None)
            self._check_back(plain, value, error.place, f"{error.why}. Its text does not give it back either")
            return plain
        self._check_back(plain, value, place, f"the validators of {name} make something else of it; {_REGISTER.format(name)}")
        return plain

    def _custom(self, found: Declared, value: Any, place: str, depth: int) -> Any:
        assert found.encode is not None
        name = found.cls.__qualname__
        data = found.encode(value)
        if type(data) is found.cls:
            raise Refused(place, f"the encode= that is registered for {name} gives a {name} again; it must give plain data")
        plain = {TAG: "custom", "t": found.name, "v": self.lower(data, place, depth + 1)}
        self._check_back(plain, value, place, f"what is registered for {name} does not give an equal one back")
        return plain

    def _subclass(self, kind: type, value: Any, place: str, depth: int) -> Any:
        """A subclass of something that is carried is carried as that, if it is equal to it."""
        for base, plainly in _BASES.items():
            if isinstance(value, base):
                found = plainly(value)
                self._check_base(value, found, base, place)
                return self.lower(found, place, depth)
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise Refused(place, f"objects of type {name} cannot be carried; {_REGISTER.format(kind.__qualname__)}")

    # ------------------------------------------------------------ checks
    def _check_base(self, value: Any, found: Any, base: type, place: str) -> None:
        kind = type(value)
        if kind.__eq__ is not base.__eq__ and not value == found and value == value:  # noqa: PLR0124, SIM201  NaN; and it is `==` that counts
            told = f"a {kind.__qualname__} would come back as a {base.__name__}, which is not equal to it"
            raise Refused(place, f"{told}; {_REGISTER.format(kind.__qualname__)}")

    def _check_back(self, plain: Any, value: Any, place: str, why: str) -> None:
        if self._known is None:
            return
        kind = type(value)
        try:
            back = self._back(plain)
        except ShapeMismatch as error:
            raise Refused(place, f"{why} ({str(error)[:300]})") from None
        if type(back) is not kind or ("__eq__" in _names(kind) and not back == value):
            raise Refused(place, why)


def _tag(tag: str, value: Any) -> dict[str, Any]:
    return {TAG: tag, "v": value}


def _names(kind: type) -> set[str]:
    """What a class and its bases define, `object` aside."""
    return {name for base in kind.__mro__[:-1] for name in vars(base)}


def _zone_key(zone: dt.tzinfo) -> str | None:
    """The key of a zone that every process makes the same of, or None."""
    key = getattr(zone, "key", None)
    if not isinstance(zone, zoneinfo.ZoneInfo) or type(key) is not str:
        return None
    try:
        zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None
    return key


def _brief(key: Any) -> str:
    try:
        return repr(key)[:40]
    except Exception:  # noqa: BLE001  a user's __repr__ may raise anything; the place in the message is a courtesy
        return type(key).__name__


_Method = Callable[[Lowering, Any, str, int], Any]


def _scalar(tag: str, text: Callable[[Any], Any]) -> _Method:
    return lambda lowering, value, place, depth: _tag(tag, text(value))


_METHODS: Final[dict[type, _Method]] = {
    tuple: Lowering._tuple,
    set: Lowering._set,
    frozenset: Lowering._set,
    collections.Counter: Lowering._counter,
    collections.OrderedDict: Lowering._counter,
    collections.defaultdict: Lowering._defaultdict,
    collections.deque: Lowering._deque,
    bytes: _scalar("bytes", lambda value: base64.b64encode(value).decode("ascii")),
    bytearray: _scalar("bytearray", lambda value: base64.b64encode(value).decode("ascii")),
    uuid.UUID: _scalar("uuid", str),
    decimal.Decimal: _scalar("decimal", str),
    fractions.Fraction: _scalar("fraction", lambda value: [hex(value.numerator), hex(value.denominator)]),
    ipaddress.IPv4Address: _scalar("ip", str),
    ipaddress.IPv6Address: _scalar("ip", str),
    dt.datetime: Lowering._datetime,
    dt.date: _scalar("date", lambda value: value.isoformat()),
    dt.time: Lowering._time,
    dt.timedelta: _scalar("timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    zoneinfo.ZoneInfo: Lowering._zone,
    complex: Lowering._complex,
    range: Lowering._range,
    pathlib.PurePosixPath: Lowering._path,
    pathlib.PosixPath: Lowering._path,
    pathlib.PureWindowsPath: Lowering._path,
    pathlib.WindowsPath: Lowering._path,
}

_WHOLE: Final = slice(None)
_BASES: Final[dict[type, Callable[[Any], Any]]] = {
    # What a subclass overrides is passed by: its `__str__`, `__iter__`, `__int__` may say anything.
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__pos__,
    bytes: lambda value: bytes.__getitem__(value, _WHOLE),
    bytearray: lambda value: bytearray.__getitem__(value, _WHOLE),
    collections.Counter: lambda value: dict(dict.items(value)),
    dict: lambda value: dict(dict.items(value)),
    list: lambda value: list.__getitem__(value, _WHOLE),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
    collections.deque: lambda value: collections.deque(collections.deque.__iter__(value), value.maxlen),
    dt.datetime: lambda value: dt.datetime(
        *(value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond),
        tzinfo=value.tzinfo,
        fold=value.fold,
    ),
    dt.date: lambda value: dt.date(value.year, value.month, value.day),
    dt.time: lambda value: dt.time(
        *(value.hour, value.minute, value.second, value.microsecond), tzinfo=value.tzinfo, fold=value.fold
    ),
    dt.timedelta: lambda value: dt.timedelta(value.days, value.seconds, value.microseconds),
    uuid.UUID: lambda value: uuid.UUID(int=value.int),
    decimal.Decimal: decimal.Decimal,
    fractions.Fraction: lambda value: fractions.Fraction(value.numerator, value.denominator),
    pathlib.PurePosixPath: lambda value: pathlib.PurePosixPath(str(value)),
    pathlib.PureWindowsPath: lambda value: pathlib.PureWindowsPath(str(value)),
}
