"""`aiki alive worker` beside real workers: each fault of the worker itself is seen, and told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from aiki.cli.alive import alive
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import ROOT, Orchestrator, Worker

HEAVY = (
    "sqlalchemy",
    "kombu",
    "amqp",
    "flask",
    "gunicorn",
    "marshmallow",
    "cryptography",
    "asyncio",
    "aiki.app",
    "aiki.storage",
)


def probe(worker: Worker, *options: str) -> tuple[int, str]:
    """What the probe says of this worker."""
    done = CliRunner().invoke(alive, ["worker", "--pid", str(worker.process.pid), *options])
    return done.exit_code, done.output


def says(worker: Worker, code: int, words: str, *options: str) -> None:
    """Wait until it does."""
    said: list[tuple[int, str]] = []

    def as_wanted() -> bool:
        said.append(probe(worker, *options))
        return said[-1][0] == code and words in said[-1][1]

    wait_until(as_wanted, 60, f"{code} {words!r}, after {said[-1:]}")


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_what_a_worker_is_seen_to_lack(orchestrator: Orchestrator, start: StartWorker) -> None:
    orchestrator.silent = True
    worker = start("-c", "2")
    says(worker, 0, "is started", "--started")
    says(worker, 4, "no orchestrator has answered it yet")
    orchestrator.silent = False
    says(worker, 0, "2 of 2 children take work")
    run = orchestrator.run("sleep", 600.0)
    orchestrator.report(run, "started")
    says(worker, 0, "2 of 2 children take work")

    children = [pid for pid in worker.family if title(pid) == "aiki-child"]
    os.kill(children[0], signal.SIGSTOP)
    says(worker, 1, f"1 of 2 children take no work: child 0 (pid {children[0]}) is stopped by a signal (SIGSTOP)")
    assert probe(worker, "--live")[0] == 0
    os.kill(children[0], signal.SIGCONT)
    says(worker, 0, "is ready")

    [link] = [pid for pid in worker.family if title(pid) == "aiki-link"]
    for pid, said in ((link, "its link is stopped by a signal"), (worker.process.pid, "it is stopped by a signal")):
        os.kill(pid, signal.SIGSTOP)
        says(worker, 1, said, "--live")
        os.kill(pid, signal.SIGCONT)
        says(worker, 0, "is ready")

    worker.signal(signal.SIGTERM)
    says(worker, 1, "it drains")
    worker.signal(signal.SIGTERM)
    worker.wait(30)
    assert probe(worker) == (1, "aiki alive: no worker runs here\n")


def test_a_child_that_is_in_its_hooks_is_starting(
    orchestrator: Orchestrator, start: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOKS_WAIT", str(tmp_path / "go on"))
    worker = start("-c", "1", app="tests.worker.hooked_app")
    says(worker, 1, "has been in its hooks of @app.on_child_start for", "--started")
    assert probe(worker, "--live")[0] == 0
    (tmp_path / "go on").touch()
    says(worker, 0, "is started", "--started")
    says(worker, 0, "1 of 1 children take work")


def test_a_wrong_password_is_told_and_is_no_reason_to_start_anew(rabbit_place: Place, tmp_path: Path) -> None:
    head, _, rest = rabbit_place.url.rpartition("@")
    worker = Worker(f"{head}wrong@{rest}", rabbit_place.prefix, tmp_path / "log")
    try:
        says(worker, 4, "it has no session with the broker: ")
        says(worker, 4, "ACCESS_REFUSED")
        assert "wrong" not in probe(worker)[1]
        says(worker, 0, "is started", "--started")
        assert probe(worker, "--live")[0] == 0
    finally:
        worker.stop()


@pytest.mark.parametrize("kind", ["worker", "orchestrator", "server"])
def test_the_probe_loads_next_to_nothing(kind: str) -> None:
    code = (
        "import sys, runpy; sys.argv = ['aiki', 'alive', sys.argv[1], '--pid', '1']\n"
        "try: runpy.run_module('aiki', run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, kind], cwd=ROOT, capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert words[0] == "1"
    assert "aiki.cli.alive" in words
    assert [name for name in HEAVY if name in words] == []


def test_root_does_not_believe_another_users_process() -> None:
    assert os.geteuid() == 0, "this test needs to be root, who may become somebody else"
    code = (
        "import os, sys\n"
        "from aiki.vitals import Vitals\n"
        "if sys.argv[1] == 'process': os.setuid(65534)\n"
        "else: os.seteuid(65534)\n"
        "page = Vitals('worker', name='forged')\n"
        "if sys.argv[1] == 'page': os.seteuid(0)\n"
        "print('made', flush=True)\n"
        "sys.stdin.read()"
    )
    for what in ("process", "page"):
        command = [sys.executable, "-c", code, what]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forger:
            assert forger.stdout is not None
            assert forger.stdout.readline() == b"made\n"
            done = CliRunner().invoke(alive, ["worker", "--live", "--name", "forged"])
            assert done.exit_code == 1
            assert "no worker called 'forged' runs here" in done.output
            done = CliRunner().invoke(alive, ["worker", "--live", "--pid", str(forger.pid)])
            assert (done.exit_code, done.output) == (0, f"worker forged (pid {forger.pid}) is live\n")


def test_another_user_is_told_that_he_may_not_see(orchestrator: Orchestrator, start: StartWorker) -> None:
    worker = start()
    says(worker, 0, "is ready")
    assert os.geteuid() == 0, "this test needs to be root, who may become somebody else"
    # The interpreter may lie where nobody else may look: so it is asked once before the user is changed, and all is loaded.
    code = (
        "import os, sys\n"
        "from aiki.cli.alive import alive\n"
        "try: alive(['worker', '--pid', sys.argv[1]])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "os.setuid(65534)\n"
        "alive(['worker', '--pid', sys.argv[1]])"
    )
    command = [sys.executable, "-c", code, str(worker.process.pid)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"aiki alive: no worker runs here; pids {worker.process.pid} are another user's: "
        "ask as that user, or as root with --pid\n",
    )
