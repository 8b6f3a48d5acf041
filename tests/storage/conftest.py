"""One store a test, over SQLite and over MariaDB or MySQL: everything here holds on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiki.storage import Store, upgrade
from aiki.storage.tables import metadata
from tests.ready_made import sqlite_database


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


@pytest.fixture(params=["sqlite", "mysql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'aiki.db'}"
    return str(request.getfixturevalue("mysql_database"))


@pytest.fixture
def open_store(database_url: str, clock: SetClock) -> Iterator[Callable[..., Store]]:
    """Makes stores on the test's database; all are closed afterwards."""
    if database_url.startswith("sqlite"):
        sqlite_database(Path(database_url.removeprefix("sqlite:///")))
    else:
        upgrade(database_url)
    stores: list[Store] = []

    def make(**options: object) -> Store:
        store = Store(database_url, clock=clock, **options)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture(scope="module", params=["sqlite", "mysql"])
def shared_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One database for all tests of a module: to make one takes much longer than most tests."""
    maria = request.getfixturevalue("maria") if request.param == "mysql" else None
    url = maria.create_database() if maria else f"sqlite:///{tmp_path_factory.mktemp('db') / 'aiki.db'}"
    upgrade(url)
    store = Store(url)
    yield store
    store.close()
    if maria:
        maria.drop_database(url)


@pytest.fixture
def emptied_store(shared_store: Store, clock: SetClock) -> Store:
    """The module's store, without a row, and with a clock that is set."""
    names = [table.name for table in metadata.sorted_tables]
    shared_store.clock = clock
    shared_store.db.transaction(
        lambda connection: [shared_store.db.execute(connection, f"DELETE FROM {name}", ()) for name in names]
    )
    return shared_store
