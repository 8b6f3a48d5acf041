"""What a soak test does to a whole system: work of all kinds, blows of all kinds, and messages that nobody can read."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psutil

from aiki import Aiki, Handle
from aiki import messages as m
from aiki.broker import CONTROL, HEARTBEAT, reports, work
from aiki.errors import BrokerUnavailable, RunConflict, RunNotFound, StorageUnavailable, Unavailable
from aiki.messages import Control, Dispatch, DispatchList, Heartbeat, Held, Report, ReportList, RunKey
from aiki.owning import owned_broker
from aiki.states import State
from tests.services import MariaServer, RabbitServer, free_port
from tests.simulation.odd import Odd
from tests.system.expected import ten_total
from tests.system.system import Process, System, Worker

TOLD: Final = 1000
MAX_CRASHES: Final = 5
LARGE: Final = 300_000
"""Characters."""
COMPLETED: Final = frozenset({State.COMPLETED})


@dataclass(frozen=True, slots=True)
class Kind:
    """Work of one kind.

    :ivar start: enqueues number i, under a reference id, so that it can be asked again.
    :ivar meddle: what is done to it later, again and again; it may raise what a client's verb raises.
    :ivar ends: states that are right.
    :ivar result: what it returns, if it completes.
    """

    name: str
    weight: int
    start: Callable[[Aiki, int], Handle[Any]]
    ends: frozenset[State] = COMPLETED
    result: Callable[[int], Any] | None = None
    meddle: Callable[[Handle[Any], int], object] | None = None


def _plain(name: str, *more: Any, **options: Any) -> Callable[[Aiki, int], Handle[Any]]:
    def start(app: Aiki, i: int) -> Handle[Any]:
        definition: Any = app.definitions[name]
        return definition.options(reference_id=f"soak-{i}", **options).enqueue(i, *more)  # type: ignore[no-any-return]

    return start


def _large(app: Aiki, i: int) -> Handle[Any]:
    definition: Any = app.definitions["shop.big"]
    return definition.options(reference_id=f"soak-{i}").enqueue(LARGE + i)  # type: ignore[no-any-return]


def _tell(handle: Handle[Any], i: int) -> None:
    handle.send_event("go", TOLD, reference_id="only")


def _tell_some(handle: Handle[Any], i: int) -> None:
    if i % 2:
        handle.send_event("go", 1, reference_id="one")


CANCELLED: Final = frozenset({State.COMPLETED, State.CANCELLED})
KINDS: Final = (
    Kind("marked", 6, _plain("shop.marked"), result=lambda i: i),
    Kind("later", 2, _plain("shop.marked", countdown=2.0), result=lambda i: i),
    Kind("retried", 2, _plain("shop.flaky", 1), frozenset({State.COMPLETED, State.FAILED}), lambda i: i),
    Kind("nap", 2, _plain("shop.nap", 1.0), CANCELLED, meddle=lambda handle, i: i % 2 and handle.cancel()),
    Kind("expiring", 1, _plain("shop.noop", expires=0.5), frozenset({State.COMPLETED, State.CANCELLED, State.FAILED})),
    Kind("large", 1, _large, result=lambda i: "x" * (LARGE + i)),
    Kind("suicide", 1, _plain("shop.suicide"), frozenset({State.DEAD})),
    Kind(
        "ten",
        3,
        _plain("flows.ten"),
        meddle=_tell,
    ),
    Kind("inline", 2, _plain("flows.inline", 10), result=lambda i: 10),
    Kind("fan", 2, _plain("flows.fan", 8), result=lambda i: 28),
    Kind("sleeper", 2, _plain("flows.sleeper", 4.0), meddle=lambda handle, i: i % 3 == 0 and handle.wake()),
    Kind("compensated", 2, _plain("flows.compensated"), frozenset({State.CANCELLED}), meddle=lambda handle, i: handle.cancel()),
    Kind("raced", 2, _plain("flows.raced"), meddle=_tell_some),
    Kind("looping", 2, _plain("flows.looping", 3), result=lambda i: 3),
    Kind("limited", 1, _plain("flows.limited"), result=lambda i: "in time"),
    Kind("hopeless", 1, _plain("flows.hopeless"), frozenset({State.DEAD, State.FAILED})),
)


class Working:
    """Clients that enqueue work of all kinds and meddle with it.

    :ivar most: runs that may be under way at once.
    """

    def __init__(self, flows: Aiki, rng: random.Random, most: int) -> None:
        self._app = flows
        self._rng = rng
        self._most = most
        self.handles: dict[int, tuple[Kind, Handle[Any]]] = {}
        self._waiting: list[tuple[float, int]] = []
        self._asked: dict[int, Kind] = {}
        self.refused = 0

    def turn(self, ended: int) -> None:
        """Enqueue some; `ended` runs have ended."""
        for _ in range(5):
            if len(self.handles) - ended >= self._most:
                break
            kind = self._rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
            self._asked[len(self.handles) + len(self._asked)] = kind
        self.repeat()

    def repeat(self) -> bool:
        """Do once more what was not answered, and what is due; whether nothing is left."""
        try:
            for i, kind in list(self._asked.items()):
                self.handles[i] = kind, kind.start(self._app, i)
                del self._asked[i]
                if kind.meddle is not None:
                    self._waiting.append((time.monotonic() + self._rng.uniform(0.2, 3.0), i))
            for item in list(self._waiting):
                at, i = item
                if at <= time.monotonic():
                    kind, handle = self.handles[i]
                    assert kind.meddle is not None
                    try:
                        kind.meddle(handle, i)
                    except RunConflict:
                        pass  # it has ended, or does not sleep
                    self._waiting.remove(item)
        except Unavailable:
            self.refused += 1
        return not self._asked and not self._waiting

    def check(self) -> Counter[str]:
        """Every run ended as it must; how many of each kind."""
        counted: Counter[str] = Counter()
        for i, (kind, handle) in self.handles.items():
            try:
                view = handle.view()
            except RunNotFound:
                raise AssertionError(f"{kind.name} {i}, run {handle.id}, was accepted and is lost") from None
            counted[f"{kind.name} {view.state}"] += 1
            # Killed by us as often as is charged; but never for what happened to others that its child had taken.
            crashed = view.state is State.DEAD and view.error_type != "NoProgress"
            assert view.state in kind.ends or crashed, f"{kind.name} {i}: {view}"
            if view.state is State.COMPLETED:
                result = handle.result(timeout=10)
                if kind.name == "ten":
                    assert result["total"] == ten_total(i, TOLD), f"ten {i}: {result}"
                elif kind.result is not None:
                    assert result == kind.result(i), f"{kind.name} {i}: {str(result)[:200]}"
        return counted


class Blows:
    """Kills, stops and restarts parts of a system, and sends odd messages to it. One worker and one orchestrator are only
    stopped now and then: their memory is looked at."""

    def __init__(self, system: System, rng: random.Random, rabbit: RabbitServer | None, maria: MariaServer | None) -> None:
        self._system = system
        self._rng = rng
        self.steady: tuple[Process, Worker] = (system.orchestrator(), self._worker(ready=True))
        self.orchestrators = [system.orchestrator()]
        self.workers = [self._worker(ready=True)]
        self.servers = [system.server(free_port())]
        self.done: Counter[str] = Counter()
        self._stopped: list[tuple[float, Callable[[], object]]] = []
        self._odd = samples(rng)
        self._blows: list[tuple[str, Callable[[], None]]] = [
            ("child", self._kill_child),
            ("child", self._kill_child),
            ("link", self._kill_link),
            ("worker", self._kill_worker),
            ("drain", self._drain_worker),
            ("orchestrator", self._kill_orchestrator),
            ("server", self._kill_server),
            ("stop", self._stop_process),
            ("stop", self._stop_process),
            ("odd", self._send_odd),
            ("odd", self._send_odd),
        ]
        if rabbit is not None and maria is not None:
            self._blows += [("rabbit", rabbit.restart), ("maria", maria.restart)]
            self._blows += [("stop rabbit", lambda: self._stop(rabbit)), ("stop maria", lambda: self._stop(maria))]

    def _worker(self, *, ready: bool = False) -> Worker:
        return self._system.worker("-A", "shop", app="flows", ready=ready)

    def strike(self) -> None:
        """One of them."""
        name, blow = self._rng.choice(self._blows)
        try:
            blow()
        except (psutil.NoSuchProcess, ProcessLookupError, IndexError):
            name = "nothing"  # it was dead already
        self.done[name] += 1

    def go_on(self, *, all_: bool = False) -> None:
        """Continue what was stopped for long enough."""
        for at, go in list(self._stopped):
            if all_ or at <= time.monotonic():
                self._stopped.remove((at, go))
                try:
                    go()
                except (psutil.NoSuchProcess, ProcessLookupError):
                    pass

    # ------------------------------------------------------------ each
    def _kill_child(self) -> None:
        children = self._rng.choice([*self.workers, self.steady[1]]).children()
        self._rng.choice(children).kill()

    def _kill_link(self) -> None:
        self.workers[0].link().kill()

    def _kill_worker(self) -> None:
        self.workers[0].kill_group()
        self.workers[0] = self._worker()

    def _drain_worker(self) -> None:
        self.workers[0].process.terminate()
        self.workers[0] = self._worker()

    def _kill_orchestrator(self) -> None:
        self.orchestrators[0].kill9()
        self.orchestrators[0] = self._system.orchestrator()

    def _kill_server(self) -> None:
        self.servers[0].kill9()
        self.servers[0] = self._system.server(free_port())

    def _stop_process(self) -> None:
        """SIGSTOP of a process alone, for less than a lease."""
        worker = self._rng.choice([*self.workers, self.steady[1]])
        found = [psutil.Process(self._rng.choice([*self.orchestrators, self.steady[0]]).pid), *worker.children(), worker.link()]
        chosen = self._rng.choice(found)
        chosen.send_signal(signal.SIGSTOP)
        until = time.monotonic() + self._rng.uniform(0.5, 4.0)
        self._stopped.append((until, lambda: chosen.send_signal(signal.SIGCONT)))

    def _stop(self, server: RabbitServer | MariaServer) -> None:
        server.sigstop()
        time.sleep(self._rng.uniform(0.2, 3.0))  # all is to be stopped meanwhile, this process too
        server.sigcont()

    def _send_odd(self) -> None:
        try:
            session = owned_broker(self._system.settings, self._system.store)[0].connect("soak")
            for _ in range(self._rng.choice((1, 5, 25))):
                made = self._odd.message(self._system.store.installation().partitions)
                assert made is not None
                session.send(*made)
            session.receive(0.1)
            session.close()
        except (BrokerUnavailable, StorageUnavailable):
            pass

    # ------------------------------------------------------------ memory
    def memory(self) -> dict[str, float]:
        """MiB of the processes that live on: the orchestrator, the worker and its link."""
        orchestrator, worker = self.steady
        found = {"orchestrator": orchestrator.pid, "worker": worker.pid, "link": worker.link().pid}
        return {name: psutil.Process(pid).memory_info().rss / 2**20 for name, pid in found.items()}


def samples(rng: random.Random) -> Odd:
    """A mutator that has seen a message of every kind."""
    run, worker = "0123456789abcdef" * 2, "fedcba9876543210" * 2
    executor = f"{worker}/0.1"
    odd = Odd(rng)
    dispatch = Dispatch(run, 1, "shop.noop", "1", 1, 0, "json", "[[1],{}]", {})
    odd.see(work("default", "default"), DispatchList("default", "default", [dispatch]).encode())
    bodies: dict[str, dict[str, Any]] = {
        m.STARTED: {"ms": 5},
        m.COMPLETED: {"ms": 5, "e": "json", "r": "1"},
        m.FAILED: {"ms": 5, "type": "ValueError", "message": "x", "tb": ""},
        m.RETRY: {"ms": 5, "type": "ValueError", "message": "x", "tb": "", "delay": 1.0},
        m.CRASHED: {"ms": 5, "signal": "SIGKILL"},
        m.SUSPENDED: {"ms": 5, "n": 0, "all": 1, "w": []},
        m.STEPS: {"s": [[0, "step", "s", "", "completed", 1, {"e": "json", "r": "1"}]]},
        m.INQUIRE: {"why": "redelivered"},
    }
    for kind, body in bodies.items():
        odd.see(reports(0), ReportList("default", worker, executor, [Report(kind, run, 1, body)]).encode())
    for kind in (m.BEAT, m.ANSWER, m.BYE):
        odd.see(HEARTBEAT, Heartbeat("default", kind, worker, [Held(run, 1, executor, 5)], {"nonce": 7}).encode())
    odd.see(CONTROL, Control("default", m.REVOKE, [RunKey(run, 1)]).encode())
    return odd
