"""Fixtures that every test may use: real servers, fresh databases, ports."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import services
from tests.postgres import PostgresServer, shared_postgres
from tests.services import MariaServer, RabbitServer
from tests.tables import emptied, make_tables

Shared = RabbitServer | MariaServer | PostgresServer
SHARED: dict[str, Callable[[], Shared]] = {
    "rabbit": services.shared_rabbit,
    "maria": services.shared_maria,
    "rabbit4": partial(services.shared_rabbit, newer=True),
    "mysql9": partial(services.shared_maria, newer=True),
    "postgres": shared_postgres,
}
"""The servers that all tests share, by the names of their fixtures."""

pytest_plugins = ["tests.selection"]

# How long an example takes says how busy the machine is, and is no defect.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget what a test imported by a plain name from the examples or from files of its own: others have modules that are
    called the same."""
    before = set(sys.modules)
    yield
    passing = (f"{EXAMPLES}{os.sep}", f"{tmp_path_factory.getbasetemp()}{os.sep}")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(passing):
            del sys.modules[name]


@pytest.fixture(scope="session")
def _launched(request: pytest.FixtureRequest) -> Iterator[dict[str, Shared]]:
    """Start side by side those of the shared servers that the selected tests use; wait for none."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    # Others take them by a parameter.
    calls = (getattr(item, "callspec", None) for item in request.session.items)
    wanted |= {value for call in calls if call for value in call.params.values() if isinstance(value, str)}
    made = {name: make() for name, make in SHARED.items()}
    with _uncaptured(request):
        for name in sorted(wanted & set(made)):
            made[name].launch()
    yield made
    for server in made.values():
        server.close()


def _shared(name: str) -> Callable[..., Shared]:
    def started(_launched: dict[str, Shared], request: pytest.FixtureRequest) -> Shared:
        with _uncaptured(request):
            return _launched[name].start()

    return pytest.fixture(scope="session", name=name)(started)


rabbit = _shared("rabbit")
"""A RabbitMQ that all tests share. Never stop it: a test that stops one takes `own_rabbit`."""

maria = _shared("maria")
"""A MariaDB or MySQL that all tests share. Never stop it: a test that stops one takes `own_maria`."""

rabbit4 = _shared("rabbit4")
"""A RabbitMQ 4 that all tests share, as `rabbit`."""

mysql9 = _shared("mysql9")
"""A MySQL 9 that all tests share, as `maria`."""

postgres = _shared("postgres")
"""A PostgreSQL that all tests share. Never stop it: a test that stops one takes `own_postgres`."""


@pytest.fixture(scope="module")
def own_rabbit(request: pytest.FixtureRequest) -> Iterator[RabbitServer]:
    """A RabbitMQ of this module alone, to be killed and stopped at will; leave it running."""
    with _uncaptured(request):
        server = RabbitServer().start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_maria(request: pytest.FixtureRequest) -> Iterator[MariaServer]:
    """A MariaDB of this module alone, to be killed and stopped at will; leave it running."""
    with _uncaptured(request):
        server = MariaServer().start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_rabbit4(request: pytest.FixtureRequest) -> Iterator[RabbitServer]:
    """A RabbitMQ 4 of this module alone, as `own_rabbit`."""
    with _uncaptured(request):
        server = RabbitServer(newer=True).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_mysql9(request: pytest.FixtureRequest) -> Iterator[MariaServer]:
    """A MySQL 9 of this module alone, as `own_maria`."""
    with _uncaptured(request):
        server = MariaServer(newer=True).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A PostgreSQL of this module alone, to be killed and stopped at will; leave it running."""
    with _uncaptured(request):
        server = PostgresServer().start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def amqp_url(rabbit: RabbitServer) -> str:
    """The shared RabbitMQ's URL. Its queues are shared too: use a prefix of your own."""
    return rabbit.url


@pytest.fixture(scope="session")
def mysql_url(maria: MariaServer) -> str:
    """The shared database server's SQLAlchemy URL, without a database."""
    return maria.url


@pytest.fixture
def mysql_database(maria: MariaServer) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database, dropped afterwards."""
    url = maria.create_database()
    yield url
    maria.drop_database(url)


@pytest.fixture
def mysql9_database(mysql9: MariaServer) -> Iterator[str]:
    """The SQLAlchemy URL of a fresh, empty database in MySQL 9, dropped afterwards."""
    url = mysql9.create_database()
    yield url
    mysql9.drop_database(url)


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database in PostgreSQL, dropped afterwards."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def _maria_tables(maria: MariaServer) -> str:
    return make_tables(maria)


@pytest.fixture(scope="session")
def _mysql9_tables(mysql9: MariaServer) -> str:
    return make_tables(mysql9)


@pytest.fixture(scope="session")
def _postgres_tables(postgres: PostgresServer) -> str:
    return make_tables(postgres)


@pytest.fixture
def maria_tables(_maria_tables: str) -> str:
    """A database with Aiki's tables, all empty. Tests take turns with one: to make it takes longer than most of them."""
    return emptied(_maria_tables)


@pytest.fixture
def mysql9_tables(_mysql9_tables: str) -> str:
    """A database with Aiki's tables in MySQL 9, as `maria_tables`."""
    return emptied(_mysql9_tables)


@pytest.fixture
def postgres_tables(_postgres_tables: str) -> str:
    """A database with Aiki's tables in PostgreSQL, as `maria_tables`."""
    return emptied(_postgres_tables)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives ports on 127.0.0.1 that nobody listens on."""
    return services.free_port


def _uncaptured(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    """Let the progress lines of starting servers through to the terminal."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()
