"""A caller's transaction on each driver that the guide names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from aiki.client.embedded import EmbeddedClient
from aiki.errors import ConfigurationError, ReferenceConflict
from aiki.model import RunFilter
from aiki.settings import Settings
from tests.client.contract import new_run

DRIVERS = {"mysql": ("asyncmy", ["pymysql", "mysqlconnector"]), "postgresql": ("psycopg", ["psycopg"])}
"""Of each kind of database: the one for asyncio, and the others."""


@pytest.fixture(params=["maria", "mysql9", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_tables"))


@pytest.fixture
def client(url: str, tmp_path: Path) -> Iterator[EmbeddedClient]:
    made = EmbeddedClient(Settings.load({}, database_url=url, broker_url=f"sqlite:///{tmp_path}/broker.db"))
    yield made
    made.close()


def with_driver(url: str, driver: str) -> sa.URL:
    made = sa.make_url(url)
    return made.set(drivername=f"{made.get_backend_name()}+{driver}")


def enqueue(client: EmbeddedClient, session: Any, name: str = "o") -> None:
    """One run, many of them with what is the same in all, one with a reference id twice, one that is refused."""
    client.enqueue([new_run("100 % o'clock")], session=session)
    client.enqueue([new_run(number, queue="slow") for number in range(60)], session=session)
    for _ in range(2):
        client.enqueue([new_run(1, reference_id=f"{name}-1")], session=session)
    with pytest.raises(ReferenceConflict):
        client.enqueue([new_run(2, reference_id=f"{name}-1")], session=session)


def test_a_session(client: EmbeddedClient, url: str) -> None:
    for count, driver in enumerate(DRIVERS[sa.make_url(url).get_backend_name()][1]):
        engine = sa.create_engine(with_driver(url, driver))
        with Session(engine) as session:
            enqueue(client, session, driver)
            session.rollback()
        assert len(client.list(RunFilter(), limit=200).runs) == 62 * count
        with Session(engine) as session:
            enqueue(client, session, driver)
            session.commit()
        assert len(client.list(RunFilter(), limit=200).runs) == 62 * (count + 1)
        engine.dispose()


def test_an_async_session(client: EmbeddedClient, url: str) -> None:
    async def work() -> None:
        engine = create_async_engine(with_driver(url, DRIVERS[sa.make_url(url).get_backend_name()][0]))
        async with AsyncSession(engine) as session:
            await session.run_sync(lambda sync: enqueue(client, sync))
            await session.rollback()
        assert client.list(RunFilter()).runs == []
        async with AsyncSession(engine) as session:
            await session.run_sync(lambda sync: enqueue(client, sync))
            await session.commit()
        await engine.dispose()

    asyncio.run(work())
    assert len(client.list(RunFilter(), limit=100).runs) == 62


@pytest.mark.parametrize("url", ["maria"], indirect=True)
def test_a_driver_that_cannot_send_binary_values_is_told(client: EmbeddedClient, url: str) -> None:
    async def work() -> None:
        engine = create_async_engine(with_driver(url, "aiomysql"))
        async with AsyncSession(engine) as session:
            with pytest.raises(ConfigurationError, match=r"aiomysql.*use mysql\+asyncmy"):
                await session.run_sync(lambda sync: client.enqueue([new_run(1)], session=sync))
        await engine.dispose()

    asyncio.run(work())
    assert client.list(RunFilter()).runs == []
