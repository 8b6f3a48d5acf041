"""Code that an application hangs into its workers: before children are forked, as each begins and ends, around each run.

`@app.on_worker_start` and its kin fill a `Hooks`; the worker calls what is in it. Around a run, the first hook that was given
is the outermost. What a hook raises counts as if the run's own code had raised it; what it swallows was raised all the same.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from aiki.context import CurrentRun
from aiki.errors import ConfigurationError

AnyHook = TypeVar("AnyHook", bound=Callable[..., Any])


class AroundHook(NamedTuple):
    """A hook around runs: `enter` gives a context manager for a run, which is an asynchronous one if `is_async`."""

    name: str
    enter: Callable[[CurrentRun], Any]
    is_async: bool


@dataclass(slots=True)
class Hooks:
    """The hooks of one app, each in the order in which they were given."""

    worker_start: list[Callable[[], object]] = field(default_factory=list)
    child_start: list[Callable[[], object]] = field(default_factory=list)
    child_stop: list[Callable[[], object]] = field(default_factory=list)
    around_run: list[AroundHook] = field(default_factory=list)

    def add(self, kind: str, fn: AnyHook) -> AnyHook:
        """Add a hook that takes nothing; `kind` is one of the fields.

        :raises ConfigurationError: it cannot be called without arguments, or the worker cannot wait for it.
        """
        where = f"@app.on_{kind}"
        _check(where, fn, 0)
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ConfigurationError(f"{where} of {_name(fn)}: it must not be a generator (only @app.around_run has a `yield`)")
        if kind == "worker_start" and inspect.iscoroutinefunction(fn):
            raise ConfigurationError(
                f"{where} of {_name(fn)}: it must be a plain function: an event loop does not survive the fork. What needs "
                "one goes into @app.on_child_start"
            )
        getattr(self, kind).append(fn)
        return fn

    def surround(self, fn: AnyHook) -> AnyHook:
        """Add a hook around runs: a function with one `yield`, or one that gives a context manager; it takes the run.

        :raises ConfigurationError: it cannot be called with one argument, or is a coroutine.
        """
        where = "@app.around_run"
        _check(where, fn, 1)
        if inspect.iscoroutinefunction(fn):
            raise ConfigurationError(
                f"{where} of {_name(fn)}: there is no `yield` in it, where the run's own code has its place"
            )
        enter: Callable[[CurrentRun], Any] = fn
        if inspect.isgeneratorfunction(fn):
            enter = contextmanager(fn)
        elif inspect.isasyncgenfunction(fn):
            enter = asynccontextmanager(fn)
        self.around_run.append(AroundHook(_name(fn), enter, inspect.isasyncgenfunction(inspect.unwrap(fn))))
        return fn


NONE = Hooks()
"""Of a definition, or an app, that knows of none."""


class Around:
    """The hooks around one run, or one step of it: `enter`, the run's own code, `leave`.

    A copy of this process that the run's code has forked leaves nothing: what was entered is this process's.
    """

    def __init__(self, hooks: Sequence[AroundHook], run: CurrentRun) -> None:
        self._hooks = hooks
        self._run = run
        self._pid = os.getpid()
        self._entered: list[Any] = []
        self._asynchronous: list[Any] = []

    def enter(self) -> None:
        """Enter the plain hooks. Raises what a hook raises; `leave` leaves those that were entered before."""
        for hook in self._hooks:
            if not hook.is_async:
                manager = hook.enter(self._run)
                _must_have(manager, "__enter__", hook)
                manager.__enter__()
                self._entered.append(manager)

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Leave them, the innermost first. Never raises.

        :param error: what the run's own code has raised.
        :returns: that, or what a hook has raised in its place.
        """
        if os.getpid() != self._pid:
            return error
        while self._entered:
            manager = self._entered.pop()
            try:
                manager.__exit__(*_raised(error))
            except BaseException as raised:  # noqa: BLE001  a hook is users' code: what it raises is the run's error
                error = raised
        return error

    async def drive(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Await asynchronous work inside of the asynchronous hooks."""
        value, error = None, None
        try:
            for hook in self._hooks:
                if hook.is_async:
                    manager = hook.enter(self._run)
                    _must_have(manager, "__aenter__", hook)
                    await manager.__aenter__()
                    self._asynchronous.append(manager)
            value = await work()
        except BaseException as raised:  # noqa: BLE001  it is raised again, when the hooks have been left
            error = raised
        while self._asynchronous and os.getpid() == self._pid:
            manager = self._asynchronous.pop()
            try:
                await manager.__aexit__(*_raised(error))
            except BaseException as raised:  # noqa: BLE001  a hook is users' code: what it raises is the run's error
                error = raised
        try:
            if error is not None:
                raise error
            return value
        finally:
            del error  # its traceback holds this frame

    @property
    def is_async(self) -> bool:
        """Whether there are asynchronous hooks."""
        return any(hook.is_async for hook in self._hooks)


def _raised(error: BaseException | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if error is None else (type(error), error, error.__traceback__)


def _must_have(manager: object, method: str, hook: AroundHook) -> None:
    if not hasattr(type(manager), method):
        raise ConfigurationError(
            f"@app.around_run of {hook.name}: it has given {manager!r}; it must have one `yield`, where the run's own code has "
            "its place, or give a context manager"
        )


def _check(where: str, fn: object, arguments: int) -> None:
    if not callable(fn):
        raise ConfigurationError(f"{where} stands over a function, not {fn!r}")
    try:
        inspect.signature(fn).bind(*[None] * arguments)
    except TypeError as error:
        takes = "one argument, the run (aiki.CurrentRun)" if arguments else "no arguments"
        raise ConfigurationError(f"{where} of {_name(fn)}: the function is called with {takes}: {error}") from None
    except ValueError:
        pass  # of some built-in functions there is no signature


def _name(fn: object) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))
