"""What clocks on the wall show, and the moments at which they do."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki import zones
from aiki.absolute import absolute
from aiki.clock import SECOND
from aiki.errors import FilterError
from aiki.filters import moments_of, parse

NAMES = ("UTC", "Europe/Berlin", "America/New_York", "America/Havana", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo")
NOW = 1_793_534_400_000_000  # 2026-11-01T12:00:00Z
OF_2026 = st.integers(1_767_225_600, 1_798_761_600)


def zone_of(name: str) -> dt.tzinfo:
    found = zones.zone_of(name)
    assert found is not None
    return found


@given(OF_2026, st.sampled_from(NAMES))
def test_each_moment_is_within_what_a_clock_shows_then(second: int, name: str) -> None:
    zone, at = zone_of(name), second * SECOND
    there = zones.wall(at, zone)
    for text in (f"{there:%Y-%m-%d}", f"{there:%Y-%m-%dT%H:%M}"):
        start, end = moments_of(text, NOW, zone)
        assert start <= at < end, text
    first, last = zones.moments(there.replace(tzinfo=None, fold=0), zone)
    assert at in (first, last)


@given(OF_2026, st.sampled_from(NAMES))
def test_days_follow_each_other_without_a_gap(second: int, name: str) -> None:
    zone = zone_of(name)
    day = zones.wall(second * SECOND, zone).date()
    following = day + dt.timedelta(days=1)
    assert moments_of(str(day), NOW, zone)[1] == moments_of(str(following), NOW, zone)[0]


@pytest.mark.parametrize(
    ("text", "zone", "start", "hours"),
    [
        ("2026-10-25", "Europe/Berlin", "2026-10-24T22:00", 25),
        ("2026-03-29", "Europe/Berlin", "2026-03-28T23:00", 23),
        ("2026-11-01", "America/Havana", "2026-11-01T04:00", 25),  # midnight comes twice
        ("2026-04-24", "Africa/Cairo", "2026-04-23T22:00", 23),  # midnight never comes
        ("2011-12-30", "Pacific/Apia", "2011-12-30T10:00", 0),  # the day was left out
        ("2026-04-05", "Australia/Lord_Howe", "2026-04-04T13:00", 24.5),
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:00", 0),
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T00:30", 1 + 1 / 60),
        ("2026-10-25T02:30+01:00", "Europe/Berlin", "2026-10-25T01:30", 1 / 60),
    ],
)
def test_days_and_minutes_where_clocks_are_set(text: str, zone: str, start: str, hours: float) -> None:
    low, high = moments_of(text, NOW, ZoneInfo(zone))
    assert low == moments_of(start + "Z", NOW)[0]
    assert high - low == round(hours * 3600 * SECOND)


def test_a_filter_is_written_so_that_it_means_the_same_in_utc() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for text, meant in {
        "since:today": "since:2026-10-31T23:00:00Z",
        "until:2026-10-31": "until:2026-10-31T22:59:59.999999Z",
        "created:2026-10-25..2026-10-26": "created:2026-10-24T22:00:00Z..2026-10-26T22:59:59.999999Z",
        "-created:>2026-10-31": "-created:>2026-10-31T22:59:59.999999Z",
        "finished:<=2026-10-31,<2026-10-01": "finished:<=2026-10-31T22:59:59.999999Z,<2026-09-30T22:00:00Z",
        "since:1h started:2026-10-31T12:00Z status:failed today name:today": (
            "since:1h started:2026-10-31T12:00Z status:failed today name:today"
        ),
    }.items():
        assert absolute(parse(text), berlin, NOW).text == meant
        assert absolute(parse(meant), berlin, NOW) == parse(meant)
        assert absolute(parse(text), dt.UTC, NOW) == parse(text)


def test_the_ends_of_time() -> None:
    for name in ("Pacific/Kiritimati", "America/New_York"):
        for text in ("created:0001-01-01", "created:9999-12-31", "since:9999-12-31T23:59", "until:0001-01-01T00:00"):
            meant = absolute(parse(text), ZoneInfo(name), NOW)
            assert parse(meant.text) == meant
    with pytest.raises(FilterError, match="is not a time"):
        parse("since:10000-01-01")
