"""Aiki: the app that its worker loads, and how it is measured. Variants: `many`, `one-per-message`, `single`, `result`;
`flows`, `flows-8`, `flows-single`, `flow-result`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aiki import Aiki, WorkflowRun
from bench.config import CHILDREN, PAYLOAD, STEPS
from bench.contender import Contender
from bench.marks import begin, mark

if TYPE_CHECKING:
    from bench.broker import Broker
    from bench.database import Database
    from bench.program import Program

app = Aiki("bench")


@app.task
def noop(number: int, text: str) -> dict[str, int]:
    mark(number)
    return {"n": number}


@app.task
def step(number: int) -> int:
    return number


@app.workflow
def flow(run: WorkflowRun, number: int) -> dict[str, int]:
    begin()
    for part in range(STEPS):
        step(number * 10 + part)
    mark(number)
    return {"n": number}


class AikiContender(Contender):
    """Embedded client, one orchestrator; results in the database."""

    stores = True
    _orchestrator: Program
    _broker: Broker
    _database: Database

    def prepare(self) -> None:
        """Make the tables, start the orchestrator, and send one run to a queue that nobody reads, so that all is connected."""
        from aiki.storage import upgrade
        from bench.broker import Broker
        from bench.database import Database
        from bench.program import Program, wait_for

        config = self.config
        upgrade(config.database_url)
        self._broker, self._database = Broker(config.amqp_url), Database(config.database_url)
        command = [sys.executable, "-m", "aiki", "orchestrator", "-l", "warning"]
        self._orchestrator = Program("orchestrator", command, Path(config.folder), os.environ)
        wait_for(self._consumed, "the orchestrator to take reports", self._orchestrator)
        noop.options(queue="warm").enqueue(-1, PAYLOAD)
        wait_for(lambda: self.in_broker(1), "the first run to be published", self._orchestrator)
        time.sleep(0.5)  # what the start has left to do is not to be counted

    def _consumed(self) -> bool:
        return all(self._broker.consumers(f"{self.config.run}.reports.{n}") for n in range(app.settings.partitions or 4))

    def enqueue(self, count: int) -> None:
        if self.variant == "single":
            for number in range(count):
                noop.enqueue(number, PAYLOAD)
        elif self.variant == "flows-single":
            for number in range(count):
                flow.enqueue(number)
        elif self.variant.startswith("flows"):
            flow.enqueue_many([(number,) for number in range(count)])
        elif self.variant == "one-per-message":
            noop.options(batch=1).enqueue_many([(number, PAYLOAD) for number in range(count)])
        else:
            noop.enqueue_many([(number, PAYLOAD) for number in range(count)])

    def in_broker(self, count: int) -> bool:
        """A delivery is deleted when the broker has confirmed it."""
        return self._database.number("SELECT COUNT(*) FROM aiki_deliveries") == 0

    def worker_command(self) -> list[str]:
        children = 8 if self.variant in ("flows-8", "flows-single") else CHILDREN
        return [sys.executable, "-m", "aiki", "worker", "-A", __name__, "-c", str(children), "-n", "bench", "-l", "warning"]

    def worker_environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """A worker needs the broker alone."""
        return {key: value for key, value in inherited.items() if key != "AIKI_DATABASE_URL"}

    def services(self) -> Mapping[str, int]:
        config = self.config
        return {"broker": config.broker_pid, "database": config.database_pid, "orchestrator": self._orchestrator.pid}

    def stored(self) -> int:
        return self._database.number("SELECT COUNT(*) FROM aiki_runs WHERE state = 'completed'")

    def round_trip(self) -> Callable[[int], object]:
        if self.variant == "flow-result":
            return lambda number: flow.enqueue(number).result(timeout=30)
        return lambda number: noop.enqueue(number, PAYLOAD).result(timeout=30)

    def close(self) -> None:
        app.close()
        self._orchestrator.stop()
        self._broker.close()
        self._database.close()
