"""The endpoints of workflows: enqueued by name, steered, looked at."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from aiki import Aiki, codec
from aiki.messages import Heartbeat
from aiki.states import State
from aiki.worker.registry import Registry
from tests.api.conftest import Api, problem
from tests.client.contract import events
from tests.client.ending import end
from tests.client.workflows import NAME, child, done, record, sleep
from tests.storage.test_creating import new


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """An app that knows the workflow in two versions, and a task."""
    made = make_api()
    made.register()
    versions = [{"name": NAME, "version": number, "kind": "workflow", "options": {"queue": f"v{number}"}} for number in "12"]
    assert made.post("/definitions", {"definitions": versions}).status_code == 200
    return made


@pytest.fixture
def flow(api: Api) -> str:
    """A workflow that has done two steps and runs."""
    run_id = api.new_run(name=NAME, args=["o-1"])
    record(api.store, run_id, done(0, "reserve", {"shelf": 7}), done(1, "shop.charge", 4200))
    return run_id


# ---------------------------------------------------------------- by name
def test_kind_and_options_are_those_of_the_version(api: Api) -> None:
    def made(**fields: object) -> tuple[str, str, str]:
        run = api.get("/runs/" + api.new_run(name=NAME, **fields)).json
        return run["kind"], run["version"], run["queue"]

    assert made() == made(kind="workflow") == ("workflow", "2", "v2"), "the version that was registered last"
    assert made(version="1") == ("workflow", "1", "v1")
    assert made(version="1", queue="mine") == ("workflow", "1", "mine")
    sealed = {"encoding": "sealed", "text": "gibberish"}
    assert made(input=sealed) == ("workflow", "1", "v1"), "the SDK leaves version 1 out"
    assert made(input=sealed, version="2", kind="workflow") == ("workflow", "2", "v2")


def test_the_version_that_is_registered_last_is_the_one_that_a_name_alone_means(api: Api) -> None:
    versions = [{"name": "shop.old", "version": number} for number in ("10", "9")]
    api.post("/definitions", {"definitions": versions})
    assert api.get("/runs/" + api.new_run(name="shop.old")).json["version"] == "9"
    api.post("/definitions", {"definitions": [{"name": "shop.old", "version": "11"}]})
    assert api.get("/runs/" + api.new_run(name="shop.old")).json["version"] == "11"


def test_what_a_worker_tells_first_is_registered_in_its_order(api: Api) -> None:
    app = Aiki("shop")
    for number in ("9", "10"):
        app.workflow(name="shop.refund", version=number)(lambda run, order: order)
    triples = Registry(app.versions, app.settings).triples()
    fields = {"name": "w1", "host": "h", "pid": 7, "queues": ["a"], "concurrency": 2, "definitions": triples}
    api.store.save_worker(Heartbeat("default", "hello", uuid.uuid4().hex, fields=fields))
    run = api.get("/runs/" + api.new_run(name="shop.refund")).json
    assert (run["kind"], run["version"]) == ("workflow", "10")


def test_an_unknown_version_is_told_with_those_that_there_are(api: Api) -> None:
    for body in ({}, {"input": {"encoding": "json", "text": "[[],{}]"}}):
        told = problem(api.post("/runs", {"name": NAME, "version": "3", **body}), 422, "unknown_task")
        assert (told["name"], told["version"], told["versions"]) == (NAME, "3", ["1", "2"])
        assert "there are: 1, 2" in told["detail"]
    told = problem(api.post("/runs", {"name": "shop.chekout", "version": "1"}), 422, "unknown_task")
    assert told["closest"][0] == NAME
    assert api.store.count_by_state() == {}


def test_another_kind_than_the_definitions_is_refused(api: Api) -> None:
    told = problem(api.post("/runs", {"name": NAME, "kind": "task"}), 422, "invalid")
    assert "registered as a workflow" in told["detail"]
    problem(api.post("/runs", {"name": "shop.charge", "kind": "workflow"}), 422, "invalid")
    api.post("/definitions", {"definitions": [{"name": "shop.charge", "kind": "workflow"}]})
    assert api.get("/runs/" + api.new_run(kind="workflow")).json["kind"] == "workflow"


# ---------------------------------------------------------------- steering
def test_cancel_then_terminate(api: Api, flow: str) -> None:
    assert api.post(f"/runs/{flow}/cancel", {"reason": "not wanted"}).json["cancel_requested"] is True
    assert api.post(f"/runs/{flow}/cancel", {"once": True}).json["state"] == "running"
    assert api.post(f"/runs/{flow}/terminate", {"reason": "now"}).json["state"] == "cancelled"
    assert api.post(f"/runs/{flow}/terminate").json["state"] == "cancelled"
    told = problem(api.post(f"/runs/{flow}/retry"), 409, "conflict")
    assert "rerun" in told["detail"]


def test_pause_resume_and_wake(api: Api, flow: str) -> None:
    problem(api.post(f"/runs/{flow}/resume"), 409, "conflict")
    problem(api.post(f"/runs/{flow}/wake"), 409, "conflict")
    sleep(api.store, flow, 2, "night")
    assert api.post(f"/runs/{flow}/pause", {"reason": "look first"}).json["state"] == "paused"
    assert api.post(f"/runs/{flow}/resume").json["state"] == "queued"
    sleep(api.store, flow, 3, "winter")
    problem(api.post(f"/runs/{flow}/wake", {"name": "night"}), 409, "conflict")
    assert api.post(f"/runs/{flow}/wake", {"name": "winter"}).json["state"] == "queued"


def test_events_take_plain_json_or_a_payload(api: Api, flow: str) -> None:
    sent = [
        {"name": "a", "data": {"when": {"$aiki": "datetime", "v": "2026-01-31T12:00:00+00:00"}}},
        {"name": "b", "payload": {"encoding": "sealed", "text": "gibberish"}, "reference_id": "b-1"},
        {"name": "b", "data": 5, "reference_id": "b-1"},
        {"name": "c"},
        {"name": "d", "data": None, "payload": None, "reference_id": None},
        {"name": "e", "data": False},
    ]
    for body in sent:
        answer = api.post(f"/runs/{flow}/events", body)
        assert (answer.status_code, answer.json["id"]) == (200, flow)
    came = dict(events(api.store, flow))
    assert came["a"] == codec.encode(
        codec.decode(codec.Payload("json", '{"when":{"$aiki":"datetime","v":"2026-01-31T12:00:00+00:00"}}'))
    )
    assert came["b"] == codec.Payload("sealed", "gibberish")
    assert (came["c"], came["d"], came["e"]) == (None, None, codec.encode(False))
    assert len(came) == len(events(api.store, flow)) == 5


def test_events_that_nobody_takes_are_refused(api: Api, flow: str) -> None:
    task = api.new_run()
    problem(api.post(f"/runs/{task}/events", {"name": "paid"}), 409, "conflict")
    end(api.store, flow)
    problem(api.post(f"/runs/{flow}/events", {"name": "paid", "data": 1}), 409, "conflict")
    problem(api.post(f"/runs/{uuid.uuid4()}/events", {"name": "paid"}), 404, "not_found")


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("events", {}, "name"),
        ("events", {"name": ""}, "name"),
        ("events", {"name": 5}, "name"),
        ("events", {"name": "a", "payload": 5}, "payload"),
        ("events", {"name": "a", "payload": {"encoding": "json"}}, "payload"),
        ("events", {"name": "a", "payload": {"encoding": "json", "text": "1"}, "data": 1}, "data"),
        ("events", {"name": "a", "reference_id": ""}, "reference_id"),
        ("events", {"name": "a", "value": 1}, "value"),
        ("wake", {"name": "x" * 201}, "name"),
        ("pause", {"reason": 5}, "reason"),
        ("terminate", {"once": True}, "once"),
        ("cancel", {"once": "yes"}, "once"),
        ("resume", {"why": "x"}, "why"),
        ("rerun", {"from_step": -1}, "from_step"),
        ("rerun", {"from_step": "1"}, "from_step"),
        ("rerun", {"id": "again"}, "id"),
    ],
)
def test_wrong_bodies_are_told(api: Api, flow: str, verb: str, body: dict[str, object], field: str) -> None:
    assert field in problem(api.post(f"/runs/{flow}/{verb}", body), 400, "invalid")["errors"]


def test_damaged_and_large_data_are_told(api: Api, flow: str) -> None:
    told = problem(
        api.post(f"/runs/{flow}/events", {"name": "a", "data": {"x": [{"$aiki": "nothing", "v": 1}]}}), 422, "invalid"
    )
    assert "data.x[0]" in told["detail"]
    for body in ({"data": "x" * 200_001}, {"payload": {"encoding": "json", "text": "x" * 200_001}}):
        told = problem(api.post(f"/runs/{flow}/events", {"name": "a", **body}), 413, "payload_too_large")
        assert "200,000" in told["detail"]
    assert events(api.store, flow) == []


@pytest.mark.parametrize("run_id", [str(uuid.UUID(int=7)), "nothing"])
def test_what_is_not_there_is_404(api: Api, run_id: str) -> None:
    problem(api.get(f"/runs/{run_id}/history"), 404, "not_found")
    for verb in ("terminate", "pause", "resume", "wake"):
        problem(api.post(f"/runs/{run_id}/{verb}"), 404, "not_found")
    problem(api.post(f"/runs/{run_id}/rerun", {"from_step": 0}), 404, "not_found")


# ---------------------------------------------------------------- looking
def test_a_history_comes_page_by_page(api: Api, flow: str) -> None:
    sleep(api.store, flow, 2, "night")
    whole = api.get(f"/runs/{flow}/history").json
    assert [step["ordinal"] for step in whole["steps"]] == [0, 1, 2]
    assert whole["next"] is None
    first = whole["steps"][0]
    assert (first["kind"], first["name"], first["state"], first["attempt"]) == ("step", "reserve", "completed", 1)
    assert first["result"] == {"encoding": "json", "text": '{"shelf":7}'}
    assert first["created_at"].endswith("Z")
    page = api.get(f"/runs/{flow}/history?limit=2").json
    assert ([step["ordinal"] for step in page["steps"]], page["next"]) == ([0, 1], 1)
    rest = api.get(f"/runs/{flow}/history?limit=2&after={page['next']}").json
    assert ([step["ordinal"] for step in rest["steps"]], rest["next"]) == ([2], None)
    assert api.get(f"/runs/{api.new_run()}/history").json == {"steps": [], "next": None}
    for query in ("limit=0", "limit=5001", "limit=x", "after=-2", "after=x", "before=1"):
        problem(api.get(f"/runs/{flow}/history?{query}"), 400, "invalid")


def test_rerun_from_a_step(api: Api, flow: str) -> None:
    again = api.post(f"/runs/{flow}/rerun", {"from_step": 1})
    assert again.status_code == 201
    steps = api.get(f"/runs/{again.json['id']}/history").json["steps"]
    assert [(step["ordinal"], step["name"]) for step in steps] == [(0, "reserve")]
    problem(api.post(f"/runs/{flow}/rerun", {"from_step": 2}), 409, "conflict")
    problem(api.post(f"/runs/{api.new_run()}/rerun", {"from_step": 0}), 409, "conflict")


def test_runs_are_listed_by_kind_and_by_parent(api: Api, flow: str) -> None:
    started = [new(name="shop.charge", parent_id=uuid.UUID(flow).bytes, parent_ordinal=2 + i) for i in range(3)]
    record(api.store, flow, *(child(2 + i, run) for i, run in enumerate(started)), children=tuple(started))
    end(api.store, started[0].id, State.FAILED)

    def listed(query: str) -> list[str]:
        return [run["id"] for run in api.get(f"/runs?{query}").json["runs"]]

    newest_first = [run.id for run in reversed(started)]
    assert listed("kind=workflow") == [flow]
    assert listed("kind=task") == listed(f"parent={flow}") == newest_first
    assert listed(f"parent={flow}&state=failed") == [started[0].id]
    assert api.get(f"/runs/{started[0].id}").json["parent_id"] == flow
    assert api.get(f"/runs/{flow}").json["parent_id"] is None
    page = api.get(f"/runs?parent={flow}&limit=2").json
    assert [run["id"] for run in page["runs"]] == newest_first[:2]
    assert listed(f"parent={flow}&limit=2&after={page['next']}") == newest_first[2:]
    problem(api.get(f"/runs?kind=task&limit=2&after={page['next']}"), 400, "invalid")
    for query in ("kind=job", "parent=nothing"):
        problem(api.get(f"/runs?{query}"), 400, "invalid")
