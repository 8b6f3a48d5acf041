"""Snapshots: all revocations that concern a worker, sent in pages after its hello.

There may be a million of them, so a snapshot has only those of the worker's own queues, and a little of it is sent in each
turn. The worker listens already, so it receives what is revoked meanwhile as all workers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from aiki import messages as m
from aiki.broker import CONTROL, Address, Session, work
from aiki.clock import Clock
from aiki.messages import Control, RunKey
from aiki.storage import Store
from aiki.storage.marking import UNSEEN

PAGE: Final = 2000
"""Revocations a message: some 90 kB."""
PAGES_A_TURN: Final = 4


class Snapshots:
    """The snapshots that one orchestrator is sending, by worker."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clock: Clock = store.clock
        self._open: dict[str, Iterator[Control]] = {}
        self._queues: dict[str, list[Address]] = {}
        """The work queues of those workers."""
        self._later: dict[str, tuple[str, list[str], dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def clear(self) -> None:
        """The session is gone: workers will send their hello again."""
        self._open.clear()
        self._queues.clear()
        self._later.clear()

    def begin(self, namespace: str, worker: str, queues: list[str], fields: dict[str, Any]) -> None:
        """A worker has sent a hello. `fields`: what the last message of its snapshot contains beside the revocations."""
        if worker in self._open:
            self._later[worker] = (namespace, queues, fields)  # one that is begun over and over is never done
            return
        self._queues[worker] = [work(namespace, queue) for queue in queues]
        self._open[worker] = self._messages(namespace, worker, queues, fields)

    def send(self, session: Session) -> None:
        """Send some messages, of each worker's in turn. Raises `StorageUnavailable`, `BrokerUnavailable`."""
        for _ in range(PAGES_A_TURN):
            worker = next(iter(self._open), None)
            if worker is None:
                return
            messages = self._open.pop(worker)
            message = next(messages)
            if not message.fields.get("more"):
                for address in self._queues.pop(worker, ()):
                    session.prepare(address)  # a worker's account may be one that cannot make them
            session.send(CONTROL, message.encode())
            if message.fields.get("more"):
                self._open[worker] = messages
            elif worker in self._later:
                namespace, queues, fields = self._later.pop(worker)
                self._queues[worker] = [work(namespace, queue) for queue in queues]
                self._open[worker] = self._messages(namespace, worker, queues, fields)

    def _messages(self, namespace: str, worker: str, queues: list[str], fields: dict[str, Any]) -> Iterator[Control]:
        last: list[RunKey] = []
        for queue in ("", *sorted(set(queues))):  # of some, recorded by older releases, the queue is not known
            place: tuple[int, bytes] | None = (UNSEEN, b"")
            while place is not None:
                keys, place = self._store.revocations(namespace, queue, place, PAGE)
                last += keys
                while len(last) >= PAGE:
                    yield Control(namespace, m.SNAPSHOT, last[:PAGE], {"worker": worker, "more": 1})
                    del last[:PAGE]
        yield Control(namespace, m.SNAPSHOT, last, {"worker": worker, "now": self._clock(), **fields})
