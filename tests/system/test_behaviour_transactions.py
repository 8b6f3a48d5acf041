"""A run enqueued in the caller's own transaction: there after the commit, whatever dies then; never after a rollback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from aiki.states import State
from tests.system.system import HERE, System

_COMMIT_AND_DIE = """
import os, signal, sys
sys.path.insert(0, {here!r})
import sqlalchemy as sa
from sqlalchemy.orm import Session
from shop import app, marked
engine = sa.create_engine(os.environ["AIKI_DATABASE_URL"])
with Session(engine) as session:
    session.execute(sa.text("INSERT INTO orders VALUES ('{name}')"))
    handle = marked.options(session=session).enqueue("{name}")
    print(handle.id, flush=True)
    session.commit()
    {death}
"""


def orders(system: System) -> set[str]:
    engine = sa.create_engine(system.settings.database_url)
    try:
        with engine.connect() as connection:
            return {row[0] for row in connection.execute(sa.text("SELECT id FROM orders"))}
    finally:
        engine.dispose()


@pytest.fixture
def shop_database(system: System) -> System:
    return with_orders(system)


@pytest.fixture
def chosen_database(chosen_system: System) -> System:
    return with_orders(chosen_system)


def with_orders(system: System) -> System:
    engine = sa.create_engine(system.settings.database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE orders (id VARCHAR(20))"))
    engine.dispose()
    return system


def test_rolled_back_there_is_no_run(shop_database: System) -> None:
    system = shop_database
    system.orchestrator()
    system.worker()
    task = system.app().definitions["shop.marked"]
    engine = sa.create_engine(system.settings.database_url)
    with Session(engine) as session:
        session.execute(sa.text("INSERT INTO orders VALUES ('undone')"))
        many = task.options(session=session).enqueue_many([("undone",) for _ in range(20)])
        session.rollback()
        session.execute(sa.text("INSERT INTO orders VALUES ('made')"))
        made = task.options(session=session).enqueue("made")
        assert system.store.get_run(made.id) is None  # nobody sees it before the commit
        session.commit()
    with engine.connect() as connection:
        transaction = connection.begin()
        task.options(connection=connection).enqueue("undone")
        transaction.rollback()
    engine.dispose()
    assert made.result(timeout=30) == "made"
    assert task.enqueue("after").result(timeout=30) == "after"
    assert all(system.store.get_run(handle.id) is None for handle in many)
    assert system.starts() == {"made": 1, "after": 1}
    assert sum(system.states().values()) == 2
    assert orders(system) == {"made"}


@pytest.mark.parametrize("death", ["os._exit(9)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "kill"])
def test_committed_it_runs_although_the_process_dies_at_once(chosen_database: System, death: str) -> None:
    system = chosen_database
    system.orchestrator()
    system.worker()
    for number in range(3):
        code = _COMMIT_AND_DIE.format(here=str(HERE), name=f"order-{number}", death=death)
        done = subprocess.run([sys.executable, "-c", code], env=system.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == (9 if "exit" in death else -signal.SIGKILL), done.stderr
        assert done.stdout.strip()
    # Its claim has to run out first (ten seconds) if the process died before it had published.
    system.wait_states(45, completed=3)
    assert system.starts() == {f"order-{number}": 1 for number in range(3)}
    assert orders(system) == {f"order-{number}" for number in range(3)}


def test_killed_before_the_commit_there_is_no_run(shop_database: System) -> None:
    system = shop_database
    code = _COMMIT_AND_DIE.format(here=str(HERE), name="lost", death="")
    code = code.replace("session.commit()", "os._exit(9)")
    done = subprocess.run([sys.executable, "-c", code], env=system.env, capture_output=True, text=True, timeout=60)
    run_id = done.stdout.strip()
    assert done.returncode == 9
    assert run_id, done.stderr
    system.orchestrator()
    system.worker()
    assert system.app().definitions["shop.marked"].enqueue("after").status() is not State.FAILED
    system.wait_states(30, completed=1)
    assert system.store.get_run(run_id) is None
    assert orders(system) == set()
    assert system.starts() == {"after": 1}
