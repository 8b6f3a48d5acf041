"""A reference id whose run has failed is enqueued again: what `on_conflict="retry_failed"` does, and the guide's sweep."""

from __future__ import annotations

import datetime as dt
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aiki import Aiki, RetryPolicy
from aiki.errors import ConfigurationError
from aiki.model import RunFilter
from aiki.states import State
from aiki.storage import Store
from aiki.storage.auditing import AuditFilter
from tests.client.ending import end
from tests.deploys.fleet import Fleet
from tests.ready_made import sqlite_database

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "transactions.md"
SHOP = """
from aiki import RetryPolicy

fails = [True]
compensated = []

@app.task(retry=RetryPolicy.fixed(2, 10))
def charge(order):
    if fails[0]:
        raise ValueError("no")
    return order

@app.task
def undo():
    compensated.append(1)

@app.task
def ok():
    pass

@app.workflow
def paid(run, how="retry_failed"):
    charge.options(reference_id="one", on_conflict=how).submit(1).result()

@app.workflow
def undone(run):
    with run.saga() as saga:
        ok()
        saga.compensate(undo)
        raise ValueError("no")
"""


def asked(fleet: Fleet, task: Any, *args: Any, **options: Any) -> str:
    bound = task.options(reference_id="one", on_conflict="retry_failed", **options)
    created = fleet.bench.store.create_runs([bound._new_run(args, {})], claim=5)
    fleet.bench._take(created.outgoing)
    return created.accepted[0].id.replace("-", "")


def fail(fleet: Fleet, shop: Any, run: str) -> None:
    while fleet.work(shop, run) == "waiting":
        fleet.bench.clock.now = fleet.bench.delivery(run) or 0
        fleet.bench.sweep()
    assert fleet.bench.state(run) == "failed", fleet.told(run)


def test_it_is_retried_with_its_policy_anew_and_audited(fleet: Fleet) -> None:
    shop = fleet.load(SHOP)
    run = asked(fleet, shop.charge, 1)
    fail(fleet, shop, run)
    assert asked(fleet, shop.charge, 1) == run
    assert fleet.work(shop, run) == "waiting", "the first of two attempts"
    assert asked(fleet, shop.charge, 1) == run
    assert fleet.bench.row(run)["attempt"] == 4
    (told,) = fleet.bench.store.audit_log(AuditFilter(subject=fleet.bench.text(run)))
    assert (told.action, told.detail) == ("retry", "it was failed, and was enqueued again as one")


def test_what_has_expired_is_retried_and_what_was_cancelled_is_not(fleet: Fleet) -> None:
    shop = fleet.load(SHOP)
    run = asked(fleet, shop.charge, 1)
    bench = fleet.bench
    bench.store.db.transaction(lambda c: bench.store.db.execute(c, "UPDATE aiki_runs SET expires_at = ?", (bench.clock.now,)))
    bench.follow(bench.store.expire("default", [bytes.fromhex(run)]))
    assert bench.state(run) == "cancelled"
    assert asked(fleet, shop.charge, 1) == run
    assert bench.state(run) == "queued"
    bench.cancel(run)
    assert asked(fleet, shop.charge, 1) == run
    assert bench.state(run) == "cancelled"


def test_a_workflow_that_was_compensated_is_given_as_it_is(fleet: Fleet) -> None:
    shop = fleet.load(SHOP)
    run = asked(fleet, shop.undone)
    assert fleet.work(shop, run) == "failed"
    assert shop.compensated == [1]
    assert asked(fleet, shop.undone) == run
    assert fleet.bench.state(run) == "failed"


def test_a_workflow_may_start_a_run_in_this_way(fleet: Fleet) -> None:
    shop = fleet.load(SHOP)
    one = asked(fleet, shop.charge, 1)
    fail(fleet, shop, one)
    for how, ends in (("return_existing", "failed"), ("retry_failed", "completed")):
        shop.fails[0] = how == "return_existing"
        run = fleet.enqueue(shop, "paid", how)
        fleet.work(shop, run)
        if how == "retry_failed":
            assert fleet.work(shop, one) == "completed"
        assert fleet.work(shop, run) == ends, fleet.told(run)
    assert fleet.bench.row(one)["attempt"] == 3


