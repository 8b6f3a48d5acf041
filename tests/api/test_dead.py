"""The endpoints of failures and dead letters, and an input that is edited and tried again."""

from __future__ import annotations

import json

from aiki.broker import open_broker, work
from aiki.ids import new_id, to_bytes
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.messages import Dispatch, DispatchList
from aiki.settings import Settings
from aiki.storage.auditing import AuditFilter
from tests.api.conftest import Api, problem


def fail(api: Api, *runs: str, message: str = "card 1 was declined") -> None:
    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        for row in rows.values():
            row.state, row.error_type, row.error_message, row.finished_at = "failed", "Declined", message, api.store.clock()

    api.store.apply("default", [to_bytes(run) for run in runs], decide)


def letter(api: Api, source: str = "work/default/bulk", body: bytes = b"\xffno message") -> str:
    key = new_id().bytes
    api.store.save_dead_letter("default", source, "rejected", {"queue": source, "time": 5}, body, key)
    return key.hex()


def test_failures(api: Api) -> None:
    runs = [api.new_run() for _ in range(3)]
    fail(api, *runs[:2], message="card 4 was declined")
    fail(api, runs[2], message="no such card")
    first, second = api.get("/dead/failures").json["groups"]
    assert (first["count"], first["error_type"], first["names"]) == (2, "Declined", [{"name": "shop.charge", "count": 2}])
    assert (second["count"], second["message"], second["sample"]) == (1, "no such card", runs[2])
    page = api.get(f"/dead/failures/{first['fingerprint']}?limit=1").json
    assert page["group"] == first
    assert page["next"] == page["runs"][0]["id"]
    rest = api.get(f"/dead/failures/{first['fingerprint']}?limit=1&after={page['next']}").json
    assert {page["runs"][0]["id"], rest["runs"][0]["id"]} == set(runs[:2])
    api.post(f"/runs/{runs[2]}/retry")
    assert len(api.get("/dead/failures").json["groups"]) == 1
    problem(api.get(f"/dead/failures/{'0' * 32}"), 404, "not_found")
    problem(api.get("/dead/failures/x"), 404, "not_found")


def test_the_input_is_edited_and_tried_again(api: Api) -> None:
    run = api.new_run(args=["o-1", -5])
    fail(api, run)
    answer = api.post(f"/runs/{run}/rerun", {"args": ["o-1", 5], "reason": "the amount was wrong"})
    assert answer.status_code == 201
    new = answer.json["id"]  # type: ignore[index]
    detail = api.get(f"/runs/{new}/detail").json
    assert detail["values"]["args"] == ["o-1", 5]
    assert detail["rerun_of"] == run
    old = api.get(f"/runs/{run}/detail").json
    assert (old["run"]["state"], old["values"]["args"], old["reruns"]) == ("failed", ["o-1", -5], [new])
    (entry,) = api.store.audit_log(AuditFilter(action="rerun"))
    told = json.loads(entry.detail)
    assert (entry.subject, entry.reason, told["new"]) == (run, "the amount was wrong", new)
    assert told["input_before"] != told["input_after"]
    problem(api.post(f"/runs/{run}/rerun", {"args": [], "from_step": 1}), 400, "invalid")
    problem(api.post(f"/runs/{run}/rerun", {"args": [], "input": {"encoding": "json", "text": "[]"}}), 400, "invalid")


def test_letters(api: Api, settings: Settings) -> None:
    unreadable = letter(api)
    dispatch = DispatchList("default", "bulk", [Dispatch("0" * 32, 1, "shop.charge", "1", 1, 0, "json", "[[],{}]", {})])
    readable = letter(api, body=dispatch.encode())
    nowhere = letter(api, source="work/other/bulk")
    assert {item["id"] for item in api.get("/dead/letters").json["letters"]} == {unreadable, readable, nowhere}
    found = api.get(f"/dead/letters/{unreadable}").json
    assert (found["body"], found["reason"], found["headers"]["time"], found["size"]) == ("\\xffno message", "rejected", 5, 11)
    problem(api.post("/dead/letters/requeue", {"letters": [nowhere]}), 409, "conflict")
    assert api.post("/dead/letters/requeue", {"letters": [unreadable, readable]}).json == {"letters": 2}
    session = open_broker(settings.broker_url, prefix=settings.prefix).connect("test")
    session.subscribe(work("default", "bulk"), 10)
    bodies = [delivery.body for delivery in session.receive(5)]
    session.close()
    assert b"\xffno message" in bodies
    (sent,) = [DispatchList.decode(body) for body in bodies if body != b"\xffno message"]
    assert sent.again
    assert sent.runs == dispatch.runs
    problem(api.post("/dead/letters/requeue", {"letters": [unreadable]}), 404, "not_found")
    assert api.post("/dead/letters/discard", {"letters": [nowhere], "reason": "a test's"}).json == {"letters": 1}
    assert api.get("/dead/letters").json == {"letters": [], "next": None}
    log = api.store.audit_log(AuditFilter())
    assert [(entry.action, entry.affected) for entry in log[:2]] == [("discard_letters", 1), ("requeue_letters", 2)]
    problem(api.post("/dead/letters/discard", {"letters": ["x"]}), 400, "invalid")


def test_parts_of_a_run(api: Api) -> None:
    answer = api.post("/definitions", {"definitions": [{"name": "shop.flow", "kind": "workflow"}]})
    assert answer.status_code == 200
    flow = api.new_run(name="shop.flow")
    for name in ("approved", "shipped"):
        assert api.post(f"/runs/{flow}/events", {"name": name, "data": {"by": "ann"}}).status_code == 200
    page = api.get(f"/runs/{flow}/events?limit=1").json
    assert [(item["kind"], item["name"], item["step"]) for item in page["events"]] == [("event", "approved", None)]
    rest = api.get(f"/runs/{flow}/events?limit=1&after={page['next']}").json
    assert ([item["name"] for item in rest["events"]], rest["next"]) == (["shipped"], None)
    assert api.get(f"/runs/{flow}/children").json["runs"] == []
    assert api.get(f"/runs/{flow}/attempts").json == {"attempts": [], "next": None}
    problem(api.get(f"/runs/{flow}/events?after=x"), 400, "invalid")
    for part in ("events", "children", "attempts"):
        problem(api.get(f"/runs/{new_id()}/{part}"), 404, "not_found")
