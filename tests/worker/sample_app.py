"""An app for the tests, made of plain objects: what the worker asks of a definition and no more."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import inspect
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from aiki.arguments import Arguments
from aiki.context import current_run
from aiki.errors import RetryLater, SoftTimeLimitExceeded, TaskCancelled
from aiki.hooks import Hooks
from aiki.retry import RetryPolicy
from aiki.settings import Settings


@dataclass
class Definition:
    name: str
    fn: Callable[..., Any]
    version: str = "1"
    kind: str = "task"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    hooks: Hooks = field(default_factory=Hooks)

    @functools.cached_property
    def arguments(self) -> Arguments:
        return Arguments(self.name, self.fn, int(self.kind == "workflow"))

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.fn)


class App:
    def __init__(self) -> None:
        self.settings = Settings.load()
        self.versions: dict[tuple[str, str], Definition] = {}
        self.hooks = Hooks()

    def use_broker(self, url: str) -> None:
        self.settings = replace(self.settings, broker_url=url)

    def task(self, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def register(fn: Callable[..., Any]) -> Callable[..., Any]:
            made = Definition(fn.__name__, fn, **options)
            self.versions[made.name, made.version] = made
            return fn

        return register


app = App()


@app.task()
def noop() -> None:
    pass


@app.task()
def add(a: int, b: int = 0) -> int:
    return a + b


@app.task()
def text(length: int) -> str:
    return "x" * length


@app.task()
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@app.task()
async def async_sleep(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "slept"


@app.task()
async def async_leftover() -> int:
    """Leaves a task behind."""
    _left.append(asyncio.create_task(asyncio.sleep(3600)))
    await asyncio.sleep(0)
    return len(asyncio.all_tasks())


@app.task()
async def async_count() -> int:
    return len(asyncio.all_tasks())


@app.task()
async def async_exit() -> None:
    sys.exit(4)


@app.task()
def touch_and_wait(path: str, release: str) -> str:
    """Write the process id into `path`, then wait until `release` exists."""
    _write(path, str(os.getpid()))
    while not os.path.exists(release):
        time.sleep(0.01)
    return "released"


@app.task()
def append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text + "\n")


@app.task()
def who() -> dict[str, Any]:
    run = current_run()
    return {"pid": os.getpid(), "id": run.id, "attempt": run.attempt, "name": run.name, "ref": run.reference_id}


@app.task()
def fail(message: str = "no") -> None:
    raise ValueError(message)


@app.task(retry=RetryPolicy.fixed(3, 7.0))
def fail_retry() -> None:
    raise KeyError("again")


@app.task()
def later() -> None:
    raise RetryLater(12.5, "not yet")


@app.task()
def kill_self(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(30)


@app.task()
def exit_process(code: int) -> None:
    os._exit(code)


@app.task()
def sys_exit() -> None:
    sys.exit(3)


@app.task()
def interrupt() -> None:
    raise KeyboardInterrupt


@app.task()
def hostile() -> None:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise SystemExit("gotcha")

        __repr__ = __str__

    raise Hostile


@app.task()
def group() -> None:
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


@app.task()
def unencodable() -> object:
    return threading.Lock()


@app.task()
def wild(kind: str) -> Any:
    """Results that cannot be carried, and some that can."""
    cycle: list[Any] = []
    cycle.append(cycle)

    @dataclasses.dataclass
    class Local:
        a: int = 1

    return {
        "cycle": cycle,
        "object": object(),
        "local": Local(),
        "huge": "x" * 20_000_000,
        "surrogate": "\ud800",
        "nan": float("nan"),
        "bigint": 10**5000,
        "generator": (i for i in ()),
    }[kind]


@app.task()
def raise_surrogate() -> None:
    raise ValueError("lone \ud800 surrogate")


@app.task()
def raise_huge() -> None:
    raise ValueError("x" * 10_000_000)


@app.task()
def recurse() -> None:
    recurse()


@app.task(soft_time_limit=0.3)
def soft(seconds: float) -> None:
    time.sleep(seconds)


@app.task(soft_time_limit=0.3, retry=RetryPolicy.fixed(2, 1.0))
def soft_retry(seconds: float) -> None:
    time.sleep(seconds)


@app.task(soft_time_limit=0.3)
def soft_caught(seconds: float) -> str:
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "too fast"


@app.task(soft_time_limit=0.3)
async def soft_async(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task(time_limit=0.5)
def hard(seconds: float) -> None:
    time.sleep(seconds)


@app.task(time_limit=0.5, retry=RetryPolicy.fixed(2, 3.0))
def hard_retry(seconds: float) -> None:
    time.sleep(seconds)


@app.task()
def stubborn(path: str) -> None:
    """Pays no heed to a cancel."""
    _write(path, "x")
    while True:
        try:
            time.sleep(60)
        except TaskCancelled:
            pass


@app.task()
def hold_gil() -> None:
    """Stays in C for ever, without letting the interpreter go or looking at signals."""
    collections.deque(itertools.repeat(None), maxlen=0)


@app.task()
def progress(path: str) -> str:
    run = current_run()
    run.progress(0.25, "a quarter")
    while not os.path.exists(path):
        time.sleep(0.01)
    run.progress(0.75)
    return "done"


@app.task()
def grow(kib: int) -> int:
    _kept.append(bytearray(os.urandom(1024) * kib))
    return os.getpid()


@app.task()
def fork_and_return() -> int:
    """The copy comes back into the worker's code."""
    return 1 if os.fork() == 0 else 2


@app.task()
def fork_and_exit() -> int:
    pid = os.fork()
    if pid == 0:
        sys.exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@app.task()
def process_terminate() -> int:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(10)
    return process.exitcode or 0


@app.task()
def program_ignores() -> str:
    """What a program that a task starts does with its signals: none may be ignored on our account."""
    out = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    return out.split()[1]


@app.task()
def meddle() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=time.sleep, args=(3600,), daemon=False).start()
    if sys.stdin:
        sys.stdin.close()
    print("a task prints")
    sys.stdout.close()


@app.task()
def modules() -> list[str]:
    return sorted({name.partition(".")[0] for name in sys.modules})


def _write(path: str, text: str) -> None:
    with open(path + ".tmp", "w") as file:
        file.write(text)
    os.replace(path + ".tmp", path)


_kept: list[bytearray] = []
_left: list[asyncio.Task[None]] = []
