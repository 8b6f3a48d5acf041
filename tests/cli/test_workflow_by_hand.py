"""A workflow run with nothing but HTTP and the command line, on everything that `aiki dev` starts."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from tests.cli.process import Process, aiki
from tests.waiting import wait_until

SHOP = """
from aiki import Aiki, WorkflowRun
app = Aiki("shop")

@app.task(name="charge")
def charge(order: str, cents: int) -> str:
    return f"charged {cents} for {order}"

@app.workflow(name="checkout", version="1")
def old(run: WorkflowRun, order: str) -> str:
    return f"{order} by the old way"

@app.workflow(name="checkout", version="2")
def checkout(run: WorkflowRun, order: str) -> list[str]:
    paid = charge(order, 4200)
    shipped = charge.submit(order, 300)
    who = run.wait_event("approved")
    woken = run.sleep("settle", 3600)
    return [paid, shipped.result(), who["by"], str(woken)]
"""


class Dev:
    """`aiki dev`, asked over HTTP and by commands."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=40) as answer:
            return json.load(answer)

    def aiki(self, *arguments: str) -> str:
        done = aiki("runs", *arguments, cwd=self.directory)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for(self, run_id: str, what: str) -> None:
        """Until it waits on this."""
        wait_until(lambda: what in (self.ask(f"/runs/{run_id}")["waiting_on"] or ""), 30, f"the run to wait on {what}")


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    directory = tmp_path_factory.mktemp("dev")
    (directory / "shop.py").write_text(SHOP)
    port = services.free_port()
    with Process(["-m", "aiki", "dev", "-A", "shop", "--no-reload", "--port", str(port)], directory) as process:
        process.wait_for_line("Ctrl-C stops everything")
        made = Dev(directory, port)
        known = [("charge", "1"), ("checkout", "1"), ("checkout", "2")]
        wait_until(lambda: all(item in definitions(made) for item in known), 30, "the worker to say what it knows")
        yield made


def definitions(dev: Dev) -> list[tuple[str, str]]:
    return [(item["name"], item["version"]) for item in dev.ask("/definitions")["definitions"]]


def test_a_workflow_is_begun_by_name_and_steered_over_http(dev: Dev) -> None:
    run_id = dev.ask("/runs", {"name": "checkout", "args": ["o-1"]})["id"]
    dev.wait_for(run_id, "event approved")
    run = dev.ask(f"/runs/{run_id}")
    assert (run["kind"], run["version"], run["state"]) == ("workflow", "2", "waiting")
    (child,) = dev.ask(f"/runs?parent={run_id}")["runs"]
    assert (child["name"], child["parent_id"]) == ("charge", run_id)
    for _ in range(2):
        dev.ask(f"/runs/{run_id}/events", {"name": "approved", "data": {"by": "ann"}, "reference_id": "a-1"})
    dev.wait_for(run_id, "sleep settle")
    assert dev.ask(f"/runs/{run_id}/pause", {})["state"] == "paused"
    dev.ask(f"/runs/{run_id}/resume", {})
    dev.wait_for(run_id, "sleep settle")
    dev.ask(f"/runs/{run_id}/wake", {"name": "settle"})
    detail = dev.ask(f"/runs/{run_id}/detail?wait=30")
    assert detail["values"]["result"] == ["charged 4200 for o-1", "charged 300 for o-1", "ann", "True"]
    steps = dev.ask(f"/runs/{run_id}/history")["steps"]
    issued = [(step["kind"], step["name"], step["state"]) for step in steps]
    assert issued == [
        ("step", "charge", "completed"), ("task", "charge", "completed"),
        ("event", "approved", "completed"), ("sleep", "settle", "completed"),
    ]  # fmt: skip


def test_an_older_version_is_asked_for_by_its_number(dev: Dev) -> None:
    run_id = dev.ask("/runs", {"name": "checkout", "version": "1", "kwargs": {"order": "o-2"}})["id"]
    assert dev.ask(f"/runs/{run_id}/detail?wait=30")["values"]["result"] == "o-2 by the old way"


def test_a_workflow_is_steered_from_the_command_line(dev: Dev) -> None:
    run_id = dev.ask("/runs", {"name": "checkout", "args": ["o-3"]})["id"]
    dev.wait_for(run_id, "event approved")
    dev.aiki("event", run_id, "approved", "--data", '{"by": "bob"}')
    dev.wait_for(run_id, "sleep settle")
    again = json.loads(dev.aiki("rerun", run_id, "--from-step", "2", "-o", "json"))[0]["id"]
    dev.wait_for(again, "event approved")
    assert dev.aiki("wake", run_id).startswith(f"{run_id}  queued")
    assert dev.ask(f"/runs/{run_id}?wait=30")["state"] == "completed"
    assert dev.aiki("cancel", again).startswith(f"{again}  queued (to be cancelled: its code meets it")
    assert dev.ask(f"/runs/{again}?wait=30")["state"] == "cancelled"
    shown = dev.aiki("show", run_id)
    assert "steps:" in shown
    assert '"bob"' in dev.aiki("history", run_id)
