"""What tasks are called that nobody has named, and where they are defined."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from aiki.errors import ConfigurationError


def default_name(fn: Callable[..., Any]) -> str:
    """`module.function`; a script's module is called as its file, as the worker that imports it will."""
    module = getattr(fn, "__module__", None) or "__main__"
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        path = getattr(main, "__file__", None)
        if spec is not None:
            module = spec.name.removesuffix(".__main__")
        elif path:
            module = os.path.basename(path).removesuffix(".py")
    name = getattr(fn, "__name__", None)
    if not name or name == "<lambda>":
        raise ConfigurationError(f"{place(fn)}: it has no name of its own; give it one: @app.task(name=...)")
    return f"{module}.{name}"


def place(fn: Callable[..., Any]) -> str:
    """Where a function is defined, for messages and to tell a function imported twice from two functions."""
    plain = inspect.unwrap(fn)
    code = getattr(plain, "__code__", None)
    if code is None:
        return repr(fn)
    return f"{os.path.realpath(code.co_filename)}:{code.co_firstlineno} ({plain.__qualname__})"
