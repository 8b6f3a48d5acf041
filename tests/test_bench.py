"""The bench runs to its end and its tables are whole. Its figures are not looked at: a test machine tells nothing of speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cases import CASES
from bench.goals import GOALS
from bench.report import NONE
from tests.provision import AMQP_VARIABLE, MYSQL_VARIABLE
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
        [row] = rows(output, case.name)
        measured = row[1:5] if case.kind in ("throughput", "flows") else row[1:4]
        if case.product == "aiki":
            assert NONE not in measured, row
        else:
            assert set(measured) == {NONE}, row
            assert "not asked for" in row[-1]
    for goal in GOALS:
        [row] = rows(output, str(goal))
        assert row[1] == goal.bound
        assert row[3] in ({"not measured"} if goal.against.startswith(("celery", "dramatiq")) else {"PASS", "MISS"}), row
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


def test_a_case_that_does_not_exist_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--only", "aiki-mony"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "there is no case 'aiki-mony'; there are: aiki-many," in done.stderr
