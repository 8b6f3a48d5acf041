"""How a process of ours does, in its own words: a page of memory that it writes and that `aiki alive` reads.

The page is anonymous memory (a memfd) that the process holds open, and that others find as `/proc/PID/fd/N`. So it needs no
directory that can be written, it cannot be confused with what another process or an earlier one has left, it is gone with its
process however that ends, and nobody but the process's own user (and root) can read it. Believed are pages of the reader's own
user, and that of a process that the reader names. Writing to it costs a store of a word.

All times are nanoseconds of the machine's monotonic clock, which all its processes share; 0 is never.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import time
from dataclasses import dataclass, field
from typing import Any, Final

MEMORY: Final = "aiki-vitals"
"""What the page is called in `/proc/PID/fd`."""
_LINK: Final = f"/memfd:{MEMORY} (deleted)"
_MFD_NOEXEC_SEAL: Final = 0x0008
"""Some systems let nobody make memory that could be executed. Python does not name this flag before 3.13."""

_SIZE: Final = 8192
_MAGIC: Final = b"aiki vitals v1\0\0"
_WORD: Final = 8
_WORDS_AT: Final = len(_MAGIC)
_TEXTS_AT: Final = 1024
_TEXT_BYTES: Final = 1024
_MAX_TEXT: Final = _TEXT_BYTES - 2 * _WORD

# words
STARTED: Final = 0
"""Since when all its parts are there."""
TURNED: Final = 1
"""The last turn of its main loop."""
SESSION: Final = 2
"""Since when it has a session with the broker."""
HEARD: Final = 3
"""When an orchestrator last answered it."""
ANSWERS: Final = 4
"""1: orchestrators answer again and again, so that silence means something."""
DATABASE: Final = 5
"""When the database last did what it was asked."""
DRAINING: Final = 6
"""1: it takes nothing more and is about to end."""
LINK: Final = 7
"""The process id of a worker's link."""
LINK_TURNED: Final = 8
"""The last turn of the link's loop."""
CHILDREN: Final = 9
"""How many children a worker has been asked for."""
TAKING: Final = 10
"""How many of them take work, or execute it."""
STUCK: Final = 11
"""Since when none of the children moves."""
_COUNT: Final = 12

# texts
IDENTITY: Final = 0
"""JSON: who it is."""
BROKER: Final = 1
"""Why there is no session."""
INSIDE: Final = 2
"""What is wrong in the process: a child that does not move, a duty that fails."""
_TEXTS: Final = 3


def memory_file(name: str) -> int:
    """A file of memory without a place in any directory, closed in programs that are started. Raises `OSError`."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:  # a kernel before 6.3 does not know the flag
        return os.memfd_create(name, os.MFD_CLOEXEC)


def _page_file() -> int:
    """A descriptor, or -1 where there is no such memory to be had."""
    try:
        file = memory_file(MEMORY)
        os.ftruncate(file, _SIZE)
    except OSError:
        return -1
    return file


class Vitals:
    """The writing side. Where a kernel gives no such memory, what is written is not seen by anybody.

    Each word and text has one process that writes it; a page is shared with the processes that are forked.

    :param kind: `worker`, `orchestrator` or `server`.
    :param seen: whether others can read it.
    :param fields: more of who it is, as JSON data.
    """

    def __init__(self, kind: str, *, seen: bool = True, **fields: Any) -> None:
        file = _page_file() if seen else -1
        self._map = mmap.mmap(file, _SIZE)  # which keeps a descriptor of its own: the one that others find
        if file >= 0:
            os.close(file)
        self._words = memoryview(self._map)[_WORDS_AT : _WORDS_AT + _COUNT * _WORD].cast("Q")
        self.tell(IDENTITY, json.dumps({"kind": kind, "pid": os.getpid(), **fields}))
        self._map[: len(_MAGIC)] = _MAGIC

    def close(self) -> None:
        """Be found no more; nothing can be written from then on."""
        self._words.release()
        self._map.close()

    def now(self, word: int) -> None:
        """This happened just now."""
        self._words[word] = time.monotonic_ns()

    def put(self, word: int, value: int) -> None:
        """Write a word."""
        self._words[word] = value

    def since(self, word: int, *, holds: bool) -> None:
        """Write since when something holds: from the first time that this is said on."""
        if not holds:
            self._words[word] = 0
        elif not self._words[word]:
            self.now(word)

    def tell(self, text: int, said: str) -> None:
        """Write a text; what is too long is cut."""
        data = said.encode("utf-8", "replace")[:_MAX_TEXT]
        at = _TEXTS_AT + text * _TEXT_BYTES
        with memoryview(self._map) as whole, whole[at : at + 2 * _WORD].cast("Q") as head:
            if head[1] == len(data) and whole[at + 2 * _WORD : at + 2 * _WORD + len(data)] == data:
                return
            head[0] |= 1  # odd: it is being written
            head[1] = len(data)
            whole[at + 2 * _WORD : at + 2 * _WORD + len(data)] = data
            head[0] += 1


@dataclass(frozen=True, slots=True)
class Reading:
    """What a page said when it was read.

    :ivar state: the process's, as `/proc/PID/stat` has it: `T` is stopped by a signal.
    """

    pid: int
    identity: dict[str, Any]
    words: tuple[int, ...]
    texts: tuple[str, ...]
    state: str = "S"
    link_state: str = "S"

    @property
    def kind(self) -> str:
        """`worker`, `orchestrator` or `server`."""
        return str(self.identity.get("kind", ""))

    @property
    def name(self) -> str:
        """What operators call it; empty where it has no name."""
        return str(self.identity.get("name", ""))


def read(data: bytes, pid: int) -> Reading | None:
    """Read a page's bytes; None if it is none, or none yet."""
    if len(data) < _SIZE or not data.startswith(_MAGIC):
        return None
    words = tuple(memoryview(data)[_WORDS_AT : _WORDS_AT + _COUNT * _WORD].cast("Q"))
    try:
        identity = json.loads(_text(data, IDENTITY))
    except (ValueError, RecursionError):
        return None
    texts = tuple(_text(data, number) for number in range(_TEXTS))
    return Reading(pid, identity, words, texts) if isinstance(identity, dict) else None


