"""What a child has taken from the work queues: jobs to execute, and what is answered at once instead."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from aiki import messages
from aiki.broker.base import Delivery
from aiki.errors import MessageError
from aiki.messages import Dispatch, DispatchList, Report
from aiki.worker.connection import Connection
from aiki.worker.ledger import Ledger, Message
from aiki.worker.registry import Definition, Registry

_log = logging.getLogger(__name__)

_U16: Final = 1 << 16
_U32: Final = 1 << 32


@dataclass(slots=True, eq=False)
class Job:
    """A run that may be begun. `run` is its id as 16 bytes; `leased` says that its message no longer waits for it."""

    dispatch: Dispatch
    run: bytes
    definition: Definition
    message: Message
    leased: bool = False


class Inbox:
    """Sorts deliveries. `jobs` are ready to begin, oldest first."""

    def __init__(self, registry: Registry, namespace: str, ledger: Ledger, connection: Connection) -> None:
        self._registry = registry
        self._namespace = namespace
        self._ledger = ledger
        self._connection = connection
        self.jobs: deque[Job] = deque()

    def accept(self, delivery: Delivery) -> None:
        """Take a delivery in: its runs become jobs, or are reported as what they are."""
        try:
            found = DispatchList.decode(delivery.body)
            keys = [_check(dispatch) for dispatch in found.runs]
            if found.namespace != self._namespace:
                raise MessageError(f"a dispatch of namespace {found.namespace!r} in a queue of {self._namespace!r}")
        except MessageError as error:
            _log.error("a message of queue %s goes to the dead letters: %s", delivery.source.key, error)
            self._connection.reject(delivery)
            return
        if found.marker is not None:
            report = Report(messages.MARKER, "", found.marker, {"q": found.queue})
            self._ledger.add(0, report, Message(delivery, found.queue, 1))
            return
        message = Message(delivery, found.queue, len(found.runs))
        if not found.runs:
            self._ledger.ack([message])
        elif delivery.redelivered or found.again:
            why = "redelivered" if delivery.redelivered else "again"
            for dispatch in found.runs:
                self._ledger.add(
                    dispatch.partition, Report(messages.INQUIRE, dispatch.run_id, dispatch.epoch, {"why": why}), message
                )
        else:
            self._queue(found.runs, keys, message)

    def _queue(self, runs: list[Dispatch], keys: list[bytes], message: Message) -> None:
        definitions = self._registry.definitions
        for dispatch, key in zip(runs, keys, strict=True):
            definition = definitions.get((dispatch.name, dispatch.version))
            if definition is None or definition.kind != dispatch.options.get(messages.OPT_KIND, "task"):
                _log.warning("run %s: this worker does not have %s@%s", dispatch.run_id, dispatch.name, dispatch.version)
                body = {"name": dispatch.name, "version": dispatch.version}
                self._ledger.add(dispatch.partition, Report(messages.UNKNOWN, dispatch.run_id, dispatch.epoch, body), message)
            else:
                self.jobs.append(Job(dispatch, key, definition, message))

    def give_back(self, keep: int = 0, together: int = 1) -> None:
        """Return the jobs that are not begun, but for the `keep` oldest, in lists of at most `together`."""
        # Taken out first: publishing may lose the session, which drops the jobs too.
        jobs = [self.jobs.pop() for _ in range(len(self.jobs) - keep)]
        lists: dict[str, list[Job]] = {}
        for job in reversed(jobs):
            queue = job.message.queue
            options = job.dispatch.options
            if messages.OPT_BIND_FIRST in options or messages.OPT_HISTORY in options:
                self._send([job])  # it may kill its process, or is long: it travels alone
                continue
            waiting = lists.setdefault(queue, [])
            waiting.append(job)
            if len(waiting) >= together:
                self._send(lists.pop(queue))
        for waiting in lists.values():
            self._send(waiting)

    def pass_on(self, queues: Collection[str] | None = None) -> None:
        """Return all jobs, or those of some queues, in the lists in which they came."""
        lists: dict[int, list[Job]] = {}
        kept = []
        for job in self.jobs:
            if queues is None or job.message.queue in queues:
                lists.setdefault(id(job.message), []).append(job)
            else:
                kept.append(job)
        self.jobs.clear()
        self.jobs.extend(kept)
        for jobs in lists.values():
            self._send(jobs)

    def _send(self, jobs: list[Job]) -> None:
        self._ledger.give_back(jobs[0].message.queue, [job.dispatch for job in jobs], [job.message for job in jobs])


def _check(dispatch: Dispatch) -> bytes:
    """The run's id as bytes; raises `MessageError` for a dispatch that would not fit into a slot."""
    try:
        run = bytes.fromhex(dispatch.run_id)
        sound = (
            len(run) == 16
            and 0 <= dispatch.epoch < _U32
            and 0 <= dispatch.partition < _U16
            and 0 <= dispatch.attempt < _U32
            and type(dispatch.options) is dict
            and type(dispatch.name) is str
            and type(dispatch.input) is str
            and isinstance(dispatch.epoch | dispatch.partition | dispatch.attempt, int)
        )
    except (TypeError, ValueError) as error:
        raise MessageError(f"a dispatch of a run that cannot be read: {error}") from None
    if not sound:
        raise MessageError(f"a dispatch of run {dispatch.run_id[:64]!r} with fields out of range")
    return run
