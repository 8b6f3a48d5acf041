"""Deploys in any order: for each change, old workers with new clients, new workers with old runs. No run fails for a deploy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploys.changes import CHANGES, GOES_ON, WAITS, Change
from tests.deploys.fleet import Fleet, Release

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "deployment.md"
_REGISTERED = "app.register_type(Purchase, formerly=['released_shop:Order'])"
FORMER = f"\n{_REGISTERED}\ndef on_start():\n    {_REGISTERED}\n"


def new_source(change: Change) -> str:
    return change.new + (FORMER if "former name" in change.name else "")


def call_of(release: Release, change: Change, *, new: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    text = change.new_call or change.call if new else change.call
    found: tuple[tuple[Any, ...], dict[str, Any]] = eval(text, vars(release.module))
    return found


def task_of(release: Release) -> str:
    return next(name for name in ("charge", "bill") if hasattr(release.module, name))


def expect(fleet: Fleet, run: str, change: Change, wanted: str, state: str, home: Release) -> None:
    """It has completed, or it waits, says why, and completes with a worker of the release that it is of."""
    if wanted == WAITS:
        assert state == "stalled", fleet.told(run)
        assert re.search(change.told, fleet.told(run))
        assert fleet.deploy(home, run) == "completed", fleet.told(run)
    assert fleet.bench.state(run) == "completed", fleet.told(run)


@pytest.mark.parametrize("change", [c for c in CHANGES if c.first], ids=lambda change: change.name)
def test_services_first(fleet: Fleet, change: Change) -> None:
    old, new = fleet.load(change.old), fleet.load(new_source(change))
    args, kwargs = call_of(new, change, new=True)
    run = fleet.enqueue(new, task_of(new), *args, **kwargs)
    expect(fleet, run, change, change.first, fleet.work(old, run), new)
    assert fleet.result(new, run) == "o"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_workers_first(fleet: Fleet, change: Change) -> None:
    old, new = fleet.load(change.old), fleet.load(new_source(change))
    args, kwargs = call_of(old, change, new=False)
    run = fleet.enqueue(old, "charge", *args, **kwargs)
    expect(fleet, run, change, change.queued, fleet.work(new, run), old)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_workflow_that_waits_goes_on_with_the_new_code(fleet: Fleet, change: Change) -> None:
    old, new = fleet.load(change.old), fleet.load(new_source(change))
    old.act()
    run = fleet.enqueue(old, "checkout", old.Order("o"))
    assert fleet.work(old, run) == "waiting", fleet.told(run)
    fleet.bench.send(run, "go")
    fleet.bench.stir()
    expect(fleet, run, change, change.waiting, fleet.work(new, run), old)


def test_there_are_enough_changes() -> None:
    assert len(CHANGES) >= 25


def test_the_guide_says_what_happens() -> None:
    """The table in the guide is this list."""
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in GUIDE.read_text().splitlines() if line[:1] == "|"
    ]
    said = {row[0]: row[1:] for row in rows if len(row) == 4 and row[1] in (GOES_ON, WAITS, "-")}
    assert said == {change.name: (change.first or "-", change.queued, change.waiting) for change in CHANGES}


def test_a_parked_run_is_not_tried_twice_by_one_worker(fleet: Fleet) -> None:
    old = fleet.load("@app.task\ndef charge(order: str) -> str:\n    return order\n")
    new = fleet.load("@app.task\ndef charge(order: str, rate: float) -> str:\n    return order\n")
    run = fleet.enqueue(new, "charge", "o", 1.5)
    assert fleet.work(old, run) == "stalled"
    assert re.search(r"released_shop\.charge.*rate|too many positional", fleet.told(run))
    assert fleet.deploy(old, run) == "stalled"
    assert fleet.bench.row(run)["epoch"] == 2, "it was dispatched once"
    fleet.bench.retry(run)
    assert fleet.work(new, run) == "completed"


ONE = "@app.task\ndef charge(order: str) -> str:\n    return order\n"
TWO = "@app.task\ndef charge(order: str, rate: float) -> str:\n    return order\n"


def test_a_run_that_was_cancelled_is_not_parked(fleet: Fleet) -> None:
    old, new = fleet.load(ONE), fleet.load(TWO)
    run = fleet.enqueue(new, "charge", "o", 1.5)
    fleet.bench.report(run, ("started", {"ms": 1}), source=old.worker)
    fleet.bench.cancel(run)
    assert fleet.work(old, run) == "cancelled"


def test_a_run_that_was_paused_is_parked_when_it_is_resumed(fleet: Fleet) -> None:
    old, new = fleet.load(ONE), fleet.load(TWO)
    run = fleet.enqueue(new, "charge", "o", 1.5)
    fleet.bench.pause(run)
    assert fleet.work(old, run) == "paused"
    fleet.bench.resume(run)
    assert fleet.work(old, run) == "stalled"
    assert fleet.deploy(new, run) == "completed"


def test_what_a_workflow_goes_on_with_as_new_is_its_own_affair(fleet: Fleet) -> None:
    """The caller saw a signature; the code that goes on as new has another, and may pass it what Python allows."""
    source = """
@app.workflow
def count(run: WorkflowRun, turn: {type}) -> str:
    run.wait_event("go")
    if turn == "last":
        return turn
    run.continue_as_new("last")
"""
    old, new = fleet.load(source.format(type="int")), fleet.load(source.format(type="float"))
    run = fleet.enqueue(old, "count", 1)
    assert fleet.work(old, run) == "waiting"
    for expected in ("queued", "waiting", "completed"):
        if fleet.bench.state(run) == "waiting":
            fleet.bench.send(run, "go")
            fleet.bench.stir()
        assert fleet.work(new, run) == expected, fleet.told(run)
