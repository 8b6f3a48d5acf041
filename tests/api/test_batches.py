"""The endpoints of batches: previewed, confirmed, watched, stopped."""

from __future__ import annotations

import pytest

from aiki.ids import new_id
from aiki.storage.batchwork import Lease
from tests.api.conftest import Api, problem


@pytest.fixture
def queued(api: Api) -> list[str]:
    """Three runs that are queued."""
    return [api.new_run(queue="bulk") for _ in range(3)]


def work(api: Api) -> None:
    """What an orchestrator does."""
    held: list[Lease] = api.store.claim_batches("a" * 32)
    for lease in held:
        while not api.store.work_batch(lease, 2).over:
            pass


def test_preview(api: Api, queued: list[str]) -> None:
    found = api.post("/batches/preview", {"q": "status:queued"}).json
    assert (found["matched"], found["exact"], found["confirm"], found["looked"]) == (3, True, False, 3)
    assert {run["id"] for run in found["sample"]} == set(queued)
    assert found["states"] == [{"value": "queued", "count": 3}]
    assert found["names"] == [{"value": "shop.charge", "count": 3}]
    assert api.post("/batches/preview", {"ids": queued[:2]}).json["matched"] == 2
    assert api.post("/batches/preview", {"fingerprint": "0" * 32}).json["matched"] == 0


def test_a_batch(api: Api, queued: list[str]) -> None:
    asked = {"id": str(new_id()), "operation": "cancel", "q": "status:queued", "reason": "sent twice"}
    answer = api.post("/batches", asked)
    assert answer.status_code == 201
    made = answer.json
    assert answer.headers["Location"] == f"/api/v1/batches/{asked['id']}"
    assert (made["state"], made["expected"], made["target"]["q"]) == ("collecting", 3, "status:queued")
    again = api.post("/batches", asked)
    assert (again.status_code, again.json["id"]) == (200, asked["id"])
    problem(api.post("/batches", {**asked, "operation": "pause"}), 409, "conflict")
    work(api)
    found = api.get(f"/batches/{made['id']}").json
    assert (found["state"], found["matched"], found["processed"], found["done"]) == ("done", 3, 3, 3)
    assert api.get("/batches").json == {"batches": [found], "next": None}
    assert api.get(f"/batches/{made['id']}/runs?limit=2").json["runs"][0]["outcome"] == "done"
    rest = api.get(f"/batches/{made['id']}/runs?limit=2&after={sorted(queued)[1]}").json
    assert (len(rest["runs"]), rest["next"]) == (1, None)
    assert [api.get(f"/runs/{run}").json["state"] for run in queued] == ["cancelled"] * 3
    problem(api.post(f"/batches/{made['id']}/stop"), 409, "conflict")


def test_stop(api: Api, queued: list[str]) -> None:
    made = api.post("/batches", {"operation": "cancel", "ids": queued}).json
    assert made["target"]["ids"] == 3
    stopped = api.post(f"/batches/{made['id']}/stop", {"reason": "wrong ones"}).json
    assert stopped["state"] == "stopped"
    work(api)
    assert [api.get(f"/runs/{run}").json["state"] for run in queued] == ["queued"] * 3


def test_many_must_be_confirmed(api: Api) -> None:
    runs = [{"name": "shop.charge", "queue": "bulk"} for _ in range(101)]
    assert api.post("/runs/batch", {"runs": runs}).status_code == 200
    asked = {"operation": "cancel", "q": "queue:bulk"}
    told = problem(api.post("/batches", asked), 409, "conflict")["detail"]
    assert told == 'this would cancel 101 runs: to confirm it, send confirm: 101 or confirm: "cancel"'
    problem(api.post("/batches", {**asked, "confirm": 100}), 409, "conflict")
    problem(api.post("/batches", {**asked, "confirm": "yes"}), 409, "conflict")
    assert "not 99" in problem(api.post("/batches", {**asked, "expected": 99, "confirm": 101}), 409, "conflict")["detail"]
    made = api.post("/batches", {**asked, "confirm": 101})
    assert made.status_code == 201
    assert api.post(f"/batches/{made.json['id']}/stop").status_code == 200  # type: ignore[index]
    assert api.post("/batches", {**asked, "confirm": "cancel"}).status_code == 201


def test_what_cannot_be_understood(api: Api) -> None:
    for wrong in (
        {"operation": "cancel"},
        {"operation": "cancel", "q": "status:queued", "ids": [str(new_id())]},
        {"operation": "explode", "q": "status:queued"},
        {"operation": "cancel", "q": 5},
        {"operation": "cancel", "q": "staat:queued"},
        {"operation": "cancel", "ids": []},
        {"operation": "cancel", "ids": ["x"]},
        {"operation": "cancel", "fingerprint": "x"},
        {"operation": "cancel", "q": "status:queued", "confirm": True},
    ):
        problem(api.post("/batches", wrong), 400, "invalid")
    problem(api.post("/batches", {"operation": "cancel", "q": "status:dead"}), 409, "conflict")
    problem(api.get(f"/batches/{new_id()}"), 404, "not_found")
    problem(api.post("/batches/x/stop"), 404, "not_found")


def test_purge(api: Api, queued: list[str]) -> None:
    later = api.new_run(queue="bulk", countdown=600)
    problem(api.post("/queues/bulk/purge", {"confirm": "bulky"}), 409, "conflict")
    answer = api.post("/queues/bulk/purge", {"confirm": "bulk"})
    assert answer.status_code == 201
    work(api)
    assert api.get(answer.headers["Location"].removeprefix("/api/v1")).json["done"] == 3
    assert [api.get(f"/runs/{run}").json["state"] for run in queued] == ["cancelled"] * 3
    assert api.get(f"/runs/{later}").json["state"] == "scheduled"
