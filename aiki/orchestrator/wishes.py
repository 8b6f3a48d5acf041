"""Operators' requests to workers, repeated until they are met: take nothing from paused queues, drain, stop.

The process that records a request sends it to the workers at once, if it can. Control messages are not confirmed, so an
orchestrator compares the record with each heartbeat and sends the request again where they differ.
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
        """The paused queues as they are sent to the workers of a namespace; `fresh`: as the database has them now."""
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
        """A beat contains the queues that its worker takes for paused: send them again if they are wrong. True: they have
        changed."""
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
