"""One store a test, over SQLite, MariaDB, MySQL 9 and PostgreSQL: everything here holds on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiki.storage import Store, upgrade
from tests.ready_made import sqlite_database
from tests.tables import empty


class SetClock:
    """A clock that stands until it is moved. Microseconds."""

    def __init__(self, now: int = 1_800_000_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["sqlite", "maria"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables, of a kind that former releases had."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aiki.db'}"
    return str(request.getfixturevalue("mysql_database"))


@pytest.fixture(params=["sqlite", "maria", "mysql9", "postgres"])
def tables_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with empty tables."""
    if request.param != "sqlite":
        return str(request.getfixturevalue(f"{request.param}_tables"))
    return sqlite_database(tmp_path / "aiki.db")


@pytest.fixture
def open_store(tables_url: str, clock: SetClock) -> Iterator[Callable[..., Store]]:
    """Makes stores on the test's database; all are closed afterwards."""
    stores: list[Store] = []

    def make(**options: object) -> Store:
        store = Store(tables_url, clock=clock, **options)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture(scope="module", params=["sqlite", "maria", "mysql9", "postgres"])
def shared_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One database for all tests of a module: to make one takes much longer than most tests."""
    server = None if request.param == "sqlite" else request.getfixturevalue(request.param)
    url = server.create_database() if server else f"sqlite:///{tmp_path_factory.mktemp('db') / 'aiki.db'}"
    upgrade(url)
    store = Store(url)
    yield store
    store.close()
    if server:
        server.drop_database(url)


@pytest.fixture
def emptied_store(shared_store: Store, clock: SetClock) -> Store:
    """The module's store, without a row, and with a clock that is set."""
    shared_store.clock = clock
    empty(shared_store)
    return shared_store
