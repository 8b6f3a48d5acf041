"""The demo, smaller: tasks, and a durable workflow."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from tests.cli.process import ROOT, Process, wait_gone
from tests.waiting import wait_until

DEMO = str(ROOT / "examples" / "demo.py")


def leftovers(place: Path) -> list[Path]:
    return list(place.glob("aiki-demo-*"))


def test_the_demo_accounts_for_every_run(tmp_path: Path) -> None:
    # Whatever this shell is set up for, the demo is on the embedded default.
    with Process([DEMO, "--orders", "24"], tmp_path, TMPDIR=str(tmp_path), AIKI_DATABASE_URL="mysql://nowhere/x") as process:
        process.wait_for_line("was killed with SIGKILL while it resized")
        process.wait_for_line("was killed with SIGKILL while it executed the workflow")
        family = process.family()
        assert process.wait(60) == 0, process.text
        assert "80 tasks and 10 steps" in process.lines[-1]
        assert "nothing is lost" in process.lines[-1]
        assert sum("attempt 1: SIGKILL; attempt 2 completed" in line for line in process.lines) == 2
        assert any("of 10 steps none ran again after it was recorded" in line for line in process.lines)
        where = {line.split()[3]: line for line in process.lines if re.match(r"  (checkout|shipping) +#\d", line)}
        assert re.search(r"demo/\d+ \(killed\), then demo/\d+$", where["shop.pack"])
        assert re.search(r"demo/\d+ \(failed\), then demo/\d+$", where["shop.charge"])
        wait_gone(family, 5)
        assert not leftovers(tmp_path)


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    # So many that it cannot be through before it is stopped, however slow this process is.
    with Process([DEMO, "--orders", "3000"], tmp_path, TMPDIR=str(tmp_path)) as process:
        process.wait_for_line("runs of 3000 orders are enqueued")
        wait_until(lambda: len(process.family()) >= 6, 20)
        family = process.family()
        process.signal(signal.SIGINT)
        assert process.wait() == 130, process.text
        assert "Traceback" not in process.text
        wait_gone(family, 5)
        assert not leftovers(tmp_path)


def test_a_worker_that_ends_is_a_failure_told_clearly(tmp_path: Path) -> None:
    with Process([DEMO, "--orders", "24"], tmp_path, TMPDIR=str(tmp_path)) as process:
        wait_until(lambda: any("orchestrator" in child.cmdline() for child in process.family()), 20)
        process.one("orchestrator").kill()
        assert process.wait() == 1
        assert "the demo failed: the orchestrator ended with exit code -9" in process.text
        assert not leftovers(tmp_path)
