"""One store a test, over SQLite and over MariaDB or MySQL: everything here holds on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiki.storage import Store, upgrade


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
