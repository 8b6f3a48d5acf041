"""Celery: the app that its worker loads, and how it is measured. Variants: `none`, `none-confirm`, `mysql`, `rpc`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Celery  # type: ignore[import-untyped, unused-ignore]

from bench.config import CHILDREN, PAYLOAD, current
from bench.contender import Contender
from bench.marks import mark

if TYPE_CHECKING:
    from bench.broker import Broker
    from bench.database import Database

_config = current()
_variant = _config.case.removeprefix("celery-")
_backend = {"mysql": f"db+{_config.database_url}", "rpc": "rpc://"}.get(_variant)

app: Any = Celery("bench", broker=_config.amqp_url, backend=_backend)
app.conf.task_default_queue = _config.run
app.conf.task_ignore_result = _backend is None
app.conf.worker_hijack_root_logger = False
if _variant == "none-confirm":
    app.conf.broker_transport_options = {"confirm_publish": True}


def noop(number: int, text: str) -> dict[str, int]:
    mark(number)
    return {"n": number}


task: Any = app.task(noop)


class CeleryContender(Contender):
    """Its defaults: acknowledged before it is run, four messages taken ahead for each process."""

    stores = _variant == "mysql"
    _broker: Broker
    _database: Database | None = None

    def prepare(self) -> None:
        """Send one message, so that all is connected and declared, and throw it away."""
        from bench.broker import Broker
        from bench.database import Database
        from bench.program import wait_for

        self._broker = Broker(self.config.amqp_url)
        if self.stores:
            app.backend.ResultSession()  # makes its tables
            self._database = Database(self.config.database_url)
        task.delay(-1, PAYLOAD)
        wait_for(lambda: self._broker.ready(self.config.run) == 1, "the first message")
        app.control.purge()

    def enqueue(self, count: int) -> None:
        for number in range(count):
            task.delay(number, PAYLOAD)

    def in_broker(self, count: int) -> bool:
        return self._broker.ready(self.config.run) >= count

    def worker_command(self) -> list[str]:
        command = [sys.executable, "-m", "celery", "-A", f"{__name__}:app", "worker"]
        return [*command, "-P", "prefork", "-c", str(CHILDREN), "-n", f"{self.config.run}@%h"]

    def services(self) -> Mapping[str, int]:
        database = {"database": self.config.database_pid} if self.stores else {}
        return {"broker": self.config.broker_pid, **database}

    def stored(self) -> int:
        assert self._database is not None
        return self._database.number("SELECT COUNT(*) FROM celery_taskmeta")

    def round_trip(self) -> Callable[[int], object]:
        return lambda number: task.delay(number, PAYLOAD).get(timeout=30)

    def close(self) -> None:
        app.close()
        self._broker.close()
        if self._database is not None:
            self._database.close()
