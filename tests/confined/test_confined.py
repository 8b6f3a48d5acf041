"""Every program of ours runs as process 1, as nobody, in a root that can only be read and has no /tmp, and ends at TERM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiki import Aiki
from aiki.storage import upgrade
from tests.confined.box import Box, namespaces
from tests.waiting import wait_until

MINUTE = 240.0
"""For what takes a second or two on a machine that has nothing else to do."""
APP = """
import os, subprocess, sys
from aiki import Aiki

app = Aiki("boxed")


@app.task(name="boxed.me")
def me() -> list[int]:
    return [os.getppid(), os.getuid()]


@app.task(name="boxed.orphans")
def orphans(count: int) -> None:
    for _ in range(count):  # each leaves a process whose parent is gone: whoever is process 1 becomes that
        subprocess.run(["sh", "-c", "sleep 0.01 &"], check=True)
"""


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[Callable[..., Box]]:
    """Starts programs, in containers of their own."""
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "boxed.py").write_text(APP)
    for path in (tmp_path, folder):
        path.chmod(0o755)
    started: list[Box] = []

    def start(name: str, *arguments: str, writable: Path | None = None, **env: str) -> Box:
        made = Box(["-m", "aiki", *arguments], env, tmp_path / f"{name}{len(started)}", folder, writable)
        started.append(made)
        return made

    yield start
    for box in started:
        box.close()
        print(f"--- {box.log_path.parent.name}, with {box.how}\n{box.log}")


def well(box: Box, kind: str, line: str) -> None:
    """Wait until it has said so, and then until a probe beside it does."""
    said: list[subprocess.CompletedProcess[str]] = []

    def is_well() -> bool:
        assert box.process.poll() is None, box.log
        if line not in box.log:
            return False
        # Without a container of its own, others may run beside it; those that `aiki dev` starts are asked for by their kind.
        whose = [] if namespaces() or kind not in box.arguments else ["--pid", str(box.pid)]
        said[:] = [box.run("-m", "aiki", "alive", kind, *whose)]
        return said[0].returncode == 0

    try:
        wait_until(is_well, MINUTE, f"the {kind}")
    except AssertionError as error:
        error.add_note(f"{said}\n{box.log}")
        raise


def zombies(box: Box) -> list[str]:
    """What process 1 has not reaped."""
    found = []
    for path in Path(f"/proc/{box.pid}/task/{box.pid}").glob("children"):
        for pid in path.read_text().split():
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    found.append(pid)
            except OSError:
                continue
    return found


def orphan(box: Box) -> None:
    """Have a process lose its parent there."""
    code = "import os\nif os.fork() == 0:\n if os.fork() == 0: os._exit(0)\n os._exit(0)\nos.wait()"
    assert box.run("-c", code).returncode == 0


def test_the_programs_of_a_container(
    boxes: Callable[..., Box], amqp_url: str, mysql_database: str, free_port: Callable[[], int]
) -> None:
    upgrade(mysql_database)
    port = free_port()
    key = "k" * 32
    urls = {"AIKI_BROKER_URL": amqp_url, "AIKI_DATABASE_URL": mysql_database, "AIKI_PREFIX": f"boxed{os.getpid()}"}
    orchestrator = boxes("orchestrator", "orchestrator", **urls)
    server = boxes("server", "server", "--bind", f"127.0.0.1:{port}", **urls, AIKI_API_KEY=key)
    broker_alone = {name: value for name, value in urls.items() if name != "AIKI_DATABASE_URL"}
    worker = boxes("worker", "worker", "-A", "boxed", "-c", "1", **broker_alone)
    programs = {"orchestrator": orchestrator, "server": server, "worker": worker}
    well(orchestrator, "orchestrator", "listening: ")
    well(server, "server", "listening on ")
    well(worker, "worker", "the orchestrator knows this worker")

    app = Aiki("boxed", server_url=f"http://127.0.0.1:{port}", api_key=key)
    parent, user = app.task(name="boxed.me")(lambda: [0, 0]).enqueue().result(timeout=MINUTE)
    if namespaces():
        assert (parent, user) == (1, 65534)
    app.task(name="boxed.orphans")(lambda count: None).enqueue(20).result(timeout=MINUTE)
    for kind, box in programs.items():
        if namespaces():
            orphan(box)
        wait_until(lambda box=box: zombies(box) == [], MINUTE, f"the {kind} to reap")

    assert worker.stop() == 0
    assert server.stop() == 0
    assert orchestrator.stop() == 0


def test_all_of_it_at_once(boxes: Callable[..., Box], tmp_path: Path, free_port: Callable[[], int]) -> None:
    """`aiki dev` needs one directory, for its two SQLite files; with servers for both it needs none."""
    state = tmp_path / "state"
    state.mkdir()
    port = free_port()
    box = boxes("dev", "dev", "-A", "boxed", "-c", "1", "-p", str(port), writable=state)
    for kind in ("orchestrator", "server", "worker"):
        well(box, kind, "Dashboard: ")
    app = Aiki("boxed", server_url=f"http://127.0.0.1:{port}")
    assert app.task(name="boxed.me")(lambda: [0, 0]).enqueue().result(timeout=MINUTE)
    if namespaces():
        orphan(box)
        wait_until(lambda: zombies(box) == [], MINUTE, "aiki dev to reap")
    assert box.stop() == 0


def test_without_a_directory_for_its_files_it_says_so(boxes: Callable[..., Box], free_port: Callable[[], int]) -> None:
    box = boxes("dev", "dev", "-A", "boxed", "--no-reload", "-p", str(free_port()))
    assert box.process.wait(MINUTE) != 0
    assert "Traceback" not in box.log
    assert ".aiki" in box.log
    assert "AIKI_DATABASE_URL" in box.log
