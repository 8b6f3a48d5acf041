"""One simulated world: the real store, orchestrators and core of the workers over a broker with faults, from one seed."""

from __future__ import annotations

import json
import logging
import random
import types
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final
from unittest.mock import patch

from aiki import ids, workflow_run
from aiki.broker import Address, Kind, Session
from aiki.context import current_run
from aiki.errors import BrokerUnavailable, StorageUnavailable
from aiki.model import NewRun
from aiki.orchestrator import Orchestrator, reconciler
from aiki.settings import Settings
from aiki.storage import creating
from aiki.storage.store import Store
from tests.simulation import app as simulated
from tests.simulation.bodies import runs_of, shortly
from tests.simulation.broker import Faults, SimulatedBroker, SimulatedSession
from tests.simulation.database import SimulatedDatabase, simulated_store
from tests.simulation.growth import Dispatched
from tests.simulation.odd import Odd, foreign
from tests.simulation.raising import Raising
from tests.simulation.scheduler import Actor, Scheduler
from tests.simulation.worker import SimulatedWorker, patched, registry_of

BEGINNING: Final = 1_800_000_000_000_000
"""Microseconds since the epoch at virtual time 0."""
PARTITIONS: Final = 2
NOBODY: Final = "nobody"
"""A queue that no worker ever takes from."""


_RETRIED: Final = "SELECT 1 FROM watched WHERE what = 'left a terminal state' AND run_id = ?"


class Wrong(AssertionError):
    """Something that must always be true was not."""


@dataclass(slots=True)
class Knobs:
    """How bad a world is; chosen by its seed."""

    switch: float = 0.0
    delay: float = 0.0
    partial: float = 0.0
    refuse: float = 0.0
    storage: float = 0.0
    lost_answers: float = 0.0
    """How often a caller does not learn that its transaction was committed."""
    broken: float = 0.0
    """How often the connection to the database breaks when a commit is to be answered."""
    repeats: float = 0.0
    slow: float = 0.0
    deaths: float = 0.0
    """How often a process dies in the middle of a side effect."""
    zombies: float = 0.0
    """How often it is stopped for long instead."""
    disorder: float = 0.0
    """How often a report overtakes others of its partition."""
    raising: float = 0.0
    """How often a call of an orchestrator's raises anything."""
    cursed: bool = False
    """Whether there is a run about which no decision can be made."""
    clocks: float = 0.0
    """By how many seconds at most the processes' clocks are wrong."""
    foreign: float = 0.0
    """How often a message has keys and fields of another release."""

    def stop_processes(self) -> None:
        """Have processes be stopped for longer than their lease, so that others take over and they come back."""
        self.switch, self.slow, self.deaths, self.zombies = 0.4, 0.6, 0.3, 1.0

    @classmethod
    def choose(cls, rng: random.Random) -> Knobs:
        """Some worlds are bad in all ways, some in one, some in none."""

        def some(most: float) -> float:
            return rng.choice((0.0, 0.0, most / 5, most))

        return cls(
            switch=rng.choice((0.02, 0.1, 0.4)),
            delay=some(0.3),
            partial=some(0.4),
            refuse=some(0.05),
            storage=some(0.02),
            lost_answers=some(0.05),
            repeats=some(0.05),
            slow=some(0.3),
            deaths=some(0.15),
            zombies=some(0.5),
            broken=some(0.03),
            clocks=rng.choice((0.0, 0.0, 120.0, 3600.0)),
            foreign=some(0.5),
            raising=rng.choice((0.0, 0.0, 0.002, 0.01)),
            cursed=rng.random() < 0.15,
        )


@dataclass(slots=True)
class Effect:
    """One side effect, as an outsider sees it."""

    at: float
    worker: SimulatedWorker
    executor: str
    epoch: int


@dataclass(slots=True)
class Started:
    """A run that a client asked for, and what operators did to it."""

    name: str
    arguments: list[Any]
    actions: list[str] = field(default_factory=list)
    events: dict[str, bool] = field(default_factory=dict)
    """What was sent, and whether that was answered."""
    never: float | None = None
    """It was cancelled at this time and had not begun."""


class VirtualClock:
    """The broker's clock."""

    lock: Final = nullcontext()

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def now(self) -> float:
        return self._scheduler.now

    def wait(self, session: SimulatedSession, until: float, wake: int | None) -> bool:
        session.owner = self._scheduler.current
        try:
            self._scheduler.wait(max(self._scheduler.now, min(until, session.next_at())))
        finally:
            session.owner = None
        return self._scheduler.now < until

    def notify(self, session: SimulatedSession, at: float) -> None:
        owner = session.owner
        if owner is not None and at < owner.wake_at:
            owner.wake_at = at


