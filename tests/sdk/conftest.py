"""An app on the embedded default, in a directory of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import Aiki
from aiki.storage import Store
from tests.ready_made import sqlite_database


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Aiki]:
    made = Aiki("test", database_url=sqlite_database(tmp_path / "aiki.db"), broker_url=f"sqlite:///{tmp_path / 'broker.db'}")
    yield made
    made.close()


@pytest.fixture
def store(app: Aiki) -> Iterator[Store]:
    made = Store(app.settings.database_url)
    made.check_schema()
    yield made
    made.close()
