"""Many delayed runs cost nothing but rows; a worker's memory does not grow with the tasks it has executed."""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Callable

import psutil

from aiki.model import RunFilter
from aiki.states import State
from tests.scale import scaled
from tests.system.system import System, Worker
from tests.waiting import wait_until

DELAYED = scaled(20_000, 100_000)
TASKS = scaled(20_000, 200_000)
WARM_UP = scaled(10_000, 80_000)
"""Tasks until allocators, caches and bounded tables are full: memory rises by some 3 MiB before it stays."""
MAX_SLOPE = scaled(250, 10)
"""Bytes a task. One object kept for each task would be some 500."""


def memory(worker: Worker) -> int:
    """Bytes of memory of a worker and all its processes: what is private to them, and their share of the rest."""
    tree = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in tree)


def timed(system: System, runs: int) -> float:
    """Seconds that so many immediate tasks take."""
    ended = system.states().get(State.COMPLETED, 0)
    begun = time.monotonic()
    system.app().definitions["shop.noop"].enqueue_many([(i,) for i in range(runs)])
    wait_until(lambda: system.states().get(State.COMPLETED, 0) >= ended + runs, 300, f"{runs} tasks\n{system.tails()}")
    return time.monotonic() - begun


def slowest_page(system: System, look: Callable[[RunFilter], object]) -> float:
    """Seconds that the slowest kind of list takes, the best of three tries each."""
    newest = system.store.list_runs(RunFilter(), limit=1).runs[0]
    filters = [
        RunFilter(),
        RunFilter(states=(State.SCHEDULED,)),
        RunFilter(states=tuple(State)),
        RunFilter(name=newest.name),
        RunFilter(name=newest.name, states=(State.SCHEDULED,)),
        RunFilter(states=(State.FAILED,)),
    ]
    worst = 0.0
    for where in filters:
        took = []
        for _ in range(3):
            begun = time.monotonic()
            look(where)
            took.append(time.monotonic() - begun)
        worst = max(worst, min(took))
    return worst


def test_many_delayed_runs_slow_nothing_down(system: System, free_port: Callable[[], int]) -> None:
    system.orchestrator()
    worker = system.worker()
    port = free_port()
    server = system.server(port)
    tasks = system.app().definitions
    timed(system, 1000)  # everybody is warm
    before = statistics.median(timed(system, 2000) for _ in range(3))
    memory_before = memory(worker)

    begun = time.monotonic()
    tasks["shop.noop"].options(countdown=3600).enqueue_many([(i,) for i in range(DELAYED)])
    enqueued = time.monotonic() - begun
    after = statistics.median(timed(system, 2000) for _ in range(3))
    grown = memory(worker) - memory_before
    page = slowest_page(system, lambda where: system.store.list_runs(where, limit=50))

    def get(where: RunFilter) -> None:
        query = "&".join([f"state={state.value}" for state in where.states] + ([f"name={where.name}"] if where.name else []))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/runs?limit=50&{query}", timeout=10) as answer:
            assert "runs" in json.load(answer)

    wait_until(lambda: "Listening at" in server.log or "listening" in server.log.lower(), 30, f"the server\n{server.log}")
    api_page = slowest_page(system, get)
    print(
        f"\n{DELAYED:,} delayed in {enqueued:.1f} s; 2,000 tasks took {before:.2f} s before and {after:.2f} s beside them; "
        f"worker {grown / 1024:+,.0f} KiB; list page {page * 1000:.0f} ms, over HTTP {api_page * 1000:.0f} ms"
    )
    assert system.states()[State.SCHEDULED] == DELAYED
    assert grown < 8 << 20
    assert after < before * 2 + 0.5
    assert page < 0.2
    assert api_page < 0.4  # 0.2 are meant; this machine is shared


def test_memory_does_not_grow_with_the_tasks_executed(system: System) -> None:
    system.orchestrator()
    worker = system.worker()
    timed(system, WARM_UP)
    points = [(0, memory(worker))]
    for part in range(1, 5):
        timed(system, TASKS // 4)
        points.append((part * TASKS // 4, memory(worker)))
    slope = statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
    told = ", ".join(f"{y / 2**20:.2f}" for _, y in points)
    print(f"\nworker: {told} MiB, {slope:+.1f} bytes a task over {TASKS:,} tasks")
    assert slope < MAX_SLOPE
    assert not [child for child in worker.children() if child.status() == psutil.STATUS_ZOMBIE]
