"""Type checkers catch a wrong argument to `enqueue`, in exactly the lines that are wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "typing_cases"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["cases.py", "workflows.py"])
def test_mypy_reports_exactly_the_wrong_lines(tmp_path: Path, name: str) -> None:
    cases = CASES / name
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--no-pretty",
            "--cache-dir",
            str(tmp_path),
            str(cases),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    reported: dict[int, str] = {}
    for line in done.stdout.splitlines():
        found = re.match(rf".*{re.escape(name)}:(\d+): error: (.*)", line)
        if found:
            reported[int(found[1])] = reported.get(int(found[1]), "") + found[2] + "\n"
    expected = {
        number: line.split("# E: ")[1]
        for number, line in enumerate(cases.read_text().splitlines(), 1)
        if "# E: " in line and not line.startswith('"""')
    }
    assert sorted(reported) == sorted(expected), done.stdout + done.stderr
    for number, text in expected.items():
        assert text in reported[number]
