"""Whatever tasks are given, return or raise: it comes through, or fails readably at the call or on the run."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from aiki import Handle, PayloadError, RunFailed
from aiki.codec import DEFAULT_LIMIT, encode
from aiki.errors import PayloadTooLarge
from aiki.states import State
from tests.services import MariaServer, RabbitServer
from tests.system.system import System
from tests.test_codec import same, values

MB = 1_000_000
RESULTS: dict[str, str | None] = {
    "cycle": "contains itself",
    "deep": "nested deeper",
    "object": "builtins.object",
    "class": "type",
    "generator": "generator",
    "huge int": None,
    "nan": None,
    "bytes": None,
    "set": None,
    "surrogate": None,
    "nul": None,
    "keys": None,
    "tag": None,
}
ERRORS = {
    "mute": ("shop.Mute", "__str__ raised"),
    "demanding": ("shop.Demanding", "(1, <object object"),
    "deceitful": ("shop.Deceitful", "__str__ raised"),
    "surrogate": ("ValueError", r"a\ud800b"),
    "nul": ("ValueError", "a\x00b"),
    "long": ("ValueError", "left out"),
    "group": ("ExceptionGroup", "several"),
    "system exit": ("SystemExit", "out"),
    "keyboard": ("KeyboardInterrupt", ""),
    "generator exit": ("GeneratorExit", ""),
    "stop": ("StopIteration", "1"),
    "base": ("BaseException", "bare"),
    "chain": ("shop.Demanding", "(1, <function"),
    "loop": ("ValueError", "first"),
    "recursion": ("RecursionError", "maximum recursion depth"),
}


def failure(handle: Handle[Any]) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        handle.result(timeout=60)
    return caught.value


def test_strange_results_and_errors_never_harm_the_worker(system: System) -> None:
    system.orchestrator()
    system.worker()
    tasks = system.app().definitions
    results = {kind: tasks["shop.strange_result"].enqueue(kind) for kind in RESULTS}
    errors = {kind: tasks["shop.strange_error"].enqueue(kind) for kind in ERRORS}
    for kind, says in RESULTS.items():
        if says is None:
            results[kind].result(timeout=60)
        else:
            failed = failure(results[kind])
            assert failed.error_type == "aiki.errors.EncodeError", kind
            assert "result of shop.strange_result" in failed.error_message
            assert says in failed.error_message
    nan, inf, zero = results["nan"].result()
    assert math.isnan(nan)
    assert (inf, math.copysign(1, zero)) == (math.inf, -1.0)
    assert results["surrogate"].result() == "a\ud800b"
    assert results["huge int"].result() == 10**5000
    for kind, (name, says) in ERRORS.items():
        failed = failure(errors[kind])
        assert failed.error_type == name, kind
        assert says in failed.error_message, kind
        assert len(failed.error_message) < 5000
        if kind != "mute":
            assert "Traceback" in failed.traceback or "cannot be shown" in failed.traceback, kind
    assert tasks["shop.noop"].enqueue(1).result(timeout=30) == 1
    assert "died" not in system.tails()
    assert system.store.dead_letter_count() == 0


def test_fuzzed_arguments_and_results_come_through_a_worker(system: System) -> None:
    import tests.test_codec  # noqa: F401  its classes must be loaded in the worker too

    system.orchestrator()
    system.worker("-A", "tests.system.fuzzed")
    echo = system.app().definitions["shop.echo"]
    cases: list[Any] = []

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values)
    def gather(value: Any) -> None:
        cases.append(value)

    gather()
    handles = echo.enqueue_many([(value,) for value in cases])
    for handle, value in zip(handles, cases, strict=True):
        assert same(handle.result(timeout=60), value)


def test_arguments_that_cannot_be_carried_fail_at_the_call(system: System) -> None:
    tasks = system.app().definitions
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, object(), lambda: 1):
        with pytest.raises(PayloadError, match=r"arguments of shop\.echo|shop\.echo"):
            tasks["shop.echo"].enqueue(value)
    with pytest.raises(PayloadTooLarge, match="AIKI_MAX_PAYLOAD"):
        tasks["shop.echo"].enqueue("x" * 20 * MB)
    with pytest.raises(PayloadTooLarge):
        tasks["shop.echo"].enqueue_many([(1,), ("x" * 20 * MB,)])
    assert not system.states()


def test_a_result_over_the_limit_fails_its_run_readably(system: System) -> None:
    system.orchestrator()
    system.worker()
    tasks = system.app().definitions
    failed = failure(tasks["shop.big"].enqueue(20 * MB))
    assert failed.error_type == "aiki.errors.PayloadTooLarge"
    assert f"over the limit of {DEFAULT_LIMIT:,}" in failed.error_message
    assert len(tasks["shop.big"].enqueue(7 * MB).result(timeout=60)) == 7 * MB


@pytest.fixture(scope="module")
def maria_of_64_mb() -> Any:
    server = MariaServer(["--max-allowed-packet=64M"]).start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def maria_of_1_mb() -> Any:
    server = MariaServer(["--max-allowed-packet=1M"]).start()
    yield server
    server.close()


def test_with_the_limits_raised_twenty_megabytes_come_through(
    make_system: Callable[..., System], rabbit: RabbitServer, maria_of_64_mb: MariaServer
) -> None:
    system = make_system(maria_of_64_mb.create_database(), rabbit.url, max_payload=30 * MB, max_message=64 * MB)
    system.orchestrator()
    system.worker()
    tasks = system.app(max_payload=30 * MB, max_message=64 * MB).definitions
    data = os.urandom(100) * (14 * MB // 100)  # base64 makes it 19 MB
    assert len(encode(data, limit=30 * MB).text) > 18 * MB
    assert tasks["shop.echo"].enqueue("\\" * 9 * MB).result(timeout=60) == "\\" * 9 * MB  # each is two, and four in SQL
    assert tasks["shop.echo"].enqueue(data).result(timeout=60) == data
    assert tasks["shop.big"].enqueue(20 * MB).result(timeout=60) == "x" * 20 * MB
    assert len(failure(tasks["shop.big"].enqueue(31 * MB)).error_message) < 5000


def test_a_report_too_large_for_the_database_fails_its_run_and_its_partition_goes_on(
    make_system: Callable[..., System], rabbit: RabbitServer, maria_of_1_mb: MariaServer
) -> None:
    system = make_system(maria_of_1_mb.create_database(), rabbit.url, max_payload=30 * MB, max_message=64 * MB, partitions=1)
    orchestrator = system.orchestrator()
    system.worker()
    tasks = system.app(max_payload=30 * MB, max_message=64 * MB, partitions=1).definitions
    before = tasks["shop.noop"].enqueue_many([(i,) for i in range(50)])
    large = [tasks["shop.big"].enqueue(size) for size in (2 * MB, 20 * MB)]
    small = [tasks["shop.big"].enqueue(400_000) for _ in range(3)]  # together more than a packet, each alone less
    after = tasks["shop.noop"].enqueue_many([(i,) for i in range(50)])
    assert [handle.result(timeout=60) for handle in after] == list(range(50))
    assert [handle.result(timeout=60) for handle in before] == list(range(50))
    assert {len(handle.result(timeout=60)) for handle in small} == {400_000}
    for handle in large:
        failed = failure(handle)
        assert failed.state == State.FAILED
        assert "max_allowed_packet" in failed.error_message, failed.error_message
    with pytest.raises(PayloadTooLarge, match="max_allowed_packet"):
        tasks["shop.echo"].enqueue("x" * 5 * MB)
    orchestrator.signal(signal.SIGCONT)  # still there
    assert tasks["shop.noop"].enqueue(1).result(timeout=30) == 1
