"""Workflows while everything is killed at random: all end with the right result, and no recorded step runs again."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from aiki import Aiki, Handle
from aiki.clock import SECOND
from aiki.errors import RunConflict, Unavailable
from aiki.states import State
from tests.scale import scaled
from tests.services import MariaServer, RabbitServer
from tests.system.expected import ten_total
from tests.system.system import Process, System, Worker
from tests.waiting import wait_until

WORKFLOWS = scaled(30, 200)
SECONDS = scaled(25.0, 300.0)
TOLD = 1000


class Chaos:
    """Kills something of a system every now and then, and starts it again."""

    def __init__(self, system: System, rabbit: RabbitServer | None, maria: MariaServer | None, seed: int) -> None:
        self._random = random.Random(seed)
        self._system = system
        self.orchestrators: list[Process] = [system.orchestrator(), system.orchestrator()]
        self.workers: list[Worker] = [system.worker(app="flows") for _ in range(2)]
        self.done: list[str] = []
        self._blows: list[tuple[str, Callable[[], None]]] = [
            ("child", self._kill_child),
            ("child", self._kill_child),
            ("worker", self._kill_worker),
            ("orchestrator", self._kill_orchestrator),
        ]
        if rabbit is not None and maria is not None:
            self._blows += [("rabbit", rabbit.restart), ("maria", maria.restart)]

    def strike(self) -> None:
        name, blow = self._random.choice(self._blows)
        blow()
        self.done.append(name)

    def pause(self) -> float:
        return self._random.uniform(0.3, 2.5)

    def _kill_child(self) -> None:
        children = self._random.choice(self.workers).children()
        if children:
            self._random.choice(children).kill()

    def _kill_worker(self) -> None:
        place = self._random.randrange(len(self.workers))
        self.workers[place].kill_group()
        self.workers[place] = self._system.worker(app="flows", ready=False)

    def _kill_orchestrator(self) -> None:
        place = self._random.randrange(len(self.orchestrators))
        self.orchestrators[place].kill9()
        self.orchestrators[place] = self._system.orchestrator()


def test_workflows_survive_anything(own_system: System, own_rabbit: RabbitServer, own_maria: MariaServer) -> None:
    survive(own_system, own_rabbit, own_maria)


def test_workflows_survive_anything_on_the_embedded_default(embedded_system: System) -> None:
    survive(embedded_system, None, None)


def survive(system: System, rabbit: RabbitServer | None, maria: MariaServer | None) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chaos = Chaos(system, rabbit, maria, seed)
    ten = system.app("flows").definitions["flows.ten"]
    handles: dict[int, Handle[Any]] = {}
    told: set[int] = set()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        enqueue_some(ten, handles, WORKFLOWS)
        chaos.strike()
        deadline = time.monotonic() + chaos.pause()
        wait_until(lambda deadline=deadline: time.monotonic() >= deadline, 10)
        tell(handles, told)
    while len(handles) < WORKFLOWS:
        enqueue_some(ten, handles, WORKFLOWS)
    wait_until(lambda: tell(handles, told) == WORKFLOWS, 60, "all events to be sent")
    for i, handle in handles.items():
        try:
            result = handle.result(timeout=120)
        except BaseException as error:
            error.add_note(f"workflow {i}: {handle.view()}\n{system.tails()}")
            raise
        assert result["total"] == ten_total(i, TOLD), f"workflow {i}"
    repeated = check_ledger(system)
    assert system.states()[State.COMPLETED] == sum(system.states().values())
    print(f"{len(chaos.done)} blows ({', '.join(sorted(set(chaos.done)))}), {repeated} steps begun more than once")


def enqueue_some(ten: Any, handles: dict[int, Handle[Any]], most: int) -> None:
    for _ in range(max(1, most // 10)):
        i = len(handles)
        if i >= most:
            return
        try:
            handles[i] = ten.options(reference_id=f"ten-{i}").enqueue(i)
        except Unavailable:
            return


def tell(handles: dict[int, Handle[Any]], told: set[int]) -> int:
    """Send each workflow its event, once; an outage is waited for the next time."""
    for i, handle in handles.items():
        if i in told:
            continue
        try:
            handle.send_event("go", TOLD, reference_id="only")
        except Unavailable:
            break
        except RunConflict as error:
            raise AssertionError(f"workflow {i} ended before its event: {handle.view()}") from error
        told.add(i)
    return len(told)


def check_ledger(system: System) -> int:
    """No step was begun after it was recorded. How many were begun more than once."""
    recorded: dict[str, float] = {}
    for text, at in system.rows("SELECT input, finished_at FROM aiki_steps WHERE kind = 'step' AND state = 'completed'"):
        recorded[json.loads(text)["key"]] = at / SECOND
    late = [
        (mark.what, mark.at, recorded[mark.what])
        for mark in system.marks()
        if mark.kind == "start" and mark.what in recorded and mark.at > recorded[mark.what] + 0.01
    ]
    assert late == [], "steps were begun after they were recorded"
    return sum(1 for count in system.starts().values() if count > 1)


@pytest.mark.parametrize("count", [scaled(60, 1000)])
def test_races_on_one_run_come_to_one_end(system: System, count: int) -> None:
    """Cancel, event, time-out and retry at once, on many runs: one legal end each, and no event is lost."""
    system.orchestrator()
    system.worker(concurrency=2, app="flows")
    app: Aiki = system.app("flows")
    raced = app.definitions["flows.raced"]
    dice = random.Random(7)
    handles = raced.enqueue_many([(i,) for i in range(count)])
    sent: dict[str, bool] = {}
    for handle in handles:
        for _ in range(dice.randrange(4)):
            verb = dice.choice(["cancel", "event", "event", "wake", "retry"])
            try:
                if verb == "cancel":
                    handle.cancel()
                elif verb == "event":
                    handle.send_event("go", 1, reference_id="one")
                    sent[handle.id] = True
                elif verb == "wake":
                    handle.wake()
                else:
                    handle.retry()
            except RunConflict:
                continue
    for handle in handles:
        handle.wait(timeout=120)
    ends = {handle.id: handle.view() for handle in handles}
    assert {view.state for view in ends.values()} <= {State.COMPLETED, State.CANCELLED}, system.tails()
    for run_id, view in ends.items():
        steps = {step.kind: step for step in app.handle(run_id).history()}
        if view.state is State.COMPLETED and steps["choice"].result is not None:
            won = app.handle(run_id).result(timeout=5)
            assert won == ("event" if steps["choice"].result.text == "0" else "timer")
    rows = system.rows("SELECT COUNT(*) FROM aiki_inbox WHERE kind = 'event'")
    assert rows[0][0] == len(sent), "an event is missing"
    assert all(starts == 1 for starts in system.starts().values())
