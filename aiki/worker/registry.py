"""The definitions that a worker can execute: those of the apps named with `-A`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, cast

from aiki import failures
from aiki.arguments import Arguments
from aiki.errors import ConfigurationError
from aiki.hooks import NONE, Hooks
from aiki.messages import OPT_RETRY, Dispatch
from aiki.retry import RetryPolicy, Tries
from aiki.settings import Settings


class Definition(Protocol):
    """A task, as far as the worker is concerned. Limits are seconds or None."""

    @property
    def name(self) -> str:
        """Its name in dispatches."""

    @property
    def version(self) -> str:
        """Which of several versions side by side."""

    @property
    def kind(self) -> str:
        """`task` or `workflow`."""

    @property
    def fn(self) -> Callable[..., Any]:
        """The plain function."""

    @property
    def arguments(self) -> Arguments:
        """Its signature, without a workflow's run."""

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""

    @property
    def retry(self) -> RetryPolicy:
        """Its retry policy."""

    @property
    def time_limit(self) -> float | None:
        """The hard limit."""

    @property
    def soft_time_limit(self) -> float | None:
        """The soft limit."""

    @property
    def hooks(self) -> Hooks:
        """The hooks around its runs."""


def tries_of(dispatch: Dispatch, definition: Definition) -> Tries:
    """Which attempt a dispatch is as the run's retry policy counts, and how many there are."""
    wire = dispatch.options.get(OPT_RETRY)
    return Tries(dispatch.counted, definition.retry.max_attempts if wire is None else wire.get("max_attempts", 1))


class App(Protocol):
    """The apps that `-A` names."""

    @property
    def versions(self) -> Mapping[tuple[str, str], Definition]:
        """Name and version to definition."""

    @property
    def settings(self) -> Settings:
        """The app's settings; the worker takes the broker, the namespace and the payload limits from them."""

    @property
    def hooks(self) -> Hooks:
        """The app's hooks for workers."""

    def use_broker(self, url: str) -> None:
        """Have this broker in place of the app's own, as if the app had named it."""


class Registry:
    """All definitions of all apps, by name and version. `index` numbers the names, the same in every process of the worker.

    :ivar hooks: those of the apps.
    """

    def __init__(
        self, definitions: Mapping[tuple[str, str], Definition], settings: Settings, hooks: Sequence[Hooks] = ()
    ) -> None:
        self.settings = settings
        self.hooks = hooks
        self.definitions = dict(definitions)
        self.names = sorted({name for name, _ in self.definitions})
        self.index = {name: number for number, name in enumerate(self.names)}
        if len(self.names) > 65_000:
            raise ConfigurationError(f"{len(self.names):,} definitions; a worker carries at most 65,000")

    def triples(self) -> list[list[str]]:
        """`[name, version, kind]` of each, as heartbeats carry them; of several versions the newest is the one defined last."""
        return [[d.name, d.version, d.kind] for d in self.definitions.values()]


def load(specs: Sequence[str], broker_url: str | None = None) -> Registry:
    """Import what the `-A` options name, `module` or `module:attribute`, with the working directory on `sys.path`.

    :param broker_url: overrides the apps' own.
    :raises ConfigurationError: something cannot be imported, is no app, or two apps do not fit together.
    """
    if not specs:
        raise ConfigurationError("no app: say which with -A module or -A module:attribute")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    apps = [(spec, find_app(spec)) for spec in specs]
    definitions: dict[tuple[str, str], Definition] = {}
    owners: dict[tuple[str, str], str] = {}
    first, settings = apps[0][0], apps[0][1].settings
    for spec, app in apps:
        for field in ("namespace", "prefix", "broker_url") if broker_url is None else ("namespace", "prefix"):
            if getattr(app.settings, field) != getattr(settings, field):
                raise ConfigurationError(
                    f"-A {first} and -A {spec} differ in {field}; one worker serves one broker and namespace"
                )
        for key, definition in app.versions.items():
            if definitions.setdefault(key, definition) is not definition:
                raise ConfigurationError(f"{key[0]!r} is defined by both -A {owners[key]} and -A {spec}")
            owners.setdefault(key, spec)
    if broker_url is not None:
        for _, app in apps:
            app.use_broker(broker_url)
        settings = apps[0][1].settings
    failures.settle()
    different = {id(app): app for _, app in apps}
    return Registry(definitions, settings, [getattr(app, "hooks", NONE) for app in different.values()])


def find_app(spec: str) -> App:
    """The app that `module` or `module:attribute` names; raises `ConfigurationError`."""
    module_name, _, attribute = spec.partition(":")
    module = _import(module_name)
    if attribute:
        found: Any = module
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise ConfigurationError(f"-A {spec}: module {module_name} has no attribute {attribute!r}")
            found = getattr(found, part)
        if not _is_app(found):
            raise ConfigurationError(f"-A {spec}: it is a {type(found).__name__}, not an Aiki app")
        return cast(App, found)
    named = getattr(module, "app", None)
    if _is_app(named):
        return cast(App, named)
    candidates = {id(value): name for name, value in vars(module).items() if _is_app(value)}
    if not candidates:
        raise ConfigurationError(
            f"-A {spec}: there is no Aiki app in module {module_name}; name it as -A {module_name}:attribute"
        )
    if len(candidates) > 1:
        names = ", ".join(f"{module_name}:{name}" for name in candidates.values())
        raise ConfigurationError(f"-A {spec}: there are several apps, choose one of {names}")
    return cast(App, getattr(module, next(iter(candidates.values()))))


def _is_app(value: object) -> bool:
    # Looked up statically first: a module may hold lazy proxies, which act when they are touched.
    missing = object()
    if isinstance(value, type | ModuleType) or inspect.getattr_static(value, "versions", missing) is missing:
        return False
    return isinstance(getattr(value, "versions", None), Mapping) and isinstance(getattr(value, "settings", None), Settings)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigurationError(
                f"-A {name}: there is no module {error.name!r}, neither in {os.getcwd()} nor on the Python path"
            ) from None
        raise ConfigurationError(f"-A {name}: importing it failed:\n{traceback.format_exc()}") from None
    except Exception:  # noqa: BLE001  importing runs user code, which may raise anything
        raise ConfigurationError(f"-A {name}: importing it failed:\n{traceback.format_exc()}") from None