def _text(data: bytes, number: int) -> str:
    at = _TEXTS_AT + number * _TEXT_BYTES
    version, length = memoryview(data)[at : at + 2 * _WORD].cast("Q")
    if version % 2 or length > _MAX_TEXT:
        return ""
    return data[at + 2 * _WORD : at + 2 * _WORD + length].decode("utf-8", "replace")


# ---------------------------------------------------------------- finding
@dataclass(slots=True)
class Found:
    """The pages that were found. `elsewhere`: ids of processes that are in other containers; `closed`: of other users'."""

    readings: list[Reading] = field(default_factory=list)
    elsewhere: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)


def find(kind: str, pid: int | None = None) -> Found:
    """The processes of a kind that this user runs in this container (that see the same files), or the one with this id, in
    whatever container and of whatever user: who names it believes it. Root may read what any user's process says, and is not to
    believe it.
    """
    found = Found()
    mine = _namespace("self", "mnt")
    for one in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()) if pid is None else [pid]:
        try:
            if pid is None and not _is_own(one):
                raise PermissionError
            reading = _read_from(one, own=pid is None)
        except PermissionError:
            if pid is not None or _looks_like(one, kind):
                found.closed.append(one)
            continue
        except OSError:
            continue  # it has ended
        if reading is None or reading.kind != kind:
            continue
        if pid is None and _namespace(one, "mnt") != mine:
            found.elsewhere.append(one)
        else:
            found.readings.append(reading)
    return found


def _is_own(pid: int) -> bool:
    """Whether all user ids of a process are ours: of a program that changes its user some are of who has started it."""
    with open(f"/proc/{pid}/status", "rb") as file:
        ids = next((line.split()[1:] for line in file if line.startswith(b"Uid:")), [])
    return bool(ids) and all(int(one) == os.geteuid() for one in ids)


def _read_from(pid: int, *, own: bool) -> Reading | None:
    """Raises `OSError`. `own`: only what our user has made: a process may have been handed a descriptor by another's."""
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder):
        try:
            if os.readlink(f"{folder}/{name}") != _LINK:
                continue
            data = _bytes_of(f"{folder}/{name}", own=own)
        except PermissionError:
            raise
        except OSError:
            continue  # closed this moment, or nothing that can be opened
        reading = read(data, pid)
        if reading is None:
            continue
        state, link_state = state_of(pid), "S"
        if _namespace(pid, "pid") == _namespace("self", "pid"):  # else ids are other ones there
            if reading.identity.get("pid") != pid:
                continue  # a copy of that process, forked from it
            if link := reading.words[LINK]:
                link_state = state_of(link)
        return Reading(pid, reading.identity, reading.words, reading.texts, state, link_state)
    return None


def _bytes_of(path: str, *, own: bool) -> bytes:
    """What stands in a file, at most a page; empty for what is none, such as a pipe, on which one might wait for ever."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or (own and found.st_uid != os.geteuid()):
            return b""
        return os.read(file, _SIZE)
    finally:
        os.close(file)


def state_of(pid: int) -> str:
    """The letter of `/proc/PID/stat`; `X` if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return chr(file.read().rpartition(b") ")[2][0])
    except (OSError, IndexError):
        return "X"


def _namespace(pid: int | str, which: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{which}")
    except OSError:
        return ""


def _looks_like(pid: int, kind: str) -> bool:
    """Whether the command of a process whose files are not ours to see is that of a kind."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    names = [os.path.basename(word).decode(errors="replace") for word in words[:5]]
    return f"aiki-{kind}" in names or any(
        name in ("aiki", "main", "aiki.cli.main") and kind in names[at + 1 :] for at, name in enumerate(names)
    )
