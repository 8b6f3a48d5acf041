"""A batch of reports, applied in their order to the runs that they are about: one decision on many locked rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiki import messages as m
from aiki.clock import Clock
from aiki.lifecycle import reports, workflows
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.reports import Outcome, Rules, Source
from aiki.messages import Report, RunKey

_TELLING: Final = frozenset({m.COMPLETED, m.FAILED, m.RETRY, m.CRASHED, m.CANCELLED, m.SUSPENDED, m.CONTINUED})
"""Reports of what was done. Of a run that is not on record they are kept for people; all others are passed over."""


@dataclass(slots=True)
class Item:
    """One report with who sent it, in the order received."""

    report: Report
    source: Source
    run_id: bytes
    wrong: str = ""
    """The defect of its body, for which its run fails."""
    size: int = 0
    """About how many bytes it takes, as its share of its message."""


class Batch:
    """The decision about reports. It may be called several times, each time with fresh rows, and keeps what the last one found.

    :param rules: the world as it is when the transaction begins; its time is asked of `clock` once the rows are locked.
    :ivar outcome: what the reports ask for beside writes.
    :ivar strays: reports of what was done for runs that are not on record.
    """

    def __init__(self, items: Sequence[Item], rules: Rules, clock: Clock) -> None:
        self._items = items
        self._rules = rules
        self._clock = clock
        self.outcome = Outcome()
        self.strays: list[Report] = []

    @property
    def run_ids(self) -> list[bytes]:
        """The runs that the reports are about."""
        return [item.run_id for item in self._items]

    @property
    def crashes(self) -> list[tuple[bytes, int]]:
        """The executions (run, epoch) that are said to have crashed: each is charged once."""
        return [(item.run_id, item.report.epoch) for item in self._items if item.report.kind == m.CRASHED]

    @property
    def suspended(self) -> list[bytes]:
        """The runs that were left: what they wait for may have come meanwhile."""
        return [item.run_id for item in self._items if item.report.kind == m.SUSPENDED]

    def __call__(self, rows: dict[bytes, RunRow], effects: Effects) -> None:
        """Apply the reports to the locked rows of their runs."""
        self.outcome = outcome = Outcome()
        self.strays = []
        rules = self._rules._replace(now=self._clock())
        for run_id in self.suspended:
            if run_id in rows:  # looked at here, too: a report that is stale looks at nothing
                workflows.stir(rows[run_id], effects, rules.now)
        for item in self._items:
            row = rows.get(item.run_id)
            if row is None:
                self._of_no_run(item, effects)
            elif item.wrong:
                reports.fail_unwritable(row, item.report, rules, effects, item.wrong, item.source)
            else:
                reports.apply_report(row, item.report, item.source, rules, effects, outcome)

    def _of_no_run(self, item: Item, effects: Effects) -> None:
        report = item.report
        if item.wrong:
            return
        if report.kind == m.DROPPED:
            effects.unrevoke.append((item.run_id, report.epoch))  # the run is deleted, its revocation was not
        elif report.kind in _TELLING:
            self.strays.append(report)
        elif report.kind in (m.STARTED, m.PROGRESS):
            self.outcome.abort.append(RunKey(report.run_id, report.epoch))
