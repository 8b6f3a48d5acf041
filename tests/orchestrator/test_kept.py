"""Which reports wait for company, and for how long."""

from __future__ import annotations

from aiki import messages as m
from aiki.broker import Delivery, reports
from aiki.messages import Report, ReportList
from aiki.orchestrator.inbound import ENOUGH, GATHER, GATHER_BUSY, LINGER, NAP, Kept

STEPS = Report(m.STEPS, "a" * 32, 1, {"s": []})
ENDED = Report(m.COMPLETED, "a" * 32, 1, {"ms": 1, "n": 3})
TASK = Report(m.COMPLETED, "b" * 32, 1, {"ms": 1})


def add(kept: Kept, now: float, *what: Report, executor: str = "one") -> None:
    kept.add(Delivery(reports(0), b"", False, 1), ReportList("default", "w", executor, list(what)), now)


def due(kept: Kept, now: float) -> int:
    return len(kept.due(now))


def test_steps_wait_for_company() -> None:
    kept = Kept()
    add(kept, 1.0, STEPS)
    assert due(kept, 1.0 + LINGER / 2) == 0
    add(kept, 1.0 + LINGER / 2, STEPS)
    assert kept.wait(1.0 + LINGER / 2, 5.0) <= LINGER / 2 + 1e-9
    assert due(kept, 1.0 + LINGER + 1e-9) == 2


def test_a_tasks_report_takes_all_with_it_at_once() -> None:
    kept = Kept()
    add(kept, 1.0, STEPS)
    add(kept, 1.0, TASK, executor="two")
    assert kept.nap(1.0) == 0.0
    assert due(kept, 1.0) == 2


def test_what_ends_a_workflow_is_applied_at_once_unless_others_just_were() -> None:
    kept = Kept()
    add(kept, 1.0, ENDED)
    assert due(kept, 1.0) == 1
    add(kept, 1.001, ENDED)
    assert due(kept, 1.001) == 0
    assert due(kept, 1.0 + GATHER + 1e-9) == 1


def test_several_executors_gather_for_longer_and_are_not_looked_at_meanwhile() -> None:
    kept = Kept()
    add(kept, 1.0, STEPS, executor="one")
    assert kept.nap(1.0) == 0.0
    add(kept, 1.0, ENDED, executor="two")
    assert due(kept, 1.0) == 2
    add(kept, 1.001, ENDED, executor="one")
    assert kept.nap(1.001) == NAP
    assert due(kept, 1.0 + GATHER + 1e-9) == 0
    assert due(kept, 1.0 + GATHER_BUSY + 1e-9) == 1
    add(kept, 2.0, STEPS, executor="one")
    assert kept.nap(2.0) == 0.0  # one alone again: its client may be waiting


def test_enough_is_enough() -> None:
    kept = Kept()
    for _ in range(ENOUGH):
        assert due(kept, 1.0) == 0
        add(kept, 1.0, STEPS)
    assert due(kept, 1.0) == ENOUGH
