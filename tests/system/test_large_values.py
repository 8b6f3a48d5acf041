"""Large values on whole systems: they run, or fail readably, and nobody's session is ended by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from aiki import RunFailed, checks
from aiki.errors import PayloadTooLarge, RunConflict
from aiki.settings import Settings
from aiki.states import State
from tests.ready_made import sqlite_database
from tests.scale import FULL, scaled
from tests.services import RabbitServer
from tests.system.system import System
from tests.waiting import wait_until

MB = 1_000_000
LIMIT = 16 * 1024 * 1024


def task(system: System, name: str, **settings: Any) -> Any:
    return system.app("large", **settings).definitions[f"large.{name}"]


def up(system: System, concurrency: int = 2) -> None:
    system.orchestrator()
    system.worker(concurrency=concurrency, app="large")


def sessions_were_lost(system: System) -> list[str]:
    """Lines of any process about a session with the broker that ended."""
    return [line for process in system.processes for line in process.log.splitlines() if "no connection" in line]


@pytest.fixture(scope="module")
def limited_rabbit() -> Iterator[RabbitServer]:
    """RabbitMQ as release 4 is by default."""
    with RabbitServer(config=[f"max_message_size = {LIMIT}"]) as server:
        yield server


@pytest.fixture(scope="module")
def limited_rabbit4() -> Iterator[RabbitServer]:
    """RabbitMQ 4 as it is by default."""
    with RabbitServer(newer=True) as server:
        yield server


LIMITED = ["limited_rabbit", *(["limited_rabbit4"] if FULL else [])]


@pytest.fixture(params=LIMITED)
def limited(request: pytest.FixtureRequest, make_system: Callable[..., System], mysql_database: str) -> System:
    return make_system(mysql_database, request.getfixturevalue(request.param).url)


@pytest.fixture(params=["embedded_system", *LIMITED])
def either(request: pytest.FixtureRequest) -> System:
    if request.param == "embedded_system":
        made: System = request.getfixturevalue(request.param)
        return made
    make_system, database = request.getfixturevalue("make_system"), request.getfixturevalue("mysql_database")
    return cast(System, make_system(database, request.getfixturevalue(request.param).url))


# ---------------------------------------------------------------- they run
def test_results_that_are_larger_than_a_message_are_collected_and_a_step_follows(either: System) -> None:
    up(either)
    assert task(either, "collect").enqueue(20, MB).result(timeout=60) == [MB, 20, 20 * MB, 1]
    assert sessions_were_lost(either) == []


def test_large_results_of_its_own_steps_are_fetched_in_the_replay(embedded_system: System) -> None:
    up(embedded_system, 1)
    assert task(embedded_system, "build").enqueue(7, MB).result(timeout=60) == 7 * MB


def test_a_fan_out_of_large_inputs_is_reported_in_parts(limited: System) -> None:
    up(limited)
    count = scaled(60, 200)
    assert task(limited, "hand_out").enqueue(count, 700_000).result(timeout=scaled(90, 300)) == count * 700_000
    assert sessions_were_lost(limited) == []


def test_events_that_nobody_waits_for_are_more_than_a_history_may_be(embedded_system: System) -> None:
    up(embedded_system, 1)
    handle = task(embedded_system, "listen").enqueue()
    for _ in range(2):
        handle.send_event("other", "x" * 7 * MB)
    with pytest.raises(RunConflict, match=r"3 events of 21,000,006 bytes.*16,777,216 bytes"):
        handle.send_event("other", "x" * 7 * MB)
    for _ in range(3):
        wait_until(lambda: "event large" in (handle.view().waiting_on or ""), 30, f"a wait\n{embedded_system.tails()}")
        before = handle.view().updated_at
        handle.send_event("large", "y" * 2 * MB)
        wait_until(lambda before=before: handle.view().updated_at != before, 30)  # type: ignore[misc]
    assert handle.result(timeout=30) == [2 * MB] * 3


# ---------------------------------------------------------------- they fail readably
def test_a_fan_out_beyond_the_limit_of_a_history_is_refused_before_its_first_run_starts(embedded_system: System) -> None:
    up(embedded_system, 1)
    handle = task(embedded_system, "wide").enqueue(30_000)
    with pytest.raises(RunFailed, match="25,000 steps"):
        handle.result(timeout=60)
    assert embedded_system.states() == {State.FAILED: 1}


def test_an_input_that_no_message_can_carry_is_refused_at_the_call(limited: System) -> None:
    measure = task(limited, "measure", max_payload=64 * MB)
    with pytest.raises(PayloadTooLarge, match="17,000,00"):
        measure.enqueue("x" * 17 * MB)
    with pytest.raises(PayloadTooLarge, match="in a message"):
        measure.enqueue("\\" * 5 * MB)  # twice as long in the payload, and that twice as long in a message


def test_a_result_that_no_message_can_carry_fails_its_run_and_nobody_elses(limited: System) -> None:
    limited.env |= {"AIKI_MAX_PAYLOAD": str(64 * MB)}
    up(limited, 1)
    make = task(limited, "make")
    large, odd, small = make.enqueue(17 * MB), make.enqueue(5 * MB, "\\"), make.enqueue(10)
    with pytest.raises(RunFailed, match="PayloadTooLarge"):
        large.result(timeout=60)
    with pytest.raises(RunFailed, match=r"MessageTooLarge.*its result is too large to be sent.*16,777,216"):
        odd.result(timeout=60)
    assert small.result(timeout=60) == "x" * 10
    assert sessions_were_lost(limited) == []


@pytest.mark.parametrize(("allowed", "verdict"), [(LIMIT, "ok"), (LIMIT + MB, "fail")])
def test_doctor_compares_what_is_allowed_with_what_the_broker_takes(
    limited_rabbit: RabbitServer, tmp_path: Path, allowed: int, verdict: str
) -> None:
    database = sqlite_database(tmp_path / "aiki.db")
    settings = Settings.load(
        {}, database_url=database, broker_url=limited_rabbit.url, max_message=allowed, prefix=f"p{allowed}", timeout=30.0
    )
    found = {check.what: check for check in checks.checks(settings)}["messages"]
    assert (found.verdict, "16,777,216 bytes" in found.found) == (verdict, True)
    assert verdict == "ok" or f"AIKI_MAX_MESSAGE={LIMIT}" in found.todo


def test_a_broker_that_takes_less_than_it_is_held_to_is_believed(
    make_system: Callable[..., System], limited_rabbit: RabbitServer, tmp_path: Path
) -> None:
    settings = {"max_payload": 64 * MB, "max_message": 128 * MB}
    system = make_system(f"sqlite:///{tmp_path}/aiki.db", limited_rabbit.url, **settings)
    up(system, 1)
    make, measure = task(system, "make", **settings), task(system, "measure", **settings)
    large, small = make.enqueue(17 * MB), make.enqueue(10)
    with pytest.raises(RunFailed, match="16,777,216"):
        large.result(timeout=60)
    assert small.result(timeout=60) == "x" * 10
    sent = measure.enqueue("x" * 17 * MB)  # by this process, which learns it first; then by the orchestrator
    with pytest.raises(RunFailed, match=r"MessageTooLarge.*cannot be dispatched.*16,777,216"):
        sent.result(timeout=90)
    assert measure.enqueue("x").result(timeout=60) == 1
    assert len(sessions_were_lost(system)) <= 3, "each process learns it once"
