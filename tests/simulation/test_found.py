"""What the simulation has found, each as a small test of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from aiki import ids
from aiki import messages as m
from aiki.codec import Payload
from aiki.context import inside_workflow
from aiki.errors import WorkflowCancelled
from aiki.history import CHILD, OPEN, History, Step, Wait, Waits
from aiki.lifecycle.reports import Rules
from aiki.messages import Report, ReportList, RunKey
from aiki.model import NewRun
from aiki.orchestrator import Orchestrator
from aiki.orchestrator.inbound import Inbound, items_of
from aiki.orchestrator.judge import Verdict
from aiki.replay import Limits, Replay
from aiki.settings import Settings
from aiki.workflow_host import About
from aiki.workflow_run import WorkflowRun
from tests.simulation import app as simulated
from tests.simulation.broker import SimulatedBroker
from tests.simulation.database import simulated_store

WORKER = "ab" * 16
EXECUTOR = f"{WORKER}/0.1"
NOTHING = Payload("json", "[[],{}]")


class Place:
    """A store, and a worker who reports."""

    def __init__(self) -> None:
        self.store, self.db = simulated_store(lambda: 1_000_000, 1)
        self._inbound = Inbound(self.store, lambda _: Rules(1_000_000, 3, {}))

    def enqueue(self, kind: str = "task") -> str:
        run_id = ids.new_text()
        self.store.create_runs([NewRun(run_id, "a", NOTHING, kind=kind)], claim=10.0)
        return run_id

    def report(self, kind: str, run_id: str, epoch: int, **body: Any) -> None:
        item = Report(kind, run_id.replace("-", ""), epoch, body)
        for _ in self._inbound.apply("default", items_of(ReportList("default", WORKER, EXECUTOR, [item]))):
            pass

    def state(self, run_id: str) -> tuple[str, int]:
        state, epoch = self.db.ask("SELECT state, epoch FROM aiki_runs WHERE id = ?", ids.to_bytes(run_id))[0]
        return state, epoch


@pytest.fixture
def place() -> Place:
    return Place()


# ---------------------------------------------------------------- pause
def test_a_result_that_was_on_its_way_when_its_run_was_paused_counts(place: Place) -> None:
    run_id = place.enqueue()
    place.store.pause_run(run_id)
    place.report(m.COMPLETED, run_id, 1, ms=1)
    assert place.state(run_id) == ("completed", 1)


def test_a_run_that_was_paused_while_its_dispatch_was_out_is_inquired_when_it_is_resumed(place: Place) -> None:
    run_id = place.enqueue()
    place.store.pause_run(run_id)
    assert place.state(run_id) == ("paused", 1)
    (again,) = place.store.resume_run(run_id).outgoing
    assert (again.again, again.dispatch.epoch) == (True, 1)
    assert place.state(run_id) == ("queued", 1)
    place.report(m.COMPLETED, run_id, 1, ms=1)
    assert place.state(run_id) == ("completed", 1)


def test_a_workflow_that_was_paused_on_its_way_and_cancelled_meets_its_cancel(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.store.pause_run(run_id)
    cancelled = place.store.cancel_run(run_id)
    assert [item.again for item in cancelled.outgoing] == [True]
    place.report(m.STEPS, run_id, 1, s=[Step(0, "step", "s", "", "completed", 1, {})])
    assert place.state(run_id) == ("running", 1)


def test_a_run_that_was_paused_on_its_way_and_executes_can_be_terminated(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.store.pause_run(run_id)
    place.report(m.STARTED, run_id, 1, ms=1)
    cancelled = place.store.cancel_run(run_id, at_once=True)
    assert cancelled.interrupt == [RunKey(run_id.replace("-", ""), 1)]
    assert place.state(run_id) == ("cancelled", 1)


def test_a_workflow_that_is_interrupted_and_was_not_cancelled_goes_on(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.store.pause_run(run_id)
    place.report(m.CANCELLED, run_id, 1, ms=1)  # a snapshot of the revocations interrupts what runs
    assert place.state(run_id)[0] == "paused"
    place.store.resume_run(run_id)
    assert place.state(run_id)[0] == "queued"


def test_a_workflow_that_is_interrupted_before_it_has_met_its_cancel_is_called_again(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.store.cancel_run(run_id)
    place.report(m.STARTED, run_id, 1, ms=1)
    place.report(m.CANCELLED, run_id, 1, ms=1)
    assert place.state(run_id) == ("queued", 2)
    place.report(m.CANCELLED, run_id, 2, ms=1, met=1)
    assert place.state(run_id) == ("cancelled", 2)


# ---------------------------------------------------------------- suspended
def test_a_stale_suspension_takes_nothing_away_from_the_run(place: Place) -> None:
    """Redelivered in a batch, before the run was looked at for what had come."""
    run_id = place.enqueue("workflow")
    child = NewRun(ids.new_text(), "c", NOTHING)
    more = {"c": child.id.replace("-", ""), "run": child.to_wire()}
    place.report(m.STEPS, run_id, 1, s=[Step(0, CHILD, "c", "", OPEN, 0, more)])
    waits = Waits(True, [Wait("child", 0, 0, "c")]).to_wire()
    place.report(m.SUSPENDED, run_id, 1, ms=1, **waits)
    assert place.state(run_id) == ("waiting", 2)
    place.report(m.COMPLETED, child.id, 1, ms=1)
    place.report(m.SUSPENDED, run_id, 1, ms=1, **waits)
    assert place.state(run_id) == ("queued", 3)


# ---------------------------------------------------------------- reports that overtake others
def test_an_end_that_overtakes_the_steps_before_it_is_not_recorded(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.report(m.COMPLETED, run_id, 1, ms=1, n=2)
    assert place.state(run_id) == ("queued", 2)
    place.report(m.STEPS, run_id, 1, s=[Step(0, "step", "s", "", "completed", 1, {})])
    assert place.db.ask("SELECT COUNT(*) FROM aiki_steps") == [(0,)]


def test_steps_that_overtake_the_steps_before_them_are_not_recorded(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.report(m.STEPS, run_id, 1, s=[Step(1, "step", "s", "", "completed", 1, {})])
    assert place.state(run_id) == ("queued", 2)
    assert place.db.ask("SELECT COUNT(*) FROM aiki_steps") == [(0,)]


def test_a_step_that_is_done_stays_done_whatever_comes_late(place: Place) -> None:
    run_id = place.enqueue("workflow")
    place.report(m.STEPS, run_id, 1, s=[Step(0, "step", "s", "", "completed", 2, {"e": "json", "r": "7"})])
    place.report(m.STEPS, run_id, 1, s=[Step(0, "step", "s", "", OPEN, 1, {"s": 0})])
    assert place.db.ask("SELECT state, attempt, data FROM aiki_steps") == [("completed", 2, b"7")]


# ---------------------------------------------------------------- inquiries
def test_of_several_epochs_in_one_verdict_the_newest_counts(place: Place) -> None:
    run_id = place.enqueue()
    place.report(m.CRASHED, run_id, 1, ms=1, signal="SIGKILL")
    assert place.state(run_id) == ("queued", 2)
    settings = Settings(database_url="sqlite://", broker_url="simulated://", partitions=1)
    orchestrator = Orchestrator(place.store, SimulatedBroker(), settings)
    orchestrator._connect()
    key = run_id.replace("-", "")
    orchestrator._inquiries._release(Verdict("default", free={RunKey(key, 2): False, RunKey(key, 1): False}))
    assert place.state(run_id) == ("queued", 3)


# ---------------------------------------------------------------- compensations
class Host:
    """Executes here and now; a cancel comes while the step `charge` is executed."""

    def __init__(self) -> None:
        self.cancel_requested = False
        self.pausing = self.leaving = self.aborted = False
        self.max_payload = 1 << 20
        self.done: list[str] = []

    def operation(self) -> AbstractContextManager[None]:
        return nullcontext()

    def now(self) -> int:
        return 10_000_000

    def report(self, steps: list[Step]) -> None:
        pass

    def confirm(self) -> bool:
        return True

    def execute(self, fn: Any, args: Any, kwargs: Any, call: Any) -> Any:
        self.done.append(args[0])
        if args[0] == "charge":
            self.cancel_requested = True
            raise ValueError("broken")
        return None

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        return "ValueError", str(error), ""

    def progress(self, fraction: float | None, message: str) -> None:
        pass


def test_a_cancel_that_comes_during_a_saga_s_failure_does_not_keep_it_from_being_undone() -> None:
    host = Host()
    slept = Step(0, "sleep", "think", "", "completed", 0, {"e": "json", "r": "false"})
    replay = Replay("undoing", History(0, 0, 1, [slept]), Limits())
    run = WorkflowRun(host, replay, About("ab" * 16, "undoing", "1", 1), simulated.undoing.arguments)  # type: ignore[arg-type]
    with inside_workflow(run):
        try:
            simulated.undoing.fn(run)
        except WorkflowCancelled:
            pytest.fail("the cancel was raised where there was something to undo")
    assert host.done == ["reserve", "charge", "release"]
