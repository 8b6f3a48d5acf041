"""DBOS on PostgreSQL: its workflow, its worker (`python -m bench.using_dbos`), and how it is measured. Variants: `flows`,
`flow-queue`, `flow-result`.

It looks for work more often than by default (every 50 ms, not every second), and its callers for results every 10 ms. It
limits nothing: a process takes all workflows that are enqueued and runs them side by side in threads.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dbos import DBOS, DBOSClient

from bench.config import CHILDREN, STEPS, current
from bench.contender import Contender
from bench.marks import begin, mark

if TYPE_CHECKING:
    from bench.database import Database

QUEUE: Final = "bench"
VERSION: Final = "1"
QUEUE_POLLING: Final = 0.05
RESULT_POLLING: Final = 0.01


@DBOS.step(name="step")  # type: ignore[untyped-decorator, unused-ignore]
def step(number: int) -> int:
    return number


@DBOS.workflow(name="flow")  # type: ignore[untyped-decorator, unused-ignore]
def flow(number: int) -> dict[str, int]:
    begin()
    for part in range(STEPS):
        step(number * 10 + part)
    mark(number)
    return {"n": number}


def launch(executor: str) -> None:
    """Begin in this process; the first one makes the tables."""
    DBOS(
        config={
            "name": "bench",
            "system_database_url": current().database_url,
            "executor_id": executor,
            "application_version": VERSION,
            "log_level": "WARNING",
        }
    )
    DBOS.launch()


class DbosContender(Contender):
    """A client in this process and two worker processes. `flow-result`: the workflow is called in this process, by no queue."""

    stores = True
    _client: DBOSClient | None = None
    _database: Database

    def __init__(self, config: Any, variant: str) -> None:
        super().__init__(config, variant)
        self.in_process = variant == "flow-result"

    def prepare(self) -> None:
        """Make the tables and the queue."""
        from bench.database import Database

        launch("client")
        if not self.in_process:
            DBOS.register_queue(QUEUE, polling_interval_sec=QUEUE_POLLING)
            DBOS.destroy()
            self._client = DBOSClient(system_database_url=self.config.database_url)
            self._client.check_connection()
        self._database = Database(self.config.database_url)

    def _enqueue(self, number: int) -> Any:
        assert self._client is not None
        return self._client.enqueue({"queue_name": QUEUE, "workflow_name": "flow", "app_version": VERSION}, number)

    def enqueue(self, count: int) -> None:
        for number in range(count):
            self._enqueue(number)

    def _in_state(self, state: str) -> int:
        return self._database.number(f"SELECT COUNT(*) FROM dbos.workflow_status WHERE status = '{state}'")

    def in_broker(self, count: int) -> bool:
        return self._in_state("ENQUEUED") >= count

    def worker_command(self) -> list[str]:
        return [sys.executable, "-m", __name__]

    def services(self) -> Mapping[str, int]:
        return {"database": self.config.database_pid}

    def stored(self) -> int:
        return self._in_state("SUCCESS")

    def round_trip(self) -> Callable[[int], object]:
        if self.in_process:
            return flow  # type: ignore[no-any-return, unused-ignore]
        return lambda number: self._enqueue(number).get_result(polling_interval_sec=RESULT_POLLING)

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()
        else:
            DBOS.destroy()
        self._database.close()


def work(executor: str) -> None:
    """One worker process."""
    launch(executor)
    DBOS.register_queue(QUEUE, polling_interval_sec=QUEUE_POLLING)
    signal.pause()


def main() -> None:
    """Two worker processes, until SIGTERM."""
    workers = [multiprocessing.Process(target=work, args=(f"worker-{number}",)) for number in range(CHILDREN)]
    for worker in workers:
        worker.start()
    signal.sigwait({signal.SIGTERM})
    for worker in workers:
        worker.kill()  # its work is done; in its own way it would wait for its threads
        worker.join()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
