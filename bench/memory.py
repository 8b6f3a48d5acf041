"""`python -m bench.memory`: the memory of an idle worker with four children, Aiki's and Celery's, one after the other.

RSS is summed over the worker's processes, as `ps` and most monitoring do: pages that processes share count once for each.
PSS counts them once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.config import ROOT
from tests.services import RabbitServer

CHILDREN = 4
SETTLE = 6.0
AIKI_APP = """
from aiki import Aiki
app = Aiki()
@app.task
def noop(i: int) -> int:
    return i
"""
CELERY_APP = """
import os
from celery import Celery
app = Celery("idle", broker=os.environ["AIKI_BROKER_URL"])
@app.task
def noop(i):
    return i
"""


def measure(command: Sequence[str], ready: str, processes: int, folder: Path, env: dict[str, str]) -> list[tuple[int, int]]:
    """(RSS, PSS) in bytes of each process of a worker that has been idle for some seconds; the first is the parent's."""
    log = folder / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while ready not in log.read_text(errors="replace"):
            if time.monotonic() > deadline or worker.poll() is not None:
                raise RuntimeError(f"{command[2]} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.1)
        time.sleep(SETTLE)
        parent = psutil.Process(worker.pid)
        tree = [parent, *parent.children(recursive=True)]
        if len(tree) < processes:
            raise RuntimeError(f"{len(tree)} processes where {processes} were expected")
        return [(info.rss, info.pss) for info in (process.memory_full_info() for process in tree)]
    finally:
        worker.terminate()
        worker.wait(30)


def run(broker_url: str) -> dict[str, list[tuple[int, int]]]:
    """Both workers on one broker."""
    with tempfile.TemporaryDirectory(prefix="aiki-memory-") as name:
        folder = Path(name)
        (folder / "idle_aiki.py").write_text(AIKI_APP)
        (folder / "idle_celery.py").write_text(CELERY_APP)
        env = {key: value for key, value in os.environ.items() if not key.startswith("AIKI_")}
        env |= {"AIKI_BROKER_URL": broker_url, "AIKI_DATABASE_URL": f"sqlite:///{folder}/aiki.db", "PYTHONPATH": str(ROOT)}
        cli = [sys.executable, "-m", "aiki.cli.main"]
        subprocess.run([*cli, "db", "upgrade"], cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
        orchestrator = subprocess.Popen([*cli, "orchestrator"], cwd=folder, env=env, stderr=subprocess.DEVNULL)
        try:
            aiki = measure(
                [*cli, "worker", "-A", "idle_aiki", "-c", str(CHILDREN)],
                "the orchestrator knows this worker",
                CHILDREN + 2,
                folder,
                env,
            )
        finally:
            orchestrator.terminate()
            orchestrator.wait(30)
        celery = measure(
            [sys.executable, "-m", "celery", "-A", "idle_celery", "worker", "-c", str(CHILDREN), "--loglevel=info"],
            "ready.",
            CHILDREN + 1,
            folder,
            env,
        )
    return {"aiki": aiki, "celery": celery}


def main() -> int:
    """Measure and print."""
    with RabbitServer() as rabbit:
        found = run(rabbit.url)
    for name, processes in found.items():
        each = ", ".join(f"{rss / 2**20:.1f}" for rss, _ in processes)
        rss, pss = (sum(column) / 2**20 for column in zip(*processes, strict=True))
        print(f"{name:7} RSS {rss:6.1f} MiB ({each}), PSS {pss:6.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
