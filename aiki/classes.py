"""Which classes payloads may name: those that occur in definitions, and those that were registered.

A class occurs in a definition if an annotation or a default of its function names it, or a field of a class that occurs. So a
payload names the same classes in every process that has the application, and no message makes a process import, call or
look at anything else. Names are looked up here, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import os
import sys
import threading
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from aiki import hints
from aiki.errors import ConfigurationError

DATACLASS: Final = "dataclass"
ATTRS: Final = "attrs"
MODEL: Final = "model"
ENUM: Final = "enum"
NAMED_TUPLE: Final = "namedtuple"
CUSTOM: Final = "custom"


class Declared(NamedTuple):
    """A class that payloads may name.

    :ivar kind: how its values are carried; `name`: what payloads call it.
    :ivar encode, decode: of a registered type that is carried by functions of its own.
    """

    name: str
    cls: type
    kind: str
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


class Classes:
    """Declared classes.

    :param beyond: others that are declared as well; what is added here is not added there.
    """

    def __init__(self, beyond: Classes | None = None) -> None:
        self._beyond = beyond
        self._names: dict[str, Declared] = {}
        self._former: dict[type, str] = {}
        self._classes: dict[type, Declared] = {}
        self._waiting: list[Any] = []
        """Functions and classes in whose annotations something could not be looked up, or that were not looked at yet."""
        self._fresh = False
        self._modules = 0
        self._lock = threading.RLock()

    # ------------------------------------------------------------ adding
    def add(self, fn: Any) -> None:
        """Declare what occurs in a function's signature. It is looked at when a class is asked for that is not known."""
        with self._lock:
            self._waiting.append(inspect.unwrap(getattr(fn, "__func__", fn)))
            self._fresh = True

    def register(
        self,
        cls: type,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
        formerly: Iterable[str] = (),
    ) -> None:
        """Declare a class, and how its values are carried if it is not of a kind that says so itself.

        :param formerly: names that it had, as `module:Class`: payloads of former releases have them.
        :raises ConfigurationError: its values can be carried in no way.
        """
        if not isinstance(cls, type):
            raise ConfigurationError(f"register_type({cls!r}): it is no class")
        where = f"register_type({cls.__qualname__})"
        if (encode is None) != (decode is None):
            raise ConfigurationError(f"{where}: give both encode= and decode=, or neither")
        if cls.__module__ == "builtins":
            raise ConfigurationError(f"{where}: how values of built-in types are carried cannot be changed")
        kind = kind_of(cls) if encode is None else CUSTOM
        if kind is None:
            raise ConfigurationError(
                f"{where}: it is neither a dataclass, an enum, a named tuple, an attrs class nor a pydantic model; say how its "
                "values are carried: register_type(cls, encode, decode), where encode gives plain data, and decode takes them"
            )
        made = Declared(wire_name(cls), cls, kind, encode, decode)
        with self._lock:
            self._put(made)
            for name in formerly:
                self._names[name] = made
                self._former.setdefault(cls, name)
            self._waiting.append(cls)
            self._fresh = True

    def _put(self, made: Declared) -> None:
        known = self._names.get(made.name)
        if known is not None and known.cls is made.cls and known.encode is not None and made.encode is None:
            return  # an annotation says less than what was registered
        self._names[made.name] = self._classes[made.cls] = made

    # ------------------------------------------------------------ asking
    def of(self, cls: type) -> Declared | None:
        """The declared class itself, or None."""
        found = self._classes.get(cls)
        if found is None:
            self._look()
            found = self._classes.get(cls)
        return self._beyond.of(cls) if found is None and self._beyond is not None else found

    def named(self, name: str) -> Declared | None:
        """The declared class of that name, or None."""
        found = self._names.get(name)
        if found is None:
            self._look()
            found = self._names.get(name)
        return self._beyond.named(name) if found is None and self._beyond is not None else found

    def first_name(self, cls: type) -> str:
        """What a class was called first: by that, inputs of steps are the same before and after it was moved."""
        return self._former.get(cls) or wire_name(cls)

    # ------------------------------------------------------------ looking
    def _look(self) -> None:
        """Look at what was added, and again at what could not be looked up, if more has been imported since."""
        with self._lock:  # before anything is asked: another thread may be about to find what this one misses
            if not self._fresh and (not self._waiting or self._modules == len(sys.modules)):
                return
            modules, waiting = len(sys.modules), []
            left: list[Any] = list(self._waiting)
            seen: set[int] = set()
            while left:
                item = left.pop()
                if id(item) in seen:
                    continue
                seen.add(id(item))
                whole, inner = self._inside(item)
                if not whole:
                    waiting.append(item)
                left += [cls for cls in inner if self._declare(cls)]
            self._waiting, self._modules, self._fresh = waiting, modules, False

    def after_fork(self) -> None:
        """In the child of a fork: another thread of the parent may have been looking."""
        self._lock = threading.RLock()

    def _inside(self, item: Any) -> tuple[bool, list[type]]:
        """Whether all annotations of a function or a class could be looked up, and the classes that occur in it."""
        told = hints.of_class(item) if isinstance(item, type) else hints.of_function(item)
        found = [inner for hint in told.values() for inner in hints.classes_in(hint)]
        if not isinstance(item, type):
            defaults = (*(getattr(item, "__defaults__", None) or ()), *(getattr(item, "__kwdefaults__", None) or {}).values())
            found += map(type, defaults)
        classes = [inner for inner in found if isinstance(inner, type)]
        return len(classes) == len(found), classes

    def _declare(self, cls: type) -> bool:
        """Declare a class that occurs; whether its own annotations are to be looked at."""
        if typing.is_typeddict(cls):
            return True
        kind = kind_of(cls)
        if kind is None or "<locals>" in cls.__qualname__:
            return False
        new = cls not in self._classes
        self._put(Declared(wire_name(cls), cls, kind))
        return new and kind != ENUM


