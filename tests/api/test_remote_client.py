"""The remote client, on a real server: the contract of all clients."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aiki.client.remote import RemoteClient
from aiki.errors import ConfigurationError, PayloadTooLarge, Unauthorized, UnknownTask
from aiki.model import NewRun
from aiki.settings import Settings
from aiki.storage import Store
from aiki.storage.tables import metadata
from tests.api.live import LiveServer
from tests.client.contract import ClientContract, new_run

KEY = "contract-key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests here."""
    made = LiveServer(tmp_path_factory.mktemp("remote") / "server", AIKI_API_KEY=KEY, AIKI_WORKERS="2").wait_ready()
    yield made
    made.close()


@pytest.fixture
def store(server: LiveServer) -> Iterator[Store]:
    """The server's database, emptied."""
    made = Store(server.database_url)

    def empty(connection: object) -> None:
        for table in metadata.sorted_tables:
            made.db.execute(connection, f"DELETE FROM {table.name}")  # type: ignore[arg-type]

    made.db.transaction(empty)
    yield made
    made.close()


@pytest.fixture
def client(server: LiveServer, store: Store, tmp_path: Path) -> Iterator[RemoteClient]:
    made = RemoteClient(Settings.load({}, server_url=server.url, api_key=KEY))
    yield made
    made.close()


class TestRemote(ClientContract):
    def test_the_server_says_what_is_wrong(self, client: RemoteClient) -> None:
        with pytest.raises(UnknownTask, match=r"did you mean shop\.charge"):
            client.enqueue([NewRun(new_run().id, "shop.chagre", new_run().input)])
        with pytest.raises(ConfigurationError, match="a b"):
            client.enqueue([new_run(queue="a b")])
        with pytest.raises(PayloadTooLarge):
            client.enqueue([new_run("x" * 9_000_000)])

    def test_a_wrong_key_is_told(self, client: RemoteClient, server: LiveServer) -> None:
        with pytest.raises(Unauthorized, match="AIKI_API_KEY"):
            RemoteClient(Settings.load({}, server_url=server.url, api_key="wrong")).get(new_run().id)

    def test_largest_payloads_pass(self, client: RemoteClient) -> None:
        run = new_run('"\\' * 1_500_000)
        client.enqueue([run])
        assert client.detail(run.id).input == run.input

    def test_a_hundred_at_once_with_one_reference_id_get_one_run(self, client: RemoteClient) -> None:
        with ThreadPoolExecutor(100) as pool:
            runs = [new_run(1, reference_id="order-1") for _ in range(100)]
            answers = [accepted for (accepted,) in pool.map(lambda run: client.enqueue([run]), runs)]
        assert len({accepted.id for accepted in answers}) == 1
        assert sum(accepted.created for accepted in answers) == 1
