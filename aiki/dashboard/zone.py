"""In which time zone the reader wants to have times: kept in a cookie, by default UTC. Exports and the API are in UTC."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from flask import g, request

from aiki import zones
from aiki.absolute import absolute
from aiki.api.requests import backend
from aiki.clock import SECOND
from aiki.dashboard import formatting
from aiki.filters import Filter

COOKIE: Final = "aiki_zone"
_IN_UTC: Final = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", re.ASCII)


def reader_zone() -> dt.tzinfo:
    """The zone of whoever asks."""
    found: dt.tzinfo | None = g.get("reader_zone")
    if found is None:
        found = g.reader_zone = zones.zone_of(request.cookies.get(COOKIE, "UTC")) or dt.UTC
    return found


def meant(where: Filter) -> Filter:
    """A filter that the reader wrote, with its times as the store and the API read them. Raises `FilterError`."""
    return absolute(where, reader_zone(), backend().now())


def exact(us: int) -> str:
    """See `formatting.exact`."""
    return formatting.exact(us, reader_zone())


def minute(us: int) -> str:
    """See `formatting.minute`."""
    return formatting.minute(us, reader_zone())


def zoned(text: str) -> str:
    """A sentence of ours in which times of UTC are written in the reader's zone."""
    if reader_zone() is dt.UTC:
        return text

    def there(found: re.Match[str]) -> str:
        try:
            moment = zones.since_epoch(dt.datetime.fromisoformat(found[0]))
        except (ValueError, OverflowError):  # users' words are in the sentence, too, and this only looks like a time
            return found[0]
        return exact(moment // SECOND * SECOND).replace(".000 ", " ", 1)

    return _IN_UTC.sub(there, text)
