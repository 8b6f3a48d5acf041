"""Commands of ours as real processes: their lines as they come, their families, their end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable


def environment(**more: str) -> dict[str, str]:
    """The environment of a user who has configured nothing, with this checkout's package."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIKI_")}
    return {**env, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **more}


def run(arguments: Sequence[str], cwd: Path, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments to its end."""
    return subprocess.run(
        [PYTHON, *arguments], cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=timeout, check=False
    )


def aiki(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    return run(["-m", "aiki", *arguments], cwd, **more)


class Process:
    """A command that goes on until it is told to stop. Use as a context: at the end its whole family is killed."""

    def __init__(self, arguments: Sequence[str], cwd: Path, **more: str) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [PYTHON, *arguments],
            cwd=cwd,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        for line in stream:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, pattern: str, timeout: float = 45, after: int = 0) -> str:
        """The first line from number `after` on that holds the pattern."""

        def found() -> str | None:
            matching = (line for line in list(self.lines)[after:] if re.search(pattern, line))
            line = next(matching, None)
            if line is None and self._process.poll() is not None:
                self._reader.join(2)
                if not any(re.search(pattern, line) for line in list(self.lines)[after:]):
                    raise AssertionError(f"it ended without a line {pattern!r}:\n{self.text}")
            return line

        try:
            return str(wait_until(found, timeout, f"a line {pattern!r}"))
        except AssertionError as error:
            error.add_note(self.text)
            raise

    def family(self) -> list[psutil.Process]:
        """All processes below this one."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def one(self, *words: str) -> psutil.Process:
        """The child (not grandchild) whose command line holds these words."""
        for child in psutil.Process(self.pid).children():
            if set(words) <= set(child.cmdline()):
                return child
        raise AssertionError(f"no child {words}: {[child.cmdline() for child in self.family()]}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = 30) -> int:
        """Its exit code."""
        code = self._process.wait(timeout)
        self._reader.join(5)
        return code

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        family = self.family()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for process in family:  # which hold the pipe that the reader waits at
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._reader.join(5)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()


def wait_gone(processes: Iterable[psutil.Process], timeout: float = 10) -> None:
    """Wait until none of them runs any more."""
    watched = list(processes)

    def all_gone() -> bool:
        return not [p for p in watched if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    try:
        wait_until(all_gone, timeout, "the processes to end")
    except AssertionError as error:
        error.add_note(str([p.cmdline() for p in watched if p.is_running()]))
        raise
