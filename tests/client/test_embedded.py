"""The embedded client, over SQLite, MariaDB or MySQL, and PostgreSQL."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from aiki.broker import Session as BrokerSession
from aiki.broker import open_broker, work
from aiki.client.embedded import EmbeddedClient
from aiki.errors import ConfigurationError, RunNotFound
from aiki.messages import DispatchList
from aiki.model import RunFilter
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store, upgrade
from tests.client.contract import ClientContract, new_run
from tests.client.ending import end
from tests.ready_made import sqlite_database
from tests.waiting import wait_until


def settings_for(tmp_path: Path, database_url: str = "") -> Settings:
    return Settings.load(
        {},
        database_url=database_url or sqlite_database(tmp_path / "aiki.db"),
        broker_url=f"sqlite:///{tmp_path / 'broker.db'}",
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path)


@pytest.fixture
def client(settings: Settings) -> Iterator[EmbeddedClient]:
    made = EmbeddedClient(settings)
    yield made
    made.close()


@pytest.fixture
def store(settings: Settings, client: EmbeddedClient) -> Iterator[Store]:
    made = Store(settings.database_url)
    made.check_schema()
    yield made
    made.close()


class TestOnSqlite(ClientContract):
    pass


class TestOnMariaDB(ClientContract):
    @pytest.fixture
    def settings(self, tmp_path: Path, maria_tables: str) -> Settings:
        return settings_for(tmp_path, maria_tables)


class TestOnMySQL9(ClientContract):
    @pytest.fixture
    def settings(self, tmp_path: Path, mysql9_tables: str) -> Settings:
        return settings_for(tmp_path, mysql9_tables)


class TestOnPostgreSQL(ClientContract):
    @pytest.fixture
    def settings(self, tmp_path: Path, postgres_tables: str) -> Settings:
        return settings_for(tmp_path, postgres_tables)


class TransactionContract:
    """Enqueueing inside the caller's own transaction."""

    @pytest.fixture
    def engine(self, settings: Settings, store: Store) -> Iterator[sa.Engine]:
        engine = sa.create_engine(settings.database_url)
        yield engine
        engine.dispose()

    @pytest.fixture
    def taken(self, settings: Settings) -> Iterator[BrokerSession]:
        session = open_broker(settings.broker_url).connect("test")
        session.subscribe(work("default", "default"), 100)
        yield session
        session.close()

    def test_a_session_that_commits_has_its_run_published(
        self, client: EmbeddedClient, store: Store, engine: sa.Engine, taken: BrokerSession
    ) -> None:
        run = new_run(1)
        with Session(engine) as session:
            (accepted,) = client.enqueue([run], session=session)
            assert accepted.created
            with pytest.raises(RunNotFound):
                client.get(run.id)
            session.commit()
        assert client.get(run.id).state is State.QUEUED
        (delivery,) = taken.receive(10)
        assert [item.run_id for item in DispatchList.decode(delivery.body).runs] == [run.id.replace("-", "")]
        wait_until(lambda: store.next_due() is None, 10, "the delivery to be deleted")

    def test_a_rollback_leaves_no_run_and_no_message(
        self, client: EmbeddedClient, store: Store, engine: sa.Engine, taken: BrokerSession
    ) -> None:
        dropped, kept = new_run(1), new_run(2)
        with Session(engine) as session:
            client.enqueue([dropped], session=session)
            session.rollback()
            client.enqueue([kept], session=session)
            session.commit()
        (delivery,) = taken.receive(10)
        assert [item.run_id for item in DispatchList.decode(delivery.body).runs] == [kept.id.replace("-", "")]
        assert [run.id for run in client.list(RunFilter()).runs] == [kept.id]
        assert taken.receive(0.1) == []

    def test_a_savepoint_that_is_rolled_back_takes_its_run_along(
        self, client: EmbeddedClient, engine: sa.Engine, taken: BrokerSession
    ) -> None:
        kept, dropped = new_run(1), new_run(2)
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN")
            client.enqueue([kept], connection=connection)
            savepoint = connection.begin_nested()
            client.enqueue([dropped], connection=connection)
            savepoint.rollback()
            connection.commit()
        (delivery,) = taken.receive(10)
        assert [item.run_id for item in DispatchList.decode(delivery.body).runs] == [kept.id.replace("-", "")]
        assert [run.id for run in client.list(RunFilter()).runs] == [kept.id]
        assert taken.receive(0.1) == []

    def test_retry_failed_belongs_to_the_transaction(
        self, client: EmbeddedClient, store: Store, engine: sa.Engine, taken: BrokerSession
    ) -> None:
        run = new_run(1, reference_id="order-1")
        client.enqueue([run])
        assert len(taken.receive(10)) == 1
        wait_until(lambda: store.next_due() is None, 10, "the delivery to be deleted")
        end(store, run.id, State.FAILED, error=("ValueError", "no"))
        again = new_run(1, reference_id="order-1", on_conflict="retry_failed")
        with Session(engine) as session:
            (accepted,) = client.enqueue([again], session=session)
            assert (accepted.id, accepted.state, accepted.created) == (run.id, State.QUEUED, False)
            assert client.get(run.id).state is State.FAILED
            session.rollback()
        assert taken.receive(0.1) == []
        assert client.get(run.id).state is State.FAILED
        fresh = new_run(2)
        with Session(engine) as session:
            client.enqueue([again, fresh], session=session)
            session.commit()
        assert client.get(run.id).state is State.QUEUED
        (delivery,) = taken.receive(60)
        assert [item.run_id for item in DispatchList.decode(delivery.body).runs] == [fresh.id.replace("-", "")]
        left = [item for item in store.claim_due().outgoing if item.dispatch.run_id == run.id.replace("-", "")]
        assert [(item.dispatch.attempt, item.again) for item in left] == [(2, False)]

    def test_a_session_inside_an_outer_transaction_publishes_with_the_outer_commit(
        self, client: EmbeddedClient, engine: sa.Engine, taken: BrokerSession
    ) -> None:
        run = new_run(1)
        with engine.connect() as connection:
            outer = connection.begin()
            with Session(connection) as session:
                client.enqueue([run], session=session)
                session.commit()
            assert taken.receive(0.1) == []
            outer.commit()
        assert len(taken.receive(10)) == 1

    def test_other_databases_and_odd_arguments_are_refused(
        self, client: EmbeddedClient, engine: sa.Engine, tmp_path: Path
    ) -> None:
        other = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
        with other.connect() as connection, pytest.raises(ConfigurationError, match=r"one of sqlite:///.*other\.db"):
            client.enqueue([new_run(1)], connection=connection)
        other.dispose()
        with Session(engine) as session, engine.connect() as connection, pytest.raises(ConfigurationError, match="not both"):
            client.enqueue([new_run(1)], session=session, connection=connection)
        with pytest.raises(ConfigurationError, match="Session, not str"):
            client.enqueue([new_run(1)], session="x")  # type: ignore[arg-type]


