"""Server-sent events: what they tell, who may listen, and what a listener costs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import urllib3

from aiki.api import ApiOptions
from aiki.api.app import backend_of
from aiki.api.listening import BACKLOG, Listener
from tests.api.conftest import Api, problem
from tests.api.live import LiveServer
from tests.client.ending import end
from tests.waiting import wait_until


class Events:
    """Reads a stream in a thread of its own."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.found: list[tuple[str, Any, str]] = []
        self.text = ""
        self.closed = False
        self._pieces = pieces
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for piece in self._pieces:
                self.text += piece.decode()
                *whole, self.text = self.text.split("\n\n")
                self.found += [_event(block) for block in whole]
        except (urllib3.exceptions.HTTPError, OSError):
            pass
        self.closed = True

    def named(self, name: str) -> list[Any]:
        return [data for event, data, _ in self.found if event == name]

    def wait(self, name: str, count: int = 1) -> Any:
        wait_until(lambda: len(self.named(name)) >= count, 15, f"{count} {name} among {self.found}")
        return self.named(name)[count - 1]


def _event(block: str) -> tuple[str, Any, str]:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    if "retry" in fields:
        return "retry", int(fields["retry"]), ""
    return fields.get("event", ""), json.loads(fields.get("data", "null")), fields.get("id", "")


def _open(server: LiveServer, path: str, **headers: str) -> Events:
    answer = server.http.request("GET", server.url + path, headers=headers, preload_content=False)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return Events(iter(lambda: answer.read1(1 << 16), b""))


def _new_run(server: LiveServer, **fields: Any) -> str:
    assert server.ask("POST", "/api/v1/definitions", {"definitions": [{"name": "shop.charge"}]})[0] == 200
    return str(server.ask("POST", "/api/v1/runs", {"name": "shop.charge", **fields})[2]["id"])


# ---------------------------------------------------------------- a run
def test_a_run_is_followed_to_its_end(api: Api) -> None:
    run_id = api.new_run()
    answer = api.get(f"/runs/{run_id}/stream", buffered=False)
    assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
    assert answer.headers["X-Accel-Buffering"] == "no"
    events = Events(iter(answer.response))
    assert events.wait("retry") == 3000
    first = events.wait("run")
    assert (first["run"]["id"], first["run"]["state"], first["steps"]) == (run_id, "queued", 0)
    end(api.store, run_id, result=[1])
    assert events.wait("end") == {"state": "completed"}
    assert events.named("run")[-1]["run"]["state"] == "completed"
    wait_until(lambda: events.closed, 10, "the stream to end")
    last_id = events.found[-1][2]
    assert api.get(f"/runs/{run_id}/stream", headers={"Last-Event-ID": last_id}).status_code == 204
    again = api.get(f"/runs/{run_id}/stream")
    assert "event: end" in again.text


def test_a_run_that_is_not_there(api: Api) -> None:
    problem(api.get("/runs/0190a0b0-0000-7000-8000-000000000000/stream"), 404, "not_found")
    problem(api.get("/runs/nonsense/stream"), 404, "not_found")


def test_head_opens_no_stream(api: Api) -> None:
    answer = api.http.head(f"/api/v1/runs/{api.new_run()}/stream")
    assert (answer.status_code, answer.data, answer.mimetype) == (200, b"", "text/event-stream")


# ---------------------------------------------------------------- lists
def test_a_list_is_followed(api: Api) -> None:
    first = api.new_run()
    answer = api.get("/stream?topics=runs,overview&state=queued", buffered=False)
    events = Events(iter(answer.response))
    told = events.wait("runs")
    assert (told["ids"], [run["id"] for run in told["changed"]]) == ([first], [first])
    assert events.wait("overview")["states"] == {"queued": 1}
    second = api.new_run()
    told = events.wait("runs", 2)
    assert (told["ids"], [run["id"] for run in told["changed"]]) == ([second, first], [second])
    end(api.store, first, result=[])
    assert events.wait("runs", 3) == {"ids": [second], "changed": []}
    backend_of(api.http.application).release()
    wait_until(lambda: events.closed, 10, "the stream to end")


def test_too_many_streams(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(max_streams=1))
    open_one = api.get("/stream", buffered=False)
    refused = api.get("/stream")
    assert problem(refused, 429, "too_many_requests")["retry_after"] == 10
    assert refused.headers["Retry-After"] == "10"
    next(iter(open_one.response))
    open_one.close()
    api.get("/stream", buffered=False).close()


@pytest.mark.parametrize("query", ["topics=all", "topics=", "limit=51", "limit=0", "state=odd", "after=x"])
def test_wrong_queries(api: Api, query: str) -> None:
    problem(api.get(f"/stream?{query}"), 400, "invalid")


def test_who_lags_is_cut_off() -> None:
    listener = Listener()
    listener.put(b"x" * (BACKLOG // 2))
    assert not listener.closed
    listener.put(b"x" * BACKLOG)
    assert listener.closed
    assert listener.take() == b""


# ---------------------------------------------------------------- a real server
def test_streams_hold_no_thread_and_end_with_the_server(live: Callable[..., LiveServer]) -> None:
    server = live("--threads", "2").wait_ready()
    run_id = _new_run(server)
    server.http = urllib3.PoolManager(retries=False, timeout=30.0, maxsize=64)
    lists = [_open(server, "/api/v1/stream?topics=runs,overview") for _ in range(40)]
    followed = _open(server, f"/api/v1/runs/{run_id}/stream")
    for events in lists:
        assert events.wait("runs")["ids"] == [run_id]
    assert followed.wait("run")["run"]["id"] == run_id
    assert server.ask("GET", "/healthz")[0] == 200
    assert server.workers()[0].num_threads() <= 8  # 2 that serve, who asks, who sends, and what else there is
    other = _new_run(server)
    for events in lists:
        assert events.wait("runs", 2)["ids"] == [other, run_id]
    assert server.stop() == 0
    for events in [*lists, followed]:
        wait_until(lambda events=events: events.closed, 10, "the streams to end")  # type: ignore[misc]
    assert "Traceback" not in server.text()


def test_a_real_server_caps_its_streams_and_forgets_who_left(live: Callable[..., LiveServer]) -> None:
    server = live(AIKI_STREAMS="2").wait_ready()
    answers = [server.http.request("GET", f"{server.url}/api/v1/stream", preload_content=False) for _ in range(2)]
    status, headers, body = server.ask("GET", "/api/v1/stream")
    assert (status, headers["Retry-After"], body["code"]) == (429, "10", "too_many_requests")
    files = _files(server)
    for answer in answers:
        answer.close()
    wait_until(lambda: server.http.request("HEAD", f"{server.url}/api/v1/stream").status == 200, 5, "HEAD")
    wait_until(lambda: _files(server) <= files - 2, 10, "the sockets to be closed")
    events = _open(server, "/api/v1/stream")
    events.wait("runs")


def _files(server: LiveServer) -> int:
    return len([item for item in psutil.Process(server.workers()[0].pid).net_connections() if item.status == "ESTABLISHED"])
