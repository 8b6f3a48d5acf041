"""Deploys by an impatient platform, rolling and at once: TERM, and KILL after less time than tasks take. No run is charged."""

from __future__ import annotations

import random
import subprocess
import urllib.request
from collections import Counter
from typing import Any

import pytest

from aiki import Handle, codec
from aiki.broker import broker_of, work
from aiki.states import State
from aiki.worker.options import EXIT_COLD
from tests.scale import scaled
from tests.services import free_port
from tests.system.load import Load
from tests.system.proxy import Proxy
from tests.system.system import Process, System, Worker
from tests.waiting import wait_until

DEPLOYS = scaled(2, 50)
RUNS = scaled(27, 5000)
SECONDS = scaled(1.0, 2.0)
"""How long tasks take, about."""
CONCURRENCY = scaled(4, 12)
PLATFORMS: tuple[tuple[tuple[str, ...], float], ...] = (((), 0.3), (("--drain-timeout", "0.2"), 30.0))
"""For each worker its options, and how long it is given from TERM to KILL: too short, or longer than it takes for itself."""


@pytest.fixture
def system(chosen_system: System) -> System:
    """These take long."""
    chosen_system.env["AIKI_LEASE"] = "5"
    return chosen_system


TOLD = "it is on record that this worker stops"


def end(process: Process, grace: float) -> bool:
    """TERM, then KILL for it and all that it has started; whether it had to be killed.

    A worker is given the time to say that it stops, however slow the machine is.
    """
    process.process.terminate()
    if isinstance(process, Worker):
        wait_until(lambda: TOLD in process.log or process.process.poll() is not None, 60, f"a word from\n{process.log}")
    try:
        process.process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill_all()
        return True
    return False


