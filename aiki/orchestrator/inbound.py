"""Reports into the database: many messages, one transaction; a report the database refuses never stops the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError

from aiki import messages as m
from aiki.broker import Delivery
from aiki.messages import Report, ReportList, RunKey
from aiki.orchestrator import core, workflows
from aiki.orchestrator.core import Outcome, Rules, Source
from aiki.storage import RowTooLarge, Store
from aiki.storage.applying import Applied, Effects
from aiki.storage.rows import RunRow

logger = logging.getLogger("aiki.orchestrator")

_APPLIED = core.RUN_REPORTS - {m.INQUIRE}
BATCH = 500
"""Reports a transaction."""
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


@dataclass(slots=True)
class Item:
    """One report with who sent it, in the order received."""

    report: Report
    source: Source
    run_id: bytes


def items_of(reports: ReportList) -> list[Item]:
    """The reports of a message that change runs and are of a kind we know: all but inquiries."""
    source = Source(reports.worker, reports.executor)
    return [Item(r, source, bytes.fromhex(r.run_id)) for r in reports.reports if r.kind in _APPLIED]


def _ends_a_call(report: Report) -> bool:
    """Whether it says how a call of a workflow's function ended."""
    return report.kind in _APPLIED and "n" in report.body


class Kept:
    """Report messages that were taken and are not applied yet, in their order.

    Nobody waits for the steps of a workflow to be recorded: the broker has confirmed them. So messages of nothing else wait a
    moment for company, which makes few transactions of many. What ends a call of a workflow has them applied at once, unless
    others were just applied; anything else does so in any case.
    """

    def __init__(self) -> None:
        self._messages: list[tuple[Delivery, ReportList]] = []
        self._until = 0.0
        self._applied = float("-inf")
        self._executors: set[str] = set()
        self._busy = False

    def add(self, delivery: Delivery, message: ReportList, now: float) -> None:
        """A message was taken."""
        if not self._messages:
            self._until = now + LINGER
        self._messages.append((delivery, message))
        self._executors.add(message.executor)
        self._busy = self._busy or len(self._executors) > 1
        others = [report for report in message.reports if report.kind != m.STEPS]
        if len(self._messages) >= ENOUGH or not all(_ends_a_call(report) for report in others):
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

    def due(self, now: float) -> list[tuple[Delivery, ReportList]]:
        """What is to be applied now."""
        if not self._messages or now < self._until:
            return []
        messages, self._messages = self._messages, []
        self._applied = now
        self._busy = len(self._executors) > 1
        self._executors.clear()
        return messages

    def clear(self) -> None:
        """The session is gone: the broker hands them out again."""
        self._messages.clear()


class Inbound:
    """Applies reports.

    :param rules: makes the rules of a decision for a namespace, at the time of the call.
    """

    def __init__(self, store: Store, rules: Callable[[str], Rules]) -> None:
        self._store = store
        self._rules = rules

    def apply(self, namespace: str, items: list[Item]) -> Iterable[tuple[Applied, Outcome]]:
        """Apply reports in their order, `BATCH` a transaction; yields what each transaction asks for.

        :raises StorageUnavailable: those not yielded are not applied.
        """
        for start in range(0, len(items), BATCH):
            yield from self._apply(namespace, items[start : start + BATCH])

    def _apply(self, namespace: str, items: list[Item]) -> Iterable[tuple[Applied, Outcome]]:
        try:
            yield self._transaction(namespace, items)
            return
        except (RowTooLarge, DBAPIError, AssertionError, ValueError, TypeError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"[:500]
            if len(items) == 1:
                logger.error("run %s: its %s report is refused: %s", items[0].report.run_id, items[0].report.kind, why)
                yield self._refuse(namespace, items[0], why)
                return
        # Some report spoils the batch: halve it until that one stands alone. Order is kept.
        middle = len(items) // 2
        yield from self._apply(namespace, items[:middle])
        yield from self._apply(namespace, items[middle:])

    def _transaction(self, namespace: str, items: list[Item]) -> tuple[Applied, Outcome]:
        outcome = Outcome()

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            nonlocal outcome
            outcome = Outcome()
            rules = self._rules(namespace)
            for run_id in suspended:
                if run_id in rows:  # looked at here, too: a report that is stale looks at nothing
                    workflows.stir(rows[run_id], effects, rules.now)
            for item in items:
                row = rows.get(item.run_id)
                if row is not None:
                    core.apply_report(row, item.report, item.source, rules, effects, outcome)
                elif item.report.kind in (m.STARTED, m.PROGRESS):
                    outcome.abort.append(RunKey(item.report.run_id, item.report.epoch))

        attempts = [(item.run_id, item.report.epoch) for item in items if item.report.kind == m.CRASHED]
        # What a run waits for may have come while it was being left.
        suspended = [item.run_id for item in items if item.report.kind == m.SUSPENDED]
        applied = self._store.apply(namespace, [item.run_id for item in items], decide, attempts=attempts, arrived=suspended)
        return applied, outcome

    def _refuse(self, namespace: str, item: Item, why: str) -> tuple[Applied, Outcome]:
        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = rows.get(item.run_id)
            if row is not None:
                core.fail_unwritable(row, item.report, self._rules(namespace), effects, why)

        return self._store.apply(namespace, [item.run_id], decide), Outcome()
