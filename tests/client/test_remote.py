"""The remote client: the contract, and what HTTP adds: retries, deadlines, the server's clock, forks."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aiki import codec, ids
from aiki.client import wire
from aiki.client.embedded import EmbeddedClient
from aiki.client.remote import RemoteClient
from aiki.clock import now_us
from aiki.errors import ConfigurationError, PayloadTooLarge, RunConflict, ServerError, Unauthorized, Unavailable, UnknownTask
from aiki.model import DefinitionInfo, NewRun, RunFilter
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store
from tests.client.contract import ClientContract, events, new_run
from tests.client.ending import end
from tests.client.stand_in import Fault, Handler, StandIn
from tests.client.test_embedded import settings_for
from tests.client.workflows import done, new_workflow, record, sleep


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    embedded = EmbeddedClient(settings_for(tmp_path))
    embedded.store.ping()
    made = StandIn(embedded)
    yield made
    made.stop()
    embedded.close()


@pytest.fixture
def settings(tmp_path: Path, server: StandIn) -> Settings:
    return replace(settings_for(tmp_path), server_url=server.url, timeout=3.0)


@pytest.fixture
def client(settings: Settings) -> Iterator[RemoteClient]:
    made = RemoteClient(settings)
    yield made
    made.close()


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    made = Store(settings.database_url)
    made.check_schema()
    yield made
    made.close()


class TestOverHttp(ClientContract):
    pass


def problem(status: int, code: str = "", **headers: str) -> Fault:
    return lambda handler: handler.answer(status, {"code": code, "detail": f"told {status}", "name": "x"}, **headers)


def hang_up(handler: Handler) -> None:
    """Do the work, and close the connection before answering."""
    handler.route()
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def test_what_did_not_get_through_is_asked_again(server: StandIn, client: RemoteClient) -> None:
    run = new_run(1)
    server.faults += [
        problem(503, "unavailable", Retry_After="0"),
        problem(429, Retry_After="0"),
        problem(502, Retry_After="0"),
    ]
    server.faults += [hang_up]
    (accepted,) = client.enqueue([run])
    assert accepted.id == run.id
    assert server.requests == ["POST /api/v1/runs"] * 5
    assert [item.id for item in client.list(RunFilter()).runs] == [run.id], "the answer was lost, and it is one run"


def test_a_cancel_that_is_asked_again_is_no_second_cancel(server: StandIn, client: RemoteClient, store: Store) -> None:
    flow = new_workflow()
    client.enqueue([flow])
    record(store, flow.id, done(0, "reserve"))
    server.faults.append(hang_up)
    asked = client.cancel(flow.id, reason="not wanted")
    assert (asked.state, asked.cancel_requested) == (State.RUNNING, True), "its code is to meet the cancel"
    assert client.cancel(flow.id).state is State.CANCELLED


def test_a_rerun_that_is_asked_again_is_one_run(server: StandIn, client: RemoteClient, store: Store) -> None:
    flow = new_workflow()
    client.enqueue([flow])
    record(store, flow.id, done(0, "reserve"), done(1, "charge"))
    made = []
    for from_step in (None, 1):
        server.faults.append(hang_up)
        made.append(client.rerun(flow.id, from_step=from_step).id)
    assert {run.id for run in client.list(RunFilter()).runs} == {flow.id, *made}
    assert [step.name for step in client.history(made[1])] == ["reserve"]


def test_what_is_asked_again_does_not_conflict_with_itself(server: StandIn, client: RemoteClient, store: Store) -> None:
    flow = new_workflow()
    client.enqueue([flow])
    sleep(store, flow.id, 0, "night")
    for ask, state in ((client.wake, State.QUEUED), (client.resume, State.QUEUED), (client.retry, State.QUEUED)):
        if ask == client.resume:
            sleep(store, flow.id, 1, "winter")
            client.pause(flow.id)
        elif ask == client.retry:
            end(store, flow.id, State.FAILED)
        server.faults.append(hang_up)
        assert ask(flow.id).state is state
        with pytest.raises(RunConflict):
            ask(flow.id)


def test_what_is_asked_again_is_what_was_asked_once(server: StandIn, client: RemoteClient, store: Store) -> None:
    """A run may be waiting, or have failed, again by the time at which the question is repeated."""
    flow = new_workflow()
    client.enqueue([flow])
    sleep(store, flow.id, 0, "night")

    def hang_up_late(handler: Handler) -> None:
        handler.route()
        end(store, flow.id, State.FAILED)
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    end(store, flow.id, State.FAILED)
    server.faults.append(hang_up_late)
    client.retry(flow.id)
    assert client.get(flow.id).state is State.FAILED, "the run failed anew: it is not retried a second time"


def test_an_event_that_is_asked_again_is_one_event(server: StandIn, client: RemoteClient, store: Store) -> None:
    flow = new_workflow()
    client.enqueue([flow])
    server.faults.append(hang_up)
    client.send_event(flow.id, "paid", None)
    assert events(store, flow.id) == [("paid", None)]


def test_retry_after_is_honoured_within_the_deadline(server: StandIn, client: RemoteClient) -> None:
    server.faults.append(problem(503, "unavailable", Retry_After="30"))
    began = time.monotonic()
    with pytest.raises(Unavailable, match="told 503") as caught:
        client.list(RunFilter())
    assert time.monotonic() - began < 1
    assert caught.value.retry_after == 30


def test_errors_are_the_sdks_own(server: StandIn, client: RemoteClient) -> None:
    cases = [
        (problem(422, "unknown_task"), UnknownTask),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403), Unauthorized),
    ]
    cases += [(problem(413), PayloadTooLarge), (problem(422, "invalid"), ConfigurationError), (problem(500), ServerError)]
    cases += [(lambda handler: handler.answer(200, None), ServerError)]
    for fault, kind in cases:
        server.faults.append(fault)
        with pytest.raises(kind):
            client.enqueue([new_run(1)])


def test_a_server_that_is_not_there_is_unavailable_in_time(settings: Settings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = RemoteClient(replace(settings, server_url=f"http://127.0.0.1:{unused.getsockname()[1]}", timeout=0.5))
        began = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be reached"):
            client.enqueue([new_run(1)])
        assert time.monotonic() - began < 1.5


def test_no_call_outlasts_its_deadline_however_slowly_bytes_come(server: StandIn, settings: Settings) -> None:
    released = threading.Event()

    def silent(_handler: Handler) -> None:
        released.wait(10)

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not released.wait(0.1):
            handler.wfile.write(b" ")

    client = RemoteClient(replace(settings, timeout=0.5))
    for fault in (silent, drip):
        server.faults[:] = [fault]
        began = time.monotonic()
        with pytest.raises(Unavailable):
            client.list(RunFilter())
        assert time.monotonic() - began < 1.5
    released.set()
    server.faults.clear()
    assert client.list(RunFilter()).runs == [], "the connection with the rest of an answer is not used again"
    client.close()


def test_the_servers_clock_decides(server: StandIn, client: RemoteClient) -> None:
    server.clock = lambda: now_us() + 3_600_000_000
    client.list(RunFilter())
    assert abs(client.now() - now_us() - 3_600_000_000) < 2_000_000


def test_a_callers_transaction_cannot_be_shared(client: RemoteClient) -> None:
    with pytest.raises(ConfigurationError, match="AIKI_DATABASE_URL"):
        client.enqueue([new_run(1)], session=object())  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["aiki:8080", "ftp://aiki", "http://", "http://key@aiki", "http://[x"])
def test_an_address_that_is_none_is_refused(settings: Settings, url: str) -> None:
    with pytest.raises(ConfigurationError, match="server_url"):
        RemoteClient(replace(settings, server_url=url))


def test_connections_are_kept_and_not_shared_with_children(server: StandIn, client: RemoteClient) -> None:
    for _ in range(5):
        client.list(RunFilter())
    (pool,) = client._pool.pools._container.values()
    assert pool.num_connections == 1
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        code = 1
        try:
            client.list(RunFilter())
            (own,) = client._pool.pools._container.values()
            code = 0 if own is not pool else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    client.list(RunFilter())
    assert pool.num_connections == 1


def test_the_signature_that_the_caller_saw_travels_as_a_header(client: RemoteClient, server: StandIn) -> None:
    """A server of another release passes over a header that it does not know; a field it would refuse."""
    seen: list[tuple[str | None, str]] = []

    def look(handler: Handler) -> None:
        seen.append((handler.headers.get(wire.SHAPE_HEADER), handler.content.decode()))
        handler.answer(200, handler.route())

    client.register([DefinitionInfo("shop.charge")])
    server.faults += [look, look, look]
    payload = codec.encode([[], {}])
    runs = [NewRun(str(ids.new_id()), "shop.charge", payload, options={"sg": "ab12cd34"}) for _ in range(2)]
    client.enqueue(runs[:1])
    client.enqueue(runs)
    client.enqueue([replace(runs[0], id=str(ids.new_id()), options={})])
    assert [header for header, _ in seen] == ["ab12cd34", "ab12cd34", None]
    assert all("ab12cd34" not in body for _, body in seen)
