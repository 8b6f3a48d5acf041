"""What a function that is called as a step brings along beside its arguments: it is part of the step's input.

A function that is defined within a workflow closes over variables (`lambda: fetch(item)`), has defaults that were values of
variables (`lambda item=item: …`), is a `functools.partial`, or is a method of an object. Two of them with other values are
two steps; otherwise the results of a loop would be exchanged in silence when its order changes.

What the workflow's function itself closes over is as global to it as the names of its module, and is not looked at.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, Final

from aiki import codec
from aiki.errors import EncodeError
from aiki.retry import qualified_name

_MAX_DEPTH: Final = 8
_NAMED: Final = (type, ModuleType, BuiltinFunctionType)


def brought_along(fn: Callable[..., Any], what: str, outer: Callable[..., Any]) -> dict[str, Any]:
    """By what it is called there, each value that `fn` brings along, as something that can be encoded.

    :param what: the step, for messages; `outer`: the workflow's function.
    :raises EncodeError: a value can be told from others neither by what it is worth nor by its name.
    """
    if isinstance(fn, FunctionType) and not fn.__closure__ and not _is_local(fn):
        return {}  # the plain case
    return _Bringing(what, outer).of(fn, 0)


class _Bringing:
    def __init__(self, what: str, outer: Callable[..., Any]) -> None:
        self._what = what
        self._globals = getattr(inspect.unwrap(outer), "__globals__", {})
        self._outer = frozenset(id(cell) for cell in _cells(outer))
        self._seen: set[int] = set()

    def of(self, fn: Any, depth: int) -> dict[str, Any]:
        if id(fn) in self._seen or depth > _MAX_DEPTH:
            return {}  # it refers to itself
        self._seen.add(id(fn))
        if isinstance(fn, functools.partial):
            found = self.of(fn.func, depth + 1)
            for place, value in [*enumerate(fn.args), *fn.keywords.items()]:
                found[f"partial {place}"] = self._value(f"the argument {place} of a partial", value, depth)
            return found
        if isinstance(fn, FunctionType):
            return self._of_function(fn, depth)
        if isinstance(fn, MethodType):
            found = self.of(fn.__func__, depth + 1)
            found["self"] = self._value("the object that it is a method of", fn.__self__, depth)
            return found
        if isinstance(fn, _NAMED) or getattr(fn, "kind", "") in ("task", "workflow"):
            owner = getattr(fn, "__self__", None)  # of a method of a built-in type
            if isinstance(fn, BuiltinFunctionType) and owner is not None and not isinstance(owner, ModuleType):
                return {"self": self._value("the object that it is a method of", owner, depth)}
            return {}
        if type(fn).__module__ == "builtins":
            return {}
        return {"callable": self._value("the object that is called", fn, depth)}

    def _of_function(self, fn: FunctionType, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=False):
            if id(cell) not in self._outer:
                found[f"closure {name}"] = self._value(f"{name!r}, which it closes over,", _contents(cell), depth)
        if _is_local(fn):
            for name, value in _defaults(fn):
                found[f"default {name}"] = self._value(f"the default of {name!r}", value, depth)
        return found

    def _value(self, place: str, value: Any, depth: int) -> Any:
        """The value as something that can be encoded."""
        try:
            codec.canonical(value)
        except EncodeError as error:
            why = str(error)
        else:
            return value
        if isinstance(value, BaseException):
            return _error(value)
        if type(value) in (list, tuple) and depth < _MAX_DEPTH:
            return [self._value(place, item, depth + 1) for item in value]
        if type(value) is dict and depth < _MAX_DEPTH:
            return [[self._value(place, item, depth + 1) for item in pair] for pair in value.items()]
        name = self._name(value)
        if name is None:
            raise EncodeError(
                f"run.step({self._what!r}): {place} is a {type(value).__qualname__}, which cannot be part of the step's input "
                f"({why}): another one could not be told from it in a replay. Make it inside of the step, or at the top of a "
                "module; or give what tells it from others as an argument"
            )
        inner = self.of(value, depth + 1) if callable(value) and not isinstance(value, type) else {}
        return [name, inner] if inner else name

    def _name(self, value: Any) -> str | None:
        """What stands for a value that cannot be encoded, if its name says which it is."""
        if isinstance(value, ModuleType):
            return value.__name__
        if isinstance(value, type | FunctionType | BuiltinFunctionType | MethodType):
            return f"{value.__module__}.{value.__qualname__}"
        if isinstance(value, functools.partial):
            return f"partial {self._name(value.func)}"
        if getattr(value, "kind", "") in ("task", "workflow"):
            return f"{value.kind} {value.name}"
        if hasattr(value, "call_task"):
            return "run"
        if hasattr(value, "_replay_name"):
            return str(value._replay_name)
        if isinstance(value, Iterator):
            return type(value).__qualname__  # consumed by steps, so its state is none of their inputs
        for space in (self._globals, *(vars(item) for item in self._globals.values() if isinstance(item, ModuleType))):
            for name, known in list(space.items()):
                if known is value:
                    return f"{space.get('__name__', '')}:{name}"
        return None


def _error(error: BaseException) -> list[Any]:
    """What tells an error from others: its type, and its arguments where they can be encoded."""
    arguments = list(error.args)
    try:
        codec.canonical(arguments)
    except EncodeError:
        arguments = []
    return [qualified_name(type(error)), arguments]


def _is_local(fn: FunctionType) -> bool:
    return "<locals>" in fn.__qualname__ or fn.__name__ == "<lambda>"


def _cells(fn: Any) -> Iterator[CellType]:
    while fn is not None:
        yield from getattr(fn, "__closure__", None) or ()
        fn = getattr(fn, "__wrapped__", None)


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not assigned yet


def _defaults(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    values = fn.__defaults__ or ()
    yield from zip(
        fn.__code__.co_varnames[fn.__code__.co_argcount - len(values) : fn.__code__.co_argcount], values, strict=True
    )
    named: Mapping[str, Any] = fn.__kwdefaults__ or {}
    yield from named.items()
