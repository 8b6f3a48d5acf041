"""Annotations of functions and classes, as far as they can be evaluated: which classes occur in them, and what fits them."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

_MAX_LOOKED_AT: Final = 1000
"""Items of a container whose types are looked at."""
_UNIONS: Final = (Union, types.UnionType)


class _Bearer:
    """What `typing.get_type_hints` takes: something with annotations."""

    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"it": annotation}


def evaluated(annotation: Any, space: Mapping[str, Any], local: Mapping[str, Any] | None = None) -> Any:
    """An annotation with the names in it looked up; the same if they cannot be (yet)."""
    try:
        return typing.get_type_hints(_Bearer(annotation), dict(space), dict(local or {}), include_extras=True)["it"]
    except Exception:  # noqa: BLE001  an annotation is an expression of the user's, and may be of any kind
        return annotation


def of_class(kind: type) -> dict[str, Any]:
    """The annotations of a class and its bases, evaluated."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        space = vars(sys.modules.get(base.__module__, types.ModuleType("")))
        for name, annotation in _own(base).items():
            found[name] = evaluated(annotation, space, vars(base))
    return found


def of_function(fn: Any) -> dict[str, Any]:
    """The annotations of a function, evaluated; `return` is that of its result."""
    space = getattr(fn, "__globals__", {})
    return {name: evaluated(annotation, space) for name, annotation in _own(fn).items()}


def _own(thing: Any) -> Mapping[str, Any]:
    try:
        return inspect.get_annotations(thing)
    except TypeError:
        return {}  # it is of a kind that has none
    except Exception:  # noqa: BLE001  from Python 3.14 on they are evaluated now: names may not be there yet
        return {"": "not there yet"}


def classes_in(annotation: Any) -> Iterator[Any]:
    """Each class that occurs in an annotation, and each text in it that could not be evaluated."""
    left: list[Any] = [annotation]
    seen: set[int] = set()
    while left:
        item = left.pop()
        if id(item) in seen or len(seen) > _MAX_LOOKED_AT:
            continue
        seen.add(id(item))
        origin = get_origin(item)
        if isinstance(item, list | tuple):
            left += item  # the parameters of a Callable
        elif isinstance(item, str | ForwardRef):
            yield item if isinstance(item, str) else item.__forward_arg__
        elif origin is Literal:
            left += [type(value) for value in get_args(item) if isinstance(value, enum.Enum)]
        elif origin is Annotated:
            left.append(get_args(item)[0])
        elif origin is not None:
            left += [origin, *get_args(item)]
        elif isinstance(item, type):
            yield item
        elif isinstance(item, TypeVar):
            left += [item.__bound__, *item.__constraints__]
        else:
            left += [getattr(item, name) for name in ("__supertype__", "__value__") if hasattr(item, name)]


# ---------------------------------------------------------------- text
def text_of(annotation: Any) -> str:
    """An annotation as text that is the same in every process, whether or not the module has annotations as text."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        inside = "" if annotation.__module__ == "builtins" else f"{annotation.__module__}."
        return f"{inside}{annotation.__qualname__}"
    if annotation is None:
        return "NoneType"
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin in _UNIONS:
        return " | ".join(sorted(map(text_of, arguments)))
    if origin is Literal:
        return f"Literal{list(arguments)!r}"
    if origin is not None:
        inner = ", ".join(text_of(item) if not isinstance(item, list) else str(list(map(text_of, item))) for item in arguments)
        return f"{getattr(origin, '__qualname__', origin)}[{inner}]"
    return annotation if isinstance(annotation, str) else repr(annotation)


# ---------------------------------------------------------------- what fits
def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of the annotated type. What cannot be told is said to fit."""
    if annotation is None or annotation is type(None):
        return value is None
    origin = get_origin(annotation)
    if origin is None:
        return _is_a(value, annotation)
    arguments = get_args(annotation)
    if origin in _UNIONS:
        return any(fits(value, item) for item in arguments)
    if origin is Literal:
        return any(type(value) is type(item) and value == item for item in arguments)
    if origin is Annotated:
        return fits(value, arguments[0])
    return _is_a(value, origin) and _holds(value, origin, arguments)


def _is_a(value: Any, kind: Any) -> bool:
    supertype = getattr(kind, "__supertype__", None)
    if supertype is not None:
        return fits(value, supertype)
    if not isinstance(kind, type) or kind is object:
        return True
    if typing.is_typeddict(kind):
        return isinstance(value, dict)
    if kind in (float, complex) and isinstance(value, int | float):
        return True
    try:
        return isinstance(value, kind) or _stands_for(value, kind)
    except Exception:  # noqa: BLE001  a protocol that cannot be asked; a metaclass of the user's
        return True


def _stands_for(value: Any, kind: type) -> bool:
    """Whether it may be a value of a subclass that was carried as its base."""
    base = type(value)
    return base is not object and kind is not bool and issubclass(kind, base) and not issubclass(kind, enum.Enum)


def _holds(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if isinstance(value, str | bytes) or not arguments:
        return True
    if isinstance(value, dict) and len(arguments) == 2:
        pairs = list(value.items())[:_MAX_LOOKED_AT]
        return all(fits(key, arguments[0]) and fits(item, arguments[1]) for key, item in pairs)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if isinstance(value, collections.abc.Collection) and (len(arguments) == 1 or origin is tuple):
        return all(fits(item, arguments[0]) for item, _ in zip(value, range(_MAX_LOOKED_AT), strict=False))
    return True
