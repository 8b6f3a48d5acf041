"""One handle on the embedded broker's file: transactions that wait a bounded time, a cheap look for changes, forks."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from aiki.broker import forks, sqlite_store
from aiki.files import make_private


class FileBusy(Exception):
    """Another process was writing for all of the time given."""


class BrokerFile:
    """An open database in WAL mode.

    Its lock is held during each statement and transaction, and by a fork: a child must not inherit a handle in mid-transaction,
    because SQLite keeps its view of file locks in process memory, where the child would believe in it.

    :param patience: seconds to wait for other processes while opening.
    :raises sqlite3.Error: it cannot be opened.
    :raises OSError: its directory cannot be made.
    :raises FileBusy: another process had it locked for all that time.
    """

    def __init__(self, path: Path, patience: float) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_private(path)
        self.path = path
        self._lock = threading.RLock()
        self._abandoned = False
        # Waiting for the write lock is done here: SQLite's own waiting grows to pauses of 100 ms.
        with forks.none_meanwhile():
            self._db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)
            forks.register(self)
        try:
            self._retry("PRAGMA journal_mode = WAL", patience)
            # A crash of the machine may lose the last moments, never the file; a crash of a process loses nothing.
            self._retry("PRAGMA synchronous = NORMAL", patience)
            self._retry("PRAGMA journal_size_limit = 67108864", patience)
            with self.transaction(patience) as db:
                sqlite_store.create(db)
            self._inode = os.stat(path).st_ino
            with self._lock:
                self._version = self._data_version()
        except BaseException:
            self._db.close()
            raise

    @contextmanager
    def transaction(self, patience: float) -> Iterator[sqlite3.Connection]:
        """A transaction that may write, committed at its end; raises `FileBusy` if it cannot begin for `patience` seconds."""
        self._begin(patience)
        try:
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        finally:
            self._lock.release()

    def _begin(self, patience: float) -> None:
        deadline = monotonic() + patience
        while True:
            self._lock.acquire()
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                self._lock.release()
                if not _busy(error):
                    raise
                if monotonic() >= deadline:
                    raise FileBusy(f"another process has been writing for {patience:g} s") from None
                time.sleep(random.uniform(0.0003, 0.002))  # noqa: S311  (so that waiters do not march in step)
            except BaseException:
                self._lock.release()
                raise
            else:
                return

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Statements that only read. They do not wait for writers."""
        with self._lock:
            yield self._db

    def changed(self) -> bool:
        """Whether another handle has committed since this was last asked."""
        with self._lock:
            version = self._data_version()
        changed, self._version = version != self._version, version
        return changed

    def is_replaced(self) -> bool:
        """Whether the path now names another file, or none: whoever opens it from now on cannot see this one."""
        try:
            return os.stat(self.path).st_ino != self._inode
        except FileNotFoundError:
            return True

    def close(self) -> None:
        """Close the handle."""
        with self._lock:
            if not self._abandoned:
                self._db.close()

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _retry(self, statement: str, patience: float) -> None:
        deadline = monotonic() + patience
        while True:
            try:
                with self._lock:  # every statement holds it: the process must not be copied in the middle of one
                    self._db.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if not _busy(error):
                    raise
                if monotonic() >= deadline:
                    raise FileBusy(f"another process has had it locked for {patience:g} s") from None
                time.sleep(random.uniform(0.001, 0.01))  # noqa: S311

    # ------------------------------------------------------------ forks
    def before_fork(self) -> None:
        """Let no transaction be open while the process is copied."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Close the copy: the parent's locks are not the child's, so this touches nothing of the parent's."""
        self._lock.release()
        self._abandoned = True
        self._db.close()


def _busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
