"""What runs logged: kept in order, once, and not more than so many."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import messages as m
from aiki.errors import RunNotFound
from aiki.lifecycle.run_logs import KEPT
from aiki.storage import Store
from tests.storage.bench import OTHER, Bench, step
from tests.storage.conftest import SetClock


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def lines(first: int, count: int, text: str = "line") -> tuple[str, dict[str, Any]]:
    return (m.LOGS, {"l": [[n, 1_000_000 + n, "info", "shop", f"{text} {n}", None] for n in range(first, first + count)]})


def kept(bench: Bench, run: str) -> list[str]:
    return [line.message for line in bench.store.run_logs(bench.text(run))]


def test_records_are_kept_in_order_and_once(bench: Bench) -> None:
    run = bench.start("a", kind="task")
    bench.report(run, lines(1, 3), lines(4, 2))
    bench.report(run, lines(3, 4))  # sent again after a gap, and one more
    assert kept(bench, run) == [f"line {n}" for n in range(1, 7)]
    found = bench.store.run_logs(bench.text(run), after=4)
    assert [line.number for line in found] == [5, 6]
    assert (found[0].level, found[0].logger, found[0].attempt, found[0].step) == ("info", "shop", 1, None)


def test_the_last_ones_are_kept(bench: Bench) -> None:
    run = bench.start("a", kind="task")
    for start in range(1, 1 + 7 * 90, 90):
        bench.report(run, lines(start, 90))
    assert kept(bench, run) == [f"line {n}" for n in range(630 - KEPT + 1, 631)]
    bench.report(run, lines(1000, 350))
    assert kept(bench, run) == [f"line {n}" for n in range(1350 - KEPT, 1350)]


def test_attempts_follow_each_other_and_stale_executors_are_not_heard(bench: Bench) -> None:
    run = bench.start("a", kind="task")
    bench.report(run, lines(1, 1), (m.RETRY, {"type": "E", "message": "", "tb": "", "delay": 0, "ms": 1, "outcome": "retried"}))
    epoch = bench.row(run)["epoch"]
    bench.report(run, (m.STARTED, {"ms": 1}), lines(1, 1, "second"))
    bench.report(run, lines(2, 1, "stale"), epoch=epoch - 1)
    bench.report(run, lines(2, 1, "stranger"), source=OTHER)
    assert kept(bench, run) == ["line 1", "second 1"]
    assert [line.attempt for line in bench.store.run_logs(bench.text(run))] == [1, 2]


def test_lines_of_several_runs_and_steps_in_one_transaction(bench: Bench) -> None:
    run = bench.start()
    record = [1, 5, "warning", "shop", "in a step", 3]
    bench.report(run, (m.STEPS, {"s": [step(0, "step")]}), (m.LOGS, {"l": [record]}))
    (found,) = bench.store.run_logs(bench.text(run))
    assert (found.step, found.level) == (3, "warning")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"l": 5},
        {"l": [5, [], [1, 2], None, [1, 2, "a", "b", "c", "x"], [-1, 2, "a", "b", "c", 0], [2**70, 2, "", "", "", 1]]},
    ],
)
def test_what_cannot_be_read_is_left_out(bench: Bench, body: dict[str, Any]) -> None:
    run = bench.start("a", kind="task")
    bench.report(run, (m.LOGS, body), (m.COMPLETED, {"ms": 1}))
    assert bench.state(run) == "completed"
    assert kept(bench, run) == []


def test_odd_texts_are_kept(bench: Bench) -> None:
    run = bench.start("a", kind="task")
    odd = "\ud800 \x00 \N{PILE OF POO} " + "x" * 10_000
    bench.report(run, (m.LOGS, {"l": [[1, 1, "ínfo", "ö" * 300, odd, None]]}))
    (found,) = bench.store.run_logs(bench.text(run))
    assert "\N{PILE OF POO}" in found.message


def test_an_unknown_run(bench: Bench) -> None:
    for odd in ("0190aaaa-bbbb-7ccc-8ddd-000000000001", "nope"):
        with pytest.raises(RunNotFound):
            bench.store.run_logs(odd)
