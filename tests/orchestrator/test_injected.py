"""Whatever is raised, at any call of store, broker or decision: every other run completes, and the culprit is readable."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DataError, ProgrammingError

from aiki import messages as m
from aiki.errors import BrokerUnavailable, StorageUnavailable
from aiki.lifecycle import reports, workflows
from aiki.orchestrator import Orchestrator
from aiki.states import TERMINAL, State
from aiki.storage import Store
from tests.orchestrator.test_loop import Stage
from tests.orchestrator.test_loop import stage as stage  # noqa: PLC0414  a fixture

ERRORS: tuple[Callable[[], BaseException], ...] = (
    *(KeyError, OverflowError, AssertionError, RecursionError, MemoryError, UnicodeError, ZeroDivisionError, StopIteration),
    lambda: DataError("INSERT", {}, ValueError("out of range")),
    lambda: ProgrammingError("SELECT", {}, ValueError("no such thing")),
    lambda: StorageUnavailable("it is away"),
    lambda: BrokerUnavailable("it is away"),
)
TESTS_OWN = frozenset({"close", "db", "of", "clock"})
"""What is no call of the store's, or ends it."""
DECISIONS = ("apply_report", "settle_inquiry", "bind_holder", "unpark", "fail_unwritable")


class Trap:
    """Raises at the calls whose numbers are given, of all that pass through it."""

    def __init__(self, rng: random.Random, chance: float) -> None:
        self._rng = rng
        self._chance = chance
        self.armed = True
        self.raised: list[str] = []

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.armed and self._rng.random() < self._chance:
                error = self._rng.choice(ERRORS)()
                self.raised.append(f"{name}: {type(error).__name__}")
                if self._rng.random() < 0.5:
                    work(*args, **kwargs)  # it was done, and the answer is lost
                raise error
            return work(*args, **kwargs)

        return call


def _turn(stage: Stage) -> None:
    """A turn as `Orchestrator.run` does it: what is away is waited for, and nothing else may come out."""
    stage.seconds += 0.02
    stage.clock.move(0.02)
    for orchestrator in stage.orchestrators:
        try:
            orchestrator.run_once(0.0)
        except (StorageUnavailable, BrokerUnavailable):
            orchestrator.disconnect()


def with_a_store_of_its_own(stage: Stage) -> Store:
    """Another orchestrator, so that what the test asks passes through no trap."""
    stage.orchestrators.pop().close()
    store = Store(stage.store.db.url, clock=stage.clock)
    stage.orchestrators.append(Orchestrator(store, stage.broker, stage.settings, monotonic=lambda: stage.seconds))
    return store


def calls_of(store: Store) -> list[str]:
    """All that an orchestrator, or any part of it, may ask of it."""
    names = [name for name in dir(store) if not name.startswith("_") and name not in TESTS_OWN]
    return [name for name in names if callable(getattr(store, name))]


