"""A small HTTP server over an embedded client, to test the remote client against: the API as `aiki.client.wire` writes it.

It can be told to misbehave: `server.faults` holds functions that take the request's handler and answer in its place.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiki.client import Client, wire
from aiki.clock import now_us
from aiki.errors import AikiError
from aiki.model import RunFilter, RunView
from aiki.states import State

Fault = Callable[["Handler"], None]


class StandIn(ThreadingHTTPServer):
    """Listens on a port of its own; `requests` are the method and path of each request that came."""

    daemon_threads = True

    def __init__(self, client: Client) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.client = client
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.answered: dict[str, Any] = {}
        self.clock = now_us
        self.thread = threading.Thread(target=self.serve_forever, args=[0.05], daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_GET(self) -> None:
        self.handle_request()

    def do_POST(self) -> None:
        self.handle_request()

    def handle_request(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.faults:
            self.server.faults.pop(0)(self)
            return
        try:
            self.answer(200, self.route())
        except AikiError as error:
            problem = wire.problem_to_json(error)
            self.answer(problem["status"], problem)

    def answer(self, status: int, data: Any, **headers: str) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header(wire.TIME_HEADER, str(self.server.clock()))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def route(self) -> Any:
        """The answer, which is given again to who asks again under its key."""
        key = self.headers.get("Idempotency-Key")
        if key is None:
            return self.do()
        if key not in self.server.answered:
            self.server.answered[key] = self.do()
        return self.server.answered[key]

    def do(self) -> Any:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        parts = split.path.removeprefix("/api/v1/").split("/")
        client = self.server.client
        body = json.loads(self.content) if self.content else {}
        wait = float(query.get("wait", 0))
        match self.command, parts:
            case "POST", ["definitions"]:
                client.register([wire.definition_from_json(item) for item in body["definitions"]])
                return None
            case "POST", ["runs"]:
                return wire.accepted_to_json(client.enqueue([wire.new_run_from_json(body, now=now_us())])[0])
            case "POST", ["runs", "batch"]:
                runs = [wire.new_run_from_json(item, now=now_us()) for item in body["runs"]]
                return {"runs": [wire.accepted_to_json(item) for item in client.enqueue(runs, batch=body["batch"])]}
            case "GET", ["runs"]:
                where = RunFilter(
                    tuple(State(value) for value in parse_qs(split.query).get("state", ())),
                    query.get("name"),
                    query.get("queue"),
                    query.get("reference_id"),
                    wire.time_from_json(query.get("created_after")),
                    wire.time_from_json(query.get("created_before")),
                    query.get("kind"),
                    query.get("parent"),
                )
                return wire.page_to_json(client.list(where, limit=int(query["limit"]), after=query.get("after")))
            case "GET", ["runs", run_id]:
                return wire.run_to_json(client.get(run_id, wait=wait))
            case "GET", ["runs", run_id, "detail"]:
                return wire.detail_to_json(client.detail(run_id, wait=wait))
            case "GET", ["runs", run_id, "history"]:
                steps = client.history(run_id, after=int(query["after"]), limit=int(query["limit"]))
                return wire.history_to_json(steps, more=False)
            case "POST", ["runs", run_id, "rerun"]:
                told = {"from_step": body["from_step"], "new_id": body["id"], "reason": body["reason"]}
                return wire.accepted_to_json(client.rerun(run_id, **told))
            case "POST", ["runs", run_id, verb]:
                return wire.run_to_json(self.act(client, run_id, verb, body))
        raise AssertionError(f"no route for {self.command} {self.path}")

    def act(self, client: Client, run_id: str, verb: str, body: dict[str, Any]) -> RunView:
        match verb:
            case "cancel":
                return client.cancel(run_id, reason=body["reason"], once=body.get("once", False))
            case "terminate":
                return client.cancel(run_id, reason=body["reason"], at_once=True)
            case "pause":
                return client.pause(run_id, reason=body["reason"])
            case "resume":
                return client.resume(run_id, reason=body["reason"])
            case "wake":
                return client.wake(run_id, name=body.get("name", ""), reason=body["reason"])
            case "events":
                payload = wire.payload_from_json(body["payload"])
                told = {"reference_id": body["reference_id"], "reason": body["reason"]}
                return client.send_event(run_id, body["name"], payload, **told)
            case "retry":
                return client.retry(run_id, reason=body["reason"])
        raise AssertionError(f"no route for {verb}")

    def log_message(self, format: str, *args: Any) -> None:
        pass
