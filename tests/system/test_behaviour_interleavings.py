"""Interleavings that break naive designs: late confirms, one delivery published twice, a GIL that is never given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from aiki import Handle
from aiki.states import State
from tests.scale import scaled
from tests.services import MariaServer, RabbitServer
from tests.system.proxy import Proxy
from tests.system.system import System
from tests.waiting import wait_until


@pytest.fixture
def proxy(rabbit: RabbitServer) -> Iterator[Proxy]:
    url = sa.make_url(rabbit.url)
    made = Proxy((url.host or "127.0.0.1", url.port or 5672))
    yield made
    made.close()


def behind(proxy: Proxy, system: System) -> dict[str, str]:
    """Settings of an app that reaches the broker through the proxy."""
    url = sa.make_url(system.settings.broker_url).set(host="127.0.0.1", port=proxy.port)
    return {"broker_url": url.render_as_string(hide_password=False)}


def epoch_of(system: System, handle: Handle[object]) -> int:
    with system.store.db.engine.connect() as connection:
        sql = sa.text("SELECT epoch FROM aiki_runs WHERE id = :id")
        return int(connection.execute(sql, {"id": bytes.fromhex(handle.id.replace("-", ""))}).scalar_one())


def deliveries(system: System) -> int:
    with system.store.db.engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT COUNT(*) FROM aiki_deliveries")).scalar_one())


def test_a_late_confirm_does_not_lose_the_retry_of_a_run_that_failed_meanwhile(real_system: System, proxy: Proxy) -> None:
    system = real_system
    system.orchestrator()
    system.worker()
    app = system.app(**behind(proxy, system))
    assert app.definitions["shop.noop"].enqueue(1).result(timeout=30) == 1  # connected, and all settled
    publisher = app.client.publisher  # type: ignore[attr-defined]
    confirmed = publisher.confirmed
    proxy.hold("down")
    handle = app.definitions["shop.soon_retry"].enqueue("it")
    wait_until(lambda: handle.status() is State.WAITING, 20, f"the first attempt to fail\n{system.tails()}")
    assert epoch_of(system, handle) == 2
    assert publisher.confirmed == confirmed
    proxy.release("down")
    wait_until(lambda: publisher.confirmed > confirmed, 20, "the late confirm")
    wait_until(lambda: not publisher._confirmed, 20, "the publisher to forget what was confirmed")
    assert handle.result(timeout=30) == "it"
    assert handle.view().attempt == 2
    assert system.starts() == {"it": 2}


def test_a_delivery_published_by_the_client_and_by_the_sweeper_is_executed_once(real_system: System, proxy: Proxy) -> None:
    system = real_system
    system.orchestrator()
    first = system.worker()
    app = system.app(**behind(proxy, system))
    assert app.definitions["shop.noop"].enqueue(1).result(timeout=30) == 1
    wait_until(lambda: deliveries(system) == 0, 20)
    proxy.hold("up")
    slow = app.definitions["shop.nap"].enqueue("slow", 6.0)
    quick = app.definitions["shop.marked"].enqueue("quick")
    # The publisher's copies hang in the proxy. Their claim runs out, and the sweeper publishes its own, marked.
    wait_until(lambda: quick.status() is State.COMPLETED, 40, f"the sweeper's copy to run\n{system.tails()}")
    wait_until(lambda: slow.status() is State.RUNNING, 20, "the slow one to run")
    assert epoch_of(system, quick) == epoch_of(system, slow) == 2
    proxy.release("up")  # now the first copies arrive, unmarked and never redelivered
    assert slow.result(timeout=30) == "slow"
    wait_until(lambda: not system.store.revocations("default", "default")[0], 20, "both late copies to be taken and dropped")
    assert system.starts() == {"slow": 1, "quick": 1}
    assert first.stop(20) == 0


def test_a_late_first_copy_is_dropped_by_a_worker_that_came_later(real_system: System, proxy: Proxy) -> None:
    system = real_system
    system.orchestrator()
    first = system.worker()
    app = system.app(**behind(proxy, system))
    assert app.definitions["shop.noop"].enqueue(1).result(timeout=30) == 1
    proxy.hold("up")
    quick = app.definitions["shop.marked"].enqueue("quick")
    wait_until(lambda: quick.status() is State.COMPLETED, 40, f"the sweeper's copy to run\n{system.tails()}")
    assert first.stop(20) == 0
    system.worker()
    proxy.release("up")
    wait_until(lambda: not system.store.revocations("default", "default")[0], 20, "the late copy to be taken and dropped")
    assert system.starts() == {"quick": 1}


@pytest.fixture(scope="module")
def impatient_rabbit() -> Iterator[RabbitServer]:
    """Gives up a connection that was silent for some ten seconds."""
    with RabbitServer(["heartbeat = 4"]) as server:
        yield server


def test_a_task_that_holds_the_gil_starts_once_and_is_shown_running(
    make_system: Callable[..., System], impatient_rabbit: RabbitServer, maria: MariaServer
) -> None:
    url = maria.create_database()
    system = make_system(url, impatient_rabbit.url)
    system.orchestrator()
    system.worker(concurrency=3)
    tasks = system.app().definitions
    held = tasks["shop.hold_gil"].enqueue("sleep", scaled(25, 70))
    regex = tasks["shop.backtrack"].enqueue("regex", scaled(26, 29))
    system.wait_states(20, running=2)
    begun = time.monotonic()
    seen = set()
    # Meanwhile the broker gives their connections up and hands their dispatches to the third child.
    while held.status() is not State.COMPLETED:
        assert time.monotonic() - begun < 180, system.tails()
        seen.add(held.status())
        assert tasks["shop.noop"].enqueue(7).result(timeout=30) == 7
        time.sleep(0.2)
    assert seen <= {State.RUNNING, State.COMPLETED}
    assert regex.result(timeout=300) == "regex"
    assert time.monotonic() - begun > scaled(20, 60)
    assert system.starts() == {"sleep": 1, "regex": 1}
    assert (held.view().attempt, held.view().crashes) == (1, 0)
