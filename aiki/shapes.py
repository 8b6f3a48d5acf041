"""Values that are their fields: dataclasses, attrs classes, named tuples. Taken apart and put together again.

They are put together without calling their code: `__init__`, `__post_init__`, converters and `__setattr__` have done their work
when the value was made, and might do other work the second time. An attrs class's validators only look, so they are asked.
What a field that is recorded is called, and what a class has now, may differ after a deploy: then that is told.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from aiki import hints
from aiki.classes import ATTRS, Declared, wire_name
from aiki.errors import ShapeMismatch

_MISSING: Final = object()
_NOT_STATE: Final = frozenset({"__weakref__", "__dict__", "__orig_class__", "_attrs_cached_hash"})


class Field(NamedTuple):
    """A field of a class.

    :ivar make: gives the value that it has where none is recorded, or is None.
    :ivar needed: whether a value must be recorded. A field that `__init__` does not set may have none at all.
    """

    name: str
    annotation: Any
    make: Callable[[], Any] | None
    needed: bool


class Shape:
    """A class as its fields.

    :ivar refusal: why its values cannot be carried, or None.
    """

    def __init__(self, cls: type, kind: str) -> None:
        self._cls = cls
        self._kind = kind
        self.fields = {field.name: field for field in _fields(cls, kind)}
        self._slots = _slots(cls) - self.fields.keys() - _NOT_STATE
        self._hashed = kind == ATTRS and _caches_hash(cls)
        self.refusal = self._why_not()

    def _why_not(self) -> str | None:
        try:
            object.__new__(self._cls)
        except TypeError as error:
            return f"it is more than its fields ({error})"
        for name in self.fields:
            found = _static(self._cls, name)
            if hasattr(type(found), "__set__") and not isinstance(found, types.MemberDescriptorType):
                return f"its field {name!r} is computed by a {type(found).__name__}"
        return None

    # ------------------------------------------------------------ apart
    def apart(self, value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The values of the fields, and what else the object holds, by name. Raises `ShapeMismatch`."""
        found: dict[str, Any] = {}
        for name, field in self.fields.items():
            item = getattr(value, name, _MISSING)
            if item is not _MISSING:
                found[name] = item
            elif field.make is not None:
                raise ShapeMismatch(f"its field {name!r} was deleted")
        more = {name: getattr(value, name) for name in self._slots if hasattr(value, name)}
        for name, item in getattr(value, "__dict__", {}).items():
            if name not in found and name not in _NOT_STATE and not _is_cache(self._cls, name):
                more[name] = item
        if self._kind == ATTRS:
            sys.modules["attr"].validate(value)
        return found, more

    def unfit(self, found: Mapping[str, Any]) -> list[str]:
        """The fields whose values are not of the type that their annotations say, as Python allows."""
        return [name for name, item in found.items() if not self._fits(name, item)]

    def _fits(self, name: str, item: Any) -> bool:
        field = self.fields[name]
        return hints.fits(item, field.annotation) or (item is None and field.make is not None and field.make() is None)

    # ------------------------------------------------------------ together
    def together(self, found: Mapping[str, Any], more: Mapping[str, Any], unfit: Collection[str]) -> Any:
        """The value with these fields.

        :param unfit: fields that were not of the annotated type when the value was taken apart.
        :raises ShapeMismatch: the class has other fields, or fields of other types, than are recorded.
        """
        self.check(found, unfit)
        made: Any = object.__new__(self._cls)
        for name, field in self.fields.items():
            if name in found:
                object.__setattr__(made, name, found[name])
            elif field.make is not None:
                object.__setattr__(made, name, field.make())
        for name, item in more.items():
            known = _static(self._cls, name)
            if (
                name in self.fields
                or name[:2] == "__"
                or callable(known)
                or (hasattr(type(known), "__get__") and name not in self._slots)
            ):
                raise ShapeMismatch(f"{self._name} has something else as {name!r}")
            object.__setattr__(made, name, item)
        if self._hashed:
            object.__setattr__(made, "_attrs_cached_hash", None)
        if self._kind == ATTRS:
            sys.modules["attr"].validate(made)
        return made

    @property
    def _name(self) -> str:
        return wire_name(self._cls)

    def check(self, found: Mapping[str, Any], unfit: Collection[str]) -> None:
        """Raise `ShapeMismatch` if these are not the fields."""
        gone = sorted(found.keys() - self.fields.keys())
        if gone:
            raise ShapeMismatch(f"the value has a field {', '.join(map(repr, gone))}, and {self._name} has none")
        if len(found) != len(self.fields):
            new = [name for name, field in self.fields.items() if name not in found and field.needed]
            if new:
                raise ShapeMismatch(
                    f"{self._name} has a field {', '.join(map(repr, new))} without a default, and the value has none"
                )
        for name, item in found.items():
            if name not in unfit and not self._fits(name, item):
                raise ShapeMismatch(
                    f"the field {name!r} of {self._name} is declared as {hints.text_of(self.fields[name].annotation)}, and the "
                    f"value there is of type {type(item).__qualname__}"
                )


@functools.lru_cache(maxsize=4096)
def shape_of(declared: Declared) -> Shape:
    """The shape of a declared class."""
    return Shape(declared.cls, declared.kind)


def _fields(cls: type, kind: str) -> list[Field]:
    told = hints.of_class(cls)
    if kind == ATTRS:
        return [_field(item, told.get(item.name, item.type or Any), _attrs_default(item)) for item in _attributes(cls)]
    if dataclasses.is_dataclass(cls):
        return [_field(item, told.get(item.name, item.type), _default(item)) for item in dataclasses.fields(cls)]
    names: tuple[str, ...] = getattr(cls, "_fields", ())
    defaults: Mapping[str, Any] = getattr(cls, "_field_defaults", {})
    return [
        Field(name, told.get(name, Any), _giving(defaults[name]) if name in defaults else None, name not in defaults)
        for name in names
    ]


def _field(item: Any, annotation: Any, make: Callable[[], Any] | None) -> Field:
    return Field(item.name, annotation, make, item.init and make is None)


def _attributes(cls: type) -> tuple[Any, ...]:
    found = cls.__dict__["__attrs_attrs__"]
    return tuple(found)


def _default(item: dataclasses.Field[Any]) -> Callable[[], Any] | None:
    if item.default is not dataclasses.MISSING:
        return _giving(item.default)
    return None if item.default_factory is dataclasses.MISSING else item.default_factory


def _attrs_default(item: Any) -> Callable[[], Any] | None:
    attr = sys.modules["attr"]
    if item.default is attr.NOTHING:
        return None
    if isinstance(item.default, attr.Factory):
        return None if item.default.takes_self else item.default.factory
    return _giving(item.default)


def _giving(value: Any) -> Callable[[], Any]:
    return lambda: value


def _slots(cls: type) -> set[str]:
    """Names of all slots of a class and its bases, as they are called inside of their class."""
    return {name for base in cls.__mro__ for name, item in vars(base).items() if isinstance(item, types.MemberDescriptorType)}


def _static(cls: type, name: str) -> Any:
    """What a class has under this name, without touching it."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _caches_hash(cls: type) -> bool:
    code = getattr(cls.__hash__, "__code__", None)
    return code is not None and "_attrs_cached_hash" in code.co_names


def _is_cache(cls: type, name: str) -> bool:
    return isinstance(_static(cls, name), functools.cached_property)
