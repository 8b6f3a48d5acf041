"""The prefetch buffer of a child: jobs to execute, and the messages that are answered at once instead."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from aiki import messages
from aiki.broker.base import Delivery, Kind
from aiki.errors import MessageError
from aiki.messages import Dispatch, DispatchList, Refused, Report, Values
from aiki.worker.connection import Connection
from aiki.worker.ledger import Ledger, Message
from aiki.worker.registry import Definition, Registry

_log = logging.getLogger(__name__)

MAX_KEPT: Final = 64 * 1024
"""Characters of a dispatch that are kept of one that does not pass."""


@dataclass(slots=True, eq=False)
class Job:
    """A run that may be begun. `run` is its id as 16 bytes; `leased`: its message no longer waits for it; `number` gives the
    order in which jobs were taken."""

    dispatch: Dispatch
    run: bytes
    definition: Definition
    message: Message
    leased: bool = False
    number: int = 0


class Inbox:
    """Sorts deliveries. `jobs` are ready to begin, oldest first."""

    def __init__(
        self,
        registry: Registry,
        namespace: str,
        ledger: Ledger,
        connection: Connection,
        revoked: Callable[[bytes, int], bool] = lambda *_: False,
    ) -> None:
        self._revoked = revoked
        self._registry = registry
        self._namespace = namespace
        self._ledger = ledger
        self._connection = connection
        self.jobs: deque[Job] = deque()
        self.taken = 0
        """How many jobs were taken."""
        self.values: deque[Values] = deque(maxlen=8)
        """Answers to what a workflow asked, the newest last."""
        self._noticed = 0
        """The newest number of complete turns of the revocations that was noticed."""
        self._marked = 0
        self._taken_before = 0
        """The number of the newest of the jobs that were here when `_marked` was set to that number."""

    def accept(self, delivery: Delivery) -> None:
        """Take a delivery in: its runs become jobs, or are reported as what they are."""
        if delivery.source.kind is Kind.ANSWERS:
            self._take_values(delivery)
            return
        try:
            found = DispatchList.decode(delivery.body)
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
        message = Message(delivery, found.queue, len(found.runs) + len(found.refused))
        for refused in found.refused:
            self._inquire(refused)
        if found.refused and not found.runs:
            _log.error("a message of queue %s goes to the dead letters: %s", found.queue, found.refused[0].why)
            self._connection.reject(delivery)
            return
        for refused in found.refused:
            self._refuse(refused, message)
        if not found.runs:
            self._ledger.ack([message])
        elif delivery.redelivered or found.again:
            why = "redelivered" if delivery.redelivered else "again"
            for dispatch in found.runs:
                self._ledger.add(
                    dispatch.partition, Report(messages.INQUIRE, dispatch.run_id, dispatch.epoch, {"why": why}), message
                )
        else:
            self._queue(found.runs, message)

    def is_newer_than(self, complete: int) -> bool:
        """Whether all jobs here were taken after the `complete`th complete snapshot of the revocations.

        To be asked once in each turn, after the received messages were taken in.
        """
        if self._noticed != complete:
            self._noticed = complete  # what was sent to this child by now is received in the next turn
        elif self._marked != complete:
            self._marked = complete
            self._taken_before = self.taken
        else:
            return not any(job.number <= self._taken_before for job in self.jobs)
        return False

    def _refuse(self, refused: Refused, message: Message) -> None:
        """One dispatch of a list does not pass: it becomes a dead letter, and the others are taken."""
        _log.error("a dispatch of queue %s is refused: %s", message.queue, refused.why)
        alone = [messages.VERSION, messages.DISPATCH, {"ns": self._namespace, "q": message.queue}, [refused.item]]
        try:
            text = json.dumps(alone, separators=(",", ":"))[:MAX_KEPT]
        except (ValueError, RecursionError):
            text = ""
        body = {"q": message.queue, "why": refused.why[:1000], "b": text}
        self._ledger.add(0, Report(messages.REFUSED, "", 0, body), message)

    def _inquire(self, refused: Refused) -> None:
        """Have orchestrators ask who executes the run that a refused dispatch names. If a worker holds the run, it keeps it."""
        if refused.run_id and refused.partition is not None:
            inquiry = Report(messages.INQUIRE, refused.run_id, refused.epoch, {"why": "again"})
            self._ledger.add(refused.partition, inquiry, None)

    def _take_values(self, delivery: Delivery) -> None:
        try:
            self.values.append(Values.decode(delivery.body))
        except MessageError as error:
            _log.error("an answer is passed over: %s", error)

    def _queue(self, runs: list[Dispatch], message: Message) -> None:
        definitions = self._registry.definitions
        for dispatch in runs:
            definition = definitions.get((dispatch.name, dispatch.version))
            kind = dispatch.options.get(messages.OPT_KIND, "task")
            if kind == messages.KIND_OUTSIDE:
                kind = "workflow"
            if definition is None or definition.kind != kind:
                _log.warning("run %s: this worker does not have %s@%s", dispatch.run_id, dispatch.name, dispatch.version)
                body = {"name": dispatch.name, "version": dispatch.version}
                self._ledger.add(dispatch.partition, Report(messages.UNKNOWN, dispatch.run_id, dispatch.epoch, body), message)
            else:
                self.taken += 1
                self.jobs.append(Job(dispatch, bytes.fromhex(dispatch.run_id), definition, message, number=self.taken))

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
        # What is revoked does not go back: behind the marker that is to prove it gone it would outlive its revocation.
        dropped = [job for job in jobs if self._revoked(job.run, job.dispatch.epoch)]
        for job in dropped:
            report = Report(messages.DROPPED, job.dispatch.run_id, job.dispatch.epoch, {})
            self._ledger.add(job.dispatch.partition, report, job.message)
        jobs = [job for job in jobs if job not in dropped] if dropped else jobs
        if not jobs:
            return
        self._ledger.give_back(jobs[0].message.queue, [job.dispatch for job in jobs], [job.message for job in jobs])
