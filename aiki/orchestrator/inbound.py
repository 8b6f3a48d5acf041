"""Reports into the database: many messages, one transaction; a report that cannot be applied never stops the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from aiki import messages as m
from aiki.broker import Delivery
from aiki.lifecycle import reports
from aiki.lifecycle.batch import Batch, Item
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.reports import Outcome, Rules, Source
from aiki.messages import Report, ReportList
from aiki.orchestrator.isolation import Done, Isolation
from aiki.storage import Store

_APPLIED = reports.RUN_REPORTS - {m.INQUIRE}
BATCH = 500
"""Reports a transaction."""
BATCH_BYTES = 4 * 1024 * 1024
"""About how many bytes of messages a transaction applies; one that is larger stands alone."""
KEPT_BYTES = 8 * 1024 * 1024
"""Bytes of messages that wait for no more."""
LINGER = 0.03
"""Seconds that steps of workflows wait to be recorded with others."""
GATHER = 0.01
"""Seconds from one transaction to the next while there are only reports of workflows, all of one executor."""
GATHER_BUSY = 0.02
"""The same while there are several executors: none of them waits for it, and what ends meanwhile ends together."""
NAP = 0.004
"""Seconds without a look at the broker while several executors report: to wake for each message costs more than to apply it."""
ENOUGH = 100
"""Messages that wait for no more."""


def items_of(reports: ReportList, size: int = 0) -> list[Item]:
    """The reports of a message of `size` bytes that change runs and are of a kind we know: all but inquiries."""
    source = Source(reports.worker, reports.executor)
    share = size // max(1, len(reports.reports))
    if reports.refused:
        wrong = reports.refused
        return [
            Item(r, source, bytes.fromhex(r.run_id), wrong.get(at, ""), share)
            for at, r in enumerate(reports.reports)
            if r.kind in _APPLIED
        ]
    return [Item(r, source, bytes.fromhex(r.run_id), "", share) for r in reports.reports if r.kind in _APPLIED]


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """Items by what one transaction takes."""
    start = size = 0
    for at, item in enumerate(items):
        if at > start and (at - start >= BATCH or size + item.size > BATCH_BYTES):
            yield items[start:at]
            start, size = at, 0
        size += item.size
    if start < len(items):
        yield items[start:]


def _ends_a_call(report: Report) -> bool:
    """Whether it reports the end of a call of a workflow's function."""
    return report.kind in _APPLIED and "n" in report.body


class Kept:
    """A buffer of report messages that were received and are not applied yet, in their order.

    The broker has confirmed the steps of a workflow, so nothing waits for them to be recorded. Messages with nothing else wait
    a moment for more, so that few transactions apply many. The end of a call of a workflow has them applied at once, unless
    others were just applied; any other report does so in any case.
    """

    def __init__(self) -> None:
        self._messages: list[tuple[Delivery, ReportList]] = []
        self._bytes = 0
        self._until = 0.0
        self._applied = float("-inf")
        self._executors: set[str] = set()
        self._busy = False

    def add(self, delivery: Delivery, message: ReportList, now: float) -> None:
        """A message was taken."""
        if not self._messages:
            self._until = now + LINGER
        self._messages.append((delivery, message))
        self._bytes += len(delivery.body)
        self._executors.add(message.executor)
        self._busy = self._busy or len(self._executors) > 1
        others = [report for report in message.reports if report.kind != m.STEPS]
        if len(self._messages) >= ENOUGH or self._bytes >= KEPT_BYTES or not all(_ends_a_call(report) for report in others):
            self._until = now
        elif others:
            gather = GATHER_BUSY if self._busy else GATHER
            self._until = min(self._until, max(now, self._applied + gather))

    def wait(self, now: float, timeout: float) -> float:
        """How long to wait for more, if `timeout` is what may be waited otherwise."""
        return min(timeout, max(0.0, self._until - now)) if self._messages else timeout

    def nap(self, now: float) -> float:
        """How long not to look for more."""
        return min(NAP, max(0.0, self._until - now)) if self._messages and self._busy else 0.0

    def __bool__(self) -> bool:
        return bool(self._messages)

    def due(self, now: float, *, at_once: bool = False) -> list[tuple[Delivery, ReportList]]:
        """The messages that are to be applied now; all of them if `at_once`."""
        if not self._messages or (now < self._until and not at_once):
            return []
        messages, self._messages, self._bytes = self._messages, [], 0
        self._applied = now
        self._busy = len(self._executors) > 1
        self._executors.clear()
        return messages

    def clear(self) -> None:
        """The session is gone: the broker hands them out again."""
        self._messages.clear()
        self._bytes = 0


class Inbound:
    """Applies reports.

    :param rules: makes the rules of a decision for a namespace, at the time of the call.
    :param refused: is called with a report that cannot be applied: the namespace, the report and the reason.
    :param cannot_go_on: is called with a run whose failure cannot be recorded either: the namespace, its id and the reason.
    """

    def __init__(
        self,
        store: Store,
        rules: Callable[[str], Rules],
        isolation: Isolation | None = None,
        *,
        refused: Callable[[str, Report, str], object] = lambda namespace, report, why: None,
        cannot_go_on: Callable[[str, bytes, str], object] = lambda namespace, run_id, why: None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._isolation = isolation or Isolation(store, time.monotonic)
        self._refused = refused
        self._cannot_go_on = cannot_go_on

    def apply(self, namespace: str, items: Sequence[Item]) -> Iterator[tuple[Applied, Outcome]]:
        """Apply reports in their order, many a transaction; yields what each transaction asks for.

        :raises StorageUnavailable: those not yielded are not applied.
        """
        for part in _parts(items):
            yield from self._isolation.each(
                part,
                lambda some: self._transaction(namespace, some),
                lambda item, why: self._refuse(namespace, item, why),
            )

    def _transaction(self, namespace: str, items: Sequence[Item]) -> tuple[Applied, Outcome]:
        batch = Batch(items, self._rules(namespace), self._store.clock)
        applied = self._store.apply(namespace, batch.run_ids, batch, attempts=batch.crashes, arrived=batch.suspended)
        for report in batch.strays:
            self._refused(namespace, report, "its run is not on record: it was deleted, or is of another database")
        return applied, batch.outcome

    def _refuse(self, namespace: str, item: Item, why: str) -> tuple[Applied, Outcome] | None:
        """This report cannot be applied: its run fails with the reason."""
        report = item.report
        self._refused(namespace, report, why)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = rows.get(item.run_id)
            if row is not None:
                reports.fail_unwritable(row, report, self._rules(namespace), effects, why, item.source)

        found = self._isolation.attempt(self._store.apply, namespace, [item.run_id], decide)
        if isinstance(found, Done):
            return found.value, Outcome()
        self._cannot_go_on(namespace, item.run_id, f"its {report.kind} report cannot be recorded: {why}")
        return None
