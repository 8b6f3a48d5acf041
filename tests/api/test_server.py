"""The server as real processes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from aiki.storage import Store
from tests.api.live import LiveServer
from tests.waiting import wait_until

Live = Callable[..., LiveServer]
DEFINITION = {"definitions": [{"name": "shop.charge"}]}
RUN = {"name": "shop.charge"}


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0"])
def test_it_refuses_other_addresses_without_a_key(live: Live, bind: str) -> None:
    server = live("--bind", bind)
    assert server.exit_code() == 2
    assert "AIKI_API_KEY" in server.text()
    assert "Traceback" not in server.text()


def test_with_a_key_it_listens_anywhere_and_asks_for_it(live: Live) -> None:
    server = live("--bind", "0.0.0.0:0", AIKI_API_KEY="right-and-long-enough")
    server.wait_ready()
    assert server.ask("GET", "/api/v1/runs")[0] == 401
    assert server.ask("GET", "/api/v1/runs", headers={"Authorization": "Bearer wrong"})[0] == 401
    assert server.ask("GET", "/api/v1/runs", headers={"Authorization": "Bearer right-and-long-enough"})[0] == 200
    assert "right-and" not in server.text()


def test_a_schema_that_is_not_there_stops_it(live: Live, mysql_database: str) -> None:
    server = live(AIKI_DATABASE_URL=mysql_database)
    assert server.exit_code() == 1
    assert "aiki db upgrade" in server.text()
    assert "listening" not in server.text()


def test_a_database_that_is_away_stops_it(live: Live, free_port: Callable[[], int]) -> None:
    server = live(AIKI_DATABASE_URL=f"mysql+pymysql://user:secret-word@127.0.0.1:{free_port()}/none")
    assert server.exit_code() == 4
    assert "secret-word" not in server.text()


def test_an_address_that_is_taken(live: Live) -> None:
    first = live().wait_ready()
    second = live("--bind", first.url.removeprefix("http://"))
    assert second.exit_code() == 1


def test_term_answers_who_waits_and_publishes_what_is_recorded(live: Live) -> None:
    server = live().wait_ready()
    server.ask("POST", "/api/v1/definitions", DEFINITION)
    _, headers, made = server.ask("POST", "/api/v1/runs", RUN)
    assert headers["Server"] == "gunicorn", "no versions"
    with ThreadPoolExecutor(2) as pool:
        began = time.monotonic()
        waiting = pool.submit(server.ask, "GET", f"/api/v1/runs/{made['id']}?wait=30")
        (worker,) = server.workers()
        held_by(worker)
        assert server.stop() == 0
        status, _, run = waiting.result(10)
        assert (status, run["state"]) == (200, "queued")
        assert time.monotonic() - began < 20
    store = Store(server.database_url)
    assert store.next_due() is None, "every delivery is published, confirmed and deleted"
    store.close()
    assert not worker.is_running()


def held_by(worker: psutil.Process) -> None:
    """Wait until the worker polls for somebody: it has the waiter's thread then, beside main, publisher and the pool's."""
    wait_until(lambda: worker.num_threads() >= 4, 10, "the request to be held")


def test_a_killed_worker_loses_nothing(live: Live) -> None:
    server = live(AIKI_WORKERS="2").wait_ready()
    server.ask("POST", "/api/v1/definitions", DEFINITION)
    accepted: list[str] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                status, _, made = server.ask("POST", "/api/v1/runs", RUN)
            except Exception:
                continue
            if status == 201:
                accepted.append(made["id"])

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    killed = 0
    for _ in range(3):
        had = len(accepted)
        wait_until(lambda had=had: len(accepted) > had + 20, 20, "runs to be accepted")  # type: ignore[misc]
        worker = wait_until(server.workers, 10)[0]
        worker.send_signal(signal.SIGKILL)
        killed += 1
        wait_until(lambda worker=worker: not worker.is_running() and len(server.workers()) == 2, 20)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(30)
    store = Store(server.database_url)
    assert killed == 3
    assert {run_id for run_id in accepted if store.get_run(run_id) is None} == set()
    # What was not published yet is in the outbox, with a time at which the orchestrator takes it over.
    left = store.db.read(lambda c: c.exec_driver_sql("SELECT id, due_at FROM aiki_deliveries").fetchall())
    assert all(due <= store.clock() + 11_000_000 for _, due in left)
    store.close()
    assert server.stop() == 0


def test_what_is_not_http_is_a_problem_too(live: Live) -> None:
    server = live().wait_ready()
    status, headers, told = server.ask("GET", "/" + "a" * 6000)
    assert (status, told["code"], headers["Content-Type"]) == (414, "uri_too_long", "application/problem+json")
    status, _, told = server.ask("GET", "/", headers={"X-Big": "a" * 20_000})
    assert (status, told["code"]) == (431, "headers_too_large")


def test_a_body_over_the_limit_is_read_and_answered(live: Live) -> None:
    server = live().wait_ready()
    status, _, told = server.ask("POST", "/api/v1/runs", b"x" * 40_000_000)
    assert (status, told["code"]) == (413, "payload_too_large")
    assert server.ask("GET", "/healthz")[0] == 200


def test_the_access_log_is_off_unless_asked_for(live: Live) -> None:
    quiet, loud = live().wait_ready(), live("--access-log").wait_ready()
    for server in (quiet, loud):
        server.ask("GET", "/api/v1/runs?name=not-to-be-logged", headers={"X-Request-ID": "trace-1"})
        assert server.stop() == 0
        assert "not-to-be-logged" not in server.text()
    assert "GET /api/v1/runs" not in quiet.text()
    assert "trace-1" in loud.text()


def test_without_the_broker_runs_are_accepted_and_it_stays_ready(live: Live, free_port: Callable[[], int]) -> None:
    server = live(AIKI_BROKER_URL=f"amqp://127.0.0.1:{free_port()}//").wait_ready()
    server.ask("POST", "/api/v1/definitions", DEFINITION)
    began = time.monotonic()
    made = [server.ask("POST", "/api/v1/runs", RUN)[0] for _ in range(5)]
    assert (made, time.monotonic() - began < 5) == ([201] * 5, True)
    wait_until(lambda: server.ask("GET", "/readyz")[2]["broker"] == "down", 20, "the broker to be known to be down")
    assert server.ask("GET", "/readyz")[0] == 200
    store = Store(server.database_url)
    assert store.next_due() is not None, "the deliveries wait in the outbox"
    store.close()
    assert server.stop() == 0