@pytest.mark.parametrize("seed", range(3))
def test_an_error_at_any_call_stops_no_other_run(stage: Stage, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    trap, rarely = Trap(rng, 0.04), Trap(rng, 0.02)
    worker = stage.worker()
    worker.turn = lambda: _turn(stage)
    store = with_a_store_of_its_own(stage)
    for name in calls_of(store):
        monkeypatch.setattr(store, name, trap.around(name, getattr(store, name)))
    monkeypatch.setattr(store, "clock", trap.around("clock", store.clock))
    for name in ("execute", "insert", "look"):
        monkeypatch.setattr(store.db, name, rarely.around(f"db.{name}", getattr(store.db, name)))
    for name in DECISIONS:
        monkeypatch.setattr(reports, name, trap.around(name, getattr(reports, name)))
    monkeypatch.setattr(workflows, "stir", trap.around("stir", workflows.stir))
    connect = stage.broker.connect

    def connected(name: str, timeout: float = 5.0) -> Any:
        session = connect(name, timeout)
        for verb in ("send", "settled", "receive", "subscribe", "ack", "reject", "beat"):
            setattr(session, verb, trap.around(verb, getattr(session, verb)))
        return session

    monkeypatch.setattr(stage.orchestrators[0], "_broker", type("B", (), {"connect": staticmethod(connected)})())
    stage.orchestrators[0].disconnect()
    runs = (
        stage.enqueue(count=25)
        + stage.enqueue("b", count=5, kind="workflow")
        + stage.enqueue(count=5, due_at=stage.clock() + 10**6)
    )
    for number in range(1500):
        trap.armed = rarely.armed = number < 700
        if number % 50 == 0:
            stage.clock.move(1.0)
            stage.seconds += 1.0
            worker.beat()
        worker.poll()
        while worker.deliveries:
            _, message = worker.take()
            _answer(worker, message, rng)
        if not trap.armed and number % 20 == 0 and all(stage.state(run) in TERMINAL for run in runs):
            break
    states = {run: stage.state(run) for run in runs}
    broken = {run for run, state in states.items() if state is not State.COMPLETED}
    assert len(trap.raised) > 30
    assert rarely.raised
    store.close()

    for run in broken:
        view = stage.store.get_run(run)
        assert view is not None
        assert view.error_type in ("ReportRefused", "CannotGoOn"), (view, trap.raised[-20:])
        assert view.error_message
    assert len(broken) < len(runs) / 3, trap.raised


def _answer(worker: Any, message: Any, rng: random.Random) -> None:
    """What a worker makes of a list of dispatches: results, inquiries, and markers that come back."""
    for run in message.runs:
        if message.again:
            worker.report(run, m.INQUIRE, why="again")
        elif rng.random() < 0.1:
            worker.report(run, m.RETURNED, ms=1)
        else:
            worker.report(run, m.COMPLETED, ms=1, e="json", r="1")


def _turns(stage: Stage, count: int) -> None:
    for _ in range(count):
        stage.turn()


def test_a_broken_schema_is_nobodys_fault(stage: Stage) -> None:
    """A table that is missing stops all, and fails nobody."""
    worker = stage.worker()
    runs = stage.enqueue(count=3)
    _, message = worker.take()
    db = stage.store.db
    db.transaction(lambda c: db.execute(c, "ALTER TABLE aiki_attempts RENAME TO elsewhere"))
    for run in message.runs:
        worker.report(run, m.FAILED, ms=1, type="E", message="no", tb="")
    worker.session.settled()
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match="aiki_attempts"):
            _turns(stage, 10)
        for orchestrator in stage.orchestrators:
            orchestrator.disconnect()
    assert all(stage.state(run) is State.QUEUED for run in runs)
    db.transaction(lambda c: db.execute(c, "ALTER TABLE elsewhere RENAME TO aiki_attempts"))
    worker.until(lambda: all(stage.state(run) is State.FAILED for run in runs))
    view = stage.store.get_run(runs[0])
    assert view is not None
    assert view.error_type == "E"


def test_a_run_whose_row_spoils_every_claim_fails_alone(stage: Stage) -> None:
    worker = stage.worker()
    runs = stage.enqueue(count=20)
    db = stage.store.db
    key = (runs[7].replace("-", ""),)
    db.transaction(lambda c: db.execute(c, "UPDATE aiki_runs SET options = '{[' WHERE hex(id) = upper(?)", key))
    done = 0
    while done < 19:
        delivery, message = worker.take()
        for run in message.runs:
            worker.report(run, m.COMPLETED, ms=1)
            done += 1
        worker.session.ack([delivery])
    worker.until(lambda: all(stage.state(run) in TERMINAL for run in runs))
    view = stage.store.get_run(runs[7])
    assert view is not None
    assert (view.state, view.error_type) == (State.FAILED, "CannotGoOn")


@pytest.fixture
def maria_stage(tmp_path: Path, maria_tables: str) -> Iterator[Stage]:
    made = Stage(tmp_path, maria_tables)
    yield made
    made.close()


@pytest.fixture
def trap_of_the_server(maria_stage: Stage) -> Iterator[None]:
    """The server refuses one result, with an error that PyMySQL calls operational: out of range (1690)."""
    db = maria_stage.store.db
    largest = "CAST(9223372036854775807 AS SIGNED)"
    trigger = (
        "CREATE TRIGGER trap BEFORE INSERT ON aiki_payloads FOR EACH ROW "
        f"IF NEW.data = '\"poison\"' THEN SET @trapped = {largest} + {largest}; END IF"
    )
    db.transaction(lambda connection: connection.exec_driver_sql(trigger).close(), repeatable=True)
    yield
    db.transaction(lambda connection: connection.exec_driver_sql("DROP TRIGGER trap").close(), repeatable=True)


@pytest.mark.usefixtures("trap_of_the_server")
def test_a_value_that_the_server_refuses_fails_its_run_alone(maria_stage: Stage) -> None:
    stage = maria_stage
    worker = stage.worker()
    runs = stage.enqueue(count=20)
    done = 0
    while done < 20:
        delivery, message = worker.take()
        for run in message.runs:
            worker.report(run, m.COMPLETED, ms=1, e="json", r='"poison"' if run.run_id == runs[7].replace("-", "") else "1")
            done += 1
        worker.session.ack([delivery])
    worker.until(lambda: all(stage.state(run) in TERMINAL for run in runs))
    states = [stage.state(run) for run in runs]
    assert states.count(State.COMPLETED) == 19
    view = stage.store.get_run(runs[7])
    assert view is not None
    assert (view.state, view.error_type) == (State.FAILED, "ReportRefused")
    assert "1690" in (view.error_message or "")
