"""`python -m bench.case`: measure the one case that the environment names, in this process, and leave its figures."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
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
    config.starts.mkdir()
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
        elif contender.on_arrival:
            figures |= measure_arrivals(contender, config)
        else:
            figures |= measure_enqueue(contender, config)
            if case.kind != "enqueue":
                figures |= measure_run(contender, config)
    finally:
        contender.close()
    figures["steal_s"] = round(steal_seconds() - steal, 2)
    config.figures.write_text(json.dumps(figures))


@contextlib.contextmanager
def working(contender: Contender, config: Config) -> Iterator[list[Program]]:
    """The product's worker, which takes work by now; none if it needs none."""
    programs = []
    try:
        if not contender.in_process:
            environment = contender.worker_environment(dict(os.environ))
            worker = Program("worker", contender.worker_command(), Path(config.folder), environment)
            programs.append(worker)
            contender.await_worker(worker)
        yield programs
    finally:
        for program in programs:
            program.stop()


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
    """Start a worker on what is enqueued; time and CPU go from the first completion on, so its start is not in them. With
    workflows they go from the beginning of the first one: many may be under way before one completes."""
    folder = config.marks
    started = time.monotonic()
    with working(contender, config) as [worker]:
        wait_for(lambda: marks.under_way(config), "work to begin", worker, every=0.005)
        startup = time.monotonic() - started
        before = marks.count(folder)
        cpu = CpuClock({**contender.services(), "worker": worker.pid}, client=False)
        # Looking at all processes takes milliseconds, in which tasks complete: half of those are counted.
        uncounted = (before + marks.count(folder)) / 2
        stored_at, spent = await_completion(contender, config, worker, cpu)
    done = completed(config, worker)
    first = marks.first_begin(config.starts)
    # From one completion to another, the first does not count; from the beginning, all do.
    counted, since = (len(done), first) if first else (len(done) - 1, min(mark.at for mark in done))
    return {
        "startup_s": round(startup, 2),
        **rates(config.tasks, done, counted, since, stored_at),
        "cpu_run": per_1000(spent, len(done) - uncounted),
    }


def measure_arrivals(contender: Contender, config: Config) -> dict[str, Any]:
    """Send to a worker that is up. Time and CPU go from the first send to the last completion; the client's while it sends."""
    with working(contender, config) as [worker]:
        time.sleep(0.5)  # what the start has left to do is not to be counted
        cpu, client = CpuClock({**contender.services(), "worker": worker.pid}, client=False), CpuClock({}, client=True)
        begun = time.monotonic_ns()
        contender.enqueue(config.tasks)
        returned, sent = time.monotonic_ns(), client.read()
        stored_at, spent = await_completion(contender, config, worker, cpu)
    done = completed(config, worker)
    return {
        "enqueue_per_s": round(config.tasks / ((returned - begun) / 1e9), 1),
        **rates(config.tasks, done, len(done), begun, stored_at),
        "cpu_run": per_1000(sent | spent, len(done)),
    }


def await_completion(contender: Contender, config: Config, worker: Program, cpu: CpuClock) -> tuple[int, dict[str, float]]:
    """Wait until all is done and, where results are stored, stored. Returns when that was, or 0, and the CPU by then."""
    wait_for(lambda: marks.count(config.marks) >= config.tasks, f"{config.tasks} completions", worker)
    stored_at = 0
    if contender.stores:
        wait_for(lambda: contender.stored() >= config.tasks, f"{config.tasks} stored results", worker, every=0.01)
        stored_at = time.monotonic_ns()
    return stored_at, cpu.read()


def completed(config: Config, worker: Program) -> list[marks.Mark]:
    """All completions; raises `Failed` unless every number is among them."""
    done = marks.read(config.marks)
    distinct = len({mark.number for mark in done})
    if distinct != config.tasks:
        raise Failed(f"{config.tasks} tasks were enqueued; {distinct} different ones completed:\n{worker.log_tail()}")
    return done


def rates(tasks: int, done: Sequence[marks.Mark], counted: int, since: int, stored_at: int) -> dict[str, Any]:
    """Completions and stored results a second since a moment."""
    last = max(mark.at for mark in done)
    return {
        "completed": len(done),
        "tasks_per_s": round(counted / ((last - since) / 1e9), 1),
        "stored_per_s": round(tasks / ((stored_at - since) / 1e9), 1) if stored_at else None,
    }


def measure_trips(contender: Contender, config: Config) -> dict[str, Any]:
    """Round trips one after the other, with nothing else to do."""
    with working(contender, config):
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
    times.sort()
    return {f"p{q}_ms": round(times[min(len(times) - 1, len(times) * q // 100)], 3) for q in (50, 95, 99)}


if __name__ == "__main__":
    main()
