"""Times in the reader's zone: shown, written in filters, and kept apart from the API's, which are in UTC."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest

from aiki import dashboard, zones
from aiki.api import create_app
from aiki.api.app import backend_of
from aiki.dashboard import zone
from aiki.history import EVENT_SENT, Wait
from aiki.ids import to_bytes
from aiki.lifecycle.run_logs import LogRecord
from aiki.settings import Settings
from aiki.words import ZONE
from tests.dashboard.conftest import Pages
from tests.ready_made import sqlite_database
from tests.storage.bench import Bench, step
from tests.storage.conftest import SetClock

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> int:
    """Microseconds of a time in UTC."""
    return zones.since_epoch(dt.datetime.fromisoformat(text + "+00:00"))


class Zoned(Pages):
    """Pages over SQLite with a clock that is set."""

    def __init__(self, folder: Path) -> None:
        places = {"database_url": sqlite_database(folder / "aiki.db"), "broker_url": f"sqlite:///{folder / 'broker.db'}"}
        self.app = create_app(Settings.load({}, **places))
        dashboard.install(self.app)
        super().__init__(self.app.test_client(), backend_of(self.app).store)
        self.clock = SetClock(at("2026-11-20T12:00:00"))
        self.store.clock = self.clock

    def choose(self, name: str) -> None:
        self.post("/time-zone", {"zone": name, "next": "/runs"})

    def runs_at(self, *times: str) -> list[str]:
        """A run recorded at each of these times (UTC)."""
        out = []
        for text in times:
            self.clock.now = at(text)
            out.append(self.new_run())
        self.clock.now = at("2026-11-20T12:00:00")
        return out

    def found(self, q: str) -> set[str]:
        """Ids of the runs that the page shows for a filter."""
        return set(re.findall(r'id="r-([0-9a-f-]+)"', self.get("/runs", query_string={"q": q}).text))


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Zoned]:
    made = Zoned(tmp_path)
    yield made
    backend_of(made.app).close()


def linked(text: str, label: str) -> str:
    found = re.search(rf'href="([^"]+)" aria-label="{label}"', text)
    assert found
    return html.unescape(found[1])


# ---------------------------------------------------------------- choosing
def test_times_are_in_utc_until_somebody_wants_them_otherwise(pages: Zoned) -> None:
    pages.runs_at("2026-07-01T10:00:00")
    text = pages.get("/runs").text
    assert 'title="2026-07-01 10:00:00.000 UTC"' in text
    assert 'data-zone="UTC"' in text
    assert "<th>From (UTC)</th>" in pages.get("/").text


def test_a_zone_is_chosen_without_a_script_and_named_beside_each_time(pages: Zoned) -> None:
    pages.runs_at("2026-07-01T10:00:00", "2026-11-20T10:00:00")
    form = pages.get("/time-zone?next=/runs?q=a").text
    assert "<option selected>UTC</option>" in form
    assert "<option>Europe/Berlin</option>" in form
    assert 'name="next" value="/runs?q=a"' in form
    answer = pages.post("/time-zone", {"zone": "Europe/Berlin", "next": "/runs"})
    assert answer.location == "/runs"
    assert "Path=/;" in answer.headers["Set-Cookie"]
    text = pages.get("/runs").text
    assert 'datetime="2026-07-01T10:00:00.000000Z" title="2026-07-01 12:00:00.000 +02:00 Europe/Berlin"' in text
    assert 'title="2026-11-20 11:00:00.000 +01:00 Europe/Berlin"' in text
    assert ">Berlin</a>" in text
    assert "<th>From (Europe/Berlin)</th>" in pages.get("/").text
    assert "<option selected>Europe/Berlin</option>" in pages.get("/time-zone").text
    pages.choose("UTC")
    assert 'title="2026-07-01 10:00:00.000 UTC"' in pages.get("/runs").text


@pytest.mark.parametrize(
    "name",
    ["Europe/Nowhere", "", "../../etc/passwd", "posix/Europe/Berlin", "tzdata.zi", "/etc/localtime", "a" * 5000, "\0", "é"],
)
def test_what_is_no_zone_is_refused_and_is_utc_in_a_cookie(pages: Zoned, name: str) -> None:
    refused = pages.post("/time-zone", {"zone": name}, 400)
    assert "Set-Cookie" not in refused.headers
    assert "is known here" in refused.text
    with pages.app.test_request_context(headers={"Cookie": f"aiki_zone={name}".encode("ascii", "replace").decode()}):
        assert zone.reader_zone() is dt.UTC


def test_the_cookie_is_read_once_for_each_page_and_no_sentence_is_anothers(pages: Zoned) -> None:
    pages.choose("Asia/Kolkata")
    run = pages.new_run()
    pages.store.cancel_run(run)
    assert "ancelled at 17:30 +05:30 Asia/Kolkata" in pages.get(f"/runs/{run}").text
    assert ZONE.get() is dt.UTC
    assert pages.http.get(f"/api/v1/runs/{run}/detail").get_json()["why"]["text"].endswith("ancelled at 12:00 UTC")


def test_live_parts_are_shared_by_those_of_one_zone_alone(pages: Zoned) -> None:
    pages.runs_at("2026-07-01T10:00:00")
    for name, shown in (
        ("UTC", "10:00:00.000 UTC"),
        ("Asia/Tokyo", "19:00:00.000 +09:00 Asia/Tokyo"),
        ("UTC", "10:00:00.000 UTC"),
    ):
        pages.choose(name)
        assert f">2026-07-01 {shown}</time>" in pages.get("/runs?part=rows").text


def test_sentences_and_lists_name_the_zone(pages: Zoned) -> None:
    bench = Bench(pages.store, pages.clock)
    flow = bench.start("shop.flow")
    bench.suspend(flow, Wait(EVENT_SENT, 0, 0, "paid", at("2026-11-23T08:00:00")), steps=(step(0, "event", "paid"),))
    utc = pages.get("/runs").text
    assert "2026-11-23 08:00:00Z" in utc
    pages.choose("America/New_York")
    text = pages.get("/runs").text
    assert "2026-11-23 03:00:00 -05:00 America/New_York" in text
    assert "08:00:00Z" not in re.sub(r'datetime="[^"]+"', "", text)


def test_what_only_looks_like_a_time_stays_as_somebody_has_written_it(pages: Zoned) -> None:
    bench = Bench(pages.store, pages.clock)
    flow = bench.start("shop.flow")
    named = "2026-02-30 10:00:00Z, 2026-01-01 23:59:60Z, 0000-01-01 00:00:00Z"
    bench.suspend(flow, Wait(EVENT_SENT, 0, 0, named, at("2026-11-23T08:00:00")), steps=(step(0, "event", named),))
    for name, shown in (("America/New_York", "03:00:00 -05:00"), ("Pacific/Kiritimati", "22:00:00 +14:00")):
        pages.choose(name)
        assert named in pages.get(f"/runs/{flow}").text
        text = pages.get("/runs").text
        assert named in text
        assert f"2026-11-23 {shown} {name}" in text


def test_times_that_no_zone_can_show_are_shown_in_utc(pages: Zoned) -> None:
    pages.choose("Pacific/Kiritimati")
    run = pages.new_run()
    record = LogRecord(to_bytes(run), 1, at("9999-12-31T23:00:00"), 1, None, "INFO", "shop", "late")
    pages.store.db.transaction(lambda connection: pages.store.write_logs(connection, "default", [record]))
    assert "9999-12-31 23:00:00.000 UTC" in pages.get(f"/runs/{run}").text


# ---------------------------------------------------------------- filters
def test_filters_are_read_in_the_zone_in_which_times_are_shown(pages: Zoned) -> None:
    before, first, last, after = pages.runs_at(
        "2026-07-01T21:59:59", "2026-07-01T22:00:00", "2026-07-02T21:59:59", "2026-07-02T22:00:00"
    )
    assert pages.found("created:2026-07-02") == {last, after}
    pages.choose("Europe/Berlin")
    assert pages.found("created:2026-07-02") == {first, last}
    assert pages.found("-created:2026-07-02") == {before, after}
    assert pages.found("since:2026-07-02 until:2026-07-02") == {first, last}
    assert pages.found("created:<2026-07-02") == {before}
    assert pages.found("created:>2026-07-02") == {after}
    assert pages.found("since:2026-07-03T00:00") == {after}
    assert pages.found("created:2026-07-02T23:59") == {last}
    assert pages.found("created:2026-07-02T22:00Z") == {after}
    assert pages.found("created:2026-07-02T00:00:00+02:00") == {first}
    text = pages.get("/runs", query_string={"q": "since:2026-07-02"}).text
    assert 'name="q" value="since:2026-07-02"' in text  # as it was written
    assert "<small>3</small>" in text


def test_what_a_page_shows_can_be_written_into_a_filter(pages: Zoned) -> None:
    (run,) = pages.runs_at("2026-10-25T01:30:00.123456")
    for name in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Etc/GMT+5"):
        pages.choose(name)
        shown = re.search(r'datetime="2026-10-25T01:30:00.123456Z" title="([^"]+)"', pages.get("/runs").text)
        assert shown
        assert pages.found(f'created:"{shown[1]}"') == {run}, shown[1]
        assert pages.found(f'until:"{shown[1]}" since:"{shown[1]}"') == {run}


def test_an_hour_that_comes_twice_and_one_that_never_comes(pages: Zoned) -> None:
    pages.choose("Europe/Berlin")
    twice = pages.runs_at("2026-10-25T00:30:10", "2026-10-25T01:30:10")
    for run, shown in zip(twice, ("02:30:10.000 +02:00", "02:30:10.000 +01:00"), strict=True):
        assert f"2026-10-25 {shown} Europe/Berlin" in pages.get(f"/runs/{run}").text
    assert pages.found("created:2026-10-25T02:30") == set(twice)
    assert pages.found("since:2026-10-25T02:30") == set(twice)
    assert pages.found("until:2026-10-25T02:30") == set(twice)
    assert pages.found("created:2026-10-25T02:30+01:00") == {twice[1]}
    early, late = pages.runs_at("2026-03-29T00:59:59", "2026-03-29T01:00:00")  # 01:59:59 and 03:00:00
    assert pages.found("since:2026-03-29T02:30 until:2026-03-30") == {late}
    assert pages.found("since:2026-03-29 until:2026-03-29T02:30") == {early}
    assert pages.found("created:2026-03-29T02:30") == set()
    assert pages.found("created:2026-03-29") == {early, late}


def test_today_is_the_readers(pages: Zoned) -> None:
    yesterday, today = pages.runs_at("2026-11-20T10:59:59", "2026-11-20T11:00:00")
    pages.choose("Pacific/Auckland")  # midnight there
    pages.clock.now = at("2026-11-20T12:00:00")
    assert pages.found("since:today") == {today}
    assert pages.found("created:yesterday") == {yesterday}
    pages.choose("UTC")
    assert pages.found("since:today") == {yesterday, today}


def test_exports_streams_and_batches_are_about_the_runs_that_the_page_shows(pages: Zoned) -> None:
    out, within = pages.runs_at("2026-07-01T21:59:59", "2026-07-01T22:00:00")
    pages.choose("Europe/Berlin")
    text = pages.get("/runs?q=since:2026-07-02").text
    exported = pages.http.get(linked(text, "Export as NDJSON")).text
    (line,) = [json.loads(item) for item in exported.splitlines()]
    assert (line["id"], line["created_at"]) == (within, "2026-07-01T22:00:00.000000Z")
    stream = re.search(r'data-stream="([^"]+)"', text)
    assert stream
    asked = parse_qs(urlsplit(html.unescape(stream[1])).query)["q"][0]
    listed: Any = pages.http.get("/api/v1/runs", query_string={"q": asked}).get_json()
    assert [run["id"] for run in listed["runs"]] == [within]
    form = pages.get("/runs/bulk?verb=cancel&all=1&q=since:2026-07-02").text
    assert "Cancel: 1 run" in form
    made = pages.post("/runs/bulk", {"verb": "cancel", "all": "1", "q": "since:2026-07-02", "number": 1})
    batch = pages.store.batch(made.location.split("/")[2].partition("?")[0])
    assert batch is not None
    assert batch.target["q"] == "since:2026-07-01T22:00:00Z"
    del out


def test_the_api_is_in_utc_whatever_the_reader_chose(pages: Zoned) -> None:
    _, run = pages.runs_at("2026-07-01T22:30:00", "2026-07-02T10:00:00")
    pages.choose("Europe/Berlin")
    listed: Any = pages.http.get("/api/v1/runs?q=since:2026-07-02").get_json()
    assert [(item["id"], item["created_at"]) for item in listed["runs"]] == [(run, "2026-07-02T10:00:00.000000Z")]


def test_the_audit_is_asked_in_the_readers_zone(pages: Zoned) -> None:
    pages.clock.now = at("2026-07-01T22:30:00")
    pages.store.audit("ann", "test", "queue evening")
    pages.clock.now = at("2026-11-20T12:00:00")
    assert "queue evening" not in pages.get("/audit?actor=ann&since=2026-07-02").text
    pages.choose("Europe/Berlin")
    assert "queue evening" in pages.get("/audit?actor=ann&since=2026-07-02").text
    assert "queue evening" not in pages.get("/audit?actor=ann&since=2026-07-03").text
