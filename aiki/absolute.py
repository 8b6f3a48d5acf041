"""Filters with the times of somebody's zone, written so that they mean the same to whoever reads times as UTC."""

from __future__ import annotations

import dataclasses
import datetime as dt

from aiki.clock import SECOND
from aiki.errors import FilterError
from aiki.filters import FIELDS, Filter, Range, Term, moments_of
from aiki.spans import LONGEST
from aiki.zones import EPOCH


def absolute(where: Filter, zone: dt.tzinfo, now: int) -> Filter:
    """The filter in which times that mean something else in `zone` than in UTC, such as `today`, are written in UTC.

    So it means the same to whoever reads times as UTC. Raises `FilterError` for what is no time in that zone.
    """
    if zone is dt.UTC:
        return where
    return Filter(tuple(_absolute(term, zone, now) for term in where.terms))


def _absolute(term: Term, zone: dt.tzinfo, now: int) -> Term:
    if FIELDS.get(term.field, ("",))[0] != "time":
        return term
    try:
        values = tuple(_in_utc(term.field, value, zone, now) for value in term.values if isinstance(value, Range))
    except ValueError as error:
        raise FilterError(f"{str(error)[:40]!r} is not a time in this zone", term.position, term.length) from None
    return dataclasses.replace(term, values=values)


def _in_utc(field: str, value: Range, zone: dt.tzinfo, now: int) -> Range:
    bounds = [value.low, value.high] if value.op == ".." else [value.low]
    if all(moments_of(bound, now, zone) == moments_of(bound, now) for bound in bounds):
        return value  # as it was written, since it means the same
    (start, end), (_, high) = moments_of(bounds[0], now, zone), moments_of(bounds[-1], now, zone)
    op = {"since": ">=", "until": "<="}.get(field, value.op)
    if op in ("=", ".."):
        return Range("..", _utc(start), _utc(high - 1))
    return Range(value.op, _utc(start if op in (">=", "<") else end - 1))


def _utc(at: int) -> str:
    """A moment, to the microsecond; one that has no year of four digits becomes the nearest that has."""
    moment = EPOCH + dt.timedelta(microseconds=max(-62_135_596_800 * SECOND, min(at, LONGEST)))
    return moment.replace(tzinfo=None).isoformat() + "Z"
