"""The remote client, on a real server: the contract of all clients."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from aiki.client.remote import RemoteClient
from aiki.codec import encode
from aiki.errors import ConfigurationError, PayloadTooLarge, RunNotFound, ServerError, Unauthorized, UnknownTask
from aiki.handle import outcome
from aiki.model import DefinitionInfo, NewRun
from aiki.settings import Settings
from aiki.storage import Store
from aiki.storage.auditing import AuditFilter
from tests.api.live import LiveServer
from tests.client.contract import ClientContract, new_run
from tests.client.workflows import new_workflow, sleep
from tests.system.proxy import Proxy
from tests.tables import empty

KEY = "the-contract-key-of-tests"


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
    empty(made)
    yield made
    made.close()


@pytest.fixture
def client(server: LiveServer, store: Store, tmp_path: Path) -> Iterator[RemoteClient]:
    made = RemoteClient(Settings.load({}, server_url=server.url, api_key=KEY))
    yield made
    made.close()


class _Swallowing(Proxy):
    """Cuts a connection off in place of passing on the next answer, whenever it is told to."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.swallow = threading.Event()
        self.swallowed = 0
        super().__init__(target)

    def __enter__(self) -> _Swallowing:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def passes(self, way: str, data: bytes) -> bool:
        if way == "down" and data and self.swallow.is_set():
            self.swallow.clear()
            self.swallowed += 1
            return False
        return True


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

    def test_it_asks_in_the_namespace_of_its_settings(self, client: RemoteClient, server: LiveServer, store: Store) -> None:
        secret, _ = store.add_key("team", "operator", ["team"])
        mine = RemoteClient(Settings.load({}, server_url=server.url, api_key=secret, namespace="team"))
        simple = RemoteClient(Settings.load({}, server_url=server.url, api_key=secret))
        mine.register([DefinitionInfo("shop.charge")])
        run = new_run()
        mine.enqueue([run])
        assert mine.get(run.id).namespace == simple.get(run.id).namespace == "team", "the only one that the key sees"
        with pytest.raises(RunNotFound):
            client.get(run.id)
        with pytest.raises(ServerError, match="not yours to see"):
            RemoteClient(Settings.load({}, server_url=server.url, api_key=secret, namespace="other")).get(run.id)

    def test_a_result_is_the_whole_one_or_none(self, client: RemoteClient, server: LiveServer, store: Store) -> None:
        run = replace(new_run(), input=encode([[], {"password": "hidden"}]))
        client.enqueue([run])
        store.db.transaction(
            lambda connection: (
                store.db.execute(connection, "UPDATE aiki_runs SET state = 'completed', finished_at = 1").rowcount
            )
        )
        told = {}
        for role in ("viewer", "operator"):
            secret, _ = store.add_key(role, role)
            told[role] = RemoteClient(Settings.load({}, server_url=server.url, api_key=secret)).detail(run.id)
        assert (told["operator"].input, told["operator"].withheld) == (run.input, False)
        assert (told["viewer"].input, told["viewer"].withheld) == (None, True)
        assert outcome(told["operator"]) is None
        with pytest.raises(Unauthorized, match="operator's key"):
            outcome(told["viewer"])

    def test_an_answer_that_is_lost_on_the_way_is_safe_to_ask_for_again(self, server: LiveServer, store: Store) -> None:
        """Through a proxy that swallows the answer to each verb, once."""
        port = int(server.url.rpartition(":")[2])
        flow = new_workflow()
        with _Swallowing(("127.0.0.1", port)) as proxy:
            client = RemoteClient(Settings.load({}, server_url=f"http://127.0.0.1:{proxy.port}", api_key=KEY))
            client.register([DefinitionInfo(flow.name, "1", "workflow", {})])
            client.enqueue([flow])
            sleep(store, flow.id, 0, "night")
            verbs: list[tuple[str, Callable[[], object]]] = [
                ("run.wake", lambda: client.wake(flow.id)),
                ("run.pause", lambda: client.pause(flow.id)),
                ("run.resume", lambda: client.resume(flow.id)),
                ("run.event", lambda: client.send_event(flow.id, "paid", None)),
                ("run.cancel", lambda: client.cancel(flow.id)),
                ("run.retry", lambda: client.retry(flow.id)),
                ("queue.pause", lambda: client.ask("POST", "/queues/default/pause", {})),
            ]
            for _, verb in verbs:
                swallowed = proxy.swallowed
                proxy.swallow.set()
                verb()
                assert proxy.swallowed == swallowed + 1
            client.close()
        done = Counter(item.action for item in store.audit_log(AuditFilter(), limit=100))
        assert set(done.values()) == {1}, done
        assert len(done) >= len(verbs)

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
