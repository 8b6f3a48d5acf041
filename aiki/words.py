"""Times in words, for sentences that people read."""

from __future__ import annotations

import datetime as dt
from contextvars import ContextVar
from typing import Final

from aiki.clock import SECOND
from aiki.zones import name_of

ZONE: Final[ContextVar[dt.tzinfo]] = ContextVar("zone", default=dt.UTC)
"""The zone of whoever reads the sentences that are made now; set for the answer to a person, never for what is recorded."""


def moment(at: int, now: int) -> str:
    """When something was or will be, as short as is clear from `now`, with the zone: `10:02 UTC`, `Friday 10:00 UTC`."""
    zone = ZONE.get()
    try:
        then = dt.datetime.fromtimestamp(at / SECOND, dt.UTC).astimezone(zone)
        today = dt.datetime.fromtimestamp(now / SECOND, dt.UTC).astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return "a time far away"
    days = (then.date() - today.date()).days
    named = name_of(zone) if zone is dt.UTC else f"{then.isoformat()[-6:]} {name_of(zone)}"
    if days == 0:
        return f"{then:%H:%M} {named}"
    if abs(days) < 7:
        return f"{then:%A %H:%M} {named}"
    return f"{then:%Y-%m-%d %H:%M} {named}"
