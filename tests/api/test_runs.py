"""The endpoints of runs, definitions and workers."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlencode

import pytest

from aiki import codec, ids
from aiki.api import ApiOptions
from aiki.messages import Heartbeat
from aiki.states import State
from tests.api.conftest import Api, problem
from tests.client.ending import end
from tests.waiting import wait_until


# ---------------------------------------------------------------- new runs
def test_a_run_is_recorded_with_its_delivery(api: Api) -> None:
    answer = api.post("/runs", {"name": "shop.charge", "args": ["o-1", 4200], "kwargs": {"now": True}})
    assert answer.status_code == 201
    run_id = answer.json["id"]
    assert answer.json == {"id": run_id, "state": "queued", "created": True}
    assert answer.headers["Location"] == f"/api/v1/runs/{run_id}"
    assert int(answer.headers["Aiki-Time"]) > 1_700_000_000_000_000
    detail = api.store.detail(run_id)
    assert detail is not None
    assert detail.input == codec.encode([["o-1", 4200], {"now": True}])
    wait_until(lambda: api.store.next_due() is None, what="the delivery to be published")


def test_what_a_run_leaves_open_is_the_definitions(api: Api) -> None:
    api.register("shop.slow", queue="slow", expires=60, max_crashes=7, time_limit=9)
    run = api.get("/runs/" + api.new_run(name="shop.slow")).json
    assert (run["queue"], run["version"], run["kind"]) == ("slow", "1", "task")
    assert run["expires_at"] is not None
    assert api.store.options_of(run["id"])["mc"] == 7
    other = api.get("/runs/" + api.new_run(name="shop.slow", queue="mine", expires=None, max_crashes=1)).json
    assert other["queue"] == "mine"
    assert api.store.options_of(other["id"])["mc"] == 1


def test_options_may_stand_beside_or_in_options(api: Api) -> None:
    policy = {"max_attempts": 3, "delay": 2, "retry_on": ["ValueError"]}
    beside = api.new_run(time_limit=5, soft_time_limit=3.5, retry=policy, max_crashes=2)
    inside = api.new_run(options={"time_limit": 5, "soft_time_limit": 3.5, "retry": policy, "max_crashes": 2})
    assert api.store.options_of(beside) == api.store.options_of(inside) == {"tl": 5, "sl": 3.5, "rp": policy, "mc": 2}


@pytest.mark.parametrize(
    "when", [{"countdown": 3600}, {"eta": "2099-01-31T12:00:00+02:00"}, {"due_at": "2099-01-31T10:00:00Z"}]
)
def test_later_runs_are_scheduled(api: Api, when: dict[str, object]) -> None:
    run = api.get("/runs/" + api.new_run(**when)).json
    assert run["state"] == "scheduled"
    if "countdown" not in when:
        assert run["due_at"] == "2099-01-31T10:00:00.000000Z"


def test_expiry_is_seconds_or_a_time(api: Api) -> None:
    assert api.get("/runs/" + api.new_run(expires="2099-01-31T10:00:00Z")).json["expires_at"] == "2099-01-31T10:00:00.000000Z"
    assert api.get("/runs/" + api.new_run(expires=90)).json["expires_at"] is not None


def test_the_same_id_is_the_same_run(api: Api) -> None:
    run_id = str(uuid.uuid4())
    assert api.post("/runs", {"name": "shop.charge", "id": run_id}).status_code == 201
    again = api.post("/runs", {"name": "shop.charge", "id": run_id})
    assert (again.status_code, again.json["created"]) == (200, False)
    api.register("shop.other")
    problem(api.post("/runs", {"name": "shop.other", "id": run_id}), 409, "conflict")


def test_a_reference_id_names_one_run(api: Api) -> None:
    first = api.new_run(reference_id="order-1", args=[1])
    assert api.post("/runs", {"name": "shop.charge", "reference_id": "order-1", "args": [1]}).json["id"] == first
    told = problem(
        api.post("/runs", {"name": "shop.charge", "reference_id": "order-1", "args": [2]}), 409, "reference_conflict"
    )
    assert told["run_id"] == first
    existing = {"name": "shop.charge", "reference_id": "order-1", "args": [2], "on_conflict": "return_existing"}
    assert api.post("/runs", existing).json == {"id": first, "state": "queued", "created": False}


def test_a_batch_is_recorded_in_order_or_not_at_all(api: Api) -> None:
    runs = [{"name": "shop.charge", "id": str(uuid.uuid4()), "args": [i]} for i in range(1000)]
    answer = api.post("/runs/batch", {"runs": runs, "batch": 10})
    assert answer.status_code == 200
    assert [item["id"] for item in answer.json["runs"]] == [run["id"] for run in runs]
    wrong = [{"name": "shop.charge"}, {"name": "shop.charge", "queue": "a b"}]
    told = problem(api.post("/runs/batch", {"runs": wrong}), 400, "invalid")
    assert "a b" in told["errors"]["runs[1].queue"][0]
    problem(api.post("/runs/batch", {"runs": [{"name": "shop.charge"}, {"name": "shop.nobody"}]}), 422, "unknown_task")
    assert api.store.count_by_state() == {State.QUEUED: 1000}
    assert api.post("/runs/batch", {"runs": []}).json == {"runs": []}
    problem(api.post("/runs/batch", {"runs": [{"name": "shop.charge"}] * 1001}), 400, "invalid")


def test_unknown_names_are_told_with_the_closest(api: Api) -> None:
    told = problem(api.post("/runs", {"name": "shop.chagre"}), 422, "unknown_task")
    assert (told["name"], told["closest"]) == ("shop.chagre", ["shop.charge"])


def test_a_name_is_known_as_soon_as_it_is_registered(api: Api) -> None:
    problem(api.post("/runs", {"name": "shop.new"}), 422, "unknown_task")
    api.register("shop.new", queue="a")
    assert api.get("/runs/" + api.new_run(name="shop.new")).json["queue"] == "a"
    api.register("shop.new", queue="b")
    assert api.get("/runs/" + api.new_run(name="shop.new")).json["queue"] == "b"


def test_the_sdks_input_is_opaque_and_of_version_1_unless_it_says(api: Api) -> None:
    api.post("/definitions", {"definitions": [{"name": "shop.charge", "version": "2"}]})
    sealed = {"encoding": "sealed", "text": "gibberish"}
    run_id = api.new_run(input=sealed)
    detail = api.get(f"/runs/{run_id}/detail").json
    assert detail["input"] == sealed
    assert detail["values"] == {}
    assert detail["run"]["version"] == "1"


# ---------------------------------------------------------------- arguments
def test_tags_of_the_codec_pass_and_become_canonical(api: Api) -> None:
    value = {
        "when": {"$aiki": "datetime", "v": "2026-01-31T12:00:00+00:00"},
        "what": {"$aiki": "set", "v": [2, 1]},
        "who": {"$aiki": "uuid", "v": "12345678123456781234567812345678"},
        "kind": {"$aiki": "enum", "t": "shop:Kind", "v": "A"},
        "deep": {"$aiki": "tuple", "v": [{"$aiki": "dataclass", "t": "shop:Card", "v": {"n": [2**63]}}]},
        "big": 2**70,
    }
    detail = api.get(f"/runs/{api.new_run(args=[value])}/detail").json
    shown = detail["values"]["args"][0]
    assert shown["what"]["v"] == [1, 2]
    assert shown["who"]["v"] == "12345678-1234-5678-1234-567812345678"
    assert shown["deep"]["v"][0]["v"]["n"] == [{"$aiki": "int", "v": hex(2**63)}]
    assert shown["big"] == {"$aiki": "int", "v": hex(2**70)}


@pytest.mark.parametrize(
    "value",
    [
        {"$aiki": "nothing", "v": 1},
        {"$aiki": 5},
        {"$aiki": "timedelta", "v": []},
        {"$aiki": "uuid", "v": 5},
        {"$aiki": "datetime", "v": 5},
        {"$aiki": "datetime", "v": "yesterday"},
        {"$aiki": "set", "v": 5},
        {"$aiki": "dict", "v": [[1]]},
        {"$aiki": "dataclass", "t": 5, "v": {}},
        {"$aiki": "bytes", "v": "AA==", "more": 1},
        {"$aiki": "int", "v": "zz"},
    ],
)
def test_damaged_tags_are_told_here(api: Api, value: object) -> None:
    told = problem(api.post("/runs", {"name": "shop.charge", "args": [1, {"a": [value]}]}), 422, "invalid")
    assert "args[1].a[0]" in told["detail"]


def test_arguments_nested_too_deeply_are_refused(api: Api) -> None:
    value: list[object] = []
    for _ in range(300):
        value = [value]
    problem(api.post("/runs", {"name": "shop.charge", "args": value}), 422, "invalid")


def test_payloads_over_the_limit_are_413(api: Api) -> None:
    told = problem(api.post("/runs", {"name": "shop.charge", "args": ["x" * 200_001]}), 413, "payload_too_large")
    assert "200,000" in told["detail"]
    body = {"name": "shop.charge", "input": {"encoding": "json", "text": "x" * 200_001}}
    problem(api.post("/runs", body), 413, "payload_too_large")


# ---------------------------------------------------------------- looking
def test_wait_answers_when_the_run_ends(api: Api) -> None:
    run_id = api.new_run()
    timer = threading.Timer(0.1, end, [api.store, run_id])
    timer.start()
    began = time.monotonic()
    assert api.get(f"/runs/{run_id}?wait=30").json["state"] == "completed"
    assert time.monotonic() - began < 10
    timer.join()
    assert api.get(f"/runs/{run_id}?wait=30").json["state"] == "completed"


def test_wait_answers_when_the_time_is_over(api: Api) -> None:
    run_id = api.new_run()
    for path in (f"/runs/{run_id}?wait=0.2", f"/runs/{run_id}/detail?wait=0.2"):
        began = time.monotonic()
        assert api.get(path).status_code == 200
        assert 0.15 < time.monotonic() - began < 5


def test_beyond_the_cap_the_answer_is_early(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(max_held=1))
    api.register()
    run_id = api.new_run()
    answers: list[int] = []
    holding = threading.Thread(target=lambda: answers.append(api.get(f"/runs/{run_id}?wait=30").status_code))
    holding.start()
    backend = api.http.application.extensions["aiki"]
    wait_until(lambda: len(backend._waiter) == 1, what="the first request to be held")
    began = time.monotonic()
    assert api.get(f"/runs/{run_id}?wait=30").json["state"] == "queued"
    assert time.monotonic() - began < 5
    end(api.store, run_id)
    holding.join(10)
    assert answers == [200]


def test_a_stopping_server_lets_the_waiting_go(api: Api) -> None:
    run_id = api.new_run()
    backend = api.http.application.extensions["aiki"]
    answers: list[int] = []
    holding = threading.Thread(target=lambda: answers.append(api.get(f"/runs/{run_id}?wait=30").status_code))
    holding.start()
    wait_until(lambda: len(backend._waiter) == 1, what="the request to be held")
    backend.release()
    holding.join(5)
    assert answers == [200]


def test_detail_shows_what_can_be_read(api: Api) -> None:
    run_id = api.new_run(args=[1], kwargs={"b": None})
    end(api.store, run_id, result={"paid": True})
    detail = api.get(f"/runs/{run_id}/detail").json
    assert detail["values"] == {"args": [1], "kwargs": {"b": None}, "result": {"paid": True}}
    assert detail["result"] == {"encoding": "json", "text": '{"paid":true}'}
    assert "values" not in api.get(f"/runs/{run_id}/detail?values=false").json
    failed = api.new_run()
    end(api.store, failed, State.FAILED, error=("ValueError", "<script>alert(1)</script>"))
    detail = api.get(f"/runs/{failed}/detail").json
    assert detail["traceback"] == "Traceback: here"
    assert [attempt["outcome"] for attempt in detail["attempts"]] == ["failed"]
    assert "result" not in detail["values"]


def test_a_compressed_payload_is_shown_and_a_bomb_is_not(api: Api) -> None:
    small = codec.encode([[["x" * 5000]], {}], compress_above=100)
    bomb = codec.encode([[["x" * 50_000_000]], {}], compress_above=100, limit=10**9)
    assert small.encoding == "json+zlib"
    for payload, shown in ((small, True), (bomb, False)):
        run_id = api.new_run(input={"encoding": payload.encoding, "text": payload.text})
        assert ("args" in api.get(f"/runs/{run_id}/detail").json["values"]) is shown


def test_lists_are_filtered(api: Api) -> None:
    first, second, third = api.new_run(queue="a"), api.new_run(reference_id="r/1 &"), api.new_run(countdown=60)
    end(api.store, first)

    def listed(**query: object) -> list[str]:
        answer = api.get("/runs?" + urlencode(query, doseq=True))
        assert answer.status_code == 200, answer.text
        return [run["id"] for run in answer.json["runs"]]

    assert listed() == [third, second, first]
    assert listed(state="completed") == [first]
    assert listed(state="completed,scheduled") == listed(state=["completed", "scheduled"]) == [third, first]
    assert listed(queue="a") == [first]
    assert listed(reference_id="r/1 &") == [second]
    assert listed(name="shop.other") == []
    assert listed(created_after="2020-01-01T00:00:00Z", created_before="2099-01-01T00:00:00Z") == [third, second, first]
    assert [run["id"] for run in api.get("/runs?created_after=2099-01-01T00:00:00+02:00").json["runs"]] == []


def test_pages_follow_each_other(api: Api) -> None:
    made = [api.new_run() for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = api.get(f"/runs?limit=2&state=queued{after}").json
        seen += [run["id"] for run in page["runs"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == made[::-1]


def test_a_token_belongs_to_its_filter(api: Api) -> None:
    for _ in range(3):
        api.new_run()
    token = api.get("/runs?limit=1&state=queued,running").json["next"]
    assert api.get(f"/runs?limit=2&state=running&state=queued&after={token}").status_code == 200
    made_up = base64.urlsafe_b64encode(bytes(24)).decode()
    for query in (f"after={token}", f"state=queued&after={token}", "after=AAAA", "after=%C3%BC", f"after={made_up}"):
        told = problem(api.get(f"/runs?{query}"), 400, "invalid")
        assert "after" in told["errors"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=foo", "state"),
        ("queue=%C3%BC", "queue"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("nothing=1", "nothing"),
    ],
)
def test_wrong_filters_are_told(api: Api, query: str, field: str) -> None:
    assert field in problem(api.get(f"/runs?{query}"), 400, "invalid")["errors"]


@pytest.mark.parametrize("wait", ["-1", "x", "nan", "inf", ""])
def test_a_wrong_wait_is_told(api: Api, wait: str) -> None:
    assert "wait" in problem(api.get(f"/runs/{api.new_run()}?wait={wait}"), 400, "invalid")["errors"]


# ---------------------------------------------------------------- changing
def test_cancel_retry_and_rerun(api: Api) -> None:
    run_id = api.new_run(args=[1])
    problem(api.post(f"/runs/{run_id}/retry"), 409, "conflict")
    assert api.post(f"/runs/{run_id}/cancel", {"reason": "not\nwanted"}).json["state"] == "cancelled"
    assert api.post(f"/runs/{run_id}/cancel").json["state"] == "cancelled"
    assert api.post(f"/runs/{run_id}/retry", {}).json["state"] == "queued"
    again = api.post(f"/runs/{run_id}/rerun")
    assert again.status_code == 201
    assert again.json["id"] != run_id
    assert api.get(f"/runs/{again.json['id']}/detail").json["values"]["args"] == [1]


@pytest.mark.parametrize("run_id", [str(uuid.UUID(int=7)), "nothing", "%0a<b>"])
def test_what_is_not_there_is_404(api: Api, run_id: str) -> None:
    for path in ("", "/detail", "?wait=1", "/detail?wait=1"):
        problem(api.get(f"/runs/{run_id}{path}"), 404, "not_found")
    for path in ("/cancel", "/retry", "/rerun"):
        problem(api.post(f"/runs/{run_id}{path}"), 404, "not_found")


# ---------------------------------------------------------------- definitions, workers
def test_definitions_are_listed(api: Api) -> None:
    api.register("shop.ship", queue="b", retry={"max_attempts": 2})
    listed = {item["name"]: item for item in api.get("/definitions").json["definitions"]}
    assert listed["shop.ship"] == {
        "name": "shop.ship",
        "version": "1",
        "kind": "task",
        "options": {"queue": "b", "retry": {"max_attempts": 2}},
    }
    assert "shop.charge" in listed
    wrong = {"definitions": [{"name": "x", "options": {"max_retires": 1, "expires": -1}}]}
    errors = problem(api.post("/definitions", wrong), 400, "invalid")["errors"]
    assert set(errors) == {"definitions[0].options.max_retires", "definitions[0].options.expires"}


def test_workers_are_listed(api: Api) -> None:
    worker = uuid.uuid4().hex
    fields = {
        "name": "w1",
        "host": "h",
        "pid": 7,
        "queues": ["a"],
        "concurrency": 2,
        "definitions": [["shop.charge", "1", "task"]],
    }
    api.store.save_worker(Heartbeat("default", "hello", worker, fields=fields))
    (listed,) = api.get("/workers?state=alive").json["workers"]
    assert (listed["name"], listed["pid"], listed["definitions"]) == ("w1", 7, [{"name": "shop.charge", "version": "1"}])
    assert api.get("/workers?state=lost").json["workers"] == []
    problem(api.get("/workers?state=asleep"), 400, "invalid")


def test_a_trace_goes_with_the_run(api: Api) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for header, carried in ((parent, parent), ("nonsense", None)):
        made = api.post("/runs", {"name": "shop.charge"}, headers={"traceparent": header}).json
        assert made is not None
        claimed = {item.dispatch.run_id: item.dispatch for item in api.store.claim_due().outgoing}
        found = claimed.get(made["id"].replace("-", ""))
        sql = "SELECT options FROM aiki_runs WHERE id = ?"
        raw = bytes.fromhex(made["id"].replace("-", ""))
        options = api.store.db.read(lambda c, sql=sql, raw=raw: api.store.db.execute(c, sql, (raw,)).fetchone())[0]
        assert (carried is None) == (options is None or '"tp"' not in options)
        assert found is None or found.options.get("tp") == carried


def test_the_signature_that_the_caller_saw_is_recorded_with_the_run(api: Api) -> None:
    def options(header: str) -> dict[str, object]:
        made = api.post("/runs", {"name": "shop.charge"}, headers={"Aiki-Signature": header}).json
        sql = "SELECT options FROM aiki_runs WHERE id = ?"
        row = api.store.db.read(lambda c: api.store.db.execute(c, sql, (ids.to_bytes(made["id"]),)).fetchone())
        return json.loads(row[0]) if row[0] else {}

    assert options("ab12cd34") == {"sg": "ab12cd34"}
    for header in ("", "AB12CD34", "ab12cd34ab", "x" * 500):
        assert options(header) == {}, header
