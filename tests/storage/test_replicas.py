"""Behind a proxy that splits reads and writes, what is read outside of a transaction comes from a replica, which lags behind.
Nothing that decides, or that goes into a dispatch, is read so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from aiki import codec, ids
from aiki import messages as m
from aiki.broker import open_broker
from aiki.client.embedded import EmbeddedClient
from aiki.model import NewRun
from aiki.orchestrator.loop import Orchestrator
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store
from tests.orchestrator.hand import HandWorker
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock
from tests.waiting import wait_until


@pytest.fixture
def outside() -> Iterator[list[str]]:
    """The SELECTs that are sent outside of transactions, by whomever."""
    seen: list[str] = []

    def note(_connection: Any, cursor: Any, statement: str, *_rest: Any) -> None:
        # The answer to what the driver asks first does not come from tables.
        if " FROM " in statement and cursor.connection.get_autocommit():
            seen.append(statement)

    event.listen(sa.Engine, "before_cursor_execute", note)
    yield seen
    event.remove(sa.Engine, "before_cursor_execute", note)


def new_run(name: str = "a") -> NewRun:
    return NewRun(str(ids.new_id()), name, codec.encode([[1], {}]))


@pytest.fixture
def store(maria_tables: str, clock: SetClock) -> Iterator[Store]:
    """A store as servers and clients have it."""
    made = Store(maria_tables, clock=clock)
    yield made
    made.close()


def test_what_is_claimed_is_read_where_it_was_claimed(store: Store, clock: SetClock, outside: list[str]) -> None:
    store.create_runs([new_run(), new_run()])
    Bench(store, clock).start("shop.flow", 1)
    clock.move(60)
    outside.clear()
    claimed = store.claim_due()
    assert sorted(out.dispatch.input for out in claimed.outgoing) == ["[[1],{}]"] * 3
    assert outside == []


def test_verbs_look_at_what_they_have_just_written(store: Store, outside: list[str]) -> None:
    run = new_run()
    store.create_runs([run])
    outside.clear()
    assert store.cancel_run(run.id).run.state is State.CANCELLED
    assert store.retry_run(run.id).run.state is State.QUEUED
    assert store.rerun(run.id, claim=5).outgoing[0].dispatch.input == "[[1],{}]"
    assert outside == []


def test_an_orchestrator_reads_in_transactions_alone(maria_tables: str, tmp_path: Path, outside: list[str]) -> None:
    store = Store(maria_tables, primary=True)
    settings = Settings.load({}, database_url=maria_tables, broker_url=f"sqlite:///{tmp_path}/broker.db")
    broker = open_broker(settings.broker_url)
    orchestrator = Orchestrator(store, broker, settings)
    worker = HandWorker(broker, lambda: orchestrator.run_once(0.0))
    worker.hello()
    store.create_runs([run := new_run()])
    delivery, message = worker.take()
    worker.report(message.runs[0], m.COMPLETED, **dict(zip(("e", "r"), codec.encode("done"), strict=True)))
    worker.session.ack([delivery])
    worker.until(lambda: store.get_run(run.id).state is State.COMPLETED)  # type: ignore[union-attr]
    assert outside == []
    worker.close()
    orchestrator.close()
    store.close()


def test_a_commit_of_the_callers_is_looked_for_where_it_was_made(maria_tables: str, tmp_path: Path, outside: list[str]) -> None:
    client = EmbeddedClient(Settings.load({}, database_url=maria_tables, broker_url=f"sqlite:///{tmp_path}/broker.db"))
    engine = sa.create_engine(maria_tables)
    with Session(engine) as session:
        client.enqueue([new_run()], session=session)
        outside.clear()
        session.commit()
    wait_until(lambda: client._open().publisher.confirmed == 1, 20, "the run to be published")
    assert outside == []
    client.close()
    engine.dispose()
