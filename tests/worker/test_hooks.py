"""Hooks in a real worker: which process calls them, and what follows when they fail."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tests.worker.conftest import StartWorker
from tests.worker.harness import Orchestrator

APP = "tests.worker.hooked_app"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they are noted: `what pid` a line."""
    made = tmp_path / "notes"
    made.touch()
    monkeypatch.setenv("HOOKS_AT", str(made))
    return made


def test_each_is_called_in_its_process_and_in_its_order(orchestrator: Orchestrator, start: StartWorker, notes: Path) -> None:
    worker = start("-c", "1", app=APP)
    runs = [orchestrator.run("work") for _ in range(2)]
    child = str(orchestrator.result(runs[0], timeout=60))
    orchestrator.result(runs[1], timeout=60)
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    once = [f"enter {child}", f"work {child}", f"leave {child}"]
    assert notes.read_text().splitlines() == [
        f"worker_start {worker.process.pid}",
        f"child_start {child}",
        *once,
        *once,
        f"child_stop {child}",
    ]


def test_a_child_that_is_replaced_stops_and_another_starts(orchestrator: Orchestrator, start: StartWorker, notes: Path) -> None:
    start("-c", "1", "--max-tasks-per-child", "1", app=APP)
    first, second = (orchestrator.result(orchestrator.run("work"), timeout=60) for _ in range(2))
    wait_until(lambda: notes.read_text().count("child_stop") == 2, 60, "both children to stop")
    for child in (first, second):
        told = [line.split()[0] for line in notes.read_text().splitlines() if line.endswith(f" {child}")]
        assert told == ["child_start", "enter", "work", "leave", "child_stop"]
    assert notes.read_text().count("worker_start") == 1


def test_a_worker_whose_start_fails_does_not_start(
    orchestrator: Orchestrator, start: StartWorker, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKS", "worker_start")
    worker = start("-c", "1", app=APP)
    assert worker.wait(60) == 1
    assert "worker_start goes wrong" in worker.log
    assert "raised in the hook tests.worker.hooked_app.worker_start, @app.on_worker_start" in worker.log
    assert "child_start" not in notes.read_text()


def test_a_child_whose_start_fails_is_tried_again(
    orchestrator: Orchestrator, start: StartWorker, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKS", "first child_start")
    worker = start("-c", "1", app=APP)
    assert orchestrator.result(orchestrator.run("work"), timeout=60)
    assert "raised in the hook tests.worker.hooked_app.child_start, @app.on_child_start" in worker.log
    assert notes.read_text().count("\nchild_start") == 1


def test_a_child_whose_stop_fails_has_done_its_work(
    orchestrator: Orchestrator, start: StartWorker, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKS", "child_stop")
    worker = start("-c", "1", app=APP)
    orchestrator.result(orchestrator.run("work"), timeout=60)
    worker.signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert "child_stop, @app.on_child_stop, failed" in worker.log


@pytest.mark.parametrize("left", [True, False])
def test_connections_that_children_would_share_are_told(
    orchestrator: Orchestrator, start: StartWorker, notes: Path, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("HOOKS_PORT", str(port))
        monkeypatch.setenv("HOOKS", "leaves open" if left else "")
        worker = start("-c", "1", app=APP)
        orchestrator.result(orchestrator.run("work"), timeout=60)
    assert (f"importing the app left connections open (127.0.0.1:{port})" in worker.log) == left
