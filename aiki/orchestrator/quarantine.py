"""Messages that came back: the process that had them may have died of them, and this one must not.

The first time a message comes back it is noted and taken with the others. If the process ends with it in its hands, it comes
back noted: then it is taken alone, so that no other is suspected with it; and after `ENOUGH` times it is refused unread.

What a process has noted and then only lost its session with is no suspect: it lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from aiki.broker import Delivery, Kind
from aiki.storage import Store

ENOUGH: Final = 3
"""Times that a process ended with a message, after which none works on it any more."""
REMEMBERED: Final = 20_000


class Quarantine:
    """The messages that came back to one orchestrator. Every method may raise `StorageUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: dict[bytes, None] = {}
        self._survived: dict[bytes, None] = {}

    def sort(self, deliveries: Sequence[Delivery]) -> tuple[list[Delivery], list[Delivery], list[Delivery]]:
        """Those that are taken as usual, those that are taken alone, and those that are refused unread."""
        back = {
            id(item): sha256(item.body).digest()[:16]
            for item in deliveries
            if item.redelivered and item.source.kind in (Kind.REPORTS, Kind.DEAD)
        }
        if not back:
            return list(deliveries), [], []
        times = self._store.returns(list(back.values()))
        usual: list[Delivery] = []
        alone: list[Delivery] = []
        refused: list[Delivery] = []
        fresh = []
        for item in deliveries:
            digest = back.get(id(item))
            if digest is None or digest in self._survived:
                usual.append(item)
            elif times.get(digest, 0) >= ENOUGH:
                refused.append(item)
            elif times.get(digest, 0):
                alone.append(item)
            else:
                usual.append(item)
                fresh.append(digest)
        self._note(fresh)
        return usual, alone, refused

    def begin(self, delivery: Delivery) -> None:
        """This one is about to be worked on alone."""
        self._note([sha256(delivery.body).digest()[:16]])

    def _note(self, digests: Sequence[bytes]) -> None:
        if digests:
            self._store.note_returns(digests)
            self._noted.update(dict.fromkeys(digests))

    def end(self, *refused: Delivery) -> None:
        """All that was begun is done, and what was refused is kept."""
        digests = [*self._noted, *(sha256(item.body).digest()[:16] for item in refused)]
        if digests:
            self._store.forget_returns(digests)
            self._noted.clear()

    def interrupted(self, *, sound: bool) -> None:
        """The session is gone. `sound`: because the database or the broker went away, so the messages are no suspects."""
        if sound and len(self._survived) < REMEMBERED:
            self._survived.update(self._noted)
        self._noted.clear()
