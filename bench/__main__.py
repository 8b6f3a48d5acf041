"""`python -m bench`: measure and print tables; see README.md."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib.metadata
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from bench.broker import Broker
from bench.cases import BY_NAME, CASES, Case
from bench.config import CHILDREN, ROOT
from bench.goals import GOALS
from bench.provision import provide
from bench.report import render
from bench.runner import Outcome, Runner, say
from tests.postgres import PostgresServer
from tests.provision import NoServer
from tests.services import MariaServer, RabbitServer, servers

PACKAGES: Final = ("aiki", "celery", "dramatiq", "kombu", "amqp", "pika", "sqlalchemy", "pymysql", "dbos", "restate-sdk")


def main() -> int:
    """Measure; the exit code is 1 if a case failed. A goal that is missed is no failure."""
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    chosen, notes = choose(options)
    outcomes: list[Outcome] = []
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer()) if any(case.product == "dbos" for case in chosen) else None
        rabbit, maria = stack.enter_context(servers())
        about = describe(options, rabbit, maria, postgres)
        runner = Runner(rabbit, maria, postgres, options.tasks, options.trips, options.flows)
        say(f"{len(chosen)} cases, {options.rounds} rounds, {options.tasks:,} tasks, {CHILDREN} children")
        for outcome in runner.run(chosen, options.rounds):
            outcomes.append(outcome)
            if outcome.failure:
                notes[outcome.case] = f"failed in round {outcome.round + 1}"
    rounds = {case.name: [outcome.figures or None for outcome in outcomes if outcome.case == case.name] for case in chosen}
    goals = [{"goal": str(goal), "target": goal.bound, "values": goal.values(rounds)} for goal in GOALS]
    file = save(options.results, {"about": about, "rounds": [asdict(outcome) for outcome in outcomes], "goals": goals})
    print(render(rounds, notes))
    print(f"\n{'; '.join(f'{key} {value}' for key, value in about['versions'].items())}; {about['cpus']} CPUs\n{file}")
    if options.quick:
        print("A smoke run: that it ends is all that it tells.")
    return 1 if any(outcome.failure for outcome in outcomes) else 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Aiki and the incumbents on the same servers.")
    parser.add_argument("--tasks", type=positive, help="tasks of each throughput case (5000)")
    parser.add_argument("--rounds", type=positive, help="how often each case is measured (3)")
    parser.add_argument("--trips", type=positive, help="round trips of each latency case (300)")
    parser.add_argument("--flows", type=positive, help="workflows of each case of workflows (500)")
    parser.add_argument("--only", default="", metavar="CASE[,CASE]", help=f"of {', '.join(BY_NAME)}")
    parser.add_argument("--no-peers", action="store_true", help="Aiki alone")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 200 tasks, 20 trips, 50 workflows, one round")
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results", metavar="DIR", help="where the JSON goes")
    options = parser.parse_args(arguments)
    defaults = {"tasks": 5000, "rounds": 3, "trips": 300, "flows": 500}
    if options.quick:
        defaults = {"tasks": 200, "rounds": 1, "trips": 20, "flows": 50}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.only = [name.strip() for name in options.only.split(",") if name.strip()]
    for name in options.only:
        if name not in BY_NAME:
            parser.error(f"--only: there is no case {name!r}; there are: {', '.join(BY_NAME)}")
    return options


def positive(text: str) -> int:
    """An argument that is a number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: it must be above 0")
    return value


def choose(options: argparse.Namespace) -> tuple[list[Case], dict[str, str]]:
    """The cases to run, and of others that were asked for why they are not. Their servers are installed now if need be."""
    asked = [case for case in CASES if not options.only or case.name in options.only]
    asked = [case for case in asked if not options.no_peers or case.product == "aiki"]
    notes = {case.name: f"{case.product} is not installed" for case in asked if not case.installed}
    for product in {case.product for case in asked if case.installed}:
        try:
            provide(product)
        except NoServer as error:
            say(f"{product} is left out: {error}")
            notes |= {case.name: f"the server of {product} is not installed" for case in asked if case.product == product}
    return [case for case in asked if case.name not in notes], notes


def describe(
    options: argparse.Namespace, rabbit: RabbitServer, maria: MariaServer, postgres: PostgresServer | None
) -> dict[str, Any]:
    """What was measured, on what."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    broker = Broker(rabbit.url)
    name, _, versions_of_broker = broker.version.partition(" ")
    broker.close()
    versions |= {name: versions_of_broker, "database": str(maria.execute("SELECT VERSION()")[0][0])}
    if postgres is not None:
        versions["PostgreSQL"] = str(postgres.execute("SHOW server_version")[0][0])
    return {
        "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": versions,
        "tasks": options.tasks,
        "rounds": options.rounds,
        "trips": options.trips,
        "flows": options.flows,
        "children": CHILDREN,
    }


def save(folder: Path, results: dict[str, Any]) -> Path:
    """Write the results as JSON; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{os.getpid()}.json"
    file.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    return file


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("stopped")
        sys.exit(130)
