"""Several queues of one worker: each gets its turn; of paused ones nothing more is begun, and what was taken goes back."""

from __future__ import annotations

from aiki import messages
from tests.waiting import wait_until
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import Orchestrator, make


def told(orchestrator: Orchestrator, number: int, *paused: str) -> None:
    """Tell the worker, and wait until a beat says that it holds just these to be paused."""
    orchestrator.control(messages.QUEUES, paused=list(paused), number=number)
    orchestrator.beat(messages.BEAT, lambda beat: beat.fields["paused"] == sorted(paused))


def test_a_paused_queue_is_left_alone_and_taken_up_again(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "2", "-Q", "default,other")
    assert orchestrator.result(orchestrator.run("add", 1, 2)) == 3
    told(orchestrator, 5, "default")
    kept = orchestrator.dispatch(*(make("add", i, i) for i in range(10)))
    other = orchestrator.dispatch(make("add", 1, 1), queue="other")[0]
    assert orchestrator.result(other) == 2
    assert orchestrator.depth() == 1
    assert not any(orchestrator.of(run) for run in kept)

    orchestrator.control(messages.QUEUES, paused=[], number=4)  # older: passed over
    another = orchestrator.dispatch(make("add", 2, 2), queue="other")[0]
    assert orchestrator.result(another) == 4
    assert not any(orchestrator.of(run) for run in kept)

    told(orchestrator, 6)
    assert {item.kind for item in orchestrator.ended(kept).values()} == {messages.COMPLETED}


def test_what_was_taken_and_not_begun_goes_back(place: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    start("-c", "1")
    slow = orchestrator.run("sleep", 2.0)
    orchestrator.report(slow, messages.STARTED)
    behind = [orchestrator.run("add", i, i) for i in range(3)]
    told(orchestrator, 1, "default")
    assert orchestrator.report(slow).kind == messages.COMPLETED
    wait_until(lambda: orchestrator.depth() == 3, what="all to be in the queue again")
    assert not any(orchestrator.of(run) for run in behind)
    told(orchestrator, 2)
    assert {item.kind for item in orchestrator.ended(behind).values()} == {messages.COMPLETED}


def test_the_snapshot_says_what_is_paused(orchestrator: Orchestrator, start: StartWorker) -> None:
    orchestrator.paused = ["default"]
    waiting = orchestrator.run("add", 1, 1)
    start("-c", "1")
    orchestrator.beat(messages.BEAT, lambda beat: beat.fields["paused"] == ["default"])
    assert orchestrator.depth() == 1
    told(orchestrator, 2)
    assert orchestrator.result(waiting) == 2


def test_a_queue_does_not_wait_for_the_end_of_another_ones_slow_tasks(
    place: Place, orchestrator: Orchestrator, start: StartWorker
) -> None:
    """Slow: what waits behind a task for more than a second goes back to its queue."""
    start("-c", "1", "-Q", "default,other")
    slow = [orchestrator.run("sleep", 1.2) for _ in range(8)]
    orchestrator.report(slow[0], messages.STARTED)
    other = [orchestrator.dispatch(make("add", 1, 1), queue="other")[0] for _ in range(2)]
    for run in other:
        assert orchestrator.report(run, messages.COMPLETED, timeout=60)
    done = sum(bool(orchestrator.of(run, messages.COMPLETED)) for run in slow)
    assert done <= 5, "they were executed between the others"
