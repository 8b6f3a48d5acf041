"""The guide of the HTTP API: its commands are run against a real server, and its table of codes is the server's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki.api.problems import CODES
from tests.api.live import LiveServer
from tests.docs.blocks import blocks_of

PAGE = Path(__file__).parents[2] / "docs/guides/http-api.md"
KEY = "the-key-of-the-guide"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path / "server", AIKI_API_KEY=KEY)
    yield made.wait_ready()
    made.close()


def test_its_commands_work(server: LiveServer, tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(block.code for block in blocks_of(PAGE) if block.language == "sh")
    # A stream of a run that has ended ends, so nothing here waits for ever.
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "AIKI_URL": server.url, "AIKI_API_KEY": KEY},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"state":"cancelled"' in done.stdout
    assert "event: end" in done.stdout
    assert "event: overview" in done.stdout
    assert '"code":"not_found"' in done.stdout
    assert len((tmp_path / "runs.ndjson").read_text().splitlines()) == 2
    assert (tmp_path / "runs.csv").read_text().startswith("id,")


def test_its_codes_are_the_servers() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    told = {cells[1].strip(" `"): (int(cells[2]), cells[3].strip()) for cells in rows}
    assert told == {code: tuple(item) for code, item in CODES.items()}
