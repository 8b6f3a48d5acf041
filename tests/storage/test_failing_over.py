"""A server that was the primary is a replica now, behind an address that leads to the new one: nobody stays with the old."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from sqlalchemy.engine import make_url

from aiki.codec import encode
from aiki.errors import StorageUnavailable
from aiki.ids import new_id
from aiki.model import NewRun
from aiki.storage import Store, upgrade
from tests.services import MariaServer
from tests.system.proxy import Proxy

Two = tuple[MariaServer, MariaServer, str]
"""The old primary, the new one, and the variable that makes a server a replica."""


@pytest.fixture(params=["maria", "mysql9"])
def two(request: pytest.FixtureRequest) -> Two:
    old: MariaServer = request.getfixturevalue(f"own_{request.param}")
    switch = "super_read_only" if old.newer else "read_only"
    return old, request.getfixturevalue(request.param), switch


class Address:
    """What clients know: it leads to one of the two."""

    def __init__(self, server: MariaServer) -> None:
        self._proxy = Proxy(_place(server))
        self.url = f"mysql+pymysql://service@127.0.0.1:{self._proxy.port}/failing_over"

    def lead_to(self, server: MariaServer) -> None:
        self._proxy.switch(_place(server))

    def close(self) -> None:
        self._proxy.close()


def _place(server: MariaServer) -> tuple[str, int]:
    return make_url(server.url).host or "127.0.0.1", server.port


@pytest.fixture
def address(two: Two) -> Iterator[Address]:
    """It leads to the old primary."""
    urls = []
    for server in two[:2]:
        server.execute("CREATE USER IF NOT EXISTS 'service'@'127.0.0.1'")
        urls.append(server.create_database("failing_over"))
        upgrade(urls[-1])
        # Who has all rights may write to a replica.
        server.execute("GRANT ALL ON failing_over.* TO 'service'@'127.0.0.1'")
    address = Address(two[0])
    yield address
    address.close()
    for server, url in zip(two, urls, strict=False):
        if server.newer:
            server.execute("SET GLOBAL super_read_only = 0")
        server.execute("SET GLOBAL read_only = 0")
        server.drop_database(url)


@pytest.fixture
def store(address: Address) -> Iterator[Store]:
    store = Store(address.url)
    yield store
    store.close()


def new_run() -> NewRun:
    return NewRun(str(new_id()), "shop.charge", encode([[], {}]))


def fill_pool(store: Store) -> None:
    """Have several connections in each pool."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            list(pool.map(lambda _: store.create_runs([new_run()]), range(4)))
            list(pool.map(lambda _: store.count_by_state(), range(4)))


def test_pooled_connections_leave_a_server_that_is_read_only_now(two: Two, address: Address, store: Store) -> None:
    old, new, switch = two
    fill_pool(store)
    old.execute(f"SET GLOBAL {switch} = 1")
    address.lead_to(new)
    failed = 0
    for _ in range(6):
        try:
            store.create_runs([new_run()])
        except StorageUnavailable:
            failed += 1
    assert failed <= 1
    # What it reads is the new primary's too: the pool of readers has left as well.
    assert sum(store.count_by_state().values()) == 6 - failed
    with closing(Store(new.url + "failing_over")) as direct:
        assert sum(direct.count_by_state().values()) == 6 - failed


def test_without_a_new_primary_it_is_said_and_goes_on_when_there_is_one(two: Two, address: Address, store: Store) -> None:
    old, new, switch = two
    fill_pool(store)
    old.execute(f"SET GLOBAL {switch} = 1")
    for _ in range(3):
        with pytest.raises(StorageUnavailable, match="read-only"):
            store.create_runs([new_run()])
    address.lead_to(new)
    store.create_runs([new_run()])
    assert sum(store.count_by_state().values()) == 1
