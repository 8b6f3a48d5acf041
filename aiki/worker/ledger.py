"""A child's accounts: which reports are out, and what their confirmation allows.

A delivery is acked when each of its runs is settled: reported, returned (published afresh) or leased, the first two confirmed.
The slot's HEAD follows the oldest unconfirmed report, so that everything not confirmed counts as held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from aiki.broker.base import Address, Delivery, reports, work
from aiki.messages import Dispatch, DispatchList, Report, ReportList
from aiki.worker.connection import Connection, Sent
from aiki.worker.slots import Slot

FLUSH_BYTES: Final = 1 << 20
"""A batch whose results are larger than this is sent at once: brokers limit the size of a message."""


@dataclass(slots=True, eq=False)
class Message:
    """A delivery of the work exchange; `outstanding` of its runs are not settled yet."""

    delivery: Delivery
    queue: str
    outstanding: int


@dataclass(slots=True, eq=False)
class _Group:
    """The messages of one flush: once none remains unconfirmed, all entries below `end` are confirmed."""

    remaining: int
    end: int


@dataclass(slots=True, eq=False)
class _Token:
    group: _Group | None
    members: list[Message]


class Ledger:
    """See the module. `begun_and_reported` is the index below which every entry of the slot has its report in here."""

    def __init__(self, connection: Connection, slot: Slot, namespace: str, worker: str, executor: str) -> None:
        self._connection = connection
        self._slot = slot
        self._namespace = namespace
        self._worker = worker
        self._executor = executor
        self._batch: dict[int, tuple[list[Report], list[Message]]] = {}
        self._groups: deque[_Group] = deque()
        self._addresses: dict[int, Address] = {}
        self.begun_and_reported = 0
        self.size = 0
        self.held = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is to be sent and nothing unconfirmed."""
        return not self._batch and not self._connection.unconfirmed

    @property
    def pending(self) -> bool:
        """Whether a flush would send something."""
        return bool(self._batch)

    def add(self, partition: int, report: Report, message: Message | None) -> None:
        """Take a report into the batch; `message` is the one whose run it settles, None if it settles none."""
        entry = self._batch.get(partition)
        if entry is None:
            entry = self._batch[partition] = ([], [])
        entry[0].append(report)
        if message is not None:
            entry[1].append(message)
        body = report.body
        if "r" in body:
            self.size += len(body["r"])
        elif "tb" in body:
            self.size += len(body["tb"])

    def flush(self) -> list[Sent]:
        """Send the batch, one message a partition."""
        if not self._batch:
            return []
        batch, self._batch = self._batch, {}
        self.size = 0
        group = _Group(len(batch), self.begun_and_reported)
        self._groups.append(group)
        out = []
        for partition, (found, members) in batch.items():
            address = self._addresses.get(partition)
            if address is None:
                address = self._addresses[partition] = reports(partition)
            body = ReportList(self._namespace, self._worker, self._executor, found).encode()
            out.append(self._connection.post(address, body, _Token(group, members)))
        return out

    def give_back(self, queue: str, dispatches: list[Dispatch], messages: list[Message]) -> None:
        """Publish runs that were not begun afresh, for anybody; they count as settled once that is confirmed.

        It is not sent again after a gap: their deliveries then come back by themselves, and a second copy would be executed.

        :param messages: for each of the runs, the one that brought it.
        """
        fresh = DispatchList(self._namespace, queue, dispatches)
        self._connection.post(work(self._namespace, queue), fresh.encode(), _Token(None, messages), again=False)

    def settle(self) -> None:
        """Look what the broker has confirmed; ack what is settled by it."""
        confirmed = self._connection.settle()
        if not confirmed:
            return
        done: list[Message] = []
        for sent in confirmed:
            token: Any = sent.token
            for message in token.members:
                message.outstanding -= 1
                if message.outstanding == 0:
                    done.append(message)
            if token.group is not None:
                token.group.remaining -= 1
        groups, head = self._groups, -1
        while groups and groups[0].remaining == 0:
            head = groups.popleft().end
        if head >= 0:
            self._slot.confirm(head)
            self.held = head
        self.ack(done)

    def ack(self, messages: Iterable[Message]) -> None:
        """Ack these: each of their runs is settled."""
        deliveries = [message.delivery for message in messages]
        if deliveries:
            self._connection.ack(deliveries)