class WorldFaults(Faults):
    """The broker's faults, by the world's knobs."""

    def __init__(self, world: World) -> None:
        self._world = world

    def delay(self) -> float:
        rng, knobs = self._world.rng, self._world.knobs
        if knobs.delay and rng.random() < knobs.delay:
            return rng.choice((0.01, 0.1, 0.5, 2.0)) * rng.random()
        return 0.0005

    def refuse(self, to: Address) -> bool:
        return self._world.knobs.refuse > 0 and self._world.rng.random() < self._world.knobs.refuse

    def handed_on(self, count: int) -> int:
        knobs = self._world.knobs
        if count and knobs.partial and self._world.rng.random() < knobs.partial:
            return self._world.rng.randint(0, count)
        return count

    def place(self, queue: Any, number: float) -> float:
        knobs = self._world.knobs
        if knobs.disorder and queue.ready and queue.address.kind is Kind.REPORTS and self._world.rng.random() < knobs.disorder:
            return float(self._world.rng.choice(queue.ready).number) - 0.5
        return number

    def point(self) -> None:
        self._world.point()
        self._world.raising.point("at the broker")

    def altered(self, body: bytes) -> bytes:
        knobs = self._world.knobs
        if knobs.foreign and self._world.rng.random() < knobs.foreign:
            return foreign(body, self._world.rng)
        return body

    def told(self, what: str, session: SimulatedSession, to: Address, body: bytes) -> None:
        if what == "sent":
            self._world.odd.see(to, body)
        if to.kind is Kind.WORK:
            self._world.note_copies(what, session, body)
            if what == "sent":
                self._world.dispatched.note(body)
        if self._world.tell is not None and to.kind is not Kind.HEARTBEAT:
            now, who = self._world.scheduler.now, session.name.removeprefix("aiki-worker ")
            self._world.tell(f"{now:9.4f} {who:12} {what} {to.kind} {to.key}: {shortly(body)}")

    def alive(self) -> None:
        self._world.scheduler.check()

    def confirmed(self, session: SimulatedSession, to: Address, body: bytes) -> None:
        if to.kind is Kind.REPORTS:
            self._world.reported(body)


class WorldBroker(SimulatedBroker):
    """The broker, which knows whose the sessions are."""

    world: World

    def connect(self, name: str, timeout: float = 5.0) -> Session:
        session = super().connect(name, timeout)
        actor = self.world.scheduler.current
        actor.sessions = [one for one in actor.sessions if one.dead is None]
        actor.sessions.append(session)
        return session


@cache
def _shared_store() -> tuple[Store, SimulatedDatabase]:
    return simulated_store(lambda: BEGINNING, PARTITIONS)