class TestTransactionsOnSqlite(TransactionContract):
    pass


class TestTransactionsOnMariaDB(TransactionContract):
    @pytest.fixture
    def settings(self, tmp_path: Path, maria_tables: str) -> Settings:
        return settings_for(tmp_path, maria_tables)


class TestTransactionsOnPostgreSQL(TransactionContract):
    @pytest.fixture
    def settings(self, tmp_path: Path, postgres_tables: str) -> Settings:
        return settings_for(tmp_path, postgres_tables)


def test_a_process_that_dies_after_the_callers_commit_leaves_the_run_to_the_sweeper(settings: Settings) -> None:
    """The claim runs out, and then the delivery is due, marked."""
    Store(settings.database_url).check_schema()
    run = new_run(1)
    pid = os.fork()
    if pid == 0:
        client = EmbeddedClient(settings)
        with Session(sa.create_engine(settings.database_url)) as session:
            client.enqueue([run], session=session)
            client.publisher.put_pending = lambda pending: None  # type: ignore[method-assign]
            session.commit()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    store = Store(settings.database_url, clock=lambda: due)
    (due,) = [store.next_due() or 0]
    (outgoing,) = store.claim_due().outgoing
    assert outgoing.dispatch.run_id == run.id.replace("-", "")
    assert outgoing.again
    store.close()


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child and give its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def enqueue_as_child(client: EmbeddedClient, number: int) -> None:
    client.enqueue([new_run(number, reference_id=f"child-{number}")])
    client.close()


def test_a_child_starts_over(client: EmbeddedClient, store: Store) -> None:
    client.enqueue([new_run(0)])
    wait_until(lambda: store.next_due() is None, 15, "the parent's run to be published")
    for number in range(3):
        pid = in_child(lambda number=number: enqueue_as_child(client, number))  # type: ignore[misc]
        assert os.waitpid(pid, 0)[1] == 0
        client.enqueue([new_run("parent")])
        wait_until(lambda: store.next_due() is None, 15, "everything to be published")
        assert len(client.list(RunFilter(reference_id=f"child-{number}")).runs) == 1


def test_children_start_over_while_threads_enqueue(tmp_path: Path, mysql_database: str) -> None:
    upgrade(mysql_database)
    client, store = EmbeddedClient(settings_for(tmp_path, mysql_database)), Store(mysql_database)
    client.enqueue([new_run(0)])
    wait_until(lambda: store.next_due() is None, 15, "the publisher to be at work")
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            client.enqueue([new_run("parent")])

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        children = [in_child(lambda number=number: enqueue_as_child(client, number)) for number in range(4)]  # type: ignore[misc]
        assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for number in range(4):
        assert len(client.list(RunFilter(reference_id=f"child-{number}")).runs) == 1
    wait_until(lambda: store.next_due() is None, 15, "everything to be published")
    client.close()
    store.close()