def test_in_a_callers_transaction_it_is_left_to_the_sweeper_and_dispatched_once(fleet: Fleet) -> None:
    shop, bench = fleet.load(SHOP), fleet.bench
    run = asked(fleet, shop.charge, 1)
    fail(fleet, shop, run)
    before = bench.row(run)["epoch"]
    again = shop.charge.options(reference_id="one", on_conflict="retry_failed")
    engine = sa.create_engine(bench.store.db.url)
    with engine.connect() as connection:
        # What the driver does of itself would end the transaction at a savepoint.
        connection.connection.driver_connection.isolation_level = None  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        for keep in (False, True):
            savepoint = connection.begin_nested()
            made = bench.store.create_runs([again._new_run((1,), {})], connection=connection, claim=5)
            assert (made.accepted[0].state, made.outgoing) == (State.QUEUED, [])
            savepoint.commit() if keep else savepoint.rollback()
        connection.exec_driver_sql("COMMIT")
    engine.dispose()
    assert bench.delivery(run) == bench.clock.now
    assert [bench.sweep(), bench.sweep()] == [[run], []]
    assert bench.out[run].epoch == before + 1
    shop.fails[0] = False
    assert fleet.work(shop, run) == "completed"


def test_another_value_is_refused_where_it_is_given(fleet: Fleet) -> None:
    shop = fleet.load(SHOP)
    with pytest.raises(ConfigurationError, match="'retry_failed'"):
        shop.charge.options(on_conflict="retry")


# ---------------------------------------------------------------- the guide's sweep
@pytest.fixture
def app(tmp_path: Path) -> Iterator[Aiki]:
    made = Aiki("sweep", database_url=sqlite_database(tmp_path / "aiki.db"), broker_url=f"sqlite:///{tmp_path / 'b.db'}")
    yield made
    made.client.close()


def sweep_of_the_guide() -> str:
    """The code of the sweep, as it stands in the guide."""
    blocks = re.findall(r"^ *```python shown\n(.*?)^ *```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if "objects.filter" in block]
    indent = len(found) - len(found.lstrip(" "))
    return "\n".join(line[indent:] for line in found.splitlines())


def test_the_sweep_of_the_guide_has_a_failed_payment_tried_again(app: Aiki, tmp_path: Path) -> None:
    @app.task(retry=RetryPolicy.fixed(2, 1))
    def charge(order: int, cents: int) -> None: ...

    orders = [
        types.SimpleNamespace(pk=1, cents=4200),
        types.SimpleNamespace(pk=2, cents=100),
        types.SimpleNamespace(pk=3, cents=7),
    ]
    found: list[dict[str, Any]] = []

    class Order:
        class objects:
            @staticmethod
            def filter(**where: Any) -> list[Any]:
                found.append(where)
                return orders

    given = {"Order": Order, "charge": charge, "timedelta": dt.timedelta}
    given["timezone"] = types.SimpleNamespace(now=lambda: dt.datetime.now(dt.UTC))
    code = sweep_of_the_guide()
    failed = charge.options(reference_id="order-1").enqueue(1, 4200)
    alive = charge.options(reference_id="order-2").enqueue(2, 100)
    store = Store(app.settings.database_url)
    end(store, failed.id, State.FAILED, error=("ValueError", "no"))
    for _ in range(2):
        exec(compile(code, str(GUIDE), "exec"), dict(given))
    assert len(found) == 2
    runs = {run.reference_id: run for run in app.client.list(RunFilter()).runs}
    assert {name: (run.state, run.attempt) for name, run in runs.items()} == {
        "order-1": (State.QUEUED, 2),
        "order-2": (State.QUEUED, 1),
        "order-3": (State.QUEUED, 1),
    }
    assert (runs["order-1"].id, runs["order-2"].id) == (failed.id, alive.id)
    store.close()
