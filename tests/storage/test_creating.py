"""Recording runs: all or none, safe to repeat, unique by reference id."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from aiki import codec, ids
from aiki.errors import PayloadTooLarge, ReferenceConflict, RunConflict
from aiki.model import DefinitionInfo, NewRun
from aiki.states import State
from aiki.storage import Store
from tests.storage.conftest import SetClock


def new(name: str = "shop.charge", *args: object, **options: object) -> NewRun:
    return NewRun(str(ids.new_id()), name, codec.encode([list(args), {}]), **options)  # type: ignore[arg-type]


def test_a_run_is_recorded_with_its_input_and_its_delivery(store: Store) -> None:
    run = new("shop.charge", "o-1", 4200)
    created = store.create_runs([run], claim=5)
    assert [(a.id, a.state, a.created) for a in created.accepted] == [(run.id, State.QUEUED, True)]
    [outgoing] = created.outgoing
    assert outgoing.dispatch.input == run.input.text
    assert outgoing.dispatch.epoch == 1
    detail = store.detail(run.id)
    assert detail is not None
    assert detail.input == run.input
    assert detail.result is None
    assert detail.run.state is State.QUEUED


@pytest.mark.parametrize("text", ["plain", "it's", 'a "b" \\ %s %(x)s {} ? :name', "'; DROP TABLE aiki_runs; --", "🦀"])
def test_options_that_many_runs_share_are_those_of_each(store: Store, text: str) -> None:
    shared, other = {"tp": text, "tl": 5}, {"tp": text + "!"}
    runs = [new(options=shared) for _ in range(5)] + [new(options=other), new(), new(options=shared)]
    created = store.create_runs(runs, claim=5)
    assert [item.dispatch.options for item in created.outgoing] == [run.options for run in runs]
    store.create_runs([new(options=shared) for _ in range(5)])
    assert [item.dispatch.options for item in store.claim_due().outgoing] == [shared] * 5, "as they were recorded"


def test_a_claimed_delivery_is_the_sweepers_once_the_claim_has_run_out_and_then_marked(store: Store, clock: SetClock) -> None:
    store.create_runs([new()], claim=5)
    assert store.claim_due().outgoing == []
    clock.move(5.1)
    [outgoing] = store.claim_due().outgoing
    assert outgoing.again
    assert store.claim_due().outgoing == [], "it is claimed again"
    clock.move(11)
    assert len(store.claim_due().outgoing) == 1


def test_without_a_claim_the_sweeper_publishes_at_once_and_unmarked(store: Store) -> None:
    created = store.create_runs([new()])
    assert created.outgoing == []
    [outgoing] = store.claim_due().outgoing
    assert not outgoing.again


def test_a_confirmed_delivery_is_gone_and_a_released_one_is_due_unmarked(store: Store, clock: SetClock) -> None:
    created = store.create_runs([new(), new()], claim=5)
    store.delivered([created.outgoing[0].delivery_id])
    store.released([created.outgoing[1].delivery_id])
    [outgoing] = store.claim_due().outgoing
    assert outgoing.delivery_id == created.outgoing[1].delivery_id
    assert not outgoing.again
    clock.move(100)
    assert len(store.claim_due().outgoing) == 1


def test_a_delayed_run_is_due_at_its_time(store: Store, clock: SetClock) -> None:
    run = new(due_at=clock.now + 60_000_000)
    created = store.create_runs([run], claim=5)
    assert created.accepted[0].state is State.SCHEDULED
    assert created.outgoing == []
    clock.move(59)
    assert store.claim_due().outgoing == []
    clock.move(1)
    [outgoing] = store.claim_due().outgoing
    assert not outgoing.again
    view = store.get_run(run.id)
    assert view is not None
    assert view.state is State.QUEUED


def test_asking_twice_with_the_same_id_is_one_run(store: Store) -> None:
    first, second = new(), new()
    store.create_runs([first])
    again = store.create_runs([first, second], claim=5)
    assert [a.created for a in again.accepted] == [False, True]
    assert [o.dispatch.run_id for o in again.outgoing] == [second.id.replace("-", "")]
    with pytest.raises(RunConflict, match=first.id):
        store.create_runs([NewRun(first.id, "another", first.input)])


def test_a_batch_is_all_or_none(store: Store) -> None:
    taken = new("a", 1, reference_id="r-1")
    store.create_runs([taken])
    with pytest.raises(ReferenceConflict):
        store.create_runs([new(), new("a", 2, reference_id="r-1")])
    assert store.count_by_state() == {State.QUEUED: 1}


def test_reference_ids(store: Store) -> None:
    first = new("a", 1, reference_id="r-1")
    store.create_runs([first])
    same = store.create_runs([new("a", 1, reference_id="r-1")], claim=5)
    assert [(a.id, a.created) for a in same.accepted] == [(first.id, False)]
    assert same.outgoing == []
    with pytest.raises(ReferenceConflict, match=first.id):
        store.create_runs([new("a", 2, reference_id="r-1")])
    other = store.create_runs([new("a", 2, reference_id="r-1", on_conflict="return_existing")])
    assert other.accepted[0].id == first.id
    assert store.create_runs([new("b", 2, reference_id="r-1")]).accepted[0].created, "unique by name"


def test_a_hundred_at_once_with_one_reference_id_are_one_run(open_store: Callable[..., Store]) -> None:
    store = open_store(timeout=30.0)
    barrier = threading.Barrier(20)
    answers: list[str] = []

    def work() -> None:
        barrier.wait()
        for _ in range(5):
            answers.append(store.create_runs([new("a", 1, reference_id="r-1")]).accepted[0].id)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 100
    assert len(set(answers)) == 1
    assert store.count_by_state() == {State.QUEUED: 1}


def test_the_callers_transaction_decides(store: Store) -> None:
    run = new()
    callers = sa.create_engine(store.db.url)
    with callers.connect() as connection:
        store.create_runs([run], connection=connection, claim=5)
        connection.rollback()
    assert store.get_run(run.id) is None
    with callers.connect() as connection:
        store.create_runs([run], connection=connection, claim=5)
        connection.commit()
    callers.dispose()
    assert store.get_run(run.id) is not None


def test_what_is_short_travels_in_long_lists(store: Store) -> None:
    store.register_definitions([DefinitionInfo("fast"), DefinitionInfo("slow")])
    store.save_durations("default", {"fast": 0.5, "slow": 900.0})
    groups = [o.group for o in store.create_runs([new("fast") for _ in range(100)], claim=5).outgoing]
    assert len(set(groups)) == 2
    groups = [o.group for o in store.create_runs([new("slow") for _ in range(10)], claim=5).outgoing]
    assert len(set(groups)) == 10
    groups = [o.group for o in store.create_runs([new("new") for _ in range(40)], claim=5).outgoing]
    assert len(set(groups)) == 2


def test_a_payload_the_database_cannot_take_is_refused_readably_and_nothing_is_recorded(
    mysql_database: str, clock: SetClock
) -> None:
    from aiki.storage import upgrade

    upgrade(mysql_database)
    store = Store(mysql_database, clock=clock, max_message=10**9)
    with store.db.engine.connect() as connection:
        limit = int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar() or 0)
    run = NewRun(str(ids.new_id()), "a", codec.encode("x" * (limit + 10), limit=10**9))
    with pytest.raises(PayloadTooLarge, match="max_allowed_packet"):
        store.create_runs([run, new()])
    assert store.count_by_state() == {}
    store.close()


def test_a_database_without_tables_says_what_to_run(mysql_database: str) -> None:
    from aiki.errors import ConfigurationError

    store = Store(mysql_database)
    with pytest.raises(ConfigurationError, match="aiki db upgrade"):
        store.check_schema()
    store.close()


def test_the_migrations_make_the_tables_of_the_code(store: Store) -> None:
    from aiki.storage.tables import metadata
    from tests.storage.schemas import differences, tables

    assert differences(store.db) == []
    versions = {"aiki_alembic_version"} if store.db.dialect.begins_with_head else {"aiki_alembic_version", "aiki_schema"}
    assert tables(store.db) == {*metadata.tables, *versions}
