"""Calls of the operating system about processes: dying with the parent, why a process died, how much memory it has."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process as soon as `parent` is gone; leaves at once if it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


def set_title(title: str) -> None:
    """Name this process for `ps` and `top` (15 characters at most)."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)


def rss_kib(pid: int) -> int:
    """Resident memory of a process in KiB; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE // 1024
    except (OSError, IndexError, ValueError):
        return 0


def heed_not(_number: int, _frame: FrameType | None) -> None:
    """A signal handler that does nothing. Unlike SIG_IGN it is not inherited by programs that are started."""


def default_in_copies(*numbers: signal.Signals) -> None:
    """Have the copies that this process forks from now on be plain ones, which die of these signals.

    They are blocked meanwhile: one that arrives between the fork and the change of its handler would be lost.
    """
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def forget() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=forget)


class Death(NamedTuple):
    """How a process ended: by a signal's name, or with an exit code; `oom`: the kernel ran out of memory."""

    signal: str | None
    exit: int | None
    oom: bool = False

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.exit}"
        return self.signal + (" (out of memory)" if self.oom else "")


def name_death(status: int, oom: Callable[[], bool]) -> Death:
    """Name a wait status. `oom` is asked only after a SIGKILL."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Death(None, code)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return Death(name, None, name == "SIGKILL" and oom())


class OomWatch:
    """Counts of the kernel's out-of-memory kills, of this process's cgroup where there is one, else of the host."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._files = [file for file in self._candidates() if self._read(file) is not None][:1]
        self._count = self._now()

    def _candidates(self) -> list[Path]:
        found = []
        try:
            lines = (self._root / "proc/self/cgroup").read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controllers == "":
                found.append(self._root / "sys/fs/cgroup" / path.lstrip("/") / "memory.events")
            elif controllers == "memory":
                found.append(self._root / "sys/fs/cgroup/memory" / path.lstrip("/") / "memory.oom_control")
        return [*found, self._root / "proc/vmstat"]

    def _read(self, file: Path) -> int | None:
        try:
            for line in file.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            pass
        return None

    def _now(self) -> int:
        return sum(self._read(file) or 0 for file in self._files)

    def risen(self) -> bool:
        """Whether the kernel has killed for lack of memory since the last call."""
        before, self._count = self._count, self._now()
        return self._count > before
