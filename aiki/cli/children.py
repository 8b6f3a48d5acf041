"""The processes that `aiki dev` runs: starts them, labels their lines, notices their end.

Each has a session of its own, so that Ctrl-C in the terminal reaches `aiki dev` alone, which stops the others in order. Should
`aiki dev` be killed, the kernel kills them. They must be started from the main thread: they die with the thread that did it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, Final

from aiki.cli.main import PARENT_VARIABLE
from aiki.vitals import state_of
from aiki.worker.strays import children_of

_COLOURS: Final = {"orchestrator": 35, "server": 34, "worker": 32, "dev": 36}
LOOK_SECONDS: Final = 1.0
_WIDTH: Final = max(map(len, _COLOURS))


@dataclass(frozen=True, slots=True)
class Exited:
    """A child has ended; `code` as `Popen.returncode`: negative is a signal."""

    child: Child
    code: int

    def __str__(self) -> str:
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"


class Orphans(threading.Thread):
    """Reaps orphans that have become children of this process, which is process 1 of a container.

    :param ours: the ids of the processes that were started here and are waited for elsewhere.
    """

    def __init__(self, ours: Callable[[], set[int]]) -> None:
        super().__init__(name="orphans", daemon=True)
        self._ours = ours

    def run(self) -> None:
        """For ever. One that was just started may not be known yet: so an orphan is one that is a zombie for two looks."""
        before: set[int] = set()
        while True:
            zombies = {pid for pid in children_of(os.getpid()) if state_of(pid) == "Z"} - self._ours()
            for pid in zombies & before:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            before = zombies
            time.sleep(LOOK_SECONDS)


class Printer:
    """Lines of several processes on standard output, each behind the name of whose it is."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lock = threading.Lock()
        self._colour = self._stream.isatty() and "NO_COLOR" not in os.environ

    def say(self, text: str, who: str = "dev") -> None:
        """Print one or more lines."""
        prefix = f"{who.ljust(_WIDTH)} | "
        if self._colour:
            prefix = f"\x1b[{_COLOURS.get(who, 37)}m{prefix}\x1b[0m"
        with self._lock:
            try:
                for line in text.splitlines() or [""]:
                    self._stream.write(f"{prefix}{line}\n")
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more; the processes are to be stopped all the same
                pass


class Child:
    """One process. `events` gets an `Exited` when it has ended."""

    def __init__(
        self, name: str, arguments: Sequence[str], env: Mapping[str, str], printer: Printer, events: SimpleQueue[object]
    ) -> None:
        self.name = name
        self._printer = printer
        self._events = events
        self.started = time.monotonic()
        self.ended = threading.Event()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "aiki", *arguments],
            env={**env, PARENT_VARIABLE: str(os.getpid()), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"{name} lines", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name=f"{name} end", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's id, and that of its group."""
        return self._process.pid

    def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        for line in stream:
            self._printer.say(line.rstrip("\n"), self.name)

    def _wait(self) -> None:
        code = self._process.wait()
        # Its last lines before the word of its end; a process that it left behind may hold the pipe open for ever.
        self._reader.join(1.0)
        self.ended.set()
        self._events.put(Exited(self, code))

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it is still there."""
        if not self.ended.is_set():
            self._process.send_signal(number)

    def kill_group(self) -> None:
        """Kill the process and all that it started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
