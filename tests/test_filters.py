"""The filter language: what is read, how it is written again, and where a wrong one is told to be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.clock import SECOND
from aiki.errors import FilterError
from aiki.filters import FIELDS, TEXT, Filter, Pattern, Range, Term, moments_of, parse, span_of

NOW = 1_793_534_400_000_000  # 2026-11-01T12:00:00Z
DAY = 86400 * SECOND


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("  status:failed   name:mail*  ", "status:failed name:mail*"),
        ("Status:FAILED state:dead", "status:failed status:dead"),
        ("status:failed,dead,failed", "status:failed,dead"),
        ("-error:Timeout* since:1h", "-error:Timeout* since:1h"),
        ("args.order_id:42 args.Item.0.sku:a*", "args.order_id:42 args.Item.0.sku:a*"),
        ("ref:o-*", "reference:o-*"),
        ("id:0191F3C2*", "id:0191f3c2*"),
        ("parent:0191f3c200007000800000000000000a", "parent:0191f3c2-0000-7000-8000-00000000000a"),
        ("attempt:>3 duration:>10s created:2026-11-01..2026-11-02", "attempt:>3 duration:>10s created:2026-11-01..2026-11-02"),
        ('"two words" -"minus word"', '"two words" -"minus word"'),
        ('name:"a*b" name:a\\*b* ', 'name:"a*b" name:a\\*b*'),
        ("name:a**b", "name:a*b"),
        ('reference:"o-1","a,b"', 'reference:o-1,"a,b"'),
        ('"http://host"', '"http://host"'),
        ("created:>2026-11-01T12:00Z", "created:>2026-11-01T12:00Z"),
        ('until:"2026-11-01 12:00"', 'until:"2026-11-01 12:00"'),
        ('"-5"', '"-5"'),
        ('name:""', 'name:""'),
        ("failed failed", "failed"),
    ],
)
def test_canonical_spelling(text: str, canonical: str) -> None:
    where = parse(text)
    assert where.text == canonical
    assert parse(canonical) == where
    assert hash(parse(canonical)) == hash(where)


@pytest.mark.parametrize(
    ("text", "place", "says", "suggestions"),
    [
        ("queue:a statsu:x", (8, 6), "did you mean status", ["status", "state"]),
        ("status:faild", (7, 5), "did you mean failed", ["failed", "stalled"]),
        ("x status:failed,ded", (16, 3), "dead", ["dead"]),
        ("kind:flow", (5, 4), "workflow", ["workflow"]),
        ("name: mail", (0, 5), "needs a value, directly after the colon", []),
        ("name:a, b", (7, 1), "a value is missing", []),
        ('a name:"mail', (7, 1), "no partner", []),
        ("name:a\\", (6, 1), "backslash", ["\\\\"]),
        ("- x", (0, 1), "directly before", ['"-"']),
        ("args:42", (0, 5), "args.order_id:42", []),
        ("args.:42", (0, 6), "args.order_id:42", []),
        ("attempt:>x", (8, 2), "'x' is not a whole number", []),
        ("attempt:>1..2", (8, 5), "either", []),
        ("created:1h", (8, 2), "single moment", [">1h", "<1h"]),
        ("since:>1h", (6, 3), "takes one time", []),
        ("since:tomorrow", (6, 8), "is not a time", []),
        ("created:2026-13-01", (8, 10), "is not a time", []),
        ("duration:>1y", (9, 3), "is not a duration", []),
        ("id:xyz", (3, 3), "is not a run's id", []),
        ("parent:0191*", (7, 5), "is not a run's id", []),
        ("http://host", (0, 4), "put it in quotes", []),
        ("a \x00", (2, 1), "cannot be searched", []),
        ("a \ud800", (2, 1), "cannot be searched", []),
        ("a*" * 1001, (2000, 2), "at most 2,000 characters", []),
        (" ".join(f"w{n}" for n in range(41)), (150, 3), "at most 40 terms", []),
        ("*", (0, 1), "nothing to look for", []),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, place: tuple[int, int], says: str, suggestions: list[str]) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    error = caught.value
    assert (error.position, error.length) == place
    assert says in str(error)
    assert error.suggestions == suggestions


def test_terms_know_their_place() -> None:
    text = '  status:failed -error:"a b"  word'
    assert [text[term.position :][: term.length] for term in parse(text).terms] == ["status:failed", '-error:"a b"', "word"]


def test_terms_are_added_and_removed() -> None:
    where = parse("status:failed name:mail* name:*x")
    assert where.without("name").text == "status:failed"
    assert where.without(where.terms[1]).text == "status:failed name:*x"
    assert where.with_("queue:bulk").text == "status:failed name:mail* name:*x queue:bulk"
    assert where.with_("status:dead", replace=True).text == "name:mail* name:*x status:dead"
    assert where.with_("-status:dead", replace=True).text == "status:failed name:mail* name:*x -status:dead"
    assert where.with_(where.terms[0]) == parse("name:mail* name:*x status:failed")
    assert where.of("name") == where.terms[1:]
    assert not Filter()
    with pytest.raises(FilterError):
        where.with_("statsu:x")


def test_times() -> None:
    assert moments_of("1h30m", NOW) == (NOW - 5400 * SECOND, NOW - 5400 * SECOND + 1)
    assert moments_of("now", NOW) == (NOW, NOW + 1)
    today = NOW - NOW % DAY
    assert moments_of("today", NOW) == moments_of("2026-11-01", NOW) == (today, today + DAY)
    assert moments_of("yesterday", NOW) == (today - DAY, today)
    assert moments_of("2026-11-01T12:00", NOW) == (NOW, NOW + 60 * SECOND)
    assert moments_of("2026-11-01T13:00:00+01:00", NOW) == (NOW, NOW + 1)
    assert (span_of("500ms"), span_of("2.5"), span_of("1w")) == (SECOND // 2, SECOND * 5 // 2, 7 * DAY)


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
_patterns = st.lists(_texts | st.just(""), min_size=1, max_size=3).map(
    lambda parts: Pattern((parts[0], *[part for part in parts[1:-1] if part], *parts[1:][-1:]))
)
_numbers = st.integers(0, 10**8).map(str)
_ranges = st.builds(Range, st.sampled_from(["=", ">", ">=", "<", "<="]), _numbers) | st.builds(
    Range, st.just(".."), _numbers, _numbers
)
_times = st.sampled_from(["1h", "2d12h", "today", "2026-11-01", "2026-11-01T12:00:00Z", "2026-11-01 12:00"])
_by_kind = {
    "text": _patterns,
    "state": st.sampled_from(["failed", "dead", "active"]).map(lambda word: Pattern((word,))),
    "kind": st.sampled_from(["task", "workflow"]).map(lambda word: Pattern((word,))),
    "id": st.uuids().map(lambda run_id: Pattern((str(run_id),))),
    "number": _ranges,
    "time": st.builds(Range, st.sampled_from([">", "<="]), _times),
    "duration": _ranges,
    "args": _patterns,
}


@st.composite
def _terms(draw: st.DrawFn) -> Term:
    field = draw(st.sampled_from([*FIELDS, TEXT]))
    values = _by_kind["text" if field == TEXT else FIELDS[field][0]]
    if field in ("since", "until"):
        values = st.builds(Range, st.just("="), _times)
    if field == TEXT:
        values = values.filter(lambda value: isinstance(value, Pattern) and any(value.parts))
    path = tuple(draw(st.lists(st.from_regex(r"[a-zA-Z0-9_-]{1,5}", fullmatch=True), min_size=1, max_size=3)))
    found = draw(st.lists(values, min_size=1, max_size=3, unique=True))
    return Term(field, tuple(found), draw(st.booleans()), path if field == "args" else ())


@given(st.lists(_terms(), max_size=4, unique=True))
def test_what_is_written_is_read_again(terms: list[Term]) -> None:
    where = Filter(tuple(terms))
    assert parse(where.text) == where


@given(st.text(max_size=60) | st.text('ab-*,:" \\.<>12', max_size=30))
def test_any_text_is_a_filter_or_an_error_that_points_into_it(text: str) -> None:
    problem = None
    try:
        where = parse(text)
    except FilterError as error:
        problem = error
    if problem is None:
        assert parse(where.text) == where
    else:
        assert 0 <= problem.position <= len(text)
        assert 1 <= problem.length <= max(1, len(text) - problem.position)
