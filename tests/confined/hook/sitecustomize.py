"""Loaded by an interpreter when it starts: it becomes nobody once the program is imported, and may write no file."""

import errno
import os
import sys

_WRITABLE = os.environ.get("CONFINED_WRITABLE", "")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MAKES = frozenset(
    {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "tempfile.mkstemp"}
)


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if event == "open":
        path, mode, flags = args
        writes = isinstance(flags, int) and flags & _WRITES
        if isinstance(mode, str):
            writes = any(letter in mode for letter in "wax+")
        if not writes or isinstance(path, int):
            return
    elif event in _MAKES:
        path = args[0]
        if isinstance(path, int):  # an open file: of memory, perhaps
            return
    else:
        return
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    if text.startswith(("/dev/", "/proc/")) and not text.startswith("/dev/shm"):
        return
    if _WRITABLE and os.path.abspath(text).startswith(_WRITABLE):
        return
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), text)


sys.addaudithook(_refuse)
