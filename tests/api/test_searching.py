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
