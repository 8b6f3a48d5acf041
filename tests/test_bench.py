"""The bench runs to its end and its tables are whole. Its figures are not looked at: a test machine tells nothing of speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import marks, provision
from bench.case import rates
from bench.cases import BY_NAME, CASES
from bench.config import Config
from bench.goals import GOALS
from bench.report import NONE, judge, render
from tests.postgres import PostgresServer
from tests.provision import AMQP_VARIABLE, MYSQL_VARIABLE, NoServer
from tests.services import MariaServer, RabbitServer

ROOT = Path(__file__).parent.parent
PEERS = [case for case in CASES if case.product != "aiki"]

Bench = Callable[..., tuple[str, Path]]


@pytest.fixture
def bench(rabbit: RabbitServer, maria: MariaServer, tmp_path: Path) -> Bench:
    """Runs a smoke run with further arguments on the shared servers: what it printed, and the folder of its results."""

    def run(*arguments: str) -> tuple[str, Path]:
        results = tmp_path / "results"
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--quick", "--results", str(results), *arguments],
            cwd=ROOT,
            env={**os.environ, AMQP_VARIABLE: rabbit.url, MYSQL_VARIABLE: maria.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, results

    return run


def rows(output: str, first: str) -> list[list[str]]:
    """The cells of the table's rows whose first cell is this."""
    lines = [line for line in output.splitlines() if line.startswith(f"{first}  ")]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_smoke_run_measures_aiki_in_every_way(bench: Bench) -> None:
    output, results = bench("--no-peers")
    for case in CASES:
        if case.product == "aiki":
            [row] = rows(output, case.name)
            assert NONE not in (row[1:4] if case.kind == "latency" else row[1:5]), row
        else:
            assert not rows(output, case.name)
    for goal in GOALS:
        if goal.against:
            assert not rows(output, str(goal))
        else:
            [row] = rows(output, str(goal))
            assert row[1] == goal.bound
            assert row[3] in {"PASS", "MISS"}, row
    [file] = results.iterdir()
    kept = json.loads(file.read_text())
    assert [outcome["case"] for outcome in kept["rounds"]] == [case.name for case in CASES if case.product == "aiki"]
    completed = {outcome["case"]: outcome["figures"].get("completed") for outcome in kept["rounds"]}
    for case in CASES:
        if case.product == "aiki":
            assert completed[case.name] == {"throughput": 200, "flows": 50}.get(case.kind), case.name


@pytest.mark.skipif(not all(case.installed for case in PEERS), reason="the extra `bench` is not installed")
def test_a_smoke_run_measures_the_incumbents(bench: Bench) -> None:
    output, _ = bench("--only", ",".join(case.name for case in PEERS))
    for case in PEERS:
        [row] = rows(output, case.name)
        assert NONE not in row[1:2], row
        assert "[" not in row[-1], row
        if case.kind == "flows":
            [both] = rows(output, f"{case.name} both")
            assert float(both[-1]) > 0


def test_what_was_not_asked_for_is_not_in_the_tables_and_what_could_not_be_run_says_why() -> None:
    figures = {"tasks_per_s": 100.0, "cpu_run": {"sum": 2.0}}
    output = render({"aiki-flows-8": [figures]}, {"restate-flows": "restate is not installed"})
    [measured], [missing] = rows(output, "aiki-flows-8"), rows(output, "restate-flows")
    assert "100" in measured
    assert missing[-1] == "[restate is not installed]"
    assert not rows(output, "aiki-flows")
    assert not rows(output, "dbos-flows")
    assert "Round trips" not in output  # there is no such case
    verdicts = {str(goal): rows(output, str(goal)) for goal in GOALS}
    assert {name: found[0][3] for name, found in verdicts.items() if found} == {
        "tasks/s: aiki-flows-8 ÷ restate-flows": "not measured",
        "CPU-s per 1,000: aiki-flows-8": "PASS",
    }


@pytest.mark.parametrize(("p50", "verdict"), [(15.9, "PASS"), (16.1, "MISS")])
def test_a_ratio_can_have_an_upper_bound(p50: float, verdict: str) -> None:
    [goal] = [goal for goal in GOALS if goal.case == "aiki-flow-result"]
    rounds = {"aiki-flow-result": [{"p50_ms": p50}], "restate-flow-result": [{"p50_ms": 20.0}]}
    assert goal.bound == "≤ 0.8"
    assert judge(goal, rounds)[1] == verdict


def test_the_clock_of_workflows_runs_from_the_first_that_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config("aiki-flows", "run", str(tmp_path), "", "", 0, 0, 2, 0, 2)
    config.marks.mkdir()
    config.starts.mkdir()
    monkeypatch.setattr(marks, "current", lambda: config)
    monkeypatch.setattr(marks, "_begun", -1)
    monkeypatch.setattr(marks, "_owner", -1)
    monkeypatch.setattr(marks.time, "monotonic_ns", iter([1_000, 1_000_000_000, 2_000_001_000]).__next__)
    assert not marks.under_way(config)
    marks.begin()
    assert marks.under_way(config)
    marks.mark(-1)  # a warm-up
    marks.mark(0)
    marks.begin()
    marks.mark(1)
    done = marks.read(config.marks)
    assert sorted(mark.number for mark in done) == [0, 1]
    assert rates(2, done, 2, marks.first_begin(config.starts), 0)["tasks_per_s"] == 1.0


@pytest.mark.skipif(not BY_NAME["dbos-flows"].installed, reason="the extra `bench` is not installed")
def test_the_private_postgresql_is_durable_and_leaves_nothing() -> None:
    with PostgresServer() as server:
        settings = [server.execute(f"SHOW {name}")[0][0] for name in ("fsync", "synchronous_commit")]
        assert settings == ["on", "on"]
        url = server.create_database("bench-1")
        assert url.endswith("/bench-1")
        server.drop_database(url)
        pid, home = server.pid, server.home
    assert not home.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "restate", lambda: None)
    monkeypatch.setattr(provision.shutil, "which", lambda name: None)
    assert not provision.obtainable("restate")
    assert provision.obtainable("celery")
    with pytest.raises(NoServer, match="no restate-server on the PATH, and no npm"):
        provision.provide("restate")


def test_a_case_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "aiki-mony"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "there is no case 'aiki-mony'; there are: aiki-many," in done.stderr
