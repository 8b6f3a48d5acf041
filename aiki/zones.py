"""Time zones of readers: from what a clock on the wall shows to moments, where it jumps ahead and where it is put back, too."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from functools import cache
from typing import Final

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


@cache
def known() -> frozenset[str]:
    """The names that this machine knows, such as `Europe/Berlin`."""
    return frozenset(zoneinfo.available_timezones())


def zone_of(name: str) -> dt.tzinfo | None:
    """The zone of that name, or None. Names that are none are looked for nowhere: they may come from anybody."""
    if name == "UTC":
        return dt.UTC
    return zoneinfo.ZoneInfo(name) if name in known() else None


def name_of(zone: dt.tzinfo) -> str:
    """Its name: `UTC`, or as `known` has it."""
    return zone.key if isinstance(zone, zoneinfo.ZoneInfo) else "UTC"


def since_epoch(moment: dt.datetime) -> int:
    """Microseconds since the Unix epoch of a time that has a zone."""
    return (moment - EPOCH) // _MICROSECOND


def wall(at: int, zone: dt.tzinfo) -> dt.datetime:
    """What a clock there shows at a moment (microseconds since the epoch); in UTC where that has no year of four digits."""
    moment = EPOCH + dt.timedelta(microseconds=at)
    try:
        return moment.astimezone(zone)
    except (OverflowError, ValueError):
        return moment


def moments(shown: dt.datetime, zone: dt.tzinfo) -> tuple[int, int]:
    """The first and the last moment at which a clock there shows this time (without a zone): two where clocks are put back.

    Where they are put ahead, over this time, the first is the moment at which that happens, and the last is before it.
    """
    first, last = (since_epoch(shown.replace(tzinfo=zone, fold=fold)) for fold in (0, 1))
    if first <= last:
        return first, last
    # Never shown: clocks are put ahead somewhere between the two.
    before, after = last, first
    while after - before > 1:
        middle = (before + after) // 2
        if wall(middle, zone).replace(tzinfo=None, fold=0) < shown:
            before = middle
        else:
            after = middle
    return after, after - 1
