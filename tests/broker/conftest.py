"""Fixtures for the brokers' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

# So that a failed assertion in them shows its values, as one in a test file does.
pytest.register_assert_rewrite("tests.broker.contract", "tests.broker.kits")

from tests.broker.kits import AmqpKit, SqliteKit  # noqa: E402
from tests.services import RabbitServer  # noqa: E402


@pytest.fixture
def sqlite_kit(tmp_path: Path) -> Iterator[SqliteKit]:
    kit = SqliteKit(tmp_path)
    yield kit
    kit.close()


@pytest.fixture(params=["rabbit", "rabbit4"])
def server_url(request: pytest.FixtureRequest) -> str:
    """Both releases of RabbitMQ."""
    server: RabbitServer = request.getfixturevalue(request.param)
    return server.url


@pytest.fixture
def amqp_kit(server_url: str) -> Iterator[AmqpKit]:
    kit = AmqpKit(server_url)
    yield kit
    kit.close()


@pytest.fixture
def quorum_kit(server_url: str) -> Iterator[AmqpKit]:
    kit = AmqpKit(server_url, "quorum")
    yield kit
    kit.close()
