"""Odd messages of every kind to an orchestrator: none ends it, every other run completes, and each refusal is on record."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from aiki import messages as m
from aiki.broker import DEAD, HEARTBEAT, Address, reports
from aiki.errors import MessageError
from aiki.messages import Heartbeat, ReportList
from aiki.orchestrator.loop import Orchestrator
from aiki.states import State
from tests.fuzzing import mutate, samples
from tests.orchestrator.test_loop import Stage
from tests.orchestrator.test_loop import stage as stage  # noqa: PLC0414  a fixture

COUNT = 50_000 if os.environ.get("AIKI_TEST_FULL") else 1_500
AT_ONCE = 50


def _refused(to: Address, body: bytes) -> bool:
    """Whether reading finds something wrong."""
    try:
        if to == HEARTBEAT:
            Heartbeat.decode(body)
            return False
        found = ReportList.decode(body)
        return bool(found.refused or found.unreadable)
    except MessageError:
        return True


def _odd_messages(rng: random.Random, run_ids: list[str]) -> Iterator[tuple[Address, bytes]]:
    while True:
        kinds = samples(rng.choice(run_ids))
        kind = rng.choice(("reports", "reports", "reports", "heartbeat", "work"))
        body = mutate(rng, rng.choice(kinds[kind]))
        yield {"reports": reports(rng.randrange(4)), "heartbeat": HEARTBEAT, "work": DEAD}[kind], body


def test_odd_messages_stop_nothing(stage: Stage) -> None:
    send_odd_messages(stage, 1, COUNT)


def test_odd_messages_stop_nothing_on_a_server(tmp_path: Path, maria_tables: str) -> None:
    """A server is stricter than SQLite about what fits."""
    stage = Stage(tmp_path, maria_tables)
    try:
        send_odd_messages(stage, 2, COUNT // 3)
    finally:
        stage.close()


def send_odd_messages(stage: Stage, seed: int, count: int) -> None:
    """Send them, a few at a time, and see each time that a sound run completes."""
    rng = random.Random(seed)
    worker = stage.worker()
    orchestrator: Orchestrator = stage.orchestrators[0]
    sender = stage.broker.connect("an odd one")
    refused = letters = 0
    for start in range(0, count, AT_ONCE):
        targets = [run_id.replace("-", "") for run_id in stage.enqueue(count=5)]
        targets += [run_id.replace("-", "") for run_id in stage.enqueue("b", kind="workflow")]
        odd = _odd_messages(rng, targets)
        [bystander] = stage.enqueue()
        for _ in range(AT_ONCE):
            to, body = next(odd)
            refused += to != DEAD and _refused(to, body)
            letters += to == DEAD
            sender.send(to, body)
            sender.settled()
        done = False
        while not done:
            delivery, message = worker.take()
            for run in message.runs:
                if run.run_id == bystander.replace("-", ""):
                    worker.report(run, m.COMPLETED, ms=1, e="json", r="1")
                    done = True
            worker.session.ack([delivery])
        worker.until(lambda run_id=bystander: stage.state(run_id) is State.COMPLETED)  # type: ignore[misc]
        assert orchestrator.duties.failing == {}, start
    worker.until(lambda: not any((depth := sender.depth(to)) and depth.ready for to in (DEAD, *map(reports, range(4)))))
    for _ in range(5):
        stage.turn()
    assert "loop" not in orchestrator.isolation.counted, orchestrator.isolation.last
    counted = orchestrator.isolation.counted + Counter({row.source: row.times for row in stage.store.refusals()})
    on_record = sum(counted.values())
    print(dict(counted), refused, letters)  # shown where it fails
    assert on_record >= refused + letters
    kept = sum(stage.store.of(namespace).dead_letter_count() for namespace in stage.store.namespaces())
    assert kept > 0.3 * (refused + letters)  # what is the same twice is kept once
    sender.close()
