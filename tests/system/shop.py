"""The tasks that system tests run: in workers started as a user would, found as the module `shop`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

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
def hold_gil(i: int, seconds: int) -> int:
    """Sleeps in C without ever giving up the GIL."""
    mark("start", i)
    ctypes.PyDLL(None).sleep(seconds)
    mark("done", i)
    return i


@app.task
def suicide(i: int) -> None:
    """Kills its own process, always."""
    mark("start", i)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def massacre(i: int) -> None:
    """Kills the worker's process group, the link and the supervisor, and then its own."""
    mark("start", i)
    time.sleep(0.5)
    os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)
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


# ---------------------------------------------------------------- tasks that are hard to stop
@app.task
async def async_nap(i: int, seconds: float) -> int:
    mark("start", i)
    await asyncio.sleep(seconds)
    mark("done", i)
    return i


@app.task
def stubborn(i: int, seconds: float) -> int:
    """Catches whatever an ordinary `except` catches, and goes on."""
    mark("start", i)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.2)
            raise ValueError("again")
        except Exception:
            pass
    mark("done", i)
    return i


@app.task(retry=RetryPolicy.fixed(2, 2.0))
def soon_retry(i: int) -> int:
    """Fails at first; its second attempt is 2 s later."""
    mark("start", i)
    if current_run().attempt == 1:
        raise ConnectionError("later")
    mark("done", i)
    return i


# ---------------------------------------------------------------- values
@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def strange_result(kind: str) -> Any:
    """Results that try the worker."""
    cycle: list[Any] = []
    cycle.append(cycle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    made: dict[str, Any] = {
        "cycle": cycle,
        "deep": deep,
        "object": object(),
        "class": Path,
        "generator": (i for i in ()),
        "huge int": 10**5000,
        "nan": [float("nan"), float("inf"), -0.0],
        "bytes": b"\x00\xff" * 100,
        "set": {1, "a", (2, 3)},
        "surrogate": "a\ud800b",
        "nul": "a\x00b",
        "keys": {1: "a", (2, 3): "b", None: "c"},
        "tag": {"$aiki": "bytes", "v": "!"},
    }
    return made[kind]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Demanding(Exception):
    """Cannot be built again from its args."""

    def __init__(self, a: int, *, b: object) -> None:
        super().__init__(a, b)


class Deceitful(Exception):
    """Its text is no text."""

    def __str__(self) -> str:
        return 42  # type: ignore[return-value]  # noqa: PLE0307


@app.task
def strange_error(kind: str) -> None:
    """Errors that try the worker."""
    if kind == "chain":
        try:
            raise Mute
        except Mute as error:
            raise Demanding(1, b=lambda: None) from error
    if kind == "loop":
        first, second = ValueError("first"), ValueError("second")
        first.__cause__, second.__cause__ = second, first
        raise first
    if kind == "recursion":
        strange_error.fn("recursion")
    errors: dict[str, BaseException] = {
        "mute": Mute(),
        "demanding": Demanding(1, b=object()),
        "deceitful": Deceitful(),
        "surrogate": ValueError("a\ud800b \U0001f600"),
        "nul": ValueError("a\x00b"),
        "long": ValueError("x" * 20_000_000),
        "group": ExceptionGroup("several", [ValueError("one"), Mute()]),
        "system exit": SystemExit("out"),
        "keyboard": KeyboardInterrupt(),
        "generator exit": GeneratorExit(),
        "stop": StopIteration(1),
        "base": BaseException("bare"),
    }
    raise errors[kind]
