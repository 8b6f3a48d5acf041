"""Handles: results, errors, waiting, values."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time

import pytest

from aiki import (
    Aiki,
    ConfigurationError,
    Handle,
    ResultTimeout,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    State,
    Unavailable,
)
from aiki.handle import apps
from aiki.storage import Store
from tests.client.ending import end


@pytest.fixture
def handle(app: Aiki) -> Handle[str]:
    @app.task(name="charge")
    def charge(order: str) -> str:
        return order

    return charge.enqueue("o-1")


def test_a_result_comes_with_the_runs_end(handle: Handle[str], store: Store) -> None:
    assert handle.status() is State.QUEUED
    assert not handle.done()
    thread = threading.Timer(0.1, end, [store, handle.id], {"result": "paid"})
    thread.start()
    assert handle.result(timeout=20) == "paid"
    assert handle.result(timeout=0) == "paid"
    assert handle.done()
    assert handle.wait()
    assert asyncio.run(handle.aresult()) == "paid"
    thread.join()


def test_no_result_is_none(handle: Handle[str], store: Store) -> None:
    end(store, handle.id)
    assert handle.result() is None


def test_a_failure_is_raised_with_the_original_error(handle: Handle[str], store: Store) -> None:
    end(store, handle.id, State.FAILED, error=("shop.CardDeclined", "no money"))
    for ask in (handle.result, lambda: asyncio.run(handle.aresult())):
        with pytest.raises(RunFailed, match="no money") as caught:
            ask()
        assert (caught.value.error_type, caught.value.error_message) == ("shop.CardDeclined", "no money")
        assert caught.value.traceback == "Traceback: here"
        assert caught.value.run_id == handle.id
    assert handle.retry() is State.QUEUED
    with pytest.raises(RunConflict):
        handle.retry()


def test_a_dead_run_says_so(handle: Handle[str], store: Store) -> None:
    end(store, handle.id, State.DEAD, error=("Crashed", "SIGKILL"))
    with pytest.raises(RunFailed, match="is dead") as caught:
        handle.result()
    assert caught.value.state == "dead"


def test_a_cancel_is_raised(handle: Handle[str]) -> None:
    assert handle.cancel("not wanted") is State.CANCELLED
    with pytest.raises(RunCancelled, match=handle.id):
        handle.result()


def test_rerun_is_another_handle(handle: Handle[str], store: Store) -> None:
    end(store, handle.id, result="paid")
    again = handle.rerun()
    assert again != handle
    assert again.name == "charge"
    assert again.status() is State.QUEUED


def test_time_outs_say_what_the_run_does(handle: Handle[str]) -> None:
    with pytest.raises(ResultTimeout, match=r"of charge had not ended after 0.1 s; it is queued"):
        handle.result(timeout=0.1)
    with pytest.raises(TimeoutError):
        asyncio.run(handle.aresult(timeout=0.1))
    assert not handle.wait(timeout=0.05)
    with pytest.raises(ValueError, match="timeout=-1"):
        handle.result(timeout=-1)


def test_waiting_outlasts_an_outage(app: Aiki, handle: Handle[str], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    end(store, handle.id, result="paid")
    detail, failures = app.client.detail, [Unavailable("the database is away", retry_after=0.01)] * 6

    def flaky(run_id: str, *, wait: float = 0.0) -> object:
        if failures:
            raise failures.pop()
        return detail(run_id, wait=wait)

    def away(run_id: str, timeout: float) -> object:
        raise Unavailable("the database is away")

    monkeypatch.setattr(app.client, "detail", flaky)
    monkeypatch.setattr(app.client, "soon", away)
    assert handle.result(timeout=20) == "paid"
    failures.extend([Unavailable("the database is away", retry_after=0.01)] * 6)
    assert asyncio.run(handle.aresult(timeout=20)) == "paid"
    failures.extend([Unavailable("the database is away", retry_after=60)] * 6)
    began = time.monotonic()
    with pytest.raises(ResultTimeout, match="the database is away"):
        handle.result(timeout=0.1)
    assert time.monotonic() - began < 5


def test_a_handle_is_made_from_an_id(app: Aiki, handle: Handle[str]) -> None:
    other = app.handle(handle.id)
    assert other == handle
    assert {other, handle} == {handle}
    assert other.name == "charge"
    assert app.handle(handle.id.replace("-", "").upper()) == handle
    assert handle.id in repr(other)
    with pytest.raises(ConfigurationError, match="UUID"):
        app.handle("o-1")
    with pytest.raises(RunNotFound):
        app.handle("01890000-0000-7000-8000-000000000000").status()
    assert other != handle.id


def test_a_handle_can_be_pickled(app: Aiki, handle: Handle[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(handle)
    assert pickle.loads(data) == handle
    assert pickle.loads(data).status() is State.QUEUED
    monkeypatch.delitem(apps, app.name)
    with pytest.raises(ConfigurationError, match="import the module that makes the app first"):
        pickle.loads(data)
