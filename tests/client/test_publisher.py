"""The publisher when the broker does not do its part: nothing blocks, nothing is sent twice, nothing is forgotten."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aiki import messages
from aiki.broker import CONTROL, Address, Broker, Session, Settled, open_broker, work
from aiki.client.embedded import EmbeddedClient
from aiki.client.publisher import CLAIM, MARGIN, MAX_QUEUED, SILENT, Publisher
from aiki.errors import BrokerUnavailable, StorageUnavailable
from aiki.messages import Control, DispatchList
from aiki.model import Outgoing
from aiki.storage import Store
from tests.client.contract import new_run
from tests.client.test_embedded import settings_for
from tests.waiting import wait_until

QUEUE = work("default", "default")


class Faulty:
    """A real broker that can be made to refuse connections, to swallow confirms and to fail in the middle of a send."""

    def __init__(self, broker: Broker) -> None:
        self.url = broker.url
        self.broker = broker
        self.connects = 0
        self.refuses = self.swallows = self.denies = False
        self.sends_left = 10**9
        self.hangs: threading.Event | None = None

    def connect(self, name: str, timeout: float = 5.0) -> Session:
        self.connects += 1
        if self.hangs is not None:
            self.hangs.wait(30)
        if self.refuses:
            raise BrokerUnavailable("refused")
        return FaultySession(self, self.broker.connect(name, timeout))  # type: ignore[return-value]


class FaultySession:
    def __init__(self, owner: Faulty, session: Session) -> None:
        self.owner = owner
        self.session = session
        self.held: list[Settled] = []

    def send(self, to: Address, body: bytes) -> int:
        if self.owner.sends_left <= 0:
            raise BrokerUnavailable("the connection is gone")
        self.owner.sends_left -= 1
        return self.session.send(to, body)

    def settled(self) -> list[Settled]:
        self.held += self.session.settled()
        if self.owner.swallows:
            return []
        out, self.held = self.held, []
        return [Settled(item.seq, item.ok and not self.owner.denies) for item in out]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(settings_for(tmp_path).database_url)
    made.check_schema()
    yield made
    made.close()


@pytest.fixture
def broker(tmp_path: Path) -> Faulty:
    return Faulty(open_broker(settings_for(tmp_path).broker_url))


@pytest.fixture
def taken(broker: Faulty) -> Iterator[Session]:
    session = broker.broker.connect("test")
    session.subscribe(QUEUE, 1000)
    yield session
    session.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def publisher(broker: Faulty, store: Store, clock: Clock) -> Publisher:
    """Driven by the tests, with `run_once`; it has no thread."""
    return Publisher(broker, store, clock=clock)


def claimed(store: Store, count: int = 1, batch: int = 1) -> list[Outgoing]:
    return store.create_runs([new_run(i) for i in range(count)], claim=CLAIM, batch=batch).outgoing


def deliveries(store: Store) -> list[tuple[bool, bool]]:
    """Of each delivery: whether it is due now, and whether it is marked."""
    now = store.clock()
    rows = store.db.read(lambda c: store.db.execute(c, "SELECT due_at, again FROM aiki_deliveries ORDER BY id").fetchall())
    return [(due <= now, bool(again)) for due, again in rows]


def received(session: Session, timeout: float = 0.1) -> list[str]:
    return [run.run_id for delivery in session.receive(timeout) for run in DispatchList.decode(delivery.body).runs]


def pump(publisher: Publisher, done: Any) -> None:
    def once() -> Any:
        publisher.run_once(0.01)
        return done()

    wait_until(once, 10)


def test_confirmed_deliveries_are_deleted_in_bulk(publisher: Publisher, store: Store, clock: Clock, taken: Session) -> None:
    out = claimed(store, 20, batch=6)
    publisher.put(out, clock.now)
    pump(publisher, lambda: publisher.confirmed == 4)
    assert len(deliveries(store)) == 20, "not at once"
    clock.now += 1
    publisher.run_once(0)
    assert deliveries(store) == []
    assert sorted(received(taken, 5)) == [item.dispatch.run_id for item in out]


def test_what_was_never_sent_is_the_sweepers_unmarked(publisher: Publisher, broker: Faulty, store: Store, clock: Clock) -> None:
    broker.refuses = True
    publisher.put(claimed(store, 3), clock.now)
    assert deliveries(store) == [(False, True)] * 3
    publisher.run_once(0)
    assert deliveries(store) == [(True, False)] * 3
    assert publisher.down == "refused"


def test_a_broker_that_is_back_is_used_again(
    publisher: Publisher, broker: Faulty, store: Store, clock: Clock, taken: Session
) -> None:
    broker.refuses = True
    publisher.put(claimed(store), clock.now)
    publisher.run_once(0)
    publisher.run_once(0)
    assert broker.connects == 1, "it waits before it tries again"
    broker.refuses = False
    clock.now += 30
    publisher.run_once(0)
    assert publisher.down == ""
    out = claimed(store)
    publisher.put(out, clock.now)
    pump(publisher, lambda: publisher.confirmed == 1)
    assert received(taken, 5) == [out[0].dispatch.run_id]


def test_what_may_have_been_sent_is_never_sent_again(publisher: Publisher, broker: Faulty, store: Store, clock: Clock) -> None:
    """Two messages are sent and not confirmed, the third fails, the others wait for the next session."""
    broker.swallows, broker.sends_left = True, 2
    out = claimed(store, 5)
    publisher.put(out, clock.now)
    publisher.run_once(0)
    broker.swallows, broker.sends_left = False, 100
    pump(publisher, lambda: publisher.confirmed == 2)
    clock.now += 1
    publisher.run_once(0)
    assert deliveries(store) == [(False, True)] * 3, "the first three wait for their claims to run out"
    assert publisher.sent == 4


def test_a_refused_message_is_left_to_the_sweeper(publisher: Publisher, broker: Faulty, store: Store, clock: Clock) -> None:
    broker.denies = True
    publisher.put(claimed(store), clock.now)
    pump(publisher, lambda: not publisher._unconfirmed and publisher.sent)
    clock.now += 1
    publisher.run_once(0)
    assert deliveries(store) == [(False, True)]


def test_nothing_is_sent_at_the_end_of_its_claim(publisher: Publisher, store: Store, clock: Clock, taken: Session) -> None:
    publisher.put(claimed(store), clock.now - CLAIM + MARGIN)
    publisher.run_once(0)
    publisher.run_once(0)
    assert publisher.sent == 0
    assert deliveries(store) == [(False, True)]


def test_a_silent_broker_is_given_up(publisher: Publisher, broker: Faulty, store: Store, clock: Clock) -> None:
    broker.swallows = True
    publisher.put(claimed(store), clock.now)
    publisher.run_once(0)
    clock.now += SILENT + 0.1
    publisher.run_once(0)
    assert "confirmed nothing" in publisher.down
    broker.swallows = False
    pump(publisher, lambda: publisher.confirmed)
    publisher.run_once(0)
    assert publisher.down == "", "it was only slow"

    broker.swallows = True
    publisher.put(claimed(store), clock.now)
    publisher.run_once(0)
    clock.now += CLAIM + 0.1
    publisher.run_once(0)
    assert publisher._session is None
    publisher.run_once(0)
    assert broker.connects == 2


def test_deletes_wait_out_an_outage_of_the_database(
    publisher: Publisher, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.put(claimed(store), clock.now)
    pump(publisher, lambda: publisher.confirmed == 1)
    delivered = store.delivered

    def away(_ids: Sequence[bytes], _namespace: str) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(store, "delivered", away)
    clock.now += 1
    publisher.run_once(0)
    monkeypatch.setattr(store, "delivered", delivered)
    assert len(deliveries(store)) == 1
    clock.now += 2
    publisher.run_once(0)
    assert deliveries(store) == []


def test_controls_are_sent(broker: Faulty, store: Store) -> None:
    listener = broker.broker.connect("listener")
    listener.subscribe(CONTROL, 10)
    publisher = Publisher(broker, store)
    publisher.control(Control("default", messages.REVOKE, [messages.RunKey("0" * 32, 1)]))
    found = wait_until(lambda: listener.receive(1), 10)
    assert Control.decode(found[0].body).kind == messages.REVOKE
    publisher.close()
    listener.close()


def test_enqueue_never_waits_for_the_broker(tmp_path: Path, broker: Faulty, store: Store) -> None:
    broker.hangs = threading.Event()
    client = EmbeddedClient(settings_for(tmp_path))
    client.publisher._broker = broker
    client.enqueue([new_run(0)])
    wait_until(lambda: broker.connects, 10)
    began = time.monotonic()
    for number in range(20):
        client.enqueue([new_run(number)])
    assert time.monotonic() - began < 4
    broker.refuses = True
    broker.hangs.set()
    wait_until(lambda: deliveries(store) == [(True, False)] * 21, 10, "all to be released")
    assert not client.publisher.accepting()
    client.enqueue([new_run(99)])
    assert deliveries(store) == [(True, False)] * 22, "and the next are not claimed at all"
    client.close()


def test_a_full_queue_accepts_no_more(publisher: Publisher, store: Store, clock: Clock) -> None:
    (item,) = claimed(store)
    publisher._thread = threading.current_thread()
    assert publisher.accepting()
    publisher.put([item] * MAX_QUEUED, clock.now)
    assert not publisher.accepting()


def test_the_end_of_the_process_flushes(tmp_path: Path, store: Store, taken: Session) -> None:
    settings = settings_for(tmp_path)
    script = f"""
        from aiki import Aiki
        app = Aiki(database_url={settings.database_url!r}, broker_url={settings.broker_url!r})
        @app.task(name="charge")
        def charge(i: int) -> None: ...
        charge.enqueue_many([(i,) for i in range(300)])
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60, cwd=Path(__file__).parents[2])
    assert deliveries(store) == []
    assert len(received(taken, 5)) == 300


def test_a_lone_run_leaves_at_once(tmp_path: Path, store: Store, taken: Session) -> None:
    client = EmbeddedClient(settings_for(tmp_path))
    client.enqueue([new_run(0)])
    assert received(taken, 10)
    times = []
    for number in range(10):
        time.sleep(0.06)  # the process is idle
        client.enqueue([new_run(number)])
        began = time.monotonic()
        assert received(taken, 10)
        times.append(time.monotonic() - began)
    assert sorted(times)[5] < 0.1
    client.close()
