"""`python -m bench.case`: measure the one case that the environment names, in this process, and leave its figures."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bench import marks
from bench.cases import BY_NAME
from bench.config import Config, current
from bench.contender import Contender
from bench.cpu import CpuClock, per_1000, steal_seconds
from bench.program import Failed, Program, wait_for

WARM_TRIPS: Final = 10


def main() -> None:
    """Measure and write the figures."""
    config = current()
    config.marks.mkdir()
    case = BY_NAME[config.case]
    if case.kind == "flows":
        config = replace(config, tasks=config.flows)
    contender = case.contender(config)
    steal = steal_seconds()
    figures: dict[str, Any] = {"load": round(os.getloadavg()[0], 2)}
    contender.prepare()
    try:
        if case.kind == "latency":
            figures |= measure_trips(contender, config)
        else:
            figures |= measure_enqueue(contender, config)
        if case.kind in ("throughput", "flows"):
            figures |= measure_run(contender, config)
    finally:
        contender.close()
    figures["steal_s"] = round(steal_seconds() - steal, 2)
    config.figures.write_text(json.dumps(figures))


def start_worker(contender: Contender, config: Config) -> Program:
    """The product's worker."""
    return Program("worker", contender.worker_command(), Path(config.folder), contender.worker_environment(dict(os.environ)))


def measure_enqueue(contender: Contender, config: Config) -> dict[str, Any]:
    """Enqueue all tasks. The clock stops when the last call returns; the CPU is counted until the broker holds all."""
    tasks = config.tasks
    cpu = CpuClock(contender.services(), client=True)
    begun = time.monotonic()
    contender.enqueue(tasks)
    returned = time.monotonic()
    wait_for(lambda: contender.in_broker(tasks), "the broker to hold all tasks")
    held = time.monotonic()
    return {
        "enqueue_per_s": round(tasks / (returned - begun), 1),
        "in_broker_per_s": round(tasks / (held - begun), 1),
        "cpu_enqueue": per_1000(cpu.read(), tasks),
    }


def measure_run(contender: Contender, config: Config) -> dict[str, Any]:
    """Start a worker on what is enqueued; time and CPU go from the first completion on, so its start is not in them."""
    tasks, folder = config.tasks, config.marks
    started = time.monotonic()
    worker = start_worker(contender, config)
    try:
        wait_for(lambda: marks.count(folder) > 0, "the first completion", worker, every=0.005)
        startup = time.monotonic() - started
        before = marks.count(folder)
        cpu = CpuClock({**contender.services(), "worker": worker.pid}, client=False)
        # Looking at all processes takes milliseconds, in which tasks complete: half of those are counted.
        uncounted = (before + marks.count(folder)) / 2
        wait_for(lambda: marks.count(folder) >= tasks, f"{tasks} completions", worker)
        stored_at = 0
        if contender.stores:
            wait_for(lambda: contender.stored() >= tasks, f"{tasks} stored results", worker, every=0.01)
            stored_at = time.monotonic_ns()
        spent = cpu.read()
        done = marks.read(folder)
    finally:
        worker.stop()
    distinct = len({mark.number for mark in done})
    if distinct != tasks:
        raise Failed(f"{tasks} tasks were enqueued; {distinct} different ones completed:\n{worker.log_tail()}")
    first, last = min(mark.at for mark in done), max(mark.at for mark in done)
    return {
        "startup_s": round(startup, 2),
        "completed": len(done),
        "tasks_per_s": round((len(done) - 1) / ((last - first) / 1e9), 1),
        "stored_per_s": round(tasks / ((stored_at - first) / 1e9), 1) if stored_at else None,
        "cpu_run": per_1000(spent, len(done) - uncounted),
    }


def measure_trips(contender: Contender, config: Config) -> dict[str, Any]:
    """Round trips one after the other, with nothing else to do."""
    worker = start_worker(contender, config)
    try:
        trip = contender.round_trip()
        for number in range(WARM_TRIPS):
            trip(number)
        time.sleep(0.5)
        times = []
        for number in range(config.trips):
            begun = time.perf_counter()
            result = trip(number)
            times.append((time.perf_counter() - begun) * 1e3)
            if result != {"n": number}:
                raise Failed(f"task {number} returned {result!r}")
    finally:
        worker.stop()
    times.sort()
    return {f"p{q}_ms": round(times[min(len(times) - 1, len(times) * q // 100)], 3) for q in (50, 95, 99)}


if __name__ == "__main__":
    main()
