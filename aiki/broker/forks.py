"""Sessions and fork: what a child must do with the sessions that it inherits.

A forked child holds duplicates of its parent's sockets, database handles and lock files. Left open, they keep the
parent's connection alive after the parent's death, so that nobody sees the death; used or closed in the ordinary way, they
disturb the parent. So each session registers here, and the child lets go of it at once, without a word to the broker.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """What a session, or a part of one, offers for this."""

    def before_fork(self) -> None:
        """Come to a state that may be copied, and stay in it."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """Let go of everything that belongs to the parent; the session is dead here. Must not raise."""


_lock = threading.RLock()  # so that what is opened while nobody forks can be registered then, too
_known: WeakSet[Forkable] = WeakSet()
_held: list[Forkable] = []


def register(session: Forkable) -> None:
    """From now until it is garbage, `session` is told of forks."""
    with _lock:
        _known.add(session)


@contextmanager
def none_meanwhile() -> Iterator[None]:
    """No other thread forks meanwhile: for the moment between opening a file and noting that it is open."""
    with _lock:
        yield


def _before() -> None:
    _lock.acquire()
    _held.extend(_known)
    for session in _held:
        session.before_fork()


def _in_parent() -> None:
    for session in _held:
        session.after_fork_in_parent()
    _held.clear()
    _lock.release()


def _in_child() -> None:
    for session in _held:
        session.after_fork_in_child()
    _held.clear()
    _known.clear()
    _lock.release()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
