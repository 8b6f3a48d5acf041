"""An operator's retry begins the retry policy anew, whichever way it is asked for; and code is told where it stands in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from aiki import Aiki, RetryPolicy, current_run, current_run_or_none, ids
from aiki import messages as m
from aiki.clock import SECOND
from aiki.context import NoCurrentRun, set_current_run
from aiki.storage import Store
from aiki.storage.batches import Operation, Target
from tests.deploys.fleet import Fleet, Release

SHOP = """
from aiki import RetryPolicy, RetryLater, current_run
POLICY = RetryPolicy.exponential(max_attempts=3, delay=10, jitter=0)
seen = []

def told():
    run = current_run()
    return (run.attempt, run.max_attempts, run.is_last_attempt)

@app.task(retry=POLICY)
def charge(fails=True):
    seen.append(told())
    if fails:
        raise ValueError("no")

@app.task
def plain():
    seen.append(told())
    raise ValueError("no")

@app.task(retry=RetryPolicy.fixed(3, 10))
def pay():
    seen.append(told())
    raise ValueError("no")

@app.workflow
def checkout(run):
    pay()

@app.workflow
def parents(run):
    charge.submit().result()

@app.workflow(retry=RetryPolicy.fixed(2, 10))
def stubborn(run):
    seen.append((run.max_attempts, run.is_last_attempt))
    raise ValueError("no")
