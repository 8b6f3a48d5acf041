"""Many inquiries at once: more than a subscription takes unacked."""

from __future__ import annotations

from aiki import messages as m
from aiki.messages import DispatchList
from aiki.orchestrator.loop import REPORT_PREFETCH
from tests.orchestrator.test_loop import Stage
from tests.orchestrator.test_loop import stage as stage  # noqa: PLC0414  a fixture


def test_more_inquiries_than_a_subscription_takes_are_all_settled(stage: Stage) -> None:
    worker = stage.worker()
    count = 6 * REPORT_PREFETCH  # over four partitions
    stage.enqueue(count=count)
    dispatches = []
    while len(dispatches) < count:
        delivery, message = worker.take()
        dispatches += message.runs
        worker.session.ack([delivery])
    worker.answering = False
    for dispatch in dispatches:
        worker.report(dispatch, m.INQUIRE, why="redelivered")
    for _ in range(50):
        worker.poll()
    # Each partition's subscription is full now of inquiries that cannot be acked yet.
    worker.answering = True
    again = 0

    def settled() -> bool:
        nonlocal again
        worker.beat()
        for delivery in worker.deliveries:
            message = DispatchList.decode(delivery.body)
            again += sum(run.epoch == 2 for run in message.runs)
            worker.session.ack([delivery])
        worker.deliveries.clear()
        return again >= count

    worker.until(settled)
    assert again == count
