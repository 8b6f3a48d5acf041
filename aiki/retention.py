"""How long what has ended is kept: `AIKI_RETENTION`, as in `30d`, or `completed=7d failed=30d audit=365d`."""

from __future__ import annotations

from typing import Final

from aiki import spans
from aiki.clock import SECOND
from aiki.errors import ConfigurationError
from aiki.states import TERMINAL

AUDIT: Final = "audit"
DEAD_LETTERS: Final = "dead_letters"
KEPT: Final = (*sorted(str(state) for state in TERMINAL), AUDIT, DEAD_LETTERS)
"""What can be given a time: runs by the state that they ended in, audit records, dead letters."""
LEAST: Final = 60
"""Seconds. Whoever waits for a result must have a chance to see it."""


def parse(text: str) -> dict[str, int]:
    """Seconds by what is kept; what is not named is kept for ever. One duration alone is for runs, however they ended.

    :raises ConfigurationError: it is neither.
    """
    parts = text.replace(",", " ").split()
    if len(parts) == 1 and "=" not in parts[0]:
        seconds = _seconds(parts[0], text)
        return dict.fromkeys(sorted(str(state) for state in TERMINAL), seconds)
    out: dict[str, int] = {}
    for part in parts:
        name, equals, duration = part.partition("=")
        if not equals or name not in KEPT or name in out:
            why = "it is given twice" if name in out else f"there are {', '.join(KEPT)}"
            raise ConfigurationError(f"AIKI_RETENTION={text!r}: {part!r}: {why}, as in completed=7d failed=30d")
        out[name] = _seconds(duration, text)
    return out


def _seconds(text: str, whole: str) -> int:
    try:
        seconds = spans.parse(text) // SECOND
    except ValueError:
        raise ConfigurationError(f"AIKI_RETENTION={whole!r}: {text!r} is no duration; write 90s, 30m, 12h, 7d or 4w") from None
    if seconds < LEAST:
        raise ConfigurationError(f"AIKI_RETENTION={whole!r}: {text!r} must be {LEAST} seconds or more")
    return seconds
