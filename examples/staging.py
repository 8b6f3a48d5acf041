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
"""After so long without anything that is new a step has failed."""
GRACE = 10.0
"""Seconds that processes have to end by themselves."""

T = TypeVar("T")


class DemoFailed(Exception):
    """Something did not come out as it must."""


# ---------------------------------------------------------------- being stopped
class Stop:
    """Ctrl-C and its kin. The first raises KeyboardInterrupt; where that is lost, as in a callback from C, `check` raises it.

    SIGINT is taken even where it was ignored: a shell starts what it puts into the background so.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._held = 0

    def listen(self) -> None:
        """Take the signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._take)

    def _take(self, _number: int, _frame: object) -> None:
        self.asked += 1
        if self.asked == 1 and not self._held:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if we were asked to stop."""
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let nothing interrupt what is done here; whoever asked is heard at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.check()


# ---------------------------------------------------------------- the processes
@contextmanager
def processes(directory: Path, stop: Stop) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """An orchestrator and a worker, as `aiki orchestrator` and `aiki-worker` start them; stopped at the end."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    commands = {
        "orchestrator": ["orchestrator"],
        "worker": ["worker", "-A", "shop", "-c", "4", "-n", "demo"],
    }
    try:
        with stop.held_back():
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
        with stop.held_back():
            end(list(started.values()), stop)


def end(started: Sequence[subprocess.Popen[bytes]], stop: Stop) -> None:
    """Have all of them end: asked to at first, killed after `GRACE` seconds or when one asks again."""
    for process in started:
        process.terminate()
    deadline, asked = time.monotonic() + GRACE, stop.asked
    while any(process.poll() is None for process in started) and time.monotonic() < deadline and stop.asked == asked:
        time.sleep(0.02)
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_alive(started: dict[str, subprocess.Popen[bytes]], stop: Stop) -> None:
    """See that all goes on as it should. Raises `DemoFailed`, and KeyboardInterrupt if we were asked to stop."""
    stop.check()
    for name, process in started.items():
        if process.poll() is not None:
            raise DemoFailed(f"the {name} ended with exit code {process.returncode}")


def wait(
    ask: Callable[[], T | None], alive: Callable[[], None], failure: str, so_far: Callable[[], object] = lambda: None
) -> T:
    """Ask a few times a second until there is an answer.

    :param so_far: tells how far it is: the time begins anew when that changes.
    """
    deadline, before = time.monotonic() + STEP_SECONDS, so_far()
    while (answer := ask()) is None:
        alive()
        if (now := so_far()) != before:
            deadline, before = time.monotonic() + STEP_SECONDS, now
        if time.monotonic() > deadline:
            raise DemoFailed(f"{failure}, and nothing has changed for {STEP_SECONDS:g} s")
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
