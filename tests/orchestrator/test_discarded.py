"""What RabbitMQ's policies throw out of queues is neither lost nor kept as a dead letter, and people are told of the policy."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import messages as m
from aiki.broker import DEAD, Delivery, open_broker
from aiki.messages import Report, ReportList
from aiki.states import State
from tests.broker.kits import AmqpKit
from tests.orchestrator.test_loop import Stage
from tests.services import RabbitServer
from tests.waiting import wait_until


@pytest.fixture
def on_rabbit(rabbit: RabbitServer, tmp_path: Path) -> Iterator[Stage]:
    kit = AmqpKit(rabbit.url)
    made = Stage(tmp_path, broker=open_broker(rabbit.url, prefix=kit.prefix))
    yield made
    made.close()
    kit.close()


def policy(rabbit: RabbitServer, pattern: str, **definition: int) -> str:
    name = f"p{secrets.token_hex(4)}"
    told = {key.replace("_", "-"): value for key, value in definition.items()}
    rabbit.ctl("set_policy", "--apply-to", "queues", name, pattern, json.dumps(told))
    return name


@pytest.mark.parametrize(("setting", "value"), [("message_ttl", 1), ("max_length", 0)])
def test_dispatches_that_a_policy_throws_away_are_sent_again(
    on_rabbit: Stage, rabbit: RabbitServer, setting: str, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    stage = on_rabbit
    stage.turn()
    name = policy(rabbit, rf"^{stage.broker.topology.prefix}\.work\.", **{setting: value})  # type: ignore[attr-defined]
    run_ids = stage.enqueue(count=3)

    def told() -> bool:
        stage.turn()
        return setting.replace("_", "-") in caplog.text

    with caplog.at_level(logging.ERROR):
        wait_until(told, 20, "the policy to be told of")
    assert "take that setting away" in caplog.text
    assert stage.store.dead_letter_count() == 0
    rabbit.ctl("clear_policy", name)
    worker = stage.worker()
    taken: set[str] = set()

    def all_taken() -> bool:
        stage.pass_time(2)
        taken.update(dispatch.run_id for dispatch in worker.dispatched())
        return len(taken) == 3

    wait_until(all_taken, 60, "the runs to be dispatched anew")
    assert {stage.state(run_id) for run_id in run_ids} == {State.QUEUED}


def test_reports_that_a_policy_throws_away_are_read(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    worker = stage.worker()
    [run_id] = stage.enqueue()
    delivery, message = worker.take()
    [dispatch] = message.runs
    report = Report(m.COMPLETED, dispatch.run_id, dispatch.epoch, {"ms": 3, "e": "json", "r": "42"})
    body = ReportList("default", worker.id, worker.executor, [report]).encode()
    letter = Delivery(DEAD, body, False, 1, {"reason": "expired", "queue": f"reports/{dispatch.partition}"})
    stage.orchestrators[0]._intake.take([letter], stage.seconds)
    worker.until(lambda: stage.state(run_id) is State.COMPLETED)
    rejected = Delivery(DEAD, body, False, 2, {"reason": "rejected", "queue": f"reports/{dispatch.partition}"})
    stage.orchestrators[0]._intake.take([rejected], stage.seconds)
    assert stage.store.dead_letter_count() == 1
    worker.session.ack([delivery])
    stage.close()
