"""What operators want of workers, told to them until they do it: take nothing from paused queues, drain, stop.

Whoever records a wish tells the workers at once, if it can. Control messages are not confirmed, so an orchestrator compares
what is recorded with what each heartbeat says, and tells again where they differ.
"""

from __future__ import annotations

import os
import socket
from importlib.metadata import version

from aiki import ids
from aiki import messages as m
from aiki.orchestrator.live import Worker
from aiki.orchestrator.outbound import Outbound
from aiki.storage import Store
from aiki.storage.roster import Wanted


class Wishes:
    """The wishes that one orchestrator knows of, and its own sign of life. Every method may raise `StorageUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._id = ids.new_id().hex
        self._version = version("aiki")
        self._pauses: dict[str, tuple[int, list[str]]] = {}

    def say_alive(self, state: str) -> None:
        """Put on record that this orchestrator lives, or that it stops."""
        self._store.save_orchestrator(self._id, state, socket.gethostname(), os.getpid(), self._version)

    # ------------------------------------------------------------ paused queues
    def paused(self, namespace: str, *, fresh: bool = False) -> dict[str, object]:
        """What the workers of a namespace are told of paused queues; `fresh`: as the database has it now."""
        if fresh:
            self._pauses = self._store.all_pauses()
        number, names = self._pauses.get(namespace, (0, []))
        return {"number": number, "paused": names}

    def paused_queues(self, namespace: str) -> frozenset[str]:
        """The paused queues of a namespace, as of the last look."""
        return frozenset(self._pauses.get(namespace, (0, []))[1])

    def tell_pauses(self, out: Outbound) -> None:
        """Tell of what has changed since the last look."""
        before, self._pauses = self._pauses, self._store.all_pauses()
        for namespace, found in self._pauses.items():
            if found != before.get(namespace):
                out.control(namespace, m.QUEUES, (), **self.paused(namespace))

    def compare(self, worker: Worker, out: Outbound) -> bool:
        """A beat said which queues its worker holds to be paused: tell it again if it is wrong. True: it said something new."""
        said = frozenset(worker.said.paused)
        if said != worker.queues.intersection(self._pauses.get(worker.namespace, (0, []))[1]):
            out.control(worker.namespace, m.QUEUES, (), **self.paused(worker.namespace))
        before, worker.paused = worker.paused, said
        return said != before

    # ------------------------------------------------------------ stops
    def tell_stops(self, out: Outbound) -> None:
        """Tell the workers that are to stop and do not yet."""
        for namespace, worker, wanted, stops in self._store.wanted_workers():
            if wanted is Wanted.KILL:
                out.control(namespace, m.DRAIN, (), worker=worker, at_once=1)
            elif not stops:
                out.control(namespace, m.DRAIN, (), worker=worker)
