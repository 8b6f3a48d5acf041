"""Times in words, for sentences that people read."""

from __future__ import annotations

import datetime as dt

from aiki.clock import SECOND


def moment(at: int, now: int) -> str:
    """When something was or will be, in UTC and as short as is clear from `now`: `10:02 UTC`, `Friday 10:00 UTC`, a date."""
    try:
        then = dt.datetime.fromtimestamp(at / SECOND, dt.UTC)
        today = dt.datetime.fromtimestamp(now / SECOND, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return "a time far away"
    days = (then.date() - today.date()).days
    if days == 0:
        return f"{then:%H:%M} UTC"
    if abs(days) < 7:
        return f"{then:%A %H:%M} UTC"
    return f"{then:%Y-%m-%d %H:%M} UTC"
