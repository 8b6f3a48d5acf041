"""Spans, times, compressed payloads and text for databases: what all parts read and write in the same way."""

from __future__ import annotations

import base64
import zlib

import pytest

from aiki import filters, retention, spans
from aiki.clock import SECOND, iso
from aiki.codec import JSON, JSON_ZLIB, Payload, TooLarge, inflate, text_within
from aiki.dashboard.formatting import term
from aiki.text import storable


@pytest.mark.parametrize(
    ("text", "micros"),
    [("90s", 90 * SECOND), ("1h30m", 5400 * SECOND), ("1.5s", 1_500_000), ("7d", 604_800 * SECOND), ("250ms", 250_000)],
)
def test_a_span_is_the_same_wherever_it_is_written(text: str, micros: int) -> None:
    assert spans.parse(text) == filters.span_of(text) == micros
    if micros >= 60 * SECOND:
        assert retention.parse(text)["failed"] == micros // SECOND


@pytest.mark.parametrize("text", ["", "7", "7x", "-7d", "1h 30m", "٣d", "1" * 40 + "d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    assert not spans.is_span(text)
    with pytest.raises(ValueError):
        spans.parse(text)


def test_no_span_is_longer_than_there_are_years() -> None:
    assert spans.parse("9" * 30 + "w") == spans.LONGEST


def test_a_time_is_written_exactly() -> None:
    assert iso(1_700_000_000_123_457) == "2023-11-14T22:13:20.123457Z"
    assert iso(1_700_000_000_999_999, "milliseconds") == "2023-11-14T22:13:20.999Z"
    assert iso(0) == "1970-01-01T00:00:00.000000Z"


def packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode())).decode()


def test_no_more_is_inflated_than_may_be() -> None:
    bomb = packed("9" * 1_000_000)
    assert inflate(bomb, 1_000_000) == b"9" * 1_000_000
    with pytest.raises(TooLarge):
        inflate(bomb, 999_999)
    assert text_within(Payload(JSON_ZLIB, bomb), 999_999) is None
    assert text_within(Payload(JSON_ZLIB, bomb), 1_000_000) == "9" * 1_000_000


def test_what_is_damaged_or_unknown_is_no_text() -> None:
    whole = base64.b64decode(packed("[1, 2, 3]"))
    for text in (base64.b64encode(whole[:-1]).decode(), base64.b64encode(b"x" + whole).decode(), "not base64"):
        with pytest.raises(ValueError):
            inflate(text, 100)
        assert text_within(Payload(JSON_ZLIB, text), 100) is None
    assert text_within(Payload("aes", "abc"), 100) is None
    assert text_within(Payload(JSON, "[1]"), 3) == "[1]"
    assert text_within(Payload(JSON, "[1]"), 2) is None


@pytest.mark.parametrize(
    "value", ["mail.send", "a..b", "-x", "two words", 'q"uote', "a,b", "*", "back\\slash", "a:b", "<b", ""]
)
def test_the_dashboard_writes_values_as_filters_read_them(value: str) -> None:
    text = term("name", value)
    assert text == f"name:{filters.quoted(value)}"
    if value:
        (found,) = filters.parse(text).terms
        assert [each.exact for each in found.values] == [value]


def test_text_that_no_database_takes_is_written_with_escapes() -> None:
    assert storable("caf\u00e9 \ud800!", 100) == "caf\u00e9 \\ud800!"
    assert storable("abcdef", 3) == "abc"
