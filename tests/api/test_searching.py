"""Lists by filters over HTTP: `q`, pages in both directions, counts, and where a filter is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Api


@pytest.fixture
def names(api: Api) -> list[str]:
    runs = [
        {"name": f"shop.n{n % 3}", "queue": "bulk" if n % 2 else "default", "args": [n], "kwargs": {"order": n}}
        for n in range(12)
    ]
    api.post("/definitions", {"definitions": [{"name": f"shop.n{n}"} for n in range(3)]})
    return [run["id"] for run in api.post("/runs/batch", {"runs": runs}).json["runs"]]  # type: ignore[index]


def page(api: Api, **query: Any) -> dict[str, Any]:
    answer = api.get("/runs", query_string=query)
    assert answer.status_code == 200, answer.text
    return answer.json  # type: ignore[return-value]


def test_a_filter_with_fields(api: Api, names: list[str]) -> None:
    found = page(api, q="name:shop.n1,shop.n2 -args.order:4", queue="bulk")
    assert [run["id"] for run in found["runs"]] == [names[n] for n in (11, 7, 5, 1)]
    assert found["complete"] is True
    counted = api.get("/runs/count", query_string={"q": "queue:bulk"}).json
    assert counted == {"count": 6, "exact": True, "text": "6"}


def test_pages_there_and_back(api: Api, names: list[str]) -> None:
    first = page(api, q="queue:bulk", limit=4)
    second = page(api, q="queue:bulk", limit=4, after=first["next"])
    assert (first["previous"], second["next"]) == (None, None)
    back = page(api, q="queue:bulk", limit=4, before=second["previous"])
    assert back["runs"] == first["runs"]
    for wrong in ({"q": "queue:default", "after": first["next"]}, {"after": "x"}, {"after": first["next"][:-2]}):
        assert api.get("/runs", query_string=wrong).status_code == 400
    assert (
        api.get("/runs", query_string={"q": "queue:bulk", "after": first["next"], "before": first["next"]}).status_code == 400
    )


def test_a_wrong_filter_is_told_with_its_place(api: Api) -> None:
    for path in ("/runs", "/runs/count"):
        answer = api.get(path, query_string={"q": "queue:bulk statsu:failed"})
        told: Any = answer.json
        assert (answer.status_code, told["code"]) == (400, "invalid")
        assert (told["position"], told["length"], told["suggestions"][0]) == (11, 6, "status")
        assert "did you mean status" in told["detail"]


def test_statistics(api: Api, names: list[str]) -> None:
    told: Any = api.get("/statistics").json
    assert told["step"] == 60
    assert 60 <= len(told["throughput"]) <= 62
    assert told["running"] == {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None}
    assert [item for item in told["states"] if item["count"]] == [{"state": "queued", "count": 12, "exact": True}]
    api.post(f"/runs/{names[0]}/cancel", {})
    api.store.fold_tallies()
    told = api.get("/statistics?since=7d&step=1d&name=shop.n0").json
    assert sum(item["cancelled"] for item in told["throughput"]) == 1
    assert (told["step"], len(told["throughput"])) == (86400, 8)
    for wrong in ("since=x", "step=x", "since=2026-01-01&until=2025-01-01", "since=9999w", "since=%00", "since=now&until=1h"):
        assert api.get(f"/statistics?{wrong}").status_code == 400, wrong


def test_attention(api: Api, names: list[str]) -> None:
    late = "UPDATE aiki_runs SET dispatched_at = dispatched_at - 600000000"
    api.store.db.transaction(lambda connection: api.store.db.execute(connection, late).rowcount)
    items: Any = api.get("/attention").json
    assert [item["kind"] for item in items["items"]] == ["no_orchestrator", "no_worker", "no_worker"]
    about = items["items"][1]
    assert (about["count"], about["q"]) == (6, f"status:queued queue:{about['subject']}")
