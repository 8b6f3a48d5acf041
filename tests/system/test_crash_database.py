"""MariaDB, MySQL and PostgreSQL killed under load: what was accepted is there, what was reported is recorded, nobody hangs."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable

import pytest

from aiki.states import State
from tests.postgres import DatabaseServer
from tests.services import RabbitServer
from tests.system.load import Load
from tests.system.system import System
from tests.waiting import wait_until

FULL = bool(os.environ.get("AIKI_TEST_FULL"))
DEADLINE = 5.5
"""`AIKI_TIMEOUT`, and what it takes to say so."""


@pytest.fixture(params=["maria", "mysql9", "postgres"])
def database(request: pytest.FixtureRequest) -> DatabaseServer:
    """The servers, one after the other."""
    server: DatabaseServer = request.getfixturevalue(f"own_{request.param}")
    return server


@pytest.fixture
def system(make_system: Callable[..., System], rabbit: RabbitServer, database: DatabaseServer) -> System:
    return make_system(database.create_database(), rabbit.url)


class Asker:
    """Asks the API again and again; counts the answers and remembers the slowest."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/runs?limit=1"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.answers: Counter[int] = Counter()
        self.without_retry_after = 0
        self.slowest = 0.0

    def ask(self) -> tuple[int, str | None]:
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                json.load(answer)
                return answer.status, None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get("Retry-After")
        finally:
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def _work(self) -> None:
        while not self._stop.wait(0.02):
            status, retry_after = self.ask()
            self.answers[status] += 1
            if status == 503 and not retry_after:
                self.without_retry_after += 1

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a request hangs"


@pytest.fixture
def port(system: System, free_port: Callable[[], int]) -> int:
    number = free_port()
    system.server(number)

    def answers() -> bool:
        try:
            return Asker(number).ask()[0] == 200
        except OSError:
            return False

    wait_until(answers, 30, "the server to answer")
    return number


def test_a_killed_database_loses_nothing_that_was_accepted(system: System, database: DatabaseServer, port: int) -> None:
    system.orchestrator()
    system.orchestrator()
    system.worker(concurrency=2)
    app = system.app()
    with Asker(port) as asker, Load(app.definitions["shop.marked"], rate=100) as load:
        for _ in range(5 if FULL else 2):
            before = len(load.accepted)
            wait_until(lambda before=before: len(load.accepted) >= before + 150, 30, "runs to be accepted")
            database.kill9()
            refused = load.refused
            wait_until(lambda refused=refused: load.refused > refused, 20, "an enqueue to be refused")
            failed = asker.answers[503]
            wait_until(lambda failed=failed: asker.answers[503] > failed, 20, "the API to say 503")
            database.start()
        before = len(load.accepted)
        wait_until(lambda: len(load.accepted) >= before + 100, 30, "runs to be accepted again")
    system.wait_completed(load.accepted)
    assert set(asker.answers) == {200, 503}
    assert asker.without_retry_after == 0
    assert asker.slowest < DEADLINE
    assert load.slowest < DEADLINE
    assert system.result_count() == system.states()[State.COMPLETED]
    twice = {what: count for what, count in system.starts().items() if count > 1}
    assert twice == {}
    assert {str(number) for number in load.accepted} <= set(system.starts())


def test_a_stopped_database_delays_nobody_beyond_the_deadline(system: System, database: DatabaseServer, port: int) -> None:
    system.orchestrator()
    system.worker(concurrency=2)
    app = system.app()
    with Asker(port) as asker, Load(app.definitions["shop.marked"], rate=50) as load:
        wait_until(lambda: len(load.accepted) >= 50, 30, "runs to be accepted")
        database.sigstop()
        try:
            wait_until(lambda: load.refused >= 2 and asker.answers[503] >= 2, 40, "refusals")
        finally:
            database.sigcont()
        before = len(load.accepted)
        wait_until(lambda: len(load.accepted) >= before + 50, 30, "runs to be accepted again")
    system.wait_completed(load.accepted)
    assert asker.slowest < 2 * DEADLINE
    assert load.slowest < 2 * DEADLINE
    assert {what: count for what, count in system.starts().items() if count > 1} == {}
