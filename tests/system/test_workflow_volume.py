"""Very many of everything: a wide fan-out, long histories, many sleepers."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest

from aiki import RunFailed
from aiki.states import State
from tests.scale import scaled
from tests.system.system import Process, System
from tests.waiting import wait_until


def flow(system: System, name: str) -> Any:
    return system.app("flows").definitions[f"flows.{name}"]


def rss_mib(process: Process) -> float:
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(one.memory_info().rss for one in tree) / 2**20


def test_a_wide_fan_out(system: System) -> None:
    """The parent is called a bounded number of times, and the orchestrator's memory stays flat."""
    count = scaled(1500, 10_000)
    orchestrator = system.orchestrator()
    system.worker(concurrency=2, app="flows")
    fan = flow(system, "fan")
    assert fan.enqueue(1, 100).result(timeout=60) == sum(range(100))
    before = rss_mib(orchestrator)
    begun = time.monotonic()
    handle = fan.enqueue(2, count)
    slowest = 0.0
    while not handle.done():
        asked = time.monotonic()
        system.states()
        slowest = max(slowest, time.monotonic() - asked)
        assert time.monotonic() - begun < 300, system.tails()
    assert handle.result(timeout=10) == sum(range(count))
    took = time.monotonic() - begun
    calls = sum(1 for mark in system.marks() if mark.kind == "called" and mark.what == "2")
    grown = rss_mib(orchestrator) - before
    print(
        f"{count:,} in {took:.1f} s, {calls} calls of the parent, orchestrator +{grown:.0f} MiB, slowest query {slowest:.2f} s"
    )
    assert calls <= 4
    assert grown < 200
    assert slowest < 3


def test_each_new_inline_step_costs_no_more_than_the_first(system: System) -> None:
    count = scaled(2000, 10_000)
    system.orchestrator()
    system.worker(concurrency=1, app="flows")
    assert flow(system, "inline").enqueue(1, count).result(timeout=280) == count
    times = {int(mark.what.split(".")[1]): mark.at for mark in system.marks() if mark.kind == "start"}
    tenth = count // 10
    spans = [times[(part + 1) * tenth - 1] - times[part * tenth] for part in range(10)]
    print("ms a step, by tenths of the history:", " ".join(f"{span / tenth * 1000:.2f}" for span in spans))
    assert min(spans[-3:]) < 2.5 * min(spans[:3])


def test_the_limit_of_a_history_is_told_and_a_loop_goes_beyond_it(embedded_system: System) -> None:
    system = embedded_system
    system.env["AIKI_HISTORY_STEPS"] = "50"
    system.orchestrator()
    system.worker(concurrency=1, app="flows")
    with pytest.raises(RunFailed, match="the history of this run has 50 steps") as caught:
        flow(system, "inline").enqueue(1, 60).result(timeout=60)
    assert "continue_as_new" in caught.value.error_message
    assert flow(system, "looping").enqueue(2, 40).result(timeout=60) == 40


def test_many_sleepers_hold_nothing_and_start_on_time(system: System) -> None:
    many, due = scaled(3000, 100_000), scaled(200, 1000)
    system.orchestrator()
    worker = system.worker(concurrency=2, app="flows")
    sleeper = flow(system, "sleeper")
    sleeper.enqueue_many([(i, 86400.0) for i in range(100)])
    wait_until(lambda: system.states()[State.WAITING] >= 100, 60, "the first to sleep")
    before = rss_mib(worker)
    for start in range(100, many, 20_000):
        sleeper.enqueue_many([(i, 86400.0) for i in range(start, min(many, start + 20_000))])
    wait_until(lambda: system.states()[State.WAITING] >= many, 400, f"all to sleep\n{system.tails()}")
    grown = rss_mib(worker) - before
    at = time.time() + scaled(6.0, 25.0)
    handles = flow(system, "until").enqueue_many([(10_000_000 + i, at) for i in range(due)])
    wait_until(lambda: system.states()[State.WAITING] >= many + due, 60, "the others to sleep")
    assert time.time() < at, "they slept too late to be due at once"
    wait_until(lambda: sum(1 for mark in system.marks() if mark.kind == "awake") >= due, 90, f"them to wake\n{system.tails()}")
    late = max(mark.at for mark in system.marks() if mark.kind == "awake") - at
    print(f"{many:,} sleepers: worker +{grown:.0f} MiB; {due:,} due at once were all awake after {late:.1f} s")
    assert grown < 60
    assert late < 5
    for handle in handles[:20]:
        assert handle.result(timeout=30) is None
    assert system.states()[State.WAITING] >= many
