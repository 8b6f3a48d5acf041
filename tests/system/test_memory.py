"""How much memory an orchestrator takes, whatever waits for it. With AIKI_TEST_FULL=1 as much as is promised."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from aiki.broker import open_broker, reports, work
from aiki.history import Wait
from aiki.messages import Report, ReportList
from aiki.owning import owned_broker
from aiki.states import State
from aiki.storage import open_store
from tests.scale import FULL
from tests.storage.bench import Bench, step
from tests.storage.conftest import SetClock
from tests.system.system import Process, System
from tests.waiting import wait_until

PROMISED_MIB = 300
BACK_WITHIN_MIB = 30
"""How far a worker may be above what it took when it was idle, once workflows that held much have suspended."""


def peak_mib(process: Process) -> float:
    """The most that a process has had in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def rss_mib(process: Process) -> float:
    """What a process and its children have in memory, each by itself."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(one.memory_info().rss for one in tree) / 2**20


def check_peak(process: Process) -> None:
    """At most what is promised; tells how much it was."""
    found = peak_mib(process)
    print(f"peak of {process.name}: {found:.0f} MiB")
    assert found < PROMISED_MIB


def test_workflows_with_long_histories_that_go_on_together(embedded_system: System) -> None:
    """300 of 1 MB each: they are loaded and sent part by part."""
    count = 300 if FULL else 120
    clock = SetClock()
    clock.now = time.time_ns() // 1000
    bench = Bench(open_store(embedded_system.settings, clock=clock), clock)
    for _ in range(count):
        run = bench.start()
        results = [step(n, "step", "large", "completed", 1, e="json", r=f'"{"x" * 50_000}"') for n in range(20)]
        bench.suspend(run, Wait("sleep", 20, 20, "nap", None, 0.0001), steps=(*results, step(20, "sleep", "nap")))
        bench.out.clear()
    orchestrator = embedded_system.orchestrator()
    session = open_broker(embedded_system.settings.broker_url, prefix=embedded_system.settings.prefix).connect("test")

    def sent() -> bool:
        depth = session.depth(work("default", "default"))
        return depth is not None and depth.ready >= count

    wait_until(sent, 120, f"all to be dispatched\n{embedded_system.tails()}")
    session.close()
    check_peak(orchestrator)


def test_large_results_that_wait_for_an_orchestrator(embedded_system: System) -> None:
    """1,000 of 5 MB each: they are taken and recorded part by part."""
    count = 1000 if FULL else 80
    clock = SetClock()
    clock.now = time.time_ns() // 1000
    bench = Bench(open_store(embedded_system.settings, clock=clock), clock)
    session = owned_broker(embedded_system.settings, bench.store)[0].connect("test")
    for number in range(count):
        run = bench.start("shop.task", kind="task")
        body = {"ms": 1, "e": "json", "r": f'"{"x" * 5_000_000}"'}
        partition = bench.out.pop(run).partition
        report = Report("completed", run, 1, body)
        session.send(reports(partition), ReportList("default", "a" * 32, f"{'a' * 32}/0.{number}", [report]).encode())
        session.settled()
    session.close()
    orchestrator = embedded_system.orchestrator()
    embedded_system.wait_states(600 if FULL else 120, completed=count)
    check_peak(orchestrator)


def test_very_many_cancels_at_once(embedded_system: System) -> None:
    """1,000,000 revocations: they are told to the workers, and to one that says hello, part by part."""
    count = 1_000_000 if FULL else 50_000
    store = embedded_system.store
    columns = ("namespace", "run_id", "epoch", "created_at", "announced", "interrupt", "queue", "marker")
    began = time.time_ns() // 1000 - 10_000_000
    for first in range(0, count, 10_000):
        rows = [("default", number.to_bytes(16), 1, began, 0, 0, "default", -1) for number in range(first, first + 10_000)]
        store.db.transaction(lambda connection, rows=rows: store.db.insert(connection, "aiki_revocations", columns, rows))
    orchestrator = embedded_system.orchestrator()
    worker = embedded_system.worker(ready=False)
    wait_until(lambda: "orchestrator knows this worker" in worker.log, 1200 if FULL else 120, "the worker to be told")
    wait_until(lambda: not store.unannounced(began + 1), 1200 if FULL else 120, "all to be told")
    check_peak(orchestrator)
    check_peak(worker)


def test_very_many_namespaces(embedded_system: System) -> None:
    """1,000 in which something is defined and nothing is done, beside one with a worker."""
    store = embedded_system.store
    columns = ("namespace", "name", "version", "kind", "options", "registered_at")
    rows = [(f"n{number}", "a", "1", "task", "{}", 0) for number in range(1000)]
    store.db.transaction(lambda connection: store.db.insert(connection, "aiki_definitions", columns, rows))
    orchestrator = embedded_system.orchestrator()
    embedded_system.worker()  # returns when it may begin: the orchestrator has told all namespaces that it listens
    check_peak(orchestrator)


def test_what_suspended_workflows_held_is_given_back(embedded_system: System) -> None:
    """100 of 50 MB each: the worker is as small as before the first of them."""
    count, size = (100, 50_000_000) if FULL else (12, 20_000_000)
    embedded_system.orchestrator()
    worker = embedded_system.worker(concurrency=2, app="flows")
    idle = rss_mib(worker)
    embedded_system.app("flows").definitions["flows.heavy"].enqueue_many([(i, size) for i in range(count)])
    wait_until(lambda: embedded_system.states()[State.WAITING] >= count, 600 if FULL else 60, "all to sleep")
    wait_until(lambda: rss_mib(worker) < idle + BACK_WITHIN_MIB, 10, f"{idle:.0f} MiB, and now {rss_mib(worker):.0f}")
    print(f"idle {idle:.0f} MiB, then {rss_mib(worker):.0f}")
