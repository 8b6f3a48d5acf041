"""Spans of time as people write them: `90s`, `1h30m`, `7d`."""

from __future__ import annotations

import re
from typing import Final

from aiki.clock import SECOND

UNITS: Final = {"ms": 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND, "w": 604800 * SECOND}
LONGEST: Final = 253_402_300_799 * SECOND
"""As far as the last second that has a year of four digits."""
_ONE: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_MANY: Final = re.compile(rf"(?:{_ONE.pattern})+", re.ASCII)


def is_span(text: str) -> bool:
    """Whether `text` is one or several numbers, each with its unit."""
    return text.isascii() and len(text) <= 40 and _MANY.fullmatch(text) is not None


def parse(text: str) -> int:
    """Microseconds, at most `LONGEST`; raises `ValueError` for what is no span."""
    if not is_span(text):
        raise ValueError(text)
    return min(sum(round(float(number) * UNITS[unit]) for number, unit in _ONE.findall(text)), LONGEST)
