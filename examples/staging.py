"""What the demo's stories share: the processes that are started, waiting, and what is shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
STEP_SECONDS = 45.0

T = TypeVar("T")


class DemoFailed(Exception):
    """Something did not come out as it must."""


# ---------------------------------------------------------------- the processes
@contextmanager
def processes(directory: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """An orchestrator and a worker, as `aiki orchestrator` and `aiki-worker` start them; stopped at the end."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    commands = {
        "orchestrator": ["orchestrator"],
        "worker": ["worker", "-A", "shop", "-c", "4", "-n", "demo"],
    }
    try:
        for name, arguments in commands.items():
            with open(directory / f"{name}.log", "wb") as log:
                # A session of its own: Ctrl-C reaches this process alone, which then stops the others in order.
                command = [sys.executable, "-m", "aiki", *arguments]
                started[name] = subprocess.Popen(  # noqa: S603
                    command,
                    cwd=HERE,
                    env={**os.environ, "AIKI_PARENT_PID": str(os.getpid())},  # should we be killed, they go too
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        yield started
    finally:
        for process in reversed(started.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def check_alive(started: dict[str, subprocess.Popen[bytes]]) -> None:
    for name, process in started.items():
        if process.poll() is not None:
            raise DemoFailed(f"the {name} ended with exit code {process.returncode}")


def wait(ask: Callable[[], T | None], alive: Callable[[], None], failure: str) -> T:
    """Ask a few times a second until there is an answer."""
    deadline = time.monotonic() + STEP_SECONDS
    while (answer := ask()) is None:
        alive()
        if time.monotonic() > deadline:
            raise DemoFailed(f"{failure} after {STEP_SECONDS:g} s")
        time.sleep(0.15)
    return answer


# ---------------------------------------------------------------- what is shown
class Progress:
    """One line that is rewritten on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._last = ""
        self._next = 0.0

    def show(self, text: str) -> None:
        """What goes on now."""
        if text == self._last:
            return
        self._last = text
        if self._live:
            print(f"\r\x1b[K  {text}", end="", flush=True)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + 1.0
            print(f"  {text}", flush=True)

    def done(self, text: str) -> None:
        """A step that is behind us."""
        print(f"\r\x1b[K* {text}" if self._live else f"* {text}", flush=True)
        self._last = ""


def print_rows(rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """A table; the first columns are aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print()
    for row in rows:
        cells = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
    print()
