"""Plain JSON data, with tags, to values: the other way of `aiki.lowering`.

Only what is declared is constructed (`aiki.classes`), and nothing is looked up anywhere else. Whatever users' code raises here
is a `ShapeMismatch`: the data are sound, and this code cannot read them.
"""

from __future__ import annotations

import base64
import collections
import datetime as dt
import decimal
import fractions
import inspect
import ipaddress
import json
import os
import pathlib
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final

from aiki import classes
from aiki.classes import Classes, Declared
from aiki.errors import DecodeError, ShapeMismatch, SoftTimeLimitExceeded, TaskCancelled
from aiki.lowering import FACTORIES, TAG
from aiki.shapes import shape_of

PASSES: Final = (KeyboardInterrupt, TaskCancelled, SoftTimeLimitExceeded)
"""What is raised from outside while something is read or written, and is not its fault."""
_PATHS: Final = {
    "PosixPath": pathlib.PosixPath if os.name == "posix" else pathlib.PurePosixPath,
    "PurePosixPath": pathlib.PurePosixPath,
    "WindowsPath": pathlib.WindowsPath if os.name == "nt" else pathlib.PureWindowsPath,
    "PureWindowsPath": pathlib.PureWindowsPath,
}


class Raising:
    """Makes values of plain data.

    :param known: the classes that may be constructed.
    """

    def __init__(self, known: Classes) -> None:
        self._known = known

    def value(self, plain: Any) -> Any:
        """The value. Raises `DecodeError`, and whatever damaged data make built-in types raise."""
        kind = type(plain)
        if kind is list:
            return [self.value(item) for item in plain]
        if kind is not dict:
            return plain
        tag = plain.get(TAG)
        if tag is None:
            return {key: self.value(item) for key, item in plain.items()}
        if not isinstance(tag, str):
            raise DecodeError(f"{TAG} must name a tag, not {tag!r}")
        method = _METHODS.get(tag)
        if method is not None:
            return method(self, plain)
        raise ShapeMismatch(f"unknown tag {tag!r}; is this Aiki older than the sender's?")

    # ------------------------------------------------------------ containers
    def _tuple(self, plain: dict[str, Any]) -> Any:
        items = tuple(self.value(item) for item in plain["v"])
        name = plain.get("t")
        if name is None:
            return items
        found = self._find(name, classes.NAMED_TUPLE)
        shape, names = shape_of(found), plain["n"]
        given = dict(zip(names, items, strict=True))
        shape.check(given, plain.get("u", ()))
        values = [given[field.name] if field.name in given else _made(found, field.make) for field in shape.fields.values()]
        return tuple.__new__(found.cls, values)

    def _pairs(self, plain: dict[str, Any]) -> Any:
        pairs = {self.value(key): self.value(item) for key, item in plain["v"]}
        name, _, factory = str(plain.get("c", "")).partition(" ")
        if name == "Counter":
            counter: collections.Counter[Any] = collections.Counter()
            dict.update(counter, pairs)
            return counter
        if name == "OrderedDict":
            return collections.OrderedDict(pairs)
        if name == "defaultdict":
            return collections.defaultdict(FACTORIES.get(factory), pairs)
        return pairs

    def _deque(self, plain: dict[str, Any]) -> Any:
        return collections.deque((self.value(item) for item in plain["v"]), plain.get("n"))

    # ------------------------------------------------------------ times, places
    def _datetime(self, plain: dict[str, Any]) -> dt.datetime:
        body, _, fold = plain["v"].partition("/")
        fixed = dt.datetime.fromisoformat(body).replace(fold=1 if fold else 0)
        zone = _zone(plain.get("z"))
        if zone is None:
            return fixed
        named = fixed.replace(tzinfo=zone)
        # Where the zone has other rules than at the sender's, the instant counts.
        return named if named.utcoffset() == fixed.utcoffset() else fixed.replace(fold=0)

    def _time(self, plain: dict[str, Any]) -> dt.time:
        body, _, fold = plain["v"].partition("/")
        value = dt.time.fromisoformat(body).replace(fold=1 if fold else 0)
        key = plain.get("z")
        return value if key is None else value.replace(tzinfo=_needed_zone(key))

    def _path(self, plain: dict[str, Any]) -> pathlib.PurePath:
        return _PATHS[plain["c"]](str(plain["v"]))

    def _complex(self, plain: dict[str, Any]) -> complex:
        return complex(self.value(plain["v"][0]), self.value(plain["v"][1]))

    # ------------------------------------------------------------ classes
    def _find(self, name: Any, *kinds: str) -> Declared:
        found = self._known.named(name) if isinstance(name, str) else None
        if found is None:
            raise ShapeMismatch(
                f"class {str(name)[:200]} occurs in no definition here. If it has another name now, say so: "
                f"app.register_type(cls, formerly=[{str(name)[:200]!r}])"
            )
        if found.kind not in kinds:
            raise ShapeMismatch(f"class {found.name} is a {found.kind} here, and the value is a {kinds[0]}")
        return found

    def _enum(self, plain: dict[str, Any]) -> Any:
        found = self._find(plain["t"], classes.ENUM)
        members: dict[str, Any] = found.cls._member_map_  # type: ignore[attr-defined]
        if plain["v"] not in members:
            raise ShapeMismatch(f"{found.name} has no member {str(plain['v'])[:100]!r}")
        return members[plain["v"]]

    def _flag(self, plain: dict[str, Any]) -> Any:
        found = self._find(plain["t"], classes.ENUM)
        return _theirs(found, lambda: found.cls(self.value(plain["v"])))

    def _record(self, plain: dict[str, Any]) -> Any:
        found = self._find(plain["t"], classes.DATACLASS, classes.ATTRS)
        fields = {key: self.value(item) for key, item in plain["v"].items()}
        more = {key: self.value(item) for key, item in plain.get("x", _NOTHING).items()}
        return _theirs(found, lambda: shape_of(found).together(fields, more, plain.get("u", ())))

    def _model(self, plain: dict[str, Any]) -> Any:
        found = self._find(plain["t"], classes.MODEL)
        if plain.get("j"):
            return _theirs(found, lambda: _validated(found.cls, plain, json.dumps(plain["v"])))
        data = self.value(plain["v"])
        if plain.get("x"):
            data |= self.value(plain["x"])
        return _theirs(found, lambda: _validated(found.cls, plain, data))

    def _custom(self, plain: dict[str, Any]) -> Any:
        found = self._find(plain["t"], classes.CUSTOM)
        data = self.value(plain["v"])
        assert found.decode is not None
        decode = found.decode
        return _theirs(found, lambda: decode(data))