"""
ANEW = [(1, 3, False), (2, 3, False), (3, 3, True)]


@pytest.fixture
def shop(fleet: Fleet) -> Release:
    return fleet.load(SHOP)


def seen(shop: Release) -> list[tuple[Any, ...]]:
    """What its functions were told since the last call."""
    found, shop.module.seen = shop.module.seen, []
    return list(found)


def exhaust(fleet: Fleet, shop: Release, run: str) -> list[int]:
    """Work until the run ends; the pauses between its attempts, in seconds."""
    pauses = []
    while (state := fleet.work(shop, run)) not in ("failed", "completed"):
        assert state == "waiting", fleet.told(run)
        due = fleet.bench.delivery(run)
        assert due is not None
        pauses.append((due - fleet.bench.clock.now) // SECOND)
        fleet.bench.clock.now = due
        assert run in fleet.bench.sweep()
    return pauses


def by_hand(fleet: Fleet, run: str) -> None:
    fleet.bench._take(fleet.bench.store.retry_run(fleet.bench.text(run), reason="mended", actor="ann").outgoing)


def by_batch(fleet: Fleet, run: str) -> None:
    store: Store = fleet.bench.store
    target = Target(ids=(fleet.bench.text(run),))
    store.create_batch(str(ids.new_id()), Operation.RETRY, target, expected=1, reason="mended", actor="ann")
    (lease,) = store.claim_batches("me")
    while not (worked := store.work_batch(lease, 100)).over:
        fleet.bench.follow(worked.applied)


@pytest.mark.parametrize("retry", [by_hand, by_batch])
def test_attempts_and_pauses_begin_anew(fleet: Fleet, shop: Release, retry: Callable[[Fleet, str], None]) -> None:
    run = fleet.enqueue(shop, "charge")
    assert exhaust(fleet, shop, run) == [10, 20]
    assert seen(shop) == ANEW
    for before in (3, 6):
        retry(fleet, run)
        assert exhaust(fleet, shop, run) == [10, 20]
        assert seen(shop) == [(before + attempt, *rest) for attempt, *rest in ANEW]


def test_a_policy_of_the_call_begins_anew_too(fleet: Fleet, shop: Release) -> None:
    bound = shop.plain.options(retry=RetryPolicy.fixed(2, 5))
    run = fleet.send(shop, bound._new_run((), {}))
    assert exhaust(fleet, shop, run) == [5]
    by_hand(fleet, run)
    assert exhaust(fleet, shop, run) == [5]
    assert seen(shop) == [(1, 2, False), (2, 2, True), (3, 2, False), (4, 2, True)]


def test_without_a_policy_each_attempt_is_the_last(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "plain")
    assert exhaust(fleet, shop, run) == []
    by_hand(fleet, run)
    assert exhaust(fleet, shop, run) == []
    assert seen(shop) == [(1, 1, True), (2, 1, True)]


def test_a_kill_at_the_hard_limit_asks_the_policy_that_began_anew(fleet: Fleet, shop: Release) -> None:
    from aiki.worker.executor import timeout_delay

    run = fleet.enqueue(shop, "charge")
    exhaust(fleet, shop, run)
    by_hand(fleet, run)
    assert timeout_delay(fleet.bench.out[run], shop.charge) == 10


def test_crashes_are_counted_apart(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "charge")
    fleet.bench.report(run, (m.STARTED, {"ms": 1}))
    fleet.bench.report(run, (m.CRASHED, {"signal": "SIGKILL"}))
    assert fleet.bench.row(run)["attempt"] == 2
    assert exhaust(fleet, shop, run) == [10, 20]
    assert seen(shop) == [(attempt + 1, *rest) for attempt, *rest in ANEW]


def test_a_rerun_is_a_new_run_with_the_options_of_the_old_one(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "charge")
    exhaust(fleet, shop, run)
    by_hand(fleet, run)
    seen(shop)
    created = fleet.bench.store.rerun(fleet.bench.text(run), claim=5)
    fleet.bench._take(created.outgoing)
    again = created.outgoing[0].dispatch.run_id
    assert m.OPT_UNCOUNTED not in created.outgoing[0].dispatch.options
    assert exhaust(fleet, shop, again) == [10, 20]
    assert seen(shop) == ANEW


def test_a_step_has_its_policy_anew(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "checkout")
    assert exhaust(fleet, shop, run) == [10, 10]
    by_hand(fleet, run)
    assert exhaust(fleet, shop, run) == [10, 10]
    assert seen(shop) == ANEW + ANEW


def test_a_step_that_was_open_when_the_workflow_died_has_its_policy_anew(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "checkout")
    for _ in range(2):
        assert fleet.work(shop, run) == "waiting"
        fleet.bench.clock.now = fleet.bench.delivery(run) or 0
        fleet.bench.sweep()
    for _ in range(3):
        fleet.bench.report(run, (m.STARTED, {"ms": 1}), source=shop.worker)
        fleet.bench.report(run, (m.CRASHED, {"signal": "SIGKILL"}), source=shop.worker)
        fleet.bench.clock.now += 60 * SECOND
        fleet.bench.sweep()
    assert fleet.bench.state(run) == "dead"
    seen(shop)
    by_hand(fleet, run)
    assert exhaust(fleet, shop, run) == [10, 10]
    assert seen(shop) == ANEW


def test_a_child_has_its_policy_anew_with_its_parent(fleet: Fleet, shop: Release) -> None:
    parent = fleet.enqueue(shop, "parents")
    assert fleet.work(shop, parent) == "waiting"
    (child,) = [run for run in fleet.bench.out if run != parent]
    exhaust(fleet, shop, child)
    assert fleet.work(shop, parent) == "failed"
    by_hand(fleet, parent)
    fleet.bench.stir()
    assert exhaust(fleet, shop, child) == [10, 20]
    assert seen(shop) == [*ANEW, (4, 3, False), (5, 3, False), (6, 3, True)]


def test_a_workflow_has_its_own_policy_anew_and_knows_its_last_attempt(fleet: Fleet, shop: Release) -> None:
    run = fleet.enqueue(shop, "stubborn")
    assert exhaust(fleet, shop, run) == [10]
    assert seen(shop) == [(2, False), (2, False)]  # recorded: each replay sees what the first call saw
    by_hand(fleet, run)
    assert exhaust(fleet, shop, run) == [10]


def test_a_retry_takes_the_expiry_off(fleet: Fleet, shop: Release) -> None:
    run = fleet.send(shop, shop.charge.options(expires=60)._new_run((), {}))
    bench = fleet.bench
    bench.store.db.transaction(lambda c: bench.store.db.execute(c, "UPDATE aiki_runs SET expires_at = ?", (bench.clock.now,)))
    bench.follow(bench.store.expire("default", [bytes.fromhex(run)]))
    assert bench.state(run) == "cancelled"
    by_hand(fleet, run)
    assert bench.row(run)["expires_at"] is None
    bench.clock.now += 3600 * SECOND
    assert exhaust(fleet, shop, run) == [10, 20]


def test_workers_of_former_releases_ignore_what_is_not_counted(fleet: Fleet, shop: Release) -> None:
    """The count travels as an option of its own; the attempt is what it always was."""
    run = fleet.enqueue(shop, "charge")
    exhaust(fleet, shop, run)
    by_hand(fleet, run)
    dispatch = fleet.bench.out[run]
    sent = m.DispatchList("default", "default", [dispatch]).encode()
    (read,) = m.DispatchList.decode(sent).runs
    assert (read.attempt, read.options[m.OPT_UNCOUNTED], read.counted) == (4, 3, 1)
    assert json.loads(sent)[0] == 1


# ---------------------------------------------------------------- called as a plain function
@pytest.fixture
def app() -> Aiki:
    return Aiki("direct")


def told() -> tuple[int, int, bool]:
    run = current_run()
    run.progress(0.5)
    run.logger.debug("here")
    return run.attempt, run.max_attempts, run.is_last_attempt


def test_a_task_that_is_called_directly_sees_a_run(app: Aiki) -> None:
    @app.task(retry=RetryPolicy.fixed(4, 1))
    def charge() -> tuple[Any, ...]:
        return (*told(), current_run().id == current_run().id, current_run().name.endswith("charge"), current_run_or_none())

    @app.task
    def outer() -> tuple[Any, ...]:
        return charge()

    assert charge() == (1, 4, False, True, True, None)
    assert outer()[:3] == (1, 1, True)  # it is one call: the inner one is a part of it
    with pytest.raises(NoCurrentRun):
        current_run()


def test_a_task_that_raises_leaves_no_run_behind(app: Aiki) -> None:
    @app.task
    def fails() -> None:
        raise ValueError(current_run().id)

    with pytest.raises(ValueError, match="-"):
        fails()
    with pytest.raises(NoCurrentRun):
        current_run()


def test_an_asynchronous_task_that_is_called_directly_sees_a_run(app: Aiki) -> None:
    @app.task(retry=RetryPolicy.fixed(2, 1))
    async def charge(amount: int) -> tuple[Any, ...]:
        await asyncio.sleep(0)
        return (amount, *told())

    assert asyncio.run(charge(7)) == (7, 1, 2, False)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        charge()  # type: ignore[call-arg]
    with pytest.raises(NoCurrentRun):
        current_run()


def test_in_a_run_a_direct_call_sees_that_run(app: Aiki) -> None:
    from aiki.context import CurrentRun
    from aiki.retry import Tries

    @app.task
    def inner() -> tuple[Any, ...]:
        return (*told(), current_run().id)

    run = CurrentRun("ab" * 16, 5, "x", None, lambda *_: None, tries=Tries(2, 3))
    set_current_run(run)
    try:
        assert inner() == (5, 3, False, run.id)
    finally:
        set_current_run(None)