def kind_of(cls: type) -> str | None:
    """How values of a class are carried, as far as it says so itself; None if it does not."""
    if issubclass(cls, enum.Enum):
        return ENUM
    if is_model(cls):
        return MODEL
    if dataclasses.is_dataclass(cls):
        return DATACLASS
    if "__attrs_attrs__" in cls.__dict__:
        return ATTRS
    if issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple):
        return NAMED_TUPLE
    return None


def is_model(cls: type) -> bool:
    """Whether it is a pydantic model. pydantic is never imported for that: who has a model has imported it."""
    pydantic = sys.modules.get("pydantic.main")
    return pydantic is not None and issubclass(cls, pydantic.BaseModel)


def wire_name(cls: type) -> str:
    """What payloads call a class: `module:Class`."""
    module = cls.__module__
    if module == "__main__":
        # A script's classes are found under its module's name by the worker that imports it.
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        path = getattr(sys.modules["__main__"], "__file__", None)
        module = spec.name if spec else (path or "__main__").rsplit("/", 1)[-1].removesuffix(".py")
    return f"{module}:{cls.__qualname__}"


CLASSES: Final = Classes()
"""What all apps of this process have declared."""

os.register_at_fork(after_in_child=CLASSES.after_fork)

_OF_FUNCTIONS: WeakKeyDictionary[Any, Classes] = WeakKeyDictionary()


def declared_beside(fn: Any) -> Classes:
    """What is declared for one step: what the apps have, and what occurs in the signature of the step's function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    plain = inspect.unwrap(getattr(fn, "__func__", fn))
    if not getattr(plain, "__annotations__", None):
        return CLASSES
    try:
        found = _OF_FUNCTIONS.get(plain)
        if found is None:
            found = _OF_FUNCTIONS[plain] = Classes(CLASSES)
            found.add(plain)
    except TypeError:  # neither hashable nor to be referred to weakly
        return CLASSES
    return found
