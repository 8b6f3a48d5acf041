"""Who is alive: each session on the embedded broker holds a lock on a file of its own for as long as its process lives.

The kernel drops the lock when the process dies, however it dies, and keeps it while the process is merely stopped. A
pid would say neither: it is used again, and it means nothing in another container.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

from aiki.broker import forks


class OwnerLock:
    """The lock file of one session, held from the start.

    :ivar name: the file's name within the directory.
    """

    def __init__(self, directory: Path) -> None:
        """Create and lock a new file in `directory`, which is made if need be; raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = secrets.token_hex(12)
        self._path = directory / self.name
        self._fd = -1
        with forks.none_meanwhile():
            forks.register(self)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._fd >= 0

    def release(self) -> None:
        """Remove the file and drop the lock."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        # A session that was forgotten and not closed is dead: whoever looks next gives back what it held.
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)

    def before_fork(self) -> None:
        """Nothing to prepare."""

    def after_fork_in_parent(self) -> None:
        """Nothing was touched."""

    def after_fork_in_child(self) -> None:
        """Close the child's duplicate, which would keep the lock beyond the parent's death."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def is_dead(directory: Path, name: str) -> bool:
    """Whether the owner of that lock file is gone. Raises OSError if the directory cannot be read."""
    try:
        fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        # Shared, so that several who ask at once do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def forget(directory: Path, name: str) -> None:
    """Remove a dead owner's file."""
    (directory / name).unlink(missing_ok=True)
