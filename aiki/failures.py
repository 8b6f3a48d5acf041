"""Errors of steps: what is recorded of them, so that a replayed function meets the same exception.

An exception is raised again as itself if its class is at the top of a module that every process of the application has loaded,
and it can be made anew from its arguments; anything else becomes a `StepFailed`, the first time as in each replay. Nothing is
pickled, nothing is imported: a module that only a step imports would be there in one process, and not in the next.
"""

from __future__ import annotations

import builtins
import sys
from typing import Any

from aiki import codec
from aiki.codec import Payload
from aiki.errors import PayloadError, SoftTimeLimitExceeded, StepFailed, StepTimedOut
from aiki.retry import qualified_name

MAX_ARGUMENTS = 64 * 1024
SOFT_LIMIT = qualified_name(SoftTimeLimitExceeded)
"""How a soft limit is recorded; former releases recorded arguments beside it, which are not looked at."""


_loaded: frozenset[str] = frozenset()
"""Modules that are loaded wherever the application is."""
_own: set[str] = set()
"""Modules in which tasks and workflows are defined."""


def settle() -> None:
    """The application is loaded: what is imported from here on is imported by chance."""
    global _loaded
    _loaded = frozenset(sys.modules)


def trust(fn: Any) -> None:
    """A definition's function: its module is loaded wherever it is called."""
    _own.add(getattr(fn, "__module__", None) or "")


def _is_everywhere(kind: type) -> bool:
    """Whether every process of the application has this class, whatever it has executed."""
    if not _loaded:
        settle()
    module = kind.__module__
    if module in _loaded or module in _own:
        return True
    spaces = (vars(sys.modules[name]) for name in _own if name in sys.modules)
    return any(item is kind for space in spaces for item in list(space.values()))


def work_done(error: PayloadError) -> PayloadError:
    """What is said of a result that cannot be carried: the work must not be thought undone."""
    text = f"the work was done, and only its result is lost: {error}"
    kind = type(error)
    return kind(text) if kind.__init__ is PayloadError.__init__ else PayloadError(text)


def arguments_of(error: BaseException) -> str | None:
    """The error's arguments as JSON text, if it can be made anew from them; else None."""
    try:
        if find_class(qualified_name(type(error))) is not type(error):
            return None
        text = codec.encode(list(error.args), limit=MAX_ARGUMENTS, what="error's arguments").text
        again = make(qualified_name(type(error)), text)
        return text if again is not None and _same(again, error) else None
    except BaseException:  # noqa: BLE001  the user's __init__, __str__ and metaclasses may do anything
        return None


def _same(again: Exception, error: BaseException) -> bool:
    """Whether code that catches it could not tell them apart."""
    mine, its = vars(again), {key: value for key, value in vars(error).items() if key != "__notes__"}
    return type(again) is type(error) and str(again) == str(error) and again.args == error.args and mine == its


def make(type_name: str, arguments: str | None) -> Exception | None:
    """The exception of that type with these arguments, or None if it cannot be made here."""
    kind = find_class(type_name)
    if kind is None or arguments is None:
        return None
    try:
        return kind(*codec.decode(Payload(codec.JSON, arguments), what="error's arguments"))
    except BaseException:  # noqa: BLE001  as above
        return None


def find_class(name: str) -> type[Exception] | None:
    """The loaded exception class of that qualified name, or None."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, -1, -1):
        found: object = sys.modules.get(".".join(parts[:cut])) if cut else builtins
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found if _is_everywhere(found) else None
    return None


def _with_traceback(error: StepFailed) -> StepFailed:
    """Have its traceback shown wherever this error, or one that it is the cause of, is shown."""
    if error.traceback:
        error.add_note(f"Where {error.step} failed:\n{error.traceback.rstrip()}")
    return error


def step_error(step: str, type_name: str, message: str, traceback: str, arguments: str | None, state: str) -> Exception:
    """What a function meets at a step that failed."""
    if type_name == SOFT_LIMIT:
        return _with_traceback(StepTimedOut(step, type_name, message, traceback, state))
    told = _with_traceback(StepFailed(step, type_name, message, traceback, state))
    again = make(type_name, arguments)
    if again is None:
        return told
    again.__cause__ = told
    return again