_NOTHING: Final[dict[str, Any]] = {}


def _theirs(found: Declared, make: Callable[[], Any]) -> Any:
    """Call users' code."""
    try:
        return make()
    except (DecodeError, *PASSES):
        raise
    except BaseException as error:  # noqa: BLE001  users' code may raise anything
        try:
            why = str(error)[:1000]
        except Exception:  # noqa: BLE001  the same
            why = "(its message cannot be shown)"
        raise ShapeMismatch(f"{found.name} does not take the value: {type(error).__name__}: {why}") from None


def _made(found: Declared, make: Callable[[], Any] | None) -> Any:
    assert make is not None
    return _theirs(found, make)


def _validated(cls: Any, plain: dict[str, Any], data: Any) -> Any:
    """A pydantic model of its fields, by its own validators."""
    by_name = _BY_NAME if "by_name" in inspect.signature(cls.model_validate).parameters else {}  # since pydantic 2.11
    if "root" in cls.model_fields and issubclass(cls, sys.modules["pydantic"].RootModel):
        made = cls.model_validate_json(data) if isinstance(data, str) else cls.model_validate(data["root"])
    elif isinstance(data, str):
        made = cls.model_validate_json(data, **by_name)
    else:
        made = cls.model_validate(data, **by_name)
    object.__setattr__(made, "__pydantic_fields_set__", set(plain["f"]))
    return made


_BY_NAME: Final = {"by_alias": False, "by_name": True}


def _zone(key: Any) -> zoneinfo.ZoneInfo | None:
    if not isinstance(key, str):
        return None
    try:
        return zoneinfo.ZoneInfo(key)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _needed_zone(key: Any) -> zoneinfo.ZoneInfo:
    found = _zone(key)
    if found is None:
        raise ShapeMismatch(f"this machine knows no time zone {str(key)[:100]!r}; install tzdata")
    return found


def _fraction(value: list[str]) -> fractions.Fraction:
    return fractions.Fraction(int(value[0], 16), int(value[1], 16))


_Method = Callable[[Raising, dict[str, Any]], Any]


def _scalar(make: Callable[[Any], Any]) -> _Method:
    return lambda _raising, plain: make(plain["v"])


_METHODS: Final[dict[str, _Method]] = {
    "int": _scalar(lambda v: int(v, 16)),
    "float": _scalar(float),
    "tuple": Raising._tuple,
    "set": lambda raising, plain: {raising.value(item) for item in plain["v"]},
    "frozenset": lambda raising, plain: frozenset(raising.value(item) for item in plain["v"]),
    "deque": Raising._deque,
    "dict": Raising._pairs,
    "bytes": _scalar(lambda v: base64.b64decode(v, validate=True)),
    "bytearray": _scalar(lambda v: bytearray(base64.b64decode(v, validate=True))),
    "uuid": _scalar(uuid.UUID),
    "decimal": _scalar(decimal.Decimal),
    "fraction": _scalar(_fraction),
    "ip": _scalar(lambda v: ipaddress.ip_address(str(v))),
    "datetime": Raising._datetime,
    "date": _scalar(dt.date.fromisoformat),
    "time": Raising._time,
    "timedelta": _scalar(lambda v: dt.timedelta(v[0], v[1], v[2])),
    "zone": _scalar(_needed_zone),
    "complex": Raising._complex,
    "range": lambda raising, plain: range(*(raising.value(item) for item in plain["v"])),
    "path": Raising._path,
    "enum": Raising._enum,
    "flag": Raising._flag,
    "dataclass": Raising._record,
    "attrs": Raising._record,
    "model": Raising._model,
    "custom": Raising._custom,
}
TAGS: Final = frozenset(_METHODS)
