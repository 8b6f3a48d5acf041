"""Processes that tasks start: they die with the attempt, and with nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiki import messages
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import ROOT, Orchestrator, alive, key

APP = "tests.worker.trees_app"


def pids_in(directory: Path) -> list[int]:
    return [int(line) for file in directory.glob("*.pids") for line in file.read_text().split()]


def wait_for_all(directory: Path) -> list[int]:
    wait_until(lambda: (directory / "ready").exists(), 20, "the processes to be started")
    found = pids_in(directory)
    assert len(found) >= len(list(directory.glob("*.pids")))
    return found


def wait_for_none(pids: list[int]) -> None:
    assert pids
    wait_until(lambda: not any(map(alive, pids)), 10, f"{pids} to be gone")


def test_nothing_of_an_attempt_survives_its_time_limit(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1", "--time-limit", "6", app=APP)
    run = orchestrator.run("start_and_wait", str(tmp_path), ["tree", "session", "daemon", "forked", "pool", "spawned"])
    pids = wait_for_all(tmp_path)
    assert orchestrator.report(run).body["outcome"] == "timed_out"
    wait_for_none(pids)


@pytest.mark.parametrize(
    "how", ["its own exit", "a signal", "a stubborn cancel", "max-tasks", "cold", "warm", "supervisor killed"]
)
def test_nothing_survives_a_child(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    worker = start("-c", "1", *(["--max-tasks-per-child", "1"] if how == "max-tasks" else []), app=APP)
    name = {"its own exit": "start_and_crash", "a signal": "start_and_wait"}.get(how, "start_and_end")
    if how in ("cold", "supervisor killed"):
        name = "start_and_wait"
    kinds = ["tree", "session", "daemon", "forked"]
    run = (
        orchestrator.run("stay", str(tmp_path)) if how == "a stubborn cancel" else orchestrator.run(name, str(tmp_path), kinds)
    )
    pids = wait_for_all(tmp_path)
    if how == "a signal":
        os.kill(int((tmp_path / "ready").read_text()), signal.SIGKILL)
    elif how == "a stubborn cancel":
        orchestrator.control(messages.CANCEL, [key(run)])
        assert orchestrator.report(run, timeout=25).kind == messages.CANCELLED
    elif how == "cold":
        worker.signal(signal.SIGQUIT)
    elif how == "warm":
        orchestrator.report(run)
        worker.signal(signal.SIGTERM)
    elif how == "supervisor killed":
        worker.signal(signal.SIGKILL)
    if how in ("cold", "warm"):
        worker.wait()
        assert not any(map(alive, pids)), "they are gone before the worker is"
    wait_for_none(pids)


def test_what_a_cancelled_attempt_has_started_is_killed_and_the_child_replaced(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    start("-c", "1", app=APP)
    before = orchestrator.result(orchestrator.run("who"))
    run = orchestrator.run("start_and_wait", str(tmp_path), ["tree", "daemon", "forked"])
    pids = wait_for_all(tmp_path)
    orchestrator.control(messages.CANCEL, [key(run)])
    assert orchestrator.report(run).kind == messages.CANCELLED
    wait_for_none(pids)
    assert orchestrator.result(orchestrator.run("who")) != before


def test_a_pool_lives_as_long_as_its_child(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1", app=APP)
    assert orchestrator.result(orchestrator.run("use_pool")) == orchestrator.result(orchestrator.run("use_pool"))


def test_processes_of_another_child_and_of_those_beside_the_worker_are_left_alone(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    """A script that starts something, then becomes the worker: what it started stays the worker's child, and is not its own."""
    start("-c", "2", app=APP)
    other, mine = tmp_path / "other", tmp_path / "mine"
    for directory in (other, mine):
        directory.mkdir()
    orchestrator.run("start_and_wait", str(other), ["tree", "session", "daemon", "forked"])
    others = wait_for_all(other)
    crash = orchestrator.run("start_and_crash", str(mine), ["tree", "session", "daemon", "forked"])
    assert orchestrator.report(crash).kind == messages.CRASHED
    wait_for_none(wait_for_all(mine))
    assert all(map(alive, others))


