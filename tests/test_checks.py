"""What `aiki doctor` and the page Settings find out about a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import checks
from aiki.checks import Check
from aiki.clock import SECOND, now_us
from aiki.settings import Settings
from aiki.storage import Store, open_store, schema, upgrade
from aiki.storage.engine import Database
from tests.storage.test_creating import new


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load({}, database_url=f"sqlite:///{tmp_path / 'aiki.db'}", broker_url=f"sqlite:///{tmp_path / 'broker.db'}")


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = open_store(settings)
    Path(settings.broker_url.removeprefix("sqlite:///")).touch()
    yield made
    made.close()


def found(settings: Settings) -> dict[str, Check]:
    return {check.what: check for check in checks.checks(settings)}


def test_all_is_well(settings: Settings, store: Store) -> None:
    seen = found(settings)
    assert [seen[what].verdict for what in ("versions", "clock", "outbox")] == ["ok"] * 3
    assert "paused queues" not in seen


def test_a_paused_queue_is_told(settings: Settings, store: Store) -> None:
    store.pause_queue("bulk", reason="the bank is closed", actor="ann")
    check = found(settings)["paused queues"]
    assert check.verdict == "note"
    assert "bulk" in check.found
    assert "ann" in check.found


def test_what_does_not_leave_the_outbox_is_told(settings: Settings, store: Store) -> None:
    earlier = Store(settings.database_url, clock=lambda: now_us() - 120 * SECOND)
    earlier.create_runs([new()])
    earlier.close()
    check = found(settings)["outbox"]
    assert check.verdict == "fail"
    assert "1 deliveries are due, the oldest since 12" in check.found


def test_other_versions_are_told(settings: Settings, store: Store) -> None:
    store.save_orchestrator("1" * 32, "alive", "host", 1, "0.0.9")
    assert "orchestrators of 0.0.9" in found(settings)["versions"].found


def test_clocks_that_differ_are_told(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "clock_difference", lambda self: -7.25)
    check = found(settings)["clock"]
    assert (check.verdict, check.found) == ("fail", "this machine's is 7.2 s ahead of the database's")


def test_views_of_former_names_are_told(mysql_database: str, tmp_path: Path) -> None:
    broker = tmp_path / "broker.db"
    broker.touch()
    settings = Settings.load({}, database_url=mysql_database, broker_url=f"sqlite:///{broker}")
    upgrade(mysql_database)
    database = Database(mysql_database)
    database.transaction(lambda c: database.execute(c, "CREATE VIEW runs AS SELECT * FROM aiki_runs"), repeatable=True)
    database.close()
    check = found(settings)["former names"]
    assert (check.verdict, check.found.split(" ", 1)[0]) == ("note", "1")
    assert "aiki db upgrade --finish" in check.todo
    schema.finish(mysql_database)
    assert "former names" not in found(settings)


def test_the_databases_clock_is_read(mysql_database: str) -> None:
    upgrade(mysql_database)
    store = Store(mysql_database)
    behind = Store(mysql_database, clock=lambda: now_us() - 3600 * SECOND)
    try:
        assert abs(store.clock_difference() or 0.0) < 1.0
        assert abs((behind.clock_difference() or 0.0) - 3600) < 1.0
    finally:
        store.close()
        behind.close()
