"""Processes that users' code has started, and that must not outlive the attempt that did: found, and killed.

A process can leave its parent, its group and its session (a daemon), so ancestry is not enough. The supervisor is the
subreaper of all: what has lost its parent becomes the supervisor's own. Whose it was is told by what a process inherits: a
resource limit (over forks and execs, whatever it does with its environment and its session), an environment variable (after an
exec), a mapping of memory (after a fork), or the session and the group of the child that began it.

A worker may have processes beside it that it did not start: those that a shell began before it became the worker, and, as
process 1 of a container, whatever loses its parent there. They are reaped like all others and never killed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, NamedTuple

MARK_VARIABLE: Final = "AIKI_CHILD"
"""Set in the environment of what a child starts: which child of which worker it is."""

MARK_LIMIT: Final = resource.RLIMIT_RTTIME
"""How many microseconds a process of a real-time class may compute at a stretch. Usually there is no such limit; one of over a
hundred thousand years changes nothing, and its number is the mark."""
_LIMIT_LINE: Final = b"Max realtime timeout"
_WORKER_BITS, _SLOT_BITS, _INCARNATION_BITS = 32, 12, 18

_PR_SET_CHILD_SUBREAPER: Final = 36
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_ROUNDS: Final = 100
_PAUSE: Final = 0.002
_WATCH_SECONDS: Final = 0.2


class Seen(NamedTuple):
    """A process as `/proc/PID/stat` has it; `began` in clock ticks after the machine's start."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    began: int