def test_what_a_script_started_before_it_became_the_worker_stays(
    embedded: Place, orchestrator: Orchestrator, tmp_path: Path
) -> None:
    worker = f"{sys.executable} -c 'from aiki.cli.worker import worker; worker()' -A {APP} -c 1"
    script = f"sleep 3600 & echo $! > {tmp_path}/beside; exec {worker}"
    environment = os.environ | {"AIKI_BROKER_URL": embedded.url, "AIKI_PREFIX": embedded.prefix, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(["sh", "-c", script], env=environment, cwd=ROOT)
    try:
        mine = tmp_path / "mine"
        mine.mkdir()
        assert orchestrator.report(orchestrator.run("start_and_crash", str(mine), ["daemon"])).kind == messages.CRASHED
        wait_for_none(wait_for_all(mine))
        beside = int((tmp_path / "beside").read_text())
        assert alive(beside)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert alive(beside)
    finally:
        process.kill()
        os.kill(int((tmp_path / "beside").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_program_that_a_task_runs_is_shielded_while_the_worker_drains(
    embedded: Place, orchestrator: Orchestrator, tmp_path: Path, number: int
) -> None:
    code = "from aiki.cli.worker import worker; worker()"
    environment = os.environ | {"AIKI_BROKER_URL": embedded.url, "AIKI_PREFIX": embedded.prefix, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", code, "-A", APP, "-c", "1"], env=environment, cwd=ROOT, start_new_session=True
    )
    try:
        run = orchestrator.run("run_program", str(tmp_path / "pid"), str(tmp_path / "release"))
        wait_until(lambda: (tmp_path / "pid").exists(), what="the program to run")
        os.killpg(process.pid, number)
        orchestrator.beat(messages.BEAT, lambda beat: bool(beat.fields["draining"]))
        (tmp_path / "release").touch()
        assert orchestrator.result(run) == "done"
        assert process.wait(15) == 0
    finally:
        process.kill()


def test_a_drain_that_lasts_too_long_ends_by_itself_and_charges_nobody(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1", "--drain-timeout", "1", app=APP)
    run = orchestrator.run("start_and_wait", str(tmp_path), ["tree", "daemon"])
    pids = wait_for_all(tmp_path)
    worker.signal(signal.SIGTERM)
    began = time.monotonic()
    assert worker.wait() == 3
    assert 0.9 < time.monotonic() - began < 8
    assert orchestrator.report(run).kind == messages.RETURNED
    assert not any(map(alive, pids))


def test_children_that_the_platform_kills_while_the_worker_drains_charge_nobody(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    worker = start("-c", "1", app=APP)
    run = orchestrator.run("start_and_wait", str(tmp_path), ["shell"])
    wait_for_all(tmp_path)
    worker.signal(signal.SIGTERM)
    orchestrator.beat(messages.BEAT, lambda beat: bool(beat.fields["draining"]), timeout=3)
    os.kill(int((tmp_path / "ready").read_text()), signal.SIGKILL)
    assert orchestrator.report(run).kind == messages.RETURNED
    assert worker.wait() == 0


def test_a_program_that_the_service_manager_stops_with_the_worker_is_run_again(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, tmp_path: Path
) -> None:
    """As systemd does by default: the signal goes to each process of the unit."""
    worker = start("-c", "1", app=APP)
    run = orchestrator.run("run_program", str(tmp_path / "pid"), str(tmp_path / "never"))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="the program to run")
    for pid in [worker.process.pid, *worker.family, int((tmp_path / "pid").read_text())]:
        os.kill(pid, signal.SIGTERM)
    assert orchestrator.report(run).kind == messages.RETURNED
    assert worker.wait() == 0
