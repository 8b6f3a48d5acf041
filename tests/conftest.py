"""Fixtures that every test may use: real servers, fresh databases, ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest

from tests import services
from tests.services import MariaServer, RabbitServer

pytest_plugins = ["tests.selection"]


@pytest.fixture(scope="session")
def _launched(request: pytest.FixtureRequest) -> Iterator[tuple[RabbitServer, MariaServer]]:
    """Start side by side those of the two servers that the selected tests use; wait for neither."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    rabbit, maria = services.shared_rabbit(), services.shared_maria()
    with _uncaptured(request):
        if "rabbit" in wanted:
            rabbit.launch()
        if "maria" in wanted:
            maria.launch()
    yield rabbit, maria
    rabbit.close()
    maria.close()


@pytest.fixture(scope="session")
def rabbit(_launched: tuple[RabbitServer, MariaServer], request: pytest.FixtureRequest) -> RabbitServer:
    """A RabbitMQ that all tests share. Never stop it: a test that stops one takes `own_rabbit`."""
    with _uncaptured(request):
        return _launched[0].start()


@pytest.fixture(scope="session")
def maria(_launched: tuple[RabbitServer, MariaServer], request: pytest.FixtureRequest) -> MariaServer:
    """A MariaDB or MySQL that all tests share. Never stop it: a test that stops one takes `own_maria`."""
    with _uncaptured(request):
        return _launched[1].start()


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
def free_port() -> Callable[[], int]:
    """Gives ports on 127.0.0.1 that nobody listens on."""
    return services.free_port


def _uncaptured(request: pytest.FixtureRequest) -> AbstractContextManager[None]:
    """Let the progress lines of starting servers through to the terminal."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()