class Fleet:
    """The workers and the orchestrator of a system, which are replaced one by one. Each place of a worker has a queue of its
    own, with a run that does not end before the deploys are over."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.orchestrator = system.orchestrator()
        self.release = 0
        self.killed = self.by_themselves = 0
        self.workers = [self.start(at) for at in range(len(PLATFORMS))]
        held = system.app("deployed").definitions["deployed.held"]
        self.held = [held.options(queue=f"place{at}").enqueue(at) for at in range(len(PLATFORMS))]

    def name(self, at: int, release: int) -> str:
        return f"place {at}, release {release}"

    def start(self, at: int) -> Worker:
        options = ("-n", self.name(at, self.release), "-Q", f"default,place{at}", *PLATFORMS[at][0])
        env = {"RELEASE": str(self.release)}
        return self.system.worker(*options, app="deployed", concurrency=CONCURRENCY, **env)

    def deploy(self, *, but: int = 0, at_once: bool = False) -> None:
        """Replace the orchestrator, then the workers by those of the next release, but for the last few of them.

        :param at_once: all that is old ends before anything new is started: no orchestrator hears what the workers say.
        """
        places = range(len(PLATFORMS) - but)
        for at in places:
            self.wait_for_held(at)
        if at_once:
            end(self.orchestrator, 0.3)
            for at in places:
                self.end_worker(at)
        self.release += 1
        fresh = self.system.orchestrator()
        wait_until(lambda: "listening:" in fresh.log, 60, "an orchestrator to listen")
        if not at_once:
            end(self.orchestrator, 0.3)
        self.orchestrator = fresh
        for at in places:
            new = self.start(at)
            if not at_once:
                self.end_worker(at)
            self.workers[at] = new

    def wait_for_held(self, at: int) -> None:
        name = self.name(at, self.release)
        wait_until(lambda: self.held[at].view().worker == name, 60, f"{name} to execute its run")

    def end_worker(self, at: int) -> None:
        self.killed += end(self.workers[at], PLATFORMS[at][1])
        self.by_themselves += self.workers[at].process.returncode == EXIT_COLD

    def release_held(self) -> None:
        (self.system.folder / "released").touch()


def enqueue(system: System) -> tuple[dict[str, Any], list[Handle[Any]]]:
    """Runs of all kinds, by id with what they return; and those that wait for an event."""
    app = system.app("deployed")
    import deployed  # type: ignore[import-not-found]

    expected: dict[str, Any] = {}
    told: list[Handle[Any]] = []
    kinds = [*deployed.PLAIN, *deployed.TOLD]
    for at, kind in enumerate(kinds):
        numbers = range(at, RUNS, len(kinds))
        calls = [(i, SECONDS * random.uniform(0.7, 1.3)) for i in numbers]
        handles = app.definitions[kind.name].enqueue_many(calls)
        expected |= {handle.id: i for handle, i in zip(handles, numbers, strict=True)}
        if kind in deployed.TOLD:
            told += handles
    random.shuffle(told)
    return expected, told


def check(system: System, expected: dict[str, Any]) -> None:
    """All is as if there had been no deploy."""
    rows = system.rows("SELECT name, state, attempt, crashes FROM aiki_runs")
    found = Counter((str(name), str(state), attempt, crashes) for name, state, attempt, crashes in rows)
    usual = {key for key in found if key[1:] == ("completed", 2 if "second_try" in key[0] else 1, 0)}
    assert set(found) == usual, found
    assert {attempt.outcome for attempt in system.attempts()} == {"retried"}
    ends = system.store.ends(list(expected))
    wrong = {id_: end for id_, end in ends.items() if end.result is None or codec.decode(end.result) != expected[id_]}
    assert not wrong
    assert system.store.dead_letter_count() == 0
    session = broker_of(system.settings, what="a test", declares=False).connect("a test")
    try:
        queue = work(system.settings.namespace, "default")
        wait_until(lambda: (depth := session.depth(queue)) is None or depth.ready == 0, 30, "the queue to be empty")
    finally:
        session.close()


def test_no_run_is_lost_or_charged_for_deploys(system: System) -> None:
    """With AIKI_TEST_FULL=1 it takes some 20 minutes: `-o faulthandler_timeout=0`."""
    fleet = Fleet(system)
    expected, told = enqueue(system)
    share = -(-len(told) // DEPLOYS)
    for number in range(DEPLOYS):
        # One worker of each release stays in the end: runs of both have to go on.
        fleet.deploy(but=number == DEPLOYS - 1, at_once=number % 2 == 1)
        for handle in told[number * share : (number + 1) * share]:
            handle.send_event("go")
        print(f"deploy {number + 1}: {fleet.killed} killed, {fleet.by_themselves} by themselves; {dict(system.states())}")
    assert (fleet.killed, fleet.by_themselves) == (DEPLOYS, DEPLOYS - 1)
    fleet.release_held()
    expected |= {handle.id: at for at, handle in enumerate(fleet.held)}
    system.wait_states(scaled(120, 2400), **{state: 0 for state in State if state != State.COMPLETED})
    check(system, expected)


def test_servers_are_replaced_while_clients_enqueue(embedded_system: System) -> None:
    """Behind a balancer that leads new connections to the new one: nobody is refused, and nothing is done twice."""
    system = embedded_system
    system.orchestrator()
    system.worker()
    port = free_port()
    server = system.server(port)
    wait_until(lambda: listening(port), 60, f"a server:\n{server.log}")
    balancer = Proxy(("127.0.0.1", port))
    try:
        app = system.app(server_url=f"http://127.0.0.1:{balancer.port}")
        with Load(app.definitions["shop.marked"], rate=10) as load:
            for _ in range(scaled(1, 50)):
                port = free_port()
                fresh = system.server(port)
                wait_until(lambda: listening(port), 60, f"a server:\n{fresh.log}")  # noqa: B023
                balancer.switch(("127.0.0.1", port))
                server.process.terminate()
                server.process.wait(30)
                server = fresh
        assert not load.refused
        system.wait_completed(load.accepted)
        assert set(system.starts().values()) == {1}
        assert sum(system.states().values()) == len(load.accepted)
    finally:
        balancer.close()


def listening(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
            return True
    except OSError:
        return False
