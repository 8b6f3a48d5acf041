"""A fleet on a SQLite database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki.storage import Store
from tests.deploys import fleet as fleets
from tests.deploys.fleet import Fleet
from tests.ready_made import sqlite_database
from tests.storage.conftest import SetClock


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    clock = SetClock()
    store = Store(sqlite_database(tmp_path / "aiki.db"), clock=clock)
    with fleets.fleet(store, clock) as made:
        yield made
    store.close()
