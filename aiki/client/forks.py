"""Forks: a child must neither use nor close what its parent has opened, so each client starts over in the child."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Forkable(Protocol):
    """A client with connections or threads."""

    def after_fork(self) -> Any:
        """In the child: forget threads, locks and connections. Returns what must be kept from garbage collection, because
        collecting it would close what is the parent's."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()
_kept: list[Any] = []


def register(client: Forkable) -> None:
    """From now until it is garbage, `client` is notified in each child that is forked."""
    _known.add(client)


def _after_fork() -> None:
    _kept.extend(client.after_fork() for client in list(_known))


os.register_at_fork(after_in_child=_after_fork)
