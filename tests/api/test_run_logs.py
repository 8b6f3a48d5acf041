"""`GET /runs/<id>/logs`."""

from __future__ import annotations

import pytest

from aiki import ids
from aiki.lifecycle.run_logs import LogRecord
from tests.api.conftest import Api, problem


def write(api: Api, run_id: str, first: int, count: int) -> None:
    raw = ids.to_bytes(run_id)
    records = [
        LogRecord(raw, n, 1_800_000_000_000_000 + n, 1, None, "info", "shop", f"line {n}") for n in range(first, first + count)
    ]
    api.store.db.transaction(lambda c: api.store.write_logs(c, "default", records))


def test_logs_of_a_run(api: Api) -> None:
    run_id = api.new_run()
    assert api.get(f"/runs/{run_id}/logs").json == {"logs": [], "dropped": False}
    write(api, run_id, 1, 3)
    answer = api.get(f"/runs/{run_id}/logs?after=1").json
    assert answer is not None
    assert [line["message"] for line in answer["logs"]] == ["line 2", "line 3"]
    assert answer["dropped"] is False
    assert answer["logs"][0]["time"] == "2027-01-15T08:00:00.000002Z"
    write(api, run_id, 4, 300)
    answer = api.get(f"/runs/{run_id}/logs").json
    assert answer is not None
    assert (len(answer["logs"]), answer["dropped"]) == (200, True)


def test_unknown_runs_and_wrong_queries(api: Api) -> None:
    problem(api.get("/runs/0190aaaa-bbbb-7ccc-8ddd-000000000001/logs"), 404, "not_found")
    run_id = api.new_run()
    for odd in ("after=x", "after=-1", "after=99999999999", "more=1"):
        problem(api.get(f"/runs/{run_id}/logs?{odd}"), 400, "invalid")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>"])
def test_what_was_logged_is_data(api: Api, text: str) -> None:
    run_id = api.new_run()
    record = LogRecord(ids.to_bytes(run_id), 1, 1, 1, None, "info", "shop", text)
    api.store.db.transaction(lambda c: api.store.write_logs(c, "default", [record]))
    answer = api.get(f"/runs/{run_id}/logs")
    assert answer.mimetype == "application/json"
    assert answer.json["logs"][0]["message"] == text  # type: ignore[index]
