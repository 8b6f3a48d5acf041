"""`python -m bench.lists`: how long lists, filters, counts and the overview take at a million runs, while others go through.

It starts a RabbitMQ and a MariaDB, seeds them (`bench.seed`), has so many runs a second recorded, executed and reported by an
orchestrator and a worker, and meanwhile asks the API's app in this process, in turn, for every kind of page. The time is the
server's: from the request to the answer's last byte, without a socket. Afterwards each statement's plan is looked at.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.config import ROOT
from bench.program import Program
from bench.runner import say
from tests.services import MariaServer, RabbitServer

PAGES: Final = (
    ("newest", "/runs"),
    ("status:failed", "/runs?q=status:failed"),
    ("status:failed,dead", "/runs?q=status:failed,dead"),
    ("-status:completed", "/runs?q=-status:completed"),
    ("name", "/runs?q=name:mail.send"),
    ("name, rare", "/runs?q=name:stock.render"),
    ("name:mail*", "/runs?q=name:mail*"),
    ("name:*end*", "/runs?q=name:*end*"),
    ("name and status", "/runs?q=name:mail.sync+status:failed"),
    ("name and status, rare", "/runs?q=name:stock.render+status:dead"),
    ("queue", "/runs?q=queue:slow"),
    ("queue and status", "/runs?q=queue:slow+status:failed"),
    ("since:1h", "/runs?q=since:1h"),
    ("a day, failed", "/runs?q=status:failed+created:>3d+created:<2d"),
    ("kind:workflow", "/runs?q=kind:workflow"),
    ("error", "/runs?q=error:PaymentDeclined"),
    ("error, status", "/runs?q=status:failed+-error:Timeout*"),
    ("message", "/runs?q=status:failed+message:*host-7*"),
    ("attempt, duration", "/runs?q=attempt:>3+duration:>1m"),
    ("reference", "/runs?q=reference:o-400"),
    ("reference:o-40*", "/runs?q=reference:o-400*"),
    ("free text", "/runs?q=declined"),
    ("free text, nothing", "/runs?q=nowhere"),
    ("args", "/runs?q=args.order_id:77"),
    ("args and status", "/runs?q=status:failed+args.customer.id:42"),
    ("args, nothing", "/runs?q=args.order_id:nothing"),
    ("parent", "/runs?q=parent:{parent}"),
    ("id", "/runs?q=id:{run}"),
    ("worker", "/runs?q=worker:bench*+status:completed"),
    ("page 20", "/runs?after={deep}"),
    ("count", "/runs/count"),
    ("count, failed", "/runs/count?q=status:failed"),
    ("count, error", "/runs/count?q=error:PaymentDeclined"),
    ("count, args", "/runs/count?q=args.order_id:77"),
    ("overview, 1 h", "/statistics?since=1h"),
    ("overview, 24 h", "/statistics?since=24h"),
    ("overview, 7 d", "/statistics?since=7d"),
    ("overview, 30 d", "/statistics?since=30d"),
    ("attention", "/attention"),
    ("queues", "/queues"),
    ("run, with payloads", "/runs/{run}/detail"),
)
GOAL: Final = 200.0


def main() -> int:
    """Measure; the exit code is 1 if a p95 is over the goal or a plan reads a table whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000, help="runs in the database")
    parser.add_argument("--rate", type=int, default=500, help="runs a second that go through meanwhile; 0: none")
    parser.add_argument("--rounds", type=int, default=40, help="how often each page is asked for")
    parser.add_argument("--load", metavar="RATE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        return load(int(options.load))
    with (
        RabbitServer() as rabbit,
        MariaServer(["--innodb-buffer-pool-size=1G"]) as maria,
        tempfile.TemporaryDirectory(prefix="aiki-lists-") as folder,
    ):
        url = maria.create_database("lists")
        try:
            begun = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "bench.seed", "--url", url, "--runs", str(options.runs)], check=True, cwd=ROOT
            )
            say(f"seeded in {time.monotonic() - begun:.0f} s")
            environment = {**os.environ, "AIKI_DATABASE_URL": url, "AIKI_BROKER_URL": rabbit.url, "AIKI_PREFIX": "lists"}
            return measure(environment, Path(folder), options)
        finally:
            maria.drop_database(url)


