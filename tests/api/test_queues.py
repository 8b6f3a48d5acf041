"""The endpoints of queues, and why a run does not move."""

from __future__ import annotations

from tests.api.conftest import Api, problem


def test_pause_and_resume(api: Api) -> None:
    run = api.new_run(queue="bulk")
    paused = api.post("/queues/bulk/pause", {"reason": "the bank is away"}).json
    assert paused["paused"]["by"] == "local"
    assert paused["paused"]["reason"] == "the bank is away"
    assert paused["runs"] == {"queued": 1, "running": 0, "scheduled": 0, "exact": True}
    assert paused["oldest_at"]
    assert paused["rates"] == {"recorded": 0.02, "started": 0.0, "ended": 0.0}
    listed = api.get("/queues").json["queues"]
    assert [queue["name"] for queue in listed] == ["bulk", "default"]
    assert listed[0] == paused
    assert "is paused by local" in api.get(f"/runs/{run}").json["waiting_on"]
    api.store.save_orchestrator("0" * 32, "alive", "h", 1, "1")
    found = api.get(f"/runs/{run}/why").json
    assert found["code"] == "queue_paused"
    assert api.get(f"/runs/{run}/detail").json["why"] == found
    assert api.post("/queues/bulk/resume").json["paused"] is None
    problem(api.post("/queues/bulk/resume"), 409, "conflict")
    problem(api.post("/queues/no such/pause"), 404, "not_found")
    problem(api.post("/queues/bulk/pause", {"why": "?"}), 400, "invalid")
