"""Facts about an app for `aiki dev`, collected in a process of its own: `python -m aiki.cli.probe SPEC...`.

The app is imported there and not in `aiki dev`: so a file that changed is read anew, and one that is broken breaks nothing.
The answer is the last line of standard output, as JSON; errors are on standard error, with exit code 2.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aiki.cli.main import EXIT_USAGE, heed_parent
from aiki.errors import ConfigurationError, DecodeError

_SAMPLES = {int: "1", float: "1.0", bool: "True", "int": "1", "float": "1.0", "bool": "True"}


@dataclass(frozen=True, slots=True)
class Found:
    """An app: its settings (fields of `Settings`), its tasks' names and queues, and a line of Python that enqueues one."""

    settings: dict[str, Any]
    tasks: list[str] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    example: str = ""


def probe(specs: Sequence[str]) -> Found:
    """Import the apps. Raises `ConfigurationError`."""
    from aiki.worker.registry import find_app, load

    registry = load(specs)
    queues, example = {"default"}, ""
    for spec in specs:
        for definition in find_app(spec).versions.values():
            queues.add(str(getattr(getattr(definition, "defaults", None), "queue", "default")))
            example = example or example_of(spec.partition(":")[0], definition)
    return Found(asdict(registry.settings), registry.names, sorted(queues), example)


def example_of(module: str, definition: Any) -> str:
    """Python that enqueues the task, with arguments made up from its signature; empty if none can be made up."""
    attribute = next((name for name, value in vars(sys.modules[module]).items() if value is definition), None)
    arguments = sample_arguments(definition.fn)
    if attribute is None or arguments is None:
        return ""
    return f"from {module} import {attribute}; print({attribute}.enqueue({', '.join(arguments)}).result())"


def sample_arguments(function: Callable[..., Any]) -> list[str] | None:
    """Python literals for the parameters that have no default, or None."""
    out = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.annotation in (str, "str"):
            sample = f"'{parameter.name.removesuffix('_id')}-1'"
        elif parameter.annotation in _SAMPLES:
            sample = _SAMPLES[parameter.annotation]
        else:
            return None
        out.append(f"{parameter.name}={sample}" if parameter.kind is parameter.KEYWORD_ONLY else sample)
    return out


def read_answer(output: str) -> Found:
    """The answer in a probe's output; lines that the app itself printed come before it. Raises `DecodeError`."""
    try:
        return Found(**json.loads(output.strip().rpartition("\n")[2]))
    except (ValueError, TypeError) as error:
        raise DecodeError(f"the app was imported, but the answer cannot be read ({error}): {output[-200:]!r}") from None


def main() -> int:
    """Answer; the exit code."""
    heed_parent()
    try:
        print("\n" + json.dumps(asdict(probe(sys.argv[1:]))))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