def load(rate: int) -> int:
    """Record so many runs a second until this process is ended."""
    from bench.listed import tick

    begun, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - begun) * rate) - done
        if due >= 25:
            tick.enqueue_many([(number, "x" * 20) for number in range(done, done + due)])
            done += due
        time.sleep(0.02)


@contextmanager
def traffic(environment: dict[str, str], folder: Path, rate: int) -> Iterator[None]:
    """An orchestrator, a worker and somebody who enqueues."""
    commands = {
        "orchestrator": [sys.executable, "-m", "aiki", "orchestrator", "-l", "warning"],
        "worker": [*(sys.executable, "-m", "aiki", "worker", "-A", "bench.listed"), "-c", "2", "-n", "bench", "-l", "warning"],
        "load": [sys.executable, "-m", "bench.lists", "--load", str(rate)],
    }
    started: list[Program] = []
    try:
        for name, command in commands.items() if rate else ():
            started.append(Program(name, command, folder, {**environment, "PYTHONPATH": str(ROOT)}))
        time.sleep(5 if rate else 0)
        yield
        for program in started:
            program.check()
    finally:
        for program in reversed(started):
            program.stop()


def measure(environment: dict[str, str], folder: Path, options: argparse.Namespace) -> int:
    """Ask for all pages, in turn, and print a table."""
    from aiki.api import create_app
    from aiki.api.app import backend_of
    from aiki.settings import Settings
    from tests.storage.plans import planned

    app = create_app(Settings.load(environment))
    store, http = backend_of(app).store, app.test_client()
    names = known(http)
    times: dict[str, list[float]] = {name: [] for name, _ in PAGES}
    with planned(store) as plans, traffic(environment, folder, options.rate):
        before, begun = ended(store), time.monotonic()
        for number in range(options.rounds + 1):
            for name, path in PAGES:
                since = time.perf_counter()
                answer = http.get("/api/v1" + path.format(**names))
                assert answer.status_code == 200, (path, answer.text)
                if number:  # the first is to warm up
                    times[name].append((time.perf_counter() - since) * 1000)
        rate = (ended(store) - before) / (time.monotonic() - begun)
    over = print_table(times, rate)
    faults = plans.faults()
    print(f"\n{len(plans.statements)} statements, {len(faults)} of which read or sort a table whole", *faults, sep="\n")
    return 1 if over or faults else 0


def known(http: Any) -> dict[str, str]:
    """A run, a parent and the token of a deep page."""
    child = http.get("/api/v1/runs?q=parent:*+name:mail*&limit=1").json["runs"][0]
    page = http.get("/api/v1/runs?limit=200").json
    for _ in range(4):
        page = http.get(f"/api/v1/runs?limit=200&after={page['next']}").json
    return {"run": child["id"], "parent": child["parent_id"], "deep": page["next"]}


def ended(store: Any) -> int:
    """How many of the load's runs have ended."""
    sql = "SELECT COUNT(*) FROM aiki_runs WHERE namespace = ? AND name = 'bench.listed.tick' AND finished_at IS NOT NULL"
    return int(store.db.read(lambda connection: store.db.execute(connection, sql, (store.namespace,)).fetchone()[0]))


def print_table(times: dict[str, list[float]], rate: float) -> int:
    """How many pages are over the goal."""
    print(f"{rate:.0f} runs a second ended meanwhile\n\n| page | p50 ms | p95 ms | most |\n|---|---|---|---|")
    over = 0
    for name, taken in times.items():
        taken.sort()
        p95 = taken[min(len(taken) - 1, int(len(taken) * 0.95))]
        over += p95 > GOAL
        print(f"| {name} | {statistics.median(taken):.0f} | {p95:.0f} | {taken[-1]:.0f} |")
    return over


if __name__ == "__main__":
    sys.exit(main())
