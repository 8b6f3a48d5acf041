"""The tasks that system tests run: in workers started as a user would, found as the module `shop`."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from aiki import Aiki, RetryPolicy, current_run

app = Aiki()


def mark(kind: str, what: object = "") -> None:
    """Append a line to this process's own ledger: what really happened, whatever the database says."""
    folder = os.environ.get("LEDGER")
    if folder:
        line = f"{kind} {what} {os.getpid()} {time.time():.3f}\n".encode()
        fd = os.open(Path(folder) / str(os.getpid()), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(fd, line)
        os.close(fd)


@app.task
def noop(i: int) -> int:
    return i


@app.task
def marked(i: int) -> int:
    mark("start", i)
    mark("done", i)
    return i


@app.task
def nap(i: int, seconds: float) -> int:
    """Sleeps; says in the ledger when it began and ended."""
    mark("start", i)
    time.sleep(seconds)
    mark("done", i)
    return i


@app.task
def spin(i: int, seconds: float) -> int:
    """Keeps a core busy, giving up the GIL now and then."""
    mark("start", i)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))
    mark("done", i)
    return i


@app.task
def backtrack(i: int, length: int) -> int:
    """Holds the GIL in C code for as long as the match takes: it doubles with each character."""
    mark("start", i)
    re.match(r"(a+)+$", "a" * length + "b")
    mark("done", i)
    return i


@app.task
def suicide(i: int) -> None:
    """Kills its own process, always."""
    mark("start", i)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def massacre(i: int) -> None:
    """Kills its process group: the child, the link and the supervisor at once."""
    mark("start", i)
    time.sleep(0.5)
    os.killpg(os.getpgid(0), signal.SIGKILL)


@app.task(retry=RetryPolicy.fixed(3, 0.2))
def flaky(i: int, failures: int) -> int:
    """Fails on its first attempts."""
    mark("start", i)
    if current_run().attempt <= failures:
        raise ConnectionError(f"attempt {current_run().attempt}")
    mark("done", i)
    return i


@app.task(retry=RetryPolicy.fixed(2, 30.0))
def slow_retry(i: int) -> int:
    mark("start", i)
    if current_run().attempt == 1:
        raise ConnectionError("later")
    return i


@app.task
def big(size: int) -> str:
    return "x" * size
