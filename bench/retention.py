"""`python -m bench.retention`: what retention costs those who wait for results.

Round trips (enqueue to result) on RabbitMQ and MariaDB over a database of 220,000 ended runs: before, and while almost all of
them are deleted. Tells the percentiles of both, and how many runs were deleted in a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import seed
from tests.services import MariaServer, RabbitServer
from tests.system.system import System


def main() -> int:
    """Measure; 1 if the database was not emptied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=220_000)
    parser.add_argument("--trips", type=int, default=500)
    options = parser.parse_args()
    with MariaServer() as maria, RabbitServer() as rabbit, tempfile.TemporaryDirectory() as folder:
        url = maria.create_database()
        sys.argv = ["seed", "--url", url, "--runs", str(options.runs)]
        seed.main()
        system = System(Path(folder), url, rabbit.url)
        try:
            return measure(system, options.trips)
        finally:
            system.close()


def measure(system: System, trips: int) -> int:
    """Both halves, and what they come to."""
    noop = system.app().definitions["shop.noop"]
    orchestrator = system.orchestrator()
    system.worker(concurrency=2)

    def trip() -> float:
        began = time.perf_counter()
        noop.enqueue(1).result(timeout=60)
        return (time.perf_counter() - began) * 1000

    for _ in range(50):
        trip()
    print("before:          ", told([trip() for _ in range(trips)]), flush=True)
    orchestrator.stop()
    system.env["AIKI_RETENTION"] = "60m"
    before, began = count(system), time.monotonic()
    system.orchestrator()
    for _ in range(50):
        trip()
    taken = []
    while len(taken) < trips or (count_soon(system, before) and time.monotonic() - began < 900):
        taken += [trip() for _ in range(50)]
    seconds = time.monotonic() - began
    gone = before - count(system)
    print("while deleting:  ", told(taken), flush=True)
    print(f"deleted {gone:,} of {before:,} runs in {seconds:.0f} s: {gone / seconds:,.0f} a second, beside {len(taken)} trips")
    return 0 if gone > before * 0.8 else 1


def count(system: System) -> int:
    """Runs that the seed has made and that are there."""
    return int(system.rows("SELECT COUNT(*) FROM aiki_runs WHERE name <> 'shop.noop' AND finished_at IS NOT NULL")[0][0])


_last: list[tuple[float, int]] = []


def count_soon(system: System, before: int) -> bool:
    """Whether something was deleted in the last ten seconds; looked at rarely, for counting is not free."""
    now = time.monotonic()
    if not _last or now - _last[-1][0] > 10:
        _last.append((now, count(system)))
    return len(_last) < 3 or _last[-1][1] < _last[-2][1] or _last[-1][1] == before


def told(times: list[float]) -> str:
    """Percentiles of milliseconds."""
    ordered = sorted(times)
    at: Callable[[float], float] = lambda share: ordered[min(len(ordered) - 1, int(share * len(ordered)))]  # noqa: E731
    return f"{len(times)} trips, p50 {at(0.5):.1f} ms, p95 {at(0.95):.1f} ms, p99 {at(0.99):.1f} ms, max {ordered[-1]:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
