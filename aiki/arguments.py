"""Arguments of a call: checked against the function's signature where the call is written, and encoded."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiki import codec, hints
from aiki.codec import Payload
from aiki.errors import ConfigurationError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Call:
    """The arguments of one run for `enqueue_many`; `task.call(...)` makes one that type checkers check."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    reference_id: str | None = None


class Arguments:
    """A function's signature, ready to check many calls.

    :param skip: leading parameters that callers do not give: 1 for a workflow's `run`.
    """

    def __init__(self, name: str, fn: Callable[..., Any], skip: int = 0) -> None:
        self._name = name
        self.fn = fn
        self._what = f"arguments of {name}"
        try:
            self._signature = inspect.signature(fn)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                f"{name}: its signature cannot be read ({error}); wrap it in a function of your own"
            ) from None
        if skip:
            given = list(self._signature.parameters.values())
            if not given or given[0].kind not in _POSITIONAL:
                raise ConfigurationError(_without_run(name, ""))
            if _plain_type(given[0].annotation):
                raise ConfigurationError(_without_run(name, f", not {given[0]}"))
            self._signature = self._signature.replace(parameters=given[skip:])
        parameters = self._signature.parameters.values()
        required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        positional = [p for p in parameters if p.kind in _POSITIONAL]
        # A call with positional arguments alone is right if their number is; a required keyword rules that out.
        self._least = len([p for p in required if p.kind in _POSITIONAL])
        self._most = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
        if any(p.kind is p.KEYWORD_ONLY for p in required):
            self._most = -1
        # A call with keywords alone is right if they are known and none is missing.
        self._known = frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        self._needed = frozenset(p.name for p in required)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise `TypeError` if the function could not be called like this."""
        if not kwargs:
            if self._least <= len(args) <= self._most:
                return
        elif not args and self._needed <= kwargs.keys() <= self._known:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}; its signature is {self._signature}") from None

    @functools.cached_property
    def _annotations(self) -> dict[str, Any]:
        found = hints.of_function(inspect.unwrap(self.fn))
        return {name: found.get(name, p.annotation) for name, p in self._signature.parameters.items()}

    @functools.cached_property
    def digest(self) -> str:
        """8 hex digits that are the same while names, order and types of the parameters are. Defaults may change."""
        told = ";".join(
            f"{p.kind.value}{name}:{hints.text_of(self._annotations[name])}" for name, p in self._signature.parameters.items()
        )
        return hashlib.sha256(told.encode("utf-8", "backslashreplace")).hexdigest()[:8]

    def check_types(self, args: Sequence[Any], kwargs: Mapping[str, Any], digest: str | None) -> None:
        """Raise `TypeError` if the signature is another one than the caller saw, and the arguments are not of its types.

        :param digest: that of the signature that the caller saw, or None. Whoever saw this one may pass what is not of the
            annotated type, as Python allows.
        """
        if digest is None or digest == self.digest:
            return
        parameters = self._signature.parameters
        for name, value in self._signature.bind(*args, **kwargs).arguments.items():
            kind, annotation = parameters[name].kind, self._annotations[name]
            values = value if kind is inspect.Parameter.VAR_POSITIONAL else [value]
            values = value.values() if kind is inspect.Parameter.VAR_KEYWORD else values
            wrong = [item for item in values if annotation is not inspect.Parameter.empty and not hints.fits(item, annotation)]
            if wrong and not (wrong[0] is None and parameters[name].default is None):
                raise TypeError(
                    f"its argument {name!r} is declared as {hints.text_of(annotation)} now, and what was passed is of type "
                    f"{type(wrong[0]).__qualname__}; its signature is {self._signature}"
                )

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, limit: int, compress_above: int) -> Payload:
        """Check a call and encode it as `[[*args], {**kwargs}]`; raises `TypeError`, `PayloadError`."""
        self.check(args, kwargs)
        return codec.encode([list(args), {**kwargs}], limit=limit, what=self._what, compress_above=compress_above or None)

    def canonical(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], beside: Mapping[str, Any] = _NOTHING) -> str:
        """The call as JSON text that is equal for equal calls, however they are written; defaults are not filled in.

        :param beside: what else is part of the input, by names that are no parameters'.
        :raises TypeError: the function does not take these arguments.
        :raises aiki.PayloadError: an argument cannot be carried.
        """
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}; its signature is {self._signature}") from None
        return codec.canonical({**bound.arguments, **beside} if beside else bound.arguments, what=self._what)


def _without_run(name: str, found: str) -> str:
    return f"{name}: its first parameter must be the run{found}: def {name.rpartition('.')[2]}(run: WorkflowRun, ...)"


def _plain_type(annotation: Any) -> bool:
    """Whether a parameter is annotated as plain data, so that it cannot be a workflow's run."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return text.partition("[")[0] in ("str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set", "Decimal", "UUID")


def as_call(item: Any, position: int) -> Call:
    """An item of `enqueue_many` as a call."""
    if isinstance(item, Call):
        return item
    if isinstance(item, tuple):
        return Call(item)
    if isinstance(item, Mapping):
        return Call((), item)
    raise TypeError(
        f"enqueue_many: item {position} is {item!r:.80}; each item must be a tuple of positional arguments (one: `(x,)`), "
        "a dict of keyword arguments, or task.call(...)"
    )
