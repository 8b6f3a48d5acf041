"""Traces over real processes: one for all that a request causes, with a span for everything that ran, once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.system import HERE, System
from tests.waiting import wait_until


def spans(system: System) -> list[dict[str, Any]]:
    return [json.loads(line) for path in system.ledger.glob("spans-*") for line in path.read_text().splitlines()]


@pytest.mark.parametrize("way", ["embedded", "remote"])
def test_one_trace_from_the_request_to_every_step(embedded_system: System, way: str, free_port: Callable[[], int]) -> None:
    system = embedded_system
    system.orchestrator()
    system.worker(app="traced")
    environment = dict(system.env)
    if way == "remote":
        port = free_port()
        server = system.server(port)
        wait_until(lambda: "listening on" in server.log, 30, "the server")
        environment["AIKI_SERVER_URL"] = f"http://127.0.0.1:{port}"
    done = subprocess.run(
        [sys.executable, str(HERE / "traced.py")], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[1, 12]\n"
    found = spans(system)
    by_id = {span["context"]["span_id"]: span for span in found}
    assert len({span["context"]["trace_id"] for span in found}) == 1
    names = Counter(span["name"] for span in found)
    calls = names.pop("execute traced.flow")
    assert calls >= 2  # it waited, and was called again
    assert names == {
        "request": 1,
        "enqueue traced.sometimes": 1,
        "enqueue traced.flow": 1,
        "execute traced.sometimes": 2,
        "my own": 1,
        "step traced.double": 2,  # those that are replayed have no span
        "submit traced.double": 1,
        "execute traced.double": 1,
        "my async own": 3,
    }

    def parent(span: dict[str, Any]) -> str:
        return str(by_id[span["parent_id"]]["name"]) if span["parent_id"] else ""

    parents = {(span["name"], parent(span)) for span in found}
    assert parents == {
        ("request", ""),
        ("enqueue traced.sometimes", "request"),
        ("enqueue traced.flow", "request"),
        ("execute traced.sometimes", "enqueue traced.sometimes"),
        ("my own", "execute traced.sometimes"),
        ("execute traced.flow", "enqueue traced.flow"),
        ("step traced.double", "execute traced.flow"),
        ("submit traced.double", "execute traced.flow"),
        ("execute traced.double", "submit traced.double"),
        ("my async own", "step traced.double"),
        ("my async own", "execute traced.double"),
    }
    outcomes = {
        (s["attributes"]["aiki.attempt"], s["status"]["status_code"], s["attributes"]["aiki.outcome"])
        for s in found
        if s["name"] == "execute traced.sometimes"
    }
    assert outcomes == {(1, "ERROR", "retry"), (2, "OK", "completed")}
    first = next(s for s in found if s["attributes"].get("aiki.outcome") == "retry")
    assert [event["name"] for event in first["events"]] == ["exception", "retry"]
    assert {s["kind"] for s in found if s["name"].startswith("execute")} == {"SpanKind.CONSUMER"}


def test_who_does_not_trace_pays_nothing_and_carries_nothing() -> None:
    code = (
        "import sys, aiki, aiki.worker.child, aiki.client.embedded, aiki.api; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
