"""An app whose tasks start processes of all kinds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from aiki.errors import TaskCancelled
from aiki.retry import RetryPolicy
from tests.worker.sample_app import App

app = App()
KINDS = ("shell", "tree", "session", "daemon", "forked", "pool", "spawned", "hidden", "nohup", "old_pool", "thread", "deaf")
"""What `start_processes` can start."""
ENDS = ("hard limit", "soft limit", "cancel", "exit", "segfault", "killed")
"""How `live_and_die` ends: by itself, or because of what is done to it."""

_DAEMON = (
    "import os, sys, time\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
    "time.sleep(3600)\n"
)
_HIDDEN = (
    "import os, sys\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
    "for file in range(3): os.close(file)\n"
    "os.execve('/bin/sleep', ['sleep', '3600'], {})\n"
)
"""A daemon that keeps nothing: no parent, no session, no files, no memory, no environment."""
_kept: list[Any] = []


def _note(path: str, pid: int) -> None:
    with open(path, "a") as file:
        file.write(f"{pid}\n")


def _sleep(path: str) -> None:
    _note(path, os.getpid())
    time.sleep(3600)


def start_processes(kind: str, path: str) -> None:
    """Start processes of one kind; each writes its id as a line into `path`."""
    if kind == "shell":
        _kept.append(subprocess.Popen(["sh", "-c", f"echo $$ >> {path}; sleep 3600"]))
    elif kind == "tree":
        _kept.append(subprocess.Popen(["sh", "-c", f"(sh -c 'echo $$ >> {path}; sleep 3600') & echo $$ >> {path}; wait"]))
    elif kind == "session":
        _kept.append(subprocess.Popen(["sh", "-c", f"echo $$ >> {path}; sleep 3600"], start_new_session=True))
    elif kind == "daemon":
        subprocess.run([sys.executable, "-c", _DAEMON, path], check=True)
    elif kind == "forked":
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            _sleep(path)
        os.waitpid(pid, 0)
    elif kind == "pool":
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        _kept.append([pool, *(pool.submit(_sleep, path) for _ in range(2))])
    elif kind == "spawned":
        process = multiprocessing.get_context("spawn").Process(target=_sleep, args=(path,))
        process.start()
        _kept.append(process)
    elif kind == "hidden":
        subprocess.run([sys.executable, "-c", _HIDDEN, path], check=True)
    elif kind == "nohup":
        subprocess.run(
            ["nohup", "sh", "-c", f"(echo $$ >> {path}; exec setsid env -i sleep 3600) & exit 0"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    elif kind == "old_pool":
        made = multiprocessing.get_context("fork").Pool(2)
        _kept.append([made, made.map_async(_sleep, [path, path], chunksize=1)])
    elif kind == "thread":
        threading.Thread(target=_start_on_and_on, args=(path, os.getcwd()), daemon=True).start()
    elif kind == "deaf":
        script = f"trap '' TERM INT HUP; echo $$ >> {path}; kill -STOP $$; while :; do sleep 3600; done"
        _kept.append(subprocess.Popen(["sh", "-c", script]))


def _start_on_and_on(path: str, directory: str) -> None:
    """Start another process again and again."""
    while True:
        _kept.append(subprocess.Popen(["sh", "-c", f"echo $$ >> {path}; exec sleep 3600"], cwd=directory))
        time.sleep(0.1)


def _start_all(directory: str, kinds: list[str]) -> None:
    for kind in kinds:
        start_processes(kind, f"{directory}/{kind}.pids")
    while not all(os.path.exists(f"{directory}/{kind}.pids") for kind in kinds):
        time.sleep(0.01)
    Path(directory, "ready").write_text(str(os.getpid()))


@app.task()
def start_and_wait(directory: str, kinds: list[str]) -> None:
    """Start processes, then wait for ever."""
    _start_all(directory, kinds)
    while True:
        time.sleep(0.05)


@app.task()
def live_and_die(directory: str, kinds: list[str], how: str) -> None:
    """Start processes, all of which have `directory` as theirs, then end; or wait for what ends it."""
    home = os.getcwd()
    os.chdir(directory)
    try:
        _start_all(directory, kinds)
    finally:
        os.chdir(home)
    if how == "exit":
        os._exit(0)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    while True:
        time.sleep(0.05)


@app.task()
def start_and_crash(directory: str, kinds: list[str]) -> None:
    _start_all(directory, kinds)
    os._exit(9)


@app.task()
def start_and_end(directory: str, kinds: list[str]) -> int:
    _start_all(directory, kinds)
    return os.getpid()


@app.task()
def use_pool() -> int:
    """A pool that lives as long as the process, as libraries have them."""
    if not _kept:
        _kept.append(ProcessPoolExecutor(1, multiprocessing.get_context("fork")))
    return int(_kept[0].submit(os.getpid).result())


@app.task()
def stay(directory: str) -> None:
    """Start a process, and pay no heed to a cancel."""
    _start_all(directory, ["shell", "daemon"])
    while True:
        try:
            time.sleep(60)
        except TaskCancelled:
            pass


@app.task(retry=RetryPolicy.fixed(2, 0.0))
def run_program(path: str, release: str) -> str:
    """Run a program to its end; it ends once `release` exists."""
    script = f"echo $$ > {path}; while [ ! -e {release} ]; do sleep 0.02; done; echo done"
    return subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout.strip()


@app.task()
def who() -> dict[str, int]:
    return {"pid": os.getpid()}