class World:
    """See the module.

    :param tell: gets each line of the trace, if given.
    :param stopping: whether processes are often stopped for longer than their lease.
    """

    def __init__(
        self, seed: int, tell: Callable[[str], None] | None = None, *, disorder: float = 0.0, stopping: bool = False
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.scheduler = Scheduler(self.rng)
        self.tell = tell
        self.knobs = Knobs.choose(self.rng)
        self.knobs.disorder = disorder
        if stopping:
            self.knobs.stop_processes()
        self.disorder = disorder
        self.settings = Settings(
            database_url="sqlite://",
            broker_url="simulated://",
            partitions=PARTITIONS,
            lease=6.0,
            max_crashes=self.rng.choice((3, 100, 100)),
        )
        self.store, self.db = _shared_store()
        self.db.clear()
        self.store.clock = self.clock
        self.store._durations._until = 0.0
        self.db.before, self.db.after = self._before_transaction, self._after_transaction
        self.db.committing = lambda: self.raising.point("before a commit")
        self.db.again = lambda: self._chance(self.knobs.repeats)
        self.db.unanswered = self._unanswered
        self.broke = 0
        """Commits of clients that were not answered."""
        self.odd = Odd(self.rng)
        self.oddities = 0
        """Broken messages that were sent."""
        self.dispatched = Dispatched(self)
        self.unserved: set[str] = set()
        """Runs in a queue that no worker takes from."""
        self.gone: set[str] = set()
        """Runs that retention has deleted."""
        self.raising = Raising(self)
        self.raising.chance = self.knobs.raising
        self.jumped = 0
        """Microseconds by which the server's clock was set."""
        self._seen: dict[str, str] = {}
        self.db.committed = self._tell_changes if tell is not None else bool
        self.broker = WorldBroker(VirtualClock(self.scheduler), WorldFaults(self))
        self.broker.world = self
        self.workers: list[SimulatedWorker] = []
        self.orchestrators: list[Actor] = []
        self.storage_away = 0.0
        self.runs: dict[str, Started] = {}
        """By run id (32 hex digits)."""
        self.effects: dict[tuple[str, str], list[Effect]] = {}
        """By run and label."""
        self.confirmed: dict[tuple[str, str], str] = {}
        """Steps (run, label) and runs (run, "") whose completion was confirmed, to the worker (id) that reported it."""
        self.purged: set[str] = set()
        self._given_back: set[tuple[str, int]] = set()
        self.copied: set[str] = set()
        """See `note_copies`."""
        self._ids = 0
        self._workers = 0
        self.digest = 0

    def _unanswered(self) -> bool:
        if self.scheduler.current is not self.scheduler.fate:
            return self._chance(self.knobs.broken)
        lost = self._chance(10 * self.knobs.broken)
        self.broke += lost
        return lost

    def _chance(self, chance: float) -> bool:
        return chance > 0 and self.rng.random() < chance

    # ------------------------------------------------------------ time, ids, trace
    def clock(self) -> int:
        """The server's clock, microseconds; it may be set."""
        return BEGINNING + int(self.scheduler.now * 1e6) + self.jumped

    def local_clock(self) -> int:
        """The clock of the process that asks: its own may be wrong."""
        actor = self.scheduler.current
        if actor.skew is None:
            actor.skew = int(self.rng.uniform(-1.0, 1.0) * self.knobs.clocks * 1e6) if self.knobs.clocks else 0
        return BEGINNING + int(self.scheduler.now * 1e6) + actor.skew

    @property
    def in_orchestrator(self) -> bool:
        """Whether it is an orchestrator that runs."""
        return self.scheduler.current in self.orchestrators

    def monotonic(self) -> float:
        """Every process's monotonic clock."""
        return 1000.0 + self.scheduler.now

    def next_id(self) -> int:
        """A UUIDv7 as a number."""
        self._ids += 1
        low = ((self._ids & 0xFFFFF) << 42) | self.rng.getrandbits(42)
        return ((self.local_clock() // 1000) << 80) | (0x7 << 76) | ((self._ids >> 20) << 64) | (0b10 << 62) | low

    def say(self, text: str) -> None:
        """A line of the trace; also what two runs of one seed are compared by."""
        line = f"{self.scheduler.now:9.4f} {self.scheduler.current.name:12} {text}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        if self.tell is not None:
            self.tell(line)

    def _tell_changes(self) -> None:
        """What a transaction has changed, for the trace."""
        now = {}
        for raw, *columns in self.db.ask(
            "SELECT id, state, epoch, history, executor, cancel_requested, pause_requested FROM aiki_runs"
        ):
            now[raw.hex()] = " ".join(map(str, columns))
        for raw, name, kind, ordinal, taken in self.db.ask("SELECT run_id, id, kind, ordinal, taken FROM aiki_inbox"):
            now[f"inbox {raw.hex()} {name.hex()[-6:]}"] = f"{kind} of step {ordinal}, taken {taken}"
        for key, text in now.items():
            if self._seen.get(key) != text and self.tell is not None:
                self.tell(f"{self.scheduler.now:9.4f} {self.scheduler.current.name:12} … {key[-13:]}: {text}")
        self._seen = now

    # ------------------------------------------------------------ between operations
    def point(self) -> None:
        """Anybody may run here, and anybody may die."""
        scheduler = self.scheduler
        scheduler.check()
        if self.rng.random() < self.knobs.switch:
            scheduler.wait(scheduler.now + self.rng.choice((0.0, 0.0001, 0.01)))

    def _before_transaction(self) -> None:
        self.point()
        self.raising.point("before a statement")
        self._storage_fault(self.knobs.storage, "the database is away")

    def _after_transaction(self) -> None:
        self.point()
        self.raising.point("after a commit")
        self._storage_fault(self.knobs.lost_answers, "the answer to the commit was lost")

    def _storage_fault(self, chance: float, why: str) -> None:
        if self.scheduler.now < self.storage_away or (chance and self.rng.random() < chance):
            self.say(f"! {why}")
            raise StorageUnavailable(why)

    # ------------------------------------------------------------ side effects
    def effect(self, label: str) -> int:
        """What a step or a task does to the world outside."""
        actor = self.scheduler.current
        child, run_id = actor.data, current_run().id.replace("-", "")
        worker = next(one for one in self.workers if actor in one.children)
        self._pass_time(actor)
        key = (run_id, label)
        self._check_repeat(key, worker, child.epoch)
        found = self.effects.setdefault(key, [])
        found.append(Effect(self.scheduler.now, worker, actor.name, child.epoch))
        self.say(f"effect {run_id[-6:]} {label!r} epoch {child.epoch}, number {len(found)}")
        if label == simulated.DEADLY:
            self.doomed.append((actor, False))
            self.scheduler.fate.wake_at = min(self.scheduler.fate.wake_at, self.scheduler.now)
            self.scheduler.wait(self.scheduler.now + 3600.0)
        if self.knobs.deaths and self.rng.random() < self.knobs.deaths:
            self._die(actor)
        return len(found)

    def _pass_time(self, actor: Actor) -> None:
        """Code takes its time, and the keeper and the supervisor do their work meanwhile."""
        if self.knobs.slow and self.rng.random() < self.knobs.slow:
            left = self.rng.choice((0.05, 0.4, 1.0, 6.0)) * self.rng.random()
            while left > 0:
                part = min(left, 0.3)
                self.scheduler.wait(self.scheduler.now + part)
                left -= part
                actor.data.interrupted()
                actor.data.keep()
        self.point()

    def _die(self, actor: Actor) -> None:
        """The process is killed, or stopped for longer than its lease, here and now or soon: fate does it."""
        self.doomed.append((actor, self.knobs.zombies > 0 and self.rng.random() < self.knobs.zombies))
        self.scheduler.fate.wake_at = min(self.scheduler.fate.wake_at, self.scheduler.now)
        if self.rng.random() < 0.6:
            self.scheduler.wait(self.scheduler.now + 0.5)

    doomed: list[tuple[Actor, bool]]
    """Who is to be killed, or (True) stopped with all of its worker."""

    def _check_repeat(self, key: tuple[str, str], worker: SimulatedWorker, epoch: int) -> None:
        run_id, label = key
        run = self.runs.get(run_id)
        if run is not None and run.never is not None and self.scheduler.now > run.never + 15 and not worker.cut_off:
            self.scheduler.fail(
                Wrong(f"run {run_id} was cancelled at {run.never:.1f} before it started, and starts now in {worker.name}")
            )
        recorded = self.db.ask(
            "SELECT 1 FROM aiki_steps WHERE run_id = ? AND state = 'completed' AND kind IN ('step', 'undo') AND input LIKE ?",
            bytes.fromhex(run_id),
            f'%"label":{json.dumps(label)}%',
        )
        by = self.confirmed.get(key) or self.confirmed.get((run_id, ""))
        if not recorded and by is None:
            return
        if not recorded and self.disorder:
            return  # a crash report that overtakes the steps before it has them done again
        retried = "SELECT 1 FROM watched WHERE what = 'left a terminal state' AND before = 'cancelled' AND run_id = ?"
        if not recorded and self.db.ask(retried, bytes.fromhex(run_id)):
            return  # it was ended at once, whatever was on its way, and then retried
        if not recorded and run_id in self.copied:
            return
        if not recorded and self.raising.happened and self.db.ask(_RETRIED, bytes.fromhex(run_id)):
            return  # it failed because its report could not be applied, and somebody retried it
        if self.lost(worker.id) or (not recorded and by is not None and self.lost(by)):
            return  # somebody was cut off for a lease, and did not know it yet
        what = "recorded" if recorded else "confirmed"
        self.scheduler.fail(Wrong(f"run {run_id}: {label!r} was {what}, and is done again by {worker.name}, epoch {epoch}"))

    def note_copies(self, what: str, session: SimulatedSession, body: bytes) -> None:
        """A child gives a run back as a fresh copy, and then the one that it had taken comes back all the same.

        That one is inquired and the run dispatched anew, while the copy is out, and a worker that was not there to be asked
        may begin it. This is a known gap of the protocol (`docs/decisions/0002`): executed twice, it counts once.
        """
        if what == "sent" and " child " in session.name:
            self._given_back |= runs_of(body)
        elif what == "taken again" and self._given_back:
            self.copied |= {run for run, epoch in runs_of(body) if (run, epoch) in self._given_back}

    def lost(self, worker_id: str) -> bool:
        """Whether a worker has ever been given up."""
        sql = "SELECT 1 FROM watched WHERE what = 'worker lost' AND run_id = ?"
        return bool(self.db.ask(sql, bytes.fromhex(worker_id)))

    def reported(self, body: bytes) -> None:
        """A worker learns that its reports were confirmed."""
        _, message, header, reports = json.loads(body)
        for kind, run_id, _, more in reports if message == "reports" else ():
            if kind == "completed":
                self.confirmed.setdefault((run_id, ""), header["w"])
            elif kind == "steps":
                for step in more["s"]:
                    if step[1] in ("step", "undo") and step[4] == "completed" and "i" in step[6]:
                        self.confirmed.setdefault((run_id, json.loads(step[6]["i"])["label"]), header["w"])

    # ------------------------------------------------------------ processes
    def start_orchestrator(self, after: float = 0.0) -> None:
        """One more."""

        def main() -> None:
            scheduler = self.scheduler
            actor = scheduler.current
            one = actor.data = Orchestrator(
                self.store, self.broker, self.settings, monotonic=self.monotonic, stale_after=self.settings.lease
            )
            while True:
                try:
                    one.run_once(0.0)
                    session: Any = one.session
                    self.broker.clock.wait(session, scheduler.now + self.rng.choice((0.1, 0.4, 0.8)), None)
                except (StorageUnavailable, BrokerUnavailable) as error:
                    self.say(f"! {type(error).__name__}")
                    one.disconnect()
                    scheduler.wait(scheduler.now + self.rng.uniform(0.1, 1.0))

        self._count = getattr(self, "_count", 0) + 1
        self.orchestrators.append(self.scheduler.spawn(f"o{self._count}", main, after=after))

    def kill_orchestrator(self, actor: Actor) -> None:
        """kill -9."""
        self.orchestrators.remove(actor)
        sessions = list(actor.sessions)
        self.scheduler.kill(actor)
        for session in sessions:
            session.lose("its process was killed", None)

    def start_worker(self, without: Sequence[str] = ()) -> None:
        """One more; it may lack some definitions."""
        self._workers += 1
        rng = self.rng
        registry = registry_of(simulated.app, self.settings, without)
        self.workers.append(SimulatedWorker(self, self._workers, rng.choice((1, 1, 2)), rng.choice((1, 4, 32)), registry))

    @property
    def living(self) -> list[SimulatedWorker]:
        """Workers that have not gone."""
        return [worker for worker in self.workers if not worker.gone]

    # ------------------------------------------------------------ for checks
    def messages(self, besides: str = "") -> list[bytes]:
        """All that the broker has and somebody has taken, and all that a worker keeps until it is confirmed.

        :param besides: a work queue that is not looked at.
        """
        found = []
        for address, queue in self.broker.queues.items():
            if address.kind in (Kind.WORK, Kind.REPORTS) and not (besides and address.key.endswith(f"/{besides}")):
                found += [message.body for message in queue.ready]
        for session in self.broker.sessions:
            found += [message.body for _, message in session._unacked.values()]
        for worker in self.living:
            found += worker.kept()
        return found

    def in_hands(self) -> set[tuple[str, int]]:
        """(run, epoch) of all that is on its way, or in somebody's hands."""
        found = set()
        for body in self.messages():
            found |= runs_of(body)
        for worker in self.living:
            found |= worker.holds()
        return found

    def at_work(self) -> list[str]:
        """What is not settled yet: messages, and what workers hold."""
        return [repr(body[:200]) for body in self.messages(NOBODY)] + [
            f"{w.name} {w.holds()}" for w in self.living if w.holds()
        ]

    # ------------------------------------------------------------ clients
    def new_run(self, definition: Any, arguments: Sequence[Any]) -> NewRun:
        """What a client's enqueue records."""
        run: NewRun = definition.plain._new_run(tuple(arguments), {})
        return run


@contextmanager
def living(world: World) -> Iterator[World]:
    """The world's time, ids and chance are everybody's; afterwards all its actors are gone."""
    made = types.SimpleNamespace(uuid4=lambda: uuid.UUID(int=world.rng.getrandbits(128)), UUID=uuid.UUID)
    logger = logging.getLogger("aiki")
    level, state = logger.level, random.getstate()
    random.seed(world.seed)
    world.doomed = []
    with ExitStack() as stack:
        stack.enter_context(patched(world))
        stack.enter_context(world.raising.patched())
        stack.enter_context(patch.object(reconciler, "PAGE", 2))
        stack.enter_context(patch.object(reconciler, "PAGES", 1))
        stack.enter_context(patch.object(ids, "_next", world.next_id))
        stack.enter_context(patch.object(workflow_run, "uuid", made))
        stack.enter_context(patch.object(creating, "time", types.SimpleNamespace(monotonic=world.monotonic)))
        simulated.effects.do = world.effect
        logger.setLevel(logging.CRITICAL)
        try:
            yield world
        finally:
            world.scheduler.close()
            logger.setLevel(level)
            random.setstate(state)
