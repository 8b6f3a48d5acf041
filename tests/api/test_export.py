"""Runs as files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest

from aiki.api import ApiOptions, export
from tests.api.conftest import Api, problem


def test_everything_in_order_whatever_the_pages(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    made = [api.new_run(args=[number]) for number in range(8)][::-1]
    answer = api.get("/runs/export")
    assert answer.mimetype == "application/x-ndjson"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="runs.ndjson"'
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["id"] for row in rows] == made
    # A line is a run as lists have it; what it waits for is told of one run alone.
    assert rows == api.get("/runs").json["runs"]
    assert len(api.get("/runs/export?limit=5").text.splitlines()) == 5
    assert api.get("/runs/export?state=failed").text == ""


def test_csv_has_no_formulas(api: Api) -> None:
    references = ["=1+1", "+1", "-1", "@x", 'a "quoted", one', "plain"]
    made = [api.new_run(reference_id=reference) for reference in references]
    answer = api.get("/runs/export?format=csv")
    assert answer.mimetype == "text/csv"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    told = {row["id"]: row["reference_id"] for row in rows}
    assert [told[run_id] for run_id in made] == ["'=1+1", "'+1", "'-1", "'@x", 'a "quoted", one', "plain"]
    assert rows[0]["state"] == "queued"
    assert rows[0]["cancel_requested"] == "false"


@pytest.mark.parametrize("query", ["format=xml", "limit=0", "limit=1000000", "q=status:odd", "odd=1"])
def test_wrong_queries(api: Api, query: str) -> None:
    problem(api.get(f"/runs/export?{query}"), 400, "invalid")


def test_threads_are_not_all_given_to_exports(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(max_held=1))
    api.register()
    api.new_run()
    first = api.get("/runs/export", buffered=False)
    problem(api.get("/runs/export"), 429, "too_many_requests")
    first.close()
    assert api.get("/runs/export").status_code == 200
    assert api.http.head("/api/v1/runs/export").status_code == 200
    assert api.get("/runs/export").status_code == 200
