"""Whole systems for tests: on RabbitMQ and MariaDB, and on the embedded default."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scale import FULL
from tests.services import MariaServer, RabbitServer
from tests.system.system import System


@pytest.fixture
def make_system(tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Makes systems on given URLs; all their processes are gone afterwards."""
    made: list[System] = []

    def make(database_url: str, broker_url: str, **settings: object) -> System:
        folder = tmp_path / f"system-{len(made)}"
        folder.mkdir()
        system = System(folder, database_url, broker_url, **settings)
        made.append(system)
        return system

    yield make
    for system in made:
        system.close()


@pytest.fixture
def embedded_system(make_system: Callable[..., System], tmp_path: Path) -> System:
    """A system on the embedded default: SQLite and a broker in a file."""
    return make_system(f"sqlite:///{tmp_path}/aiki.db", f"sqlite:///{tmp_path}/broker.db")


@pytest.fixture
def real_system(make_system: Callable[..., System], rabbit: RabbitServer, mysql_database: str) -> System:
    """A system on the shared RabbitMQ and MariaDB, which a test must not stop."""
    return make_system(mysql_database, rabbit.url)


@pytest.fixture(params=["embedded", "real"])
def system(request: pytest.FixtureRequest) -> System:
    """Both, one after the other."""
    made: System = request.getfixturevalue(f"{request.param}_system")
    return made


@pytest.fixture(params=["embedded", "real"] if FULL else ["real"])
def chosen_system(request: pytest.FixtureRequest) -> System:
    """For tests that take long: on real servers; with AIKI_TEST_FULL=1 on the embedded default, too."""
    made: System = request.getfixturevalue(f"{request.param}_system")
    return made


@pytest.fixture
def own_system(make_system: Callable[..., System], own_rabbit: RabbitServer, own_maria: MariaServer) -> Iterator[System]:
    """A system on servers of this module's own, to be killed and stopped at will."""
    url = own_maria.create_database()
    return make_system(url, own_rabbit.url)
