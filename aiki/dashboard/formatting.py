"""How times, durations and numbers are written."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, Final
from urllib.parse import quote

from aiki import zones
from aiki.clock import iso
from aiki.filters import quoted

SECOND: Final = 1_000_000
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def exact(us: int, zone: tzinfo = UTC) -> str:
    """As people read it, to the millisecond, with the zone: `2026-11-01 12:00:00.000 UTC`, `… 21:00:00.000 +09:00 Asia/Tokyo`.

    Filters take it as it is written (`aiki.filters.moments_of`).
    """
    there = zones.wall(us, zone)
    shown = f"{there:%Y-%m-%d %H:%M:%S}.{us % SECOND // 1000:03d}"
    return f"{shown} UTC" if there.tzinfo is UTC else f"{shown} {_offset(there)} {zones.name_of(zone)}"


def minute(us: int, zone: tzinfo = UTC) -> str:
    """To the minute, for lists whose head names the zone; the offset tells what clocks show twice."""
    there = zones.wall(us, zone)
    return f"{there:%Y-%m-%d %H:%M}" + ("" if there.tzinfo is UTC else f" {_offset(there)}")


def _offset(there: datetime) -> str:
    text = f"{there:%z}"
    return f"{text[:3]}:{text[3:5]}"


def seconds(value: float) -> str:
    """A span: 4 ms, 1.2 s, 3 min 20 s, 2 d 4 h."""
    if value < 0:
        return f"-{seconds(-value)}"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    for i, (size, unit) in enumerate(_UNITS):
        if whole >= size:
            less, name = _UNITS[i + 1] if i + 1 < len(_UNITS) else (1, "s")
            rest = whole % size // less
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def duration(us: int | None) -> str:
    """A span given in microseconds; empty for None."""
    return "" if us is None else seconds(us / SECOND)


def ago(us: int, now: int) -> str:
    """A time relative to now: just now, 3 min ago, in 2 h."""
    apart = now - us
    if abs(apart) < SECOND:
        return "just now"
    whole = abs(apart) // SECOND
    for size, unit in _UNITS:
        if whole >= size:
            text = f"{whole // size} {unit}"
            break
    else:
        text = f"{whole} s"
    return f"{text} ago" if apart > 0 else f"in {text}"


def number(value: float | None) -> str:
    """With thousands apart."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"


def size(value: float) -> str:
    """Bytes, in the unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:,.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:,.1f} {unit}"
        value /= 1000
    raise AssertionError


def share(value: float | None) -> str:
    """A fraction as per cent."""
    return "–" if value is None else f"{value * 100:.1f} %" if 0 < value < 0.1 else f"{value * 100:.0f} %"


def term(field: str, value: object) -> str:
    """One term of the filter language, quoted if it has to be."""
    return f"{field}:{quoted(str(value))}"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "iso": iso,
    "duration": duration,
    "seconds": seconds,
    "ago": ago,
    "number": number,
    "size": size,
    "share": share,
    "term": term,
    "quote": lambda text: quote(str(text), safe=""),
}
