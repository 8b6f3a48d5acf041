"""A child's accounts: which reports are out, and what their confirmation allows.

A delivery is acked when each of its runs is settled: reported, returned (published afresh) or leased, the first two confirmed.
The slot's HEAD follows the oldest unconfirmed report, so that everything not confirmed counts as held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from aiki.broker.base import Address, Delivery, Kind, reports, work
from aiki.ceilings import DISPATCH_BYTES, REPORT_BYTES
from aiki.history import Step
from aiki.messages import STEPS, Dispatch, DispatchList, Report, ReportList
from aiki.worker.connection import SIGNATURE, Connection, Sent
from aiki.worker.sizes import parts_of_steps, weight_of, without_what_is_too_large
from aiki.worker.slots import Slot


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
        self.executor = executor
        self._batch: dict[int, list[tuple[Report, Message | None, int]]] = {}
        connection.shrink = _shrunk
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

    def add(self, partition: int, report: Report, message: Message | None, weight: int | None = None) -> None:
        """Take a report into the batch.

        :param message: the one whose run it settles, None if it settles none.
        :param weight: its size (`weight_of`), where that is known.
        """
        entry = self._batch.get(partition)
        if entry is None:
            entry = self._batch[partition] = []
        if weight is None:
            weight = weight_of(report)
        entry.append((report, message, weight))
        self.size += weight

    def add_steps(self, dispatch: Dispatch, steps: list[Step]) -> None:
        """Take a workflow's steps, in their order, into reports of bounded size."""
        for part, weight in parts_of_steps(steps):
            self.add(dispatch.partition, Report(STEPS, dispatch.run_id, dispatch.epoch, {"s": part}), None, weight)

    def flush(self) -> list[Sent]:
        """Send the batch: for each partition one message, or several where it is large."""
        if not self._batch:
            return []
        batch, self._batch = self._batch, {}
        self.size = 0
        group = _Group(0, self.begun_and_reported)
        self._groups.append(group)
        parts = [(partition, part) for partition, entries in batch.items() for part in _parts(entries)]
        group.remaining = len(parts)
        out = []
        for partition, part in parts:
            address = self._addresses.get(partition)
            if address is None:
                address = self._addresses[partition] = reports(partition)
            found = [report for report, _, _ in part]
            members = [message for _, message, _ in part if message is not None]
            body = ReportList(self._namespace, self._worker, self.executor, found).encode()
            out.append(self._connection.post(address, body, _Token(group, members)))
        return out

    def give_back(self, queue: str, dispatches: list[Dispatch], messages: list[Message]) -> None:
        """Publish runs that were not begun afresh, for anybody; they count as settled once that is confirmed.

        It is not sent again after a gap: their deliveries then come back by themselves, and a second copy would be executed.

        :param messages: for each of the runs, the one that brought it.
        """
        start = size = 0
        for at, dispatch in enumerate(dispatches):
            weight = 200 + len(dispatch.input)
            if at > start and size + weight > DISPATCH_BYTES:
                self._send_back(queue, dispatches[start:at], messages[start:at])
                start, size = at, 0
            size += weight
        self._send_back(queue, dispatches[start:], messages[start:])

    def _send_back(self, queue: str, dispatches: list[Dispatch], messages: list[Message]) -> None:
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


def _parts(
    entries: list[tuple[Report, Message | None, int]],
) -> Iterator[list[tuple[Report, Message | None, int]]]:
    """The reports of one partition in messages of about `REPORT_BYTES` at most; a larger report is alone in its message."""
    start = size = 0
    for at, (_, _, weight) in enumerate(entries):
        if at > start and size + weight > REPORT_BYTES:
            yield entries[start:at]
            start, size = at, 0
        size += weight
    yield entries[start:]


def _shrunk(sent: Sent, limit: int) -> bytes | None:
    """The message that is sent in place of one that the broker does not take; None for dispatches that are given back."""
    return without_what_is_too_large(sent.body, limit, SIGNATURE) if sent.to.kind is Kind.REPORTS else None
