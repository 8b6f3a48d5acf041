"""What a workflow is told of the error of a run that it has started, or follows."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

MAX_TOLD: Final = 16 * 1024
"""Characters of a child's traceback that its parent is told."""


class Failure(NamedTuple):
    """What is told of a child's error beside its type and message: its arguments as JSON text, where it can be made anew from
    them, and the traceback as text."""

    arguments: str | None = None
    traceback: str = ""

    def to_text(self) -> str:
        """As an `Arrival` carries it; a long traceback without its beginning."""
        told = {"a": self.arguments, "tb": self.traceback[-MAX_TOLD:]}
        return json.dumps({key: value for key, value in told.items() if value}, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Failure:
        """Read what `to_text` wrote; what cannot be read tells nothing."""
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            return cls()
        found = told if isinstance(told, dict) else {}
        arguments, trace = found.get("a"), found.get("tb")
        return cls(arguments if isinstance(arguments, str) else None, trace if isinstance(trace, str) else "")
