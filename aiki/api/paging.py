"""Tokens for the next page of a list. Each belongs to the filter that it was made for."""

from __future__ import annotations

import base64
import binascii
import hashlib

from aiki.api.problems import Refused, invalid
from aiki.filters import Filter

_CHECK = 8


def token_of(where: Filter | str, place: str | None) -> str | None:
    """The token of the page that begins at a place of a list; `where` is the filter or other text that the list depends on."""
    if place is None:
        return None
    raw = place.encode("ascii")
    return base64.urlsafe_b64encode(_check(where, raw) + raw).decode("ascii").rstrip("=")


def place_of(where: Filter | str, token: str, field: str = "after") -> str:
    """The place that a token names; raises `Refused` for one that is damaged or of another filter."""
    try:
        data = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), b"-_", validate=True)
        raw = data[_CHECK:]
        place = raw.decode("ascii")
    except (binascii.Error, ValueError):
        raise _wrong(field, "it is not the `next` of an earlier answer") from None
    if not raw:
        raise _wrong(field, "it is not the `next` of an earlier answer")
    if data[:_CHECK] != _check(where, raw):
        raise _wrong(field, "it is damaged, or belongs to a list with other filters; begin again without it")
    return place


def _wrong(field: str, why: str) -> Refused:
    return invalid(f"{field}: {why}", {field: [why]})


def _check(where: Filter | str, raw: bytes) -> bytes:
    # A checksum, no secret: a token gives nothing that the filter would not.
    text = where.text if isinstance(where, Filter) else where
    return hashlib.sha256(text.encode() + b"\0" + raw).digest()[:_CHECK]
