"""Clocks: another machine's, as it is known here, whatever this machine's own is set to."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from aiki import Aiki
from aiki.client.embedded import EmbeddedClient
from aiki.clock import SECOND, LearntClock
from aiki.settings import Settings
from aiki.storage import Store, upgrade
from tests.client.stand_in import StandIn


class Moving:
    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def test_what_was_learnt_goes_on_by_monotonic_time() -> None:
    monotonic, local = Moving(1_000), Moving(5)
    clock = LearntClock(monotonic, local)
    assert (clock(), clock.known, clock.age()) == (5, False, float("inf"))
    clock.learn(9_000_000, 1_000, 3_000)  # said half way between, at 2,000
    monotonic.now, local.now = 3_000 + SECOND, 77
    assert clock() == 9_000_000 + 1_000 + SECOND
    assert clock.age() == 1.0


def test_a_slow_answer_is_better_than_none_and_no_better_than_one() -> None:
    monotonic = Moving(0)
    clock = LearntClock(monotonic, Moving(0))
    clock.learn(50 * SECOND, 0, 4 * SECOND)
    assert clock() == 48 * SECOND
    clock.learn(90 * SECOND, 0, 4 * SECOND)
    assert clock() == 48 * SECOND


@pytest.fixture(params=[120, -3600])
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """This machine's clock is wrong by so many seconds."""
    seconds = int(request.param)
    right = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: right() + seconds * 1_000_000_000)
    return seconds


def test_the_database_decides_when_a_countdown_is_over_whatever_the_client_believes(mysql_database: str, wrong: int) -> None:
    upgrade(mysql_database)
    store = Store(mysql_database)
    app = Aiki(database_url=mysql_database, broker_url="sqlite:///never-made.db")

    @app.task(name="shop.later")
    def later() -> None: ...

    handle = later.options(countdown=1, expires=10).enqueue()
    there = store.db.time_there()
    run = store.get_run(handle.id)
    assert run is not None
    assert run.due_at is not None
    assert run.expires_at is not None
    assert there - 5 * SECOND < run.due_at - SECOND <= there
    assert abs(run.expires_at - run.due_at - 9 * SECOND) < SECOND
    assert abs(store.clock() - there) < SECOND
    app.close()
    store.close()


def test_a_remote_client_asks_for_the_time_before_it_counts_from_it(wrong: int, tmp_path: Path) -> None:
    settings = Settings.load({}, database_url=f"sqlite:///{tmp_path}/a.db", broker_url=f"sqlite:///{tmp_path}/b.db")
    inside = EmbeddedClient(settings)
    server = StandIn(inside)
    right = time.time_ns() // 1000 - wrong * SECOND
    server.clock = lambda: right
    try:
        app = Aiki(server_url=server.url)
        assert abs(app.client.now() - right) < 30 * SECOND
        app.close()
    finally:
        server.stop()
        inside.close()
