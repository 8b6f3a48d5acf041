"""POSTs under an `Idempotency-Key`, and how often one may ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aiki.api import ApiOptions
from aiki.api.limiting import Limiter
from aiki.clock import SECOND
from aiki.model import RunFilter
from aiki.storage.idempotency import CLAIM, KEPT
from tests.api.conftest import Api, problem
from tests.api.live import LiveServer
from tests.client.ending import end

RUN = {"name": "shop.charge", "args": ["o-1"]}


def _keyed(key: str = "k-1", **more: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": key, **more}}


def _ids(api: Api) -> list[str]:
    return [run.id for run in api.store.list_runs(RunFilter()).runs]


def test_the_same_request_is_done_once(api: Api) -> None:
    first = api.post("/runs", RUN, **_keyed())
    again = api.post("/runs", RUN, **_keyed())
    assert (first.status_code, first.json["created"]) == (201, True)  # type: ignore[index]
    assert (again.status_code, again.data) == (201, first.data)
    assert again.headers["Location"] == first.headers["Location"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["X-Request-ID"] != first.headers["X-Request-ID"]
    assert _ids(api) == [first.json["id"]]  # type: ignore[index]
    assert api.post("/runs", RUN, **_keyed("k-2")).json["id"] != first.json["id"]  # type: ignore[index]


def test_another_request_under_the_key_is_refused(api: Api) -> None:
    run_id = api.post("/runs", RUN, **_keyed()).json["id"]  # type: ignore[index]
    problem(api.post("/runs", {**RUN, "args": ["o-2"]}, **_keyed()), 422, "idempotency_mismatch")
    problem(api.post(f"/runs/{run_id}/cancel", **_keyed()), 422, "idempotency_mismatch")
    assert _ids(api) == [run_id]


def test_a_request_that_was_refused_may_be_mended(api: Api) -> None:
    problem(api.post("/runs", {**RUN, "odd": 1}, **_keyed()), 400, "invalid")
    assert api.post("/runs", RUN, **_keyed()).status_code == 201


@pytest.mark.parametrize("key", ["", "a b", "x" * 201, "é"])
def test_malformed_keys(api: Api, key: str) -> None:
    problem(api.post("/runs", RUN, headers={"Idempotency-Key": key}), 400, "invalid")
    assert _ids(api) == []


def _age(api: Api, seconds: int, *columns: str) -> None:
    """As if so much time had gone by."""
    sql = f"UPDATE aiki_idempotency SET {', '.join(f'{name} = {name} - {seconds * SECOND}' for name in columns)}"
    api.store.db.transaction(lambda connection: api.store.db.execute(connection, sql))


def test_a_key_is_free_again_after_a_day(api: Api) -> None:
    first = api.post("/runs", RUN, **_keyed()).json["id"]  # type: ignore[index]
    _age(api, KEPT - 60, "created_at", "claimed_at")
    assert api.store.purge_idempotency() == 0
    assert api.post("/runs", RUN, **_keyed()).json["id"] == first  # type: ignore[index]
    _age(api, 120, "created_at", "claimed_at")
    assert api.post("/runs", RUN, **_keyed()).json["id"] != first  # type: ignore[index]
    _age(api, 2 * KEPT, "created_at", "claimed_at")
    assert api.store.purge_idempotency(limit=1) == 1
    assert api.store.purge_idempotency() == 0


def test_secrets_are_not_kept(make_api: Callable[..., Api]) -> None:
    api = make_api(api_key="right")
    keyed = _keyed(Authorization="Bearer right")
    body = {"name": "ci", "role": "viewer"}
    made = api.post("/keys", body, **keyed)
    assert made.status_code == 201
    problem(api.post("/keys", body, **keyed), 409, "conflict")
    assert len(api.get("/keys", headers={"Authorization": "Bearer right"}).json["keys"]) == 1  # type: ignore[index]
    rows = api.store.db.read(
        lambda connection: api.store.db.execute(connection, "SELECT headers, body FROM aiki_idempotency").fetchall()
    )
    assert [bytes(body) for _, body in rows] == [b""]


def _forget_answers(api: Api) -> None:
    """As if the server had died before it kept its answers."""
    sql = "UPDATE aiki_idempotency SET status = NULL, headers = NULL, body = NULL"
    api.store.db.transaction(lambda connection: api.store.db.execute(connection, sql))


def test_a_server_that_died_half_way_does_nothing_twice(api: Api) -> None:
    many = {"runs": [RUN, RUN, {**RUN, "id": "0190a0b0-0000-7000-8000-000000000000"}]}
    first = api.post("/runs", RUN, **_keyed("one")).json["id"]  # type: ignore[index]
    batch = [item["id"] for item in api.post("/runs/batch", many, **_keyed("many")).json["runs"]]  # type: ignore[index]
    end(api.store, first, result=[])
    rerun = api.post(f"/runs/{first}/rerun", **_keyed("rerun")).json["id"]  # type: ignore[index]
    _forget_answers(api)
    refused = api.post("/runs", RUN, **_keyed("one"))
    assert problem(refused, 409, "idempotency_conflict")["retry_after"] == 1
    assert refused.headers["Retry-After"] == "1"
    _age(api, CLAIM + 1, "claimed_at")
    again = api.post("/runs", RUN, **_keyed("one"))
    assert (again.status_code, again.json["id"], again.json["created"]) == (200, first, False)  # type: ignore[index]
    assert [item["id"] for item in api.post("/runs/batch", many, **_keyed("many")).json["runs"]] == batch  # type: ignore[index]
    assert api.post(f"/runs/{first}/rerun", **_keyed("rerun")).json["id"] == rerun  # type: ignore[index]
    assert sorted(_ids(api)) == sorted([first, rerun, *batch])


def test_many_at_once_are_done_once(live: Callable[..., LiveServer], mysql_database: str) -> None:
    from aiki.storage import upgrade

    upgrade(mysql_database)
    server = live(AIKI_DATABASE_URL=mysql_database).wait_ready()
    server.ask("POST", "/api/v1/definitions", {"definitions": [{"name": "shop.charge"}]})
    together = threading.Barrier(8)

    def ask(_number: int) -> tuple[int, Any, Any]:
        together.wait()
        return server.ask("POST", "/api/v1/runs", RUN, {"Idempotency-Key": "k"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    done = {body["id"] for status, _, body in answers if status == 201}
    assert len(done) == 1
    assert {status for status, _, _ in answers} <= {201, 409}
    runs = server.ask("GET", "/api/v1/runs")[2]["runs"]
    assert {run["id"] for run in runs} == done
    assert "Traceback" not in server.text()


# ---------------------------------------------------------------- rates
def test_a_bucket_fills_again() -> None:
    now = [0.0]
    limiter = Limiter(10, clock=lambda: now[0])
    assert [limiter.wait("a") for _ in range(20)] == [0.0] * 20
    assert 0 < limiter.wait("a") <= 0.1
    assert limiter.wait("b") == 0.0
    now[0] = 0.2
    assert [limiter.wait("a") > 0 for _ in range(3)] == [False, False, True]


def test_who_asks_too_much_is_told_when_to_ask_again(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(rate_limit=1))
    answers = [api.get("/runs") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    told = problem(answers[-1], 429, "too_many_requests")
    assert 0 < told["retry_after"] <= 1
    assert answers[-1].headers["Retry-After"] == "1"
    assert api.http.get("/healthz").status_code == 200
