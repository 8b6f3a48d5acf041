"""Odd messages to a running installation: no process ends, every real run completes, and what was refused is on record."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from aiki import ids
from aiki.broker import CONTROL, DEAD, HEARTBEAT, Address, open_broker, reports, work
from tests.fuzzing import mutate, samples
from tests.scale import scaled
from tests.services import free_port
from tests.system.system import Process, System
from tests.waiting import wait_until

COUNT = scaled(1_500, 50_000)
AT_ONCE = 50


def odd_messages(rng: random.Random, run_ids: list[str]) -> Iterator[tuple[Address, bytes]]:
    """Broken messages of every kind and where they are sent; some name runs that there are."""
    places = {"heartbeat": HEARTBEAT, "control": CONTROL}
    while True:
        kind = rng.choice(("reports", "reports", "heartbeat", "control", "work", "dead"))
        found = samples(rng.choice(run_ids).replace("-", ""))
        if kind == "dead":
            body, to = rng.choice(found[rng.choice(list(found))]), DEAD
        elif kind == "reports":
            body, to = rng.choice(found["reports"]), reports(rng.randrange(4))
        else:
            body, to = rng.choice(found[kind]), places.get(kind) or work("default", "default")
        yield to, mutate(rng, body)


def pids(processes: list[Process]) -> set[int]:
    """All that belong to the installation: what was started, and what that has started."""
    return {item.pid for item in processes} | {
        child.pid for item in processes for child in psutil.Process(item.pid).children(recursive=True)
    }


class Sender:
    """A session of somebody who sends what he likes."""

    def __init__(self, system: System) -> None:
        self._session = open_broker(system.settings.broker_url, prefix=system.settings.prefix).connect("an odd one")
        self._sent = self._settled = 0

    def send(self, to: Address, body: bytes) -> None:
        self._session.send(to, body)
        self._sent += 1

    def settled(self) -> bool:
        """Whether all of it is at the broker."""
        self._session.receive(0.01)
        self._settled += len(self._session.settled())
        return self._settled == self._sent

    def close(self) -> None:
        self._session.close()


@pytest.mark.parametrize("signatures", ["accept", "require"])
def test_odd_messages_end_no_process_and_hold_up_no_run(system: System, signatures: str) -> None:
    rng = random.Random(signatures)
    system.store.set_signatures(signatures)
    system.orchestrator()
    system.server(free_port())
    system.worker(concurrency=2)
    system.worker("--queues", "flows", concurrency=1, app="flows")
    noop, inline = system.app().definitions["shop.noop"], system.app("flows").definitions["flows.inline"]
    assert noop.enqueue(0).result(timeout=30) == 0
    assert inline.options(queue="flows").enqueue(0, 3).result(timeout=30) == 3
    before = pids(system.processes)  # of which there may be more later: a child of a worker that is still starting
    sender = Sender(system)
    # Runs of their own are named: one that exists may be ended by a message that happens to be sound.
    named = [ids.new_text() for _ in range(20)]
    odd = odd_messages(rng, named)
    handles: list[Any] = []
    for start in range(0, COUNT, AT_ONCE):
        for _ in range(AT_ONCE):
            to, body = next(odd)
            sender.send(to, body)
        wait_until(sender.settled, 20, "the messages to be at the broker")
        if len(handles) < 55:
            handles += [noop.enqueue(start + number) for number in range(5)]
            handles += [inline.options(queue="flows").enqueue(start, 3)]
    assert [handle.result(timeout=60) is not None for handle in handles] == [True] * len(handles)
    ended = before - pids(system.processes)
    assert not ended, system.tails()
    wait_until(lambda: sum(row.times for row in system.store.refusals()) > COUNT / 20, 30, "refusals on record")
    assert system.store.dead_letter_count() > 0
    sender.close()
