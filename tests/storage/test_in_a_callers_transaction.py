"""`enqueue(session=)` in transactions of REPEATABLE READ, MySQL's default, beside another process that enqueues the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from aiki.errors import ReferenceConflict, RunConflict, StorageUnavailable
from aiki.history import Wait
from aiki.model import NewRun
from aiki.states import State
from aiki.storage import Store, upgrade
from aiki.storage.engine.mysql_errors import CHANGED_SINCE_READ
from tests.services import MariaServer
from tests.storage.bench import Bench, child, step, submission
from tests.storage.conftest import SetClock
from tests.storage.test_creating import new
from tests.tables import empty
from tests.waiting import wait_until

WAITING = "SELECT trx_id FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"


@pytest.fixture(scope="module")
def store(maria: MariaServer) -> Iterator[Store]:
    url = maria.create_database()
    upgrade(url)
    made = Store(url)
    yield made
    made.close()
    maria.drop_database(url)


@contextmanager
def begun(store: Store) -> Iterator[sa.Connection]:
    """A transaction that has looked at the tables before the other process writes."""
    engine = sa.create_engine(store.db.url, isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM aiki_reference_ids LIMIT 1").fetchall()
        connection.exec_driver_sql("SELECT * FROM aiki_runs LIMIT 1").fetchall()
        yield connection
        connection.rollback()
    engine.dispose()


def named(reference: str, *args: object, **more: object) -> NewRun:
    return replace(new("shop.charge", *args), reference_id=reference, **more)  # type: ignore[arg-type]


def test_a_reference_id_that_another_process_has_taken_since(store: Store) -> None:
    with begun(store) as connection:
        other = store.create_runs([named("r-1", 1)]).accepted[0]
        mine = store.create_runs([named("r-1", 1)], connection=connection).accepted[0]
        assert (mine.id, mine.created) == (other.id, False)
        with pytest.raises(ReferenceConflict):
            store.create_runs([named("r-1", 2)], connection=connection)
        lenient = store.create_runs([named("r-1", 2, on_conflict="return_existing")], connection=connection).accepted[0]
        assert lenient.id == other.id


def test_many_at_once_of_which_another_process_has_taken_some(store: Store) -> None:
    runs = [named(f"m-{number}", number) for number in range(5)]
    with begun(store) as connection:
        others = store.create_runs([named(f"m-{number}", number) for number in (1, 3)]).accepted
        made = store.create_runs(runs, connection=connection).accepted
        assert [item.created for item in made] == [True, False, True, False, True]
        assert [made[1].id, made[3].id] == [item.id for item in others]
        connection.commit()
    assert [store.get_run(item.id).reference_id for item in made] == [f"m-{number}" for number in range(5)]


def test_two_that_take_the_same_reference_ids_in_orders_of_their_own_take_turns(store: Store) -> None:
    """Neither holds one that the other waits for, and is ended for a deadlock."""
    each_holds_one = threading.Barrier(2)
    engine = sa.create_engine(store.db.url, isolation_level="REPEATABLE READ")

    def hold(connection: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO aiki_reference_ids") and connection.info.setdefault("first", True):
            connection.info["first"] = False
            with suppress(threading.BrokenBarrierError):
                each_holds_one.wait(0.5)

    sa.event.listen(engine, "after_cursor_execute", hold)

    def enqueue(references: tuple[str, ...]) -> list[str]:
        with engine.begin() as connection:
            made = store.create_runs([named(reference, reference) for reference in references], connection=connection)
            return [item.id for item in made.accepted]

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(enqueue, (("o-1", "o-2", "o-3"), ("o-3", "o-2", "o-1")))
    engine.dispose()
    assert one == other[::-1]
    assert len(set(one)) == 3


def test_a_run_id_that_another_process_has_taken_since(store: Store) -> None:
    run = new("shop.charge", 7)
    with begun(store) as connection:
        store.create_runs([run])
        again = store.create_runs([run, new("shop.charge", 8)], connection=connection).accepted
        assert [item.created for item in again] == [False, True]
        with pytest.raises(RunConflict, match=r"belongs to a run of 'shop.charge'"):
            store.create_runs([replace(run, name="shop.other")], connection=connection)


def test_the_same_enqueue_again_whose_first_answer_was_lost(store: Store) -> None:
    run = named("lost-1", 7)
    with begun(store) as connection:
        store.create_runs([run])
        again = store.create_runs([run], connection=connection).accepted[0]
        assert (again.id, again.created) == (run.id, False)


def test_savepoints_and_a_rollback(store: Store) -> None:
    run = named("s-1", 1)
    with begun(store) as connection:
        savepoint = connection.begin_nested()
        assert store.create_runs([run], connection=connection).accepted[0].created
        savepoint.rollback()
        other = store.create_runs([named("s-1", 1)]).accepted[0]
        with connection.begin_nested():
            assert store.create_runs([named("s-1", 1)], connection=connection).accepted[0].id == other.id
            assert store.create_runs([named("s-2", 1)], connection=connection).accepted[0].created
    assert store.create_runs([named("s-2", 1)]).accepted[0].created, "the caller rolled back"


def failed_workflow(bench: Bench, reference: str) -> str:
    """A workflow that has done one step, and failed at the second."""
    run = bench.start(reference_id=reference)
    bench.steps(run, step(0, "step", "reserve", "completed", 1, e="json", r='"1"'), step(1, "step", "pay", "failed", 1))
    bench.fail(run, 1)
    return run


def again(reference: str) -> NewRun:
    return replace(named(reference), name="shop.flow", kind="workflow", on_conflict="retry_failed")


@pytest.fixture
def bench(store: Store) -> Iterator[Bench]:
    clock, before = SetClock(), store.clock
    store.clock = clock
    empty(store)
    yield Bench(store, clock)
    store.clock = before


def test_a_run_that_is_newer_than_the_transaction_is_retried_with_all_that_it_has_done(bench: Bench) -> None:
    with begun(bench.store) as connection:
        run = failed_workflow(bench, "t-1")
        epoch = bench.row(run)["epoch"]
        made = bench.store.create_runs([again("t-1")], connection=connection, claim=5)
        assert (made.accepted[0].state, made.outgoing) == ("queued", [])
        connection.commit()
    assert [bench.sweep(), bench.sweep()] == [[run], []]
    assert (bench.out[run].epoch, [one.state for one in bench.history(run).steps]) == (epoch + 1, ["completed", "open"])


def test_a_child_that_is_newer_than_the_transaction_is_retried_with_its_workflow(bench: Bench) -> None:
    with begun(bench.store) as connection:
        run, part = bench.start(reference_id="t-4"), child()
        bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, part),))
        bench.fail(bench.id(part))
        bench.stir()
        bench.fail(run, 0)
        assert (bench.state(run), bench.state(bench.id(part))) == ("failed", "failed")
        bench.store.create_runs([again("t-4")], connection=connection, claim=5)
        connection.commit()
    bench.stir()
    assert bench.state(bench.id(part)) == "queued"
    assert bench.sweep() == [run]
    assert bench.history(run).arrivals == []


def test_a_retry_that_a_savepoint_undoes_is_dispatched_once_when_it_is_asked_for_again(bench: Bench) -> None:
    run = failed_workflow(bench, "t-2")
    epoch = bench.row(run)["epoch"]
    with begun(bench.store) as connection:
        savepoint = connection.begin_nested()
        assert bench.store.create_runs([again("t-2")], connection=connection, claim=5).outgoing == []
        savepoint.rollback()
        assert bench.store.create_runs([again("t-2")], connection=connection, claim=5).outgoing == []
        connection.commit()
    assert [bench.sweep(), bench.sweep()] == [[run], []]
    assert bench.out[run].epoch == bench.row(run)["epoch"] == epoch + 1


def test_two_transactions_that_retry_the_same_run_take_turns(bench: Bench, maria: MariaServer) -> None:
    run = failed_workflow(bench, "t-3")
    met: list[State] = []
    with begun(bench.store) as one, begun(bench.store) as other, ThreadPoolExecutor(1) as pool:
        held = bench.store._claim_reference(one, "default", again("t-3"))
        assert held is not None
        waits = pool.submit(bench.store.create_runs, [again("t-3")], connection=other, claim=5)
        wait_until(lambda: maria.execute(WAITING), 60, "the other to wait for the lock of the run")
        met.append(bench.store.create_runs([again("t-3")], connection=one, claim=5).accepted[0].state)
        one.commit()
        met.append(waits.result(60).accepted[0].state)
        other.commit()
    assert met == [State.QUEUED, State.QUEUED]
    assert bench.sweep() == [run]


def test_a_server_that_lets_nobody_look_at_what_is_newer_gives_a_readable_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("SELECT", (), Exception(CHANGED_SINCE_READ, "Record has changed since last read"))

    with begun(store) as connection:
        monkeypatch.setattr(Store, "_claim_reference", refuse)
        with pytest.raises(StorageUnavailable, match="roll back and repeat, or use READ COMMITTED"):
            store.create_runs([named("c-1", 1)], connection=connection)