def adopt_orphans() -> bool:
    """Become the parent of all descendants that lose theirs; False where the kernel cannot do that."""
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def see(pid: int, there: str = "/proc") -> Seen | None:
    """The process (or the thread, where `there` lists threads), or None if it is gone."""
    try:
        fields = Path(f"{there}/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Seen(pid, fields[0], int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def see_all() -> list[Seen]:
    """All processes that can be seen from here."""
    found = (see(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return [item for item in found if item is not None]


def children_of(pid: int) -> list[int]:
    """The ids of a process's children, zombies among them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
            except ProcessLookupError:
                continue
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}"):  # a kernel without lists of children
            return [item.pid for item in see_all() if item.parent == pid]
    except OSError:
        pass
    return found


def tree_under(roots: Iterable[int]) -> list[int]:
    """These processes and all their descendants, parents first."""
    found: dict[int, None] = dict.fromkeys(roots)
    left = list(found)
    while left:
        for child in children_of(left.pop()):
            if child not in found:
                found[child] = None
                left.append(child)
    return list(found)


def kill_trees(roots: Iterable[int]) -> list[int]:
    """Kill these processes with all their descendants; gives those that were alive.

    They are halted first, from the top: what is halted starts nothing that could be missed.
    """
    done: dict[int, None] = {}
    roots = list(roots)
    for _ in range(_ROUNDS):
        fresh = [pid for pid in tree_under(roots) if pid not in done]
        if not fresh:
            break
        for pid in fresh:
            found = see(pid)
            if found is not None and found.state not in "ZX":
                send(pid, signal.SIGSTOP)
                done[pid] = None
        if not any(pid in done for pid in fresh):
            break
    for pid in {*done, *roots}:
        send(pid, signal.SIGKILL)
    return list(done)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone, or that may be another user's."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def ticks_at(monotonic_ns: int) -> int:
    """The clock tick after the machine's start at this monotonic time, as `Seen.began` counts."""
    ago = (time.monotonic_ns() - monotonic_ns) / 1e9
    return int((time.clock_gettime(time.CLOCK_BOOTTIME) - ago) * _TICKS)


class Mark:
    """The mark that identifies the processes of one child: made by the supervisor, put on by the child.

    :param worker: the worker's id, 32 hex digits.
    """

    def __init__(self, worker: str, slot: int, incarnation: int) -> None:
        self.text = f"{worker}.{slot}.{incarnation}."
        """Unique, and no other's beginning; it begins with the worker's id."""
        self.number = _number_of(worker, slot, incarnation)
        """The limit."""
        self._memory: mmap.mmap | None = None

    def put_on(self) -> None:
        """Have this process and all that it starts bear the mark."""
        os.environ[MARK_VARIABLE] = self.text
        self._limit()
        try:
            file = os.memfd_create(f"aiki-{self.text}", os.MFD_CLOEXEC)
        except OSError:
            return
        try:
            os.ftruncate(file, mmap.PAGESIZE)
            self._memory = mmap.mmap(file, mmap.PAGESIZE)
        finally:
            os.close(file)

    def _limit(self) -> None:
        before, most = resource.getrlimit(MARK_LIMIT)
        if before != resource.RLIM_INFINITY:
            return  # somebody means it
        try:
            resource.setrlimit(MARK_LIMIT, (self.number, most))
        except (OSError, ValueError):
            pass  # the other marks have to do

    def borne_by(self, pid: int) -> bool:
        """Whether the process bears this mark."""
        return _limit_of(pid) == self.number or _shows(pid, self.text)


def bears_any(pid: int, worker: str) -> bool:
    """Whether the process bears the mark of any child of this worker."""
    limit, rest = _limit_of(pid), _SLOT_BITS + _INCARNATION_BITS
    if limit is not None and limit >> rest == _number_of(worker, 0, 0) >> rest:
        return True
    return _shows(pid, f"{worker}.")


def _number_of(worker: str, slot: int, incarnation: int) -> int:
    """A number of 63 bits, of which the highest is set."""
    number = 1 << _WORKER_BITS | int(worker[-_WORKER_BITS // 4 :], 16)  # an id's last digits are random
    number = number << _SLOT_BITS | slot % (1 << _SLOT_BITS)
    return number << _INCARNATION_BITS | incarnation % (1 << _INCARNATION_BITS)


def _limit_of(pid: int) -> int | None:
    """The process's limit where marks are, None for none."""
    try:
        for line in Path(f"/proc/{pid}/limits").read_bytes().splitlines():
            if line.startswith(_LIMIT_LINE):
                word = line[len(_LIMIT_LINE) :].split()[0]
                return int(word) if word.isdigit() else None
    except (OSError, IndexError):
        pass
    return None


def _shows(pid: int, text: str) -> bool:
    """Whether its environment or its memory bears a mark that begins with `text`."""
    try:
        if f"\0{MARK_VARIABLE}={text}".encode() in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
            return True
        return f"/memfd:aiki-{text}".encode() in Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return False


class Strays:
    """The processes that have become the supervisor's children without being its children or its link.

    :param worker: the worker's id, with which all its marks begin.
    """

    def __init__(self, worker: str, parent: int) -> None:
        self._worker = worker
        self._parent = parent
        self._before = _births(children_of(parent))
        self._adopts = adopt_orphans()
        self._alone = self._adopts and parent != 1 and not self._before
        """Whether nothing but what this worker has started can become its own."""
        self._dead: dict[int, Mark] = {}
        """Children that died and whose processes are to be killed: process id to mark."""
        self._tries: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether processes of dead children may be left."""
        return bool(self._dead)

    def child_died(self, pid: int, mark: Mark) -> None:
        """Its processes are to be killed, by `sweep`."""
        self._dead[pid] = mark
        self._tries[pid] = 0

    def sweep(self, known: Iterable[int]) -> list[int]:
        """Kill what dead children have left. `known`: the worker's own processes. To be called until not `busy`."""
        if not self._dead:
            return []
        others = self._others(known)
        roots = [pid for pid in others if self._is_left(pid)]
        killed = kill_trees(roots)
        for pid in list(self._dead):
            self._tries[pid] += 1
            if not roots or self._tries[pid] > _ROUNDS:  # what cannot be killed hangs in the kernel, or is another user's
                del self._dead[pid], self._tries[pid]
        return killed

    def end(self, known: Iterable[int]) -> list[int]:
        """The worker ends: kill whatever it or its children have started."""
        return kill_trees(pid for pid in self._others(known) if self._alone or bears_any(pid, self._worker))

    def _others(self, known: Iterable[int]) -> list[int]:
        mine = set(known)
        others = [pid for pid in children_of(self._parent) if pid not in mine]
        return [pid for pid, began in _births(others).items() if self._before.get(pid) != began]

    def _is_left(self, pid: int) -> bool:
        found = see(pid)
        if found is None or found.state in "ZX":
            return False
        if found.session in self._dead or found.group in self._dead:
            return True
        return any(mark.borne_by(pid) for mark in self._dead.values())


def _births(pids: Iterable[int]) -> dict[int, int]:
    """When each of these processes began: an id alone may be given to another one day."""
    return {item.pid: item.began for item in map(see, pids) if item is not None}


def kill_own(mark: Mark, supervisor: int, since_ns: int) -> list[int]:
    """Kill what this process has started since (monotonic nanoseconds): its descendants, and daemons that bear its mark."""
    since, me = ticks_at(since_ns) - 1, os.getpid()

    def young(pid: int) -> bool:
        found = see(pid)
        return found is not None and found.state not in "ZX" and found.began >= since

    def mine(pid: int) -> bool:
        found = see(pid)
        return found is not None and (me in (found.session, found.group) or mark.borne_by(pid))

    roots = [pid for pid in tree_under([me]) if pid != me and young(pid)]
    roots += [pid for pid in children_of(supervisor) if pid != me and young(pid) and mine(pid)]
    return kill_trees(roots)


def threads_begun(since_ns: int, known: Collection[int | None]) -> list[int]:
    """The threads of this process that have begun since (monotonic nanoseconds), but for those `known` (native ids)."""
    since, me = ticks_at(since_ns) - 1, os.getpid()
    threads = (see(int(name), f"/proc/{me}/task") for name in os.listdir(f"/proc/{me}/task"))
    return [item.pid for item in threads if item is not None and item.began >= since and item.pid not in known]


class Undertaker(threading.Thread):
    """Kills the processes of a worker whose supervisor was killed. It lives in the link, which outlives the supervisor for
    that.

    :param parent: the supervisor.
    :param children: gives the ids of its children.
    """

    def __init__(self, worker: str, parent: int, children: Callable[[], Iterable[int]]) -> None:
        super().__init__(name="aiki-undertaker", daemon=True)
        self._worker = worker
        self._parent = parent
        self._children = children

    def run(self) -> None:
        """Wait for the supervisor's end, which the link's other thread may not notice while it waits for the broker."""
        while os.getppid() == self._parent:
            time.sleep(_WATCH_SECONDS)
        _bury(self._worker, self._children())
        os._exit(1)


def _bury(worker: str, children: Iterable[int]) -> None:
    mine = {os.getpid()}
    sessions = {pid for pid in children if pid}
    for _ in range(_ROUNDS):
        left = [
            item.pid
            for item in see_all()
            if item.pid not in mine
            and item.state not in "ZX"
            and (item.session in sessions or item.group in sessions or bears_any(item.pid, worker))
        ]
        if not left:
            return
        kill_trees(left)
        time.sleep(_PAUSE)
