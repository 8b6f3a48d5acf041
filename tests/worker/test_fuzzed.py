"""Odd dispatches and control messages to a worker that runs: no process of it ends, and what is sound is executed."""

from __future__ import annotations

import random

from aiki import messages
from aiki.broker import CONTROL, work
from tests.fuzzing import mutate, samples
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import NAMESPACE, Orchestrator


def test_odd_messages_end_no_process(embedded: Place, orchestrator: Orchestrator, start: StartWorker) -> None:
    worker = start("-c", "1")
    assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    before = worker.family
    rng = random.Random(5)
    sender = orchestrator.broker.connect("an odd one")
    kinds = samples("12" * 16)
    for number in range(200):
        to, kind = (CONTROL, "control") if number % 2 else (work(NAMESPACE, "default"), "work")
        body = mutate(rng, rng.choice(kinds[kind])).replace(b'"ns": "default"', f'"ns": "{NAMESPACE}"'.encode())
        if b'"drain"' not in body:
            sender.send(to, body)
        if number % 50 == 49:
            sender.settled()
            assert orchestrator.report(orchestrator.run("noop")).kind == messages.COMPLETED
    sender.close()
    assert worker.family == before
    assert "died" not in worker.log
