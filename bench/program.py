"""Programs that are started here, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

PATIENCE: Final = 300.0
"""Seconds that any one phase may take."""


_GUARD: Final = 'read -r _; kill -9 "-$0"'


class Failed(RuntimeError):
    """A measurement did not come to its end."""


class Program:
    """A process with its log. It dies with this one.

    :param group: it leads a process group of its own, all of which ends with `kill`, and with this process: a guard, a
        small shell waiting at a pipe, sees to that even after a SIGKILL.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: Mapping[str, str], *, group: bool = False) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.bound", str(os.getpid()), *command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=group,
            )
        self.pid = self._process.pid
        self._guard = self._post_guard() if group else None

    def _post_guard(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, str(self.pid)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def check(self) -> None:
        """Raise `Failed` if it has ended."""
        if self._process.poll() is not None:
            raise Failed(f"{self.name} ended with {self._process.returncode}:\n{self.log_tail()}")

    def wait(self, timeout: float) -> int:
        """Its exit code; raises `Failed` if it does not end in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} did not end within {timeout:g} s:\n{self.log_tail()}") from None

    def stop(self, patience: float = 15.0) -> None:
        """Ask it to end; kill it when it does not."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self.kill()

    def kill(self) -> None:
        """Kill it, and what is left of its group if it has one of its own."""
        if self._guard is not None:
            self._guard.communicate()
        self._process.kill()
        self._process.wait()

    def log_tail(self, size: int = 3000) -> str:
        """The end of what it wrote."""
        return self._log.read_bytes()[-size:].decode(errors="replace").strip()


def wait_for(
    condition: Callable[[], bool], what: str, *programs: Program, every: float = 0.02, timeout: float = PATIENCE
) -> None:
    """Ask `condition` every so many seconds until it holds; raises `Failed` after `timeout` or when a program ends."""
    deadline = time.monotonic() + timeout
    while not condition():
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            logs = "".join(f"\n--- {program.name}\n{program.log_tail()}" for program in programs)
            raise Failed(f"waited {timeout:g} s in vain for {what}{logs}")
        time.sleep(every)
