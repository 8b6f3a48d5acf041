"""Running cases: each in a process of its own, with a folder, a database and queue names of its own; rounds outermost."""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import make_url

from bench.broker import Broker
from bench.cases import Case
from bench.config import Config
from bench.cpu import listener
from bench.program import Failed, Program
from tests.postgres import PostgresServer
from tests.services import MariaServer, RabbitServer, Server

CASE_TIMEOUT: Final = 900.0


@dataclass(slots=True)
class Outcome:
    """What a case gave in one round: figures, or why there are none."""

    case: str
    round: int
    figures: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs cases on these servers; `postgres` may be None if no case needs it.

    :param tasks: tasks of a throughput case.
    :param trips: round trips of a latency case.
    :param flows: workflows of a case of workflows.
    """

    rabbit: RabbitServer
    maria: MariaServer
    postgres: PostgresServer | None
    tasks: int
    trips: int
    flows: int

    def run(self, cases: Sequence[Case], rounds: int) -> Iterator[Outcome]:
        """Every case in every round. Rounds are outermost, so that a machine that becomes slower does so for all."""
        total = rounds * len(cases)
        for number in range(rounds):
            for position, case in enumerate(cases):
                step = number * len(cases) + position + 1
                say(f"{step} of {total}: {case.name}, round {number + 1} of {rounds}")
                begun = time.monotonic()
                outcome = Outcome(case.name, number)
                try:
                    outcome.figures = self._run_case(case)
                    say(f"  {brief(outcome.figures)}; took {time.monotonic() - begun:.0f} s")
                except Failed as error:
                    outcome.failure = str(error)
                    say(f"  FAILED: {error}")
                yield outcome

    def _run_case(self, case: Case) -> dict[str, Any]:
        run = f"bench-{secrets.token_hex(4)}"
        server = self.postgres if case.product == "dbos" else self.maria
        assert server is not None
        database = server.create_database(run)
        try:
            with tempfile.TemporaryDirectory(prefix=f"{run}-") as folder:
                return self._measure(self._config(case, run, folder, database, process_of(server)))
        finally:
            server.drop_database(database)
            broker = Broker(self.rabbit.url)
            broker.forget(run)
            broker.close()

    def _config(self, case: Case, run: str, folder: str, database: str, database_pid: int) -> Config:
        pids = process_of(self.rabbit), database_pid
        return Config(case.name, run, folder, self.rabbit.url, database, *pids, self.tasks, self.trips, self.flows)

    def _measure(self, config: Config) -> dict[str, Any]:
        folder = Path(config.folder)
        # All that the case starts stays in its group: however this ends, nothing of it is left.
        program = Program("case", [sys.executable, "-m", "bench.case"], folder, config.environment(), group=True)
        try:
            code = program.wait(CASE_TIMEOUT)
        finally:
            program.kill()
        if code != 0:
            logs = [(log.stem, log.read_text(errors="replace").strip()[-2000:]) for log in sorted(folder.glob("*.log"))]
            raise Failed(f"exit code {code}" + "".join(f"\n--- {name}\n{text}" for name, text in logs if text))
        figures: dict[str, Any] = json.loads(config.figures.read_text())
        return figures


def process_of(server: Server) -> int:
    """A server's process id, 0 if it is not on this machine."""
    if not server.outside:
        return server.pid
    url = make_url(server.url)
    default = 5672 if isinstance(server, RabbitServer) else 3306
    return listener(url.port or default) if url.host in ("127.0.0.1", "localhost", "::1") else 0


def brief(figures: dict[str, Any]) -> str:
    """A progress line's figures."""
    names = {"enqueue_per_s": "enqueued/s", "tasks_per_s": "run/s", "stored_per_s": "stored/s", "p50_ms": "ms p50"}
    return ", ".join(f"{figures[key]:,} {name}" for key, name in names.items() if figures.get(key) is not None)


def say(text: str) -> None:
    """One line of progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
