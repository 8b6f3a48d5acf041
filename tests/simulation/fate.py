"""What happens to a world: clients enqueue, operators act, processes die; then all faults stop, and it settles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from aiki import ids
from aiki import messages as m
from aiki.broker import CONTROL, Kind
from aiki.codec import Payload
from aiki.errors import BrokerUnavailable, RunConflict, RunNotFound, StorageUnavailable
from aiki.messages import Control, RunKey
from aiki.model import NewRun, Outgoing
from aiki.publishing import pack
from aiki.states import TERMINAL
from tests.simulation import app as simulated
from tests.simulation.bodies import runs_of
from tests.simulation.broker import FANOUTS
from tests.simulation.checks import check_causes, check_end
from tests.simulation.growth import QUIET, check_growth, check_queues, purge_all
from tests.simulation.worker import SimulatedWorker
from tests.simulation.world import NOBODY, PARTITIONS, Knobs, Started, World, Wrong, living

SETTLE_SECONDS: Final = 400.0
"""Virtual seconds after the last fault by which everything must have come to its end."""
ACTIVE: Final = f"state NOT IN ('completed', 'failed', 'cancelled', 'dead') AND queue <> '{NOBODY}'"


class Fate:
    """One life of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = world.rng
        self._session: Any = None
        self._sent: dict[int, list[bytes]] = {}
        self._pending: list[NewRun] = []
        self._pending_events: list[tuple[str, str, str]] = []
        self._events = 0
        self._restarts: list[tuple[float, Callable[[], None]]] = []
        self._deploying = self.rng.random() < 0.15
        self._actions = self._choose_actions()

    def _choose_actions(self) -> list[Callable[[], None]]:
        """Each seed has its own mixture."""
        rng = self.rng
        troubles = [
            *(self.kill_child, self.kill_link, self.kill_worker, self.freeze_worker, self.drain_worker),
            *(self.kill_orchestrator, self.freeze_orchestrator, self.drop_session, self.restart_broker, self.broker_away),
            *(self.storage_away, self.lose_dispatch, self.odd_message, self.set_clock, self.purge_queue),
        ]
        orders = [
            *(self.send_event, self.send_event, self.cancel, self.terminate, self.pause, self.resume, self.wake, self.retry),
            *(self.rerun, self.purge_runs),
        ]
        if rng.random() < 0.25:
            theme = rng.choice(self._themes())
            return [*theme, self.send_event]
        chosen = rng.sample(troubles, rng.randrange(0, 6)) + rng.sample(orders, rng.randrange(0, 5))
        return [*chosen, self.send_event]

    def _themes(self) -> list[list[Callable[[], None]]]:
        """What is seldom chosen together, and is interesting together."""
        return [
            [self.cancel, self.cancel, self.purge_runs, self.purge_runs, self.no_workers],
            [self.cancel, self.retry, self.wake, self.pause, self.resume],
            [self.odd_message] * 4 + [self.kill_orchestrator],
            [self.set_clock, self.pause, self.kill_orchestrator, self.no_workers],
            [self.no_workers, self.purge_queue, self.lose_dispatch],
        ]

    # ------------------------------------------------------------ the whole
    def live(self) -> None:
        """From the beginning to the end, with all checks."""
        world, rng = self.world, self.rng
        world.say(f"seed {world.seed}: {world.knobs}")
        infos = [task.info for task in simulated.app.definitions.values()]
        while self._try(lambda: (world.store.register_definitions(infos),)) is None:
            pass
        for _ in range(rng.choice((1, 1, 2))):
            world.start_orchestrator(rng.random())
        if rng.random() < 0.1:
            self._pending += self._unserved()
        if rng.random() < 0.05:
            self._clock_story()
        late = bool(self._restarts) or rng.random() < 0.1
        for _ in range(rng.choice((1, 2, 2))):
            if late:
                self._later(rng.choice((10.0, 30.0, 40.0)), self._start_worker)
            else:
                self._start_worker()
        starts = [self._new_run() for _ in range(rng.randrange(1, 4))]
        if world.knobs.cursed:
            world.raising.cursed = starts[0].id.replace("-", "")
        end = world.scheduler.now + (rng.choice((4.0, 8.0, 14.0)) if not late else 45.0)
        self._wait(rng.random())
        while world.scheduler.now < end or starts:
            if starts and rng.random() < 0.5:
                self._pending.append(starts.pop())
            elif world.scheduler.now < end:
                rng.choice(self._actions)()
            self._turn()
            self._wait(rng.expovariate(2.0 if not late else 0.5))
        self._settle()

    def _unserved(self) -> list[NewRun]:
        """Runs that stay for ever, for nobody takes from their queue: they must not hide those that came after them."""
        runs = []
        for number in range(self.rng.randrange(3, 7)):
            run = replace(self.world.new_run(simulated.square, [number]), queue=NOBODY)
            self.world.runs[run.id.replace("-", "")] = Started(run.name, [number])
            self.world.unserved.add(run.id.replace("-", ""))
            runs.append(run)
        return runs

    def _clock_story(self) -> None:
        """The server's clock is ahead while there is a worker to take markers; it is right again when there is none."""

        def ahead() -> None:
            self.world.jumped = 120_000_000

        self._later(2.0, ahead)
        self._later(20.0, self._clock_right)
        self._later(20.5, self.no_workers)
        for at in (3.0, 21.0, 22.0):
            self._later(at, lambda: self._pending.append(self._new_run()))

    def _start_worker(self) -> None:
        """In some worlds the workers do not have all definitions (a deploy that is under way)."""
        names = sorted(simulated.app.definitions)
        self.world.start_worker(self.rng.sample(names, len(names) // 3) if self._deploying and self.rng.random() < 0.6 else ())

    def _new_run(self) -> NewRun:
        choices = simulated.starts()
        if self.world.settings.max_crashes <= 3:
            choices.append((simulated.deadly, lambda rng: [rng.randrange(3)]))
        definition, choose = self.rng.choice(choices)
        arguments = choose(self.rng)
        run = self.world.new_run(definition, arguments)
        self.world.runs[run.id.replace("-", "")] = Started(definition.name, arguments)
        return run

    def _wait(self, seconds: float) -> None:
        """Let the world go on, and do what it asks for meanwhile."""
        scheduler = self.world.scheduler
        until = scheduler.now + seconds
        while True:
            scheduler.wait(until)
            self._do_deaths()
            if scheduler.now >= until:
                break
        for at, restart in list(self._restarts):
            if at <= scheduler.now:
                self._restarts.remove((at, restart))
                restart()

    def _do_deaths(self) -> None:
        doomed, self.world.doomed = self.world.doomed, []
        for actor, stopped in doomed:
            for worker in self.world.living:
                if actor not in worker.children:
                    continue
                if stopped:
                    self._freeze(worker, self.rng.choice((6.5, 7.5, 8.5, 12.0)))
                else:
                    self.world.say(f"kill {actor.name} at its work")
                    worker.kill_child(worker.children.index(actor))

    def _turn(self) -> None:
        """What clients do again and again."""
        self._enqueue()
        self._repeat_events()
        self._settle_published()
        if self.rng.random() < 0.3:
            check_causes(self.world)
        check_queues(self.world)

    def _settle(self) -> None:
        """No faults any more: everything comes to its end."""
        world = self.world
        world.say("no more faults")
        world.knobs = Knobs(switch=0.02)
        world.raising.chance = 0.0
        world.storage_away = 0.0
        world.broker.away = False
        now = world.scheduler.now
        longest = self.rng.choice((1.0, 20.0))
        for actor in world.scheduler.actors:
            actor.frozen_until = min(actor.frozen_until, now + longest)
        for _, restart in self._restarts:
            restart()
        self._restarts.clear()
        if not world.orchestrators:
            world.start_orchestrator()
        if self._deploying or not any(not worker.shared.draining for worker in world.living):
            world.start_worker()
        limit = now + SETTLE_SECONDS
        while not self._quiet():
            if world.scheduler.now > limit:
                raise Wrong(f"no end within {SETTLE_SECONDS:g} s after the last fault: {self._stuck()}")
            self._turn()
            for row in world.db.ask(f"SELECT id FROM aiki_runs WHERE {ACTIVE} AND pause_requested > 0"):
                self._order("resume", ids.to_text(row[0]), world.store.resume_run)
            self._wait(0.5)
        check_end(world)
        if world.seed % 3 == 0 and not world.unserved:
            self._outlive()

    def _outlive(self) -> None:
        """All runs are purged; nothing of them may be left."""
        world = self.world
        world.say("retention")
        purge_all(world)
        while world.orchestrators[1:]:
            world.kill_orchestrator(world.orchestrators[-1])
        for actor in world.orchestrators:
            if actor.data is not None:  # one that has yet to start does all its duties at once
                actor.data.duties.soon("returns")  # at other times it is done every few minutes
        end = world.scheduler.now + QUIET
        while world.scheduler.now < end:
            self._settle_published()
            self._wait(5.0)
        purge_all(world)
        check_growth(world)

    def _quiet(self) -> bool:
        if self._pending or self._pending_events:
            return False
        for sql in (
            f"SELECT 1 FROM aiki_runs WHERE {ACTIVE}",
            "SELECT 1 FROM aiki_deliveries",
            "SELECT 1 FROM aiki_inbox WHERE taken = 0",
        ):
            if self.world.db.ask(f"{sql} LIMIT 1"):
                return False
        return not self.world.at_work()

    def _stuck(self) -> str:
        ask = self.world.db.ask
        runs = [
            f"{ids.to_bytes(ids.to_text(row[0])).hex()} {row[1]} {row[2]} epoch {row[3]} ({row[4]})"
            for row in ask(f"SELECT id, name, state, epoch, waiting_on FROM aiki_runs WHERE {ACTIVE}")
        ]
        left = (
            ask("SELECT hex(id), due_at FROM aiki_deliveries"),
            ask("SELECT hex(run_id), kind FROM aiki_inbox WHERE taken = 0"),
        )
        return f"runs {runs}, deliveries and arrivals {left}, work {self.world.at_work()}"

    # ------------------------------------------------------------ a client
    def _try(self, what: Callable[[], Any]) -> Any:
        """Do something; None where the answer is lost, or it cannot be done."""
        before = self.world.broke
        try:
            return what()
        except (StorageUnavailable, BrokerUnavailable, RunConflict, RunNotFound) as error:
            self.world.say(f"! {type(error).__name__}: {error}")
            if isinstance(error, RunConflict) and self.world.broke > before:
                raise Wrong(f"it was done, and its answer was lost; done again, it says: {error}") from error
            return None

    def _enqueue(self) -> None:
        for run in list(self._pending):
            claim = self.rng.choice((None, 10.0))
            created = self._try(lambda run=run, claim=claim: self.world.store.create_runs([run], claim=claim))  # type: ignore[misc]
            if created is None:
                continue
            self.world.say(f"enqueued {run.id.replace('-', '')[-6:]} {run.name}")
            self._pending.remove(run)
            self._publish(created.outgoing)

    def _publish(self, outgoing: list[Outgoing]) -> None:
        if not outgoing or self.rng.random() < 0.2:
            return  # it dies before
        try:
            session = self._connected()
            for packed in pack(outgoing):
                self._sent[session.send(packed.to, packed.body)] = packed.delivery_ids
            session.receive(0)
        except BrokerUnavailable:
            self._session = None

    def _tell(self, kind: str, runs: list[RunKey]) -> None:
        if not runs or self.rng.random() < 0.1:
            return
        try:
            session = self._connected()
            session.send(CONTROL, Control("default", kind, runs).encode())
            session.receive(0)
        except BrokerUnavailable:
            self._session = None

    def _connected(self) -> Any:
        if self._session is None:
            self._session = self.world.broker.connect("client")
            self._sent = {}
        return self._session

    def _settle_published(self) -> None:
        if self._session is None:
            return
        try:
            done = [self._sent.pop(seq) for seq, ok in self._session.settled() if ok and seq in self._sent]
        except BrokerUnavailable:
            self._session = None
            return
        for delivery_ids in done:
            self._try(lambda delivery_ids=delivery_ids: self.world.store.delivered(delivery_ids))  # type: ignore[misc]

    # ------------------------------------------------------------ operators
    def _any_run(self, condition: str = "1 = 1") -> str | None:
        sql = f"SELECT id FROM aiki_runs WHERE {condition} AND queue <> '{NOBODY}' ORDER BY id"
        rows = self.world.db.ask(sql)
        return ids.to_text(self.rng.choice(rows)[0]) if rows else None

    def _order(self, what: str, run_id: str | None, verb: Callable[..., Any], **more: Any) -> Any:
        if run_id is None:
            return None
        key = run_id.replace("-", "")
        run = self.world.runs.setdefault(key, Started("", []))
        self.world.say(f"operator: {what} {key[-6:]}")
        run.actions.append(what)
        out = self._try(lambda: verb(run_id, **more))
        if out is None:
            return None
        self._publish(getattr(out, "outgoing", []))
        for kind, runs in getattr(out, "controls", []):
            self._tell(kind, runs)
        return out

    def cancel(self) -> None:
        self._cancel(at_once=False)

    def terminate(self) -> None:
        self._cancel(at_once=True)

    def _cancel(self, *, at_once: bool) -> None:
        run_id = self._any_run(ACTIVE)
        out = self._order("terminate" if at_once else "cancel", run_id, self.world.store.cancel_run, at_once=at_once)
        if out is None or run_id is None:
            return
        key = run_id.replace("-", "")
        begun = any(run == key for run, _ in self.world.effects) or any(
            run == key for worker in self.world.living for run, _ in worker.holds()
        )
        if out.run.ended and not begun:
            self.world.runs[key].never = self.world.scheduler.now
        self._tell(m.REVOKE, out.revoke)
        self._tell(m.CANCEL, out.interrupt)
        self._tell(m.CANCEL_SOON, out.soon)

    def pause(self) -> None:
        self._order("pause", self._any_run(ACTIVE), self.world.store.pause_run)

    def resume(self) -> None:
        self._order("resume", self._any_run(f"{ACTIVE} AND pause_requested > 0"), self.world.store.resume_run)

    def wake(self) -> None:
        self._order("wake", self._any_run("state = 'waiting'"), self.world.store.wake_run)

    def retry(self) -> None:
        for run in self.world.runs.values():
            run.never = None  # it, or a child of it, may begin now
        self._order("retry", self._any_run("state IN ('failed', 'cancelled', 'dead')"), self.world.store.retry_run)

    def rerun(self) -> None:
        run_id = self._any_run("state IN ('completed', 'failed')")
        if run_id is None or len(self.world.runs) > 12:
            return
        steps = self.rng.choice((None, None, 1, 2))
        created = self._order("rerun", run_id, self.world.store.rerun, from_step=steps)
        if created is not None:
            before = self.world.runs[run_id.replace("-", "")]
            new = created.accepted[0].id.replace("-", "")
            self.world.runs[new] = Started(before.name, before.arguments, ["rerun"])

    def send_event(self) -> None:
        run_id = self._any_run(f"{ACTIVE} AND (name LIKE '%waiter' OR name LIKE '%race')")
        if run_id is None:
            return
        self._events += 1
        name = "go" if "race" in self._name(run_id) else "e"
        self._pending_events.append((run_id, name, f"event {self._events}"))
        self._repeat_events()

    def _name(self, run_id: str) -> str:
        return str(self.world.db.ask("SELECT name FROM aiki_runs WHERE id = ?", ids.to_bytes(run_id))[0][0])

    def _repeat_events(self) -> None:
        """An event whose answer was lost is sent again, under the same reference."""
        for event in list(self._pending_events):
            run_id, name, data = event
            run = self.world.runs.setdefault(run_id.replace("-", ""), Started("", []))
            run.events.setdefault(data, False)
            self.world.say(f"send {data} to {run_id[-6:]}")
            try:
                payload = Payload("json", f'"{data}"')
                steered = self.world.store.send_event(run_id, name, payload, reference_id=data)
            except StorageUnavailable:
                continue
            except RunConflict:
                self._pending_events.remove(event)
                continue
            run.events[data] = True
            self._pending_events.remove(event)
            self._publish(steered.outgoing)

    # ------------------------------------------------------------ troubles
    def _some_worker(self) -> Any:
        workers = self.world.living
        return self.rng.choice(workers) if workers else None

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._restarts.append((self.world.scheduler.now + seconds, what))

    def kill_child(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            number = self.rng.randrange(len(worker.children))
            self.world.say(f"kill child {worker.name}.{number}")
            worker.kill_child(number)

    def kill_link(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            self.world.say(f"kill link of {worker.name}")
            worker.kill_link()

    def kill_worker(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            self.world.say(f"kill all of {worker.name}")
            worker.kill()
            self._later(self.rng.choice((0.0, 1.0, 5.0)), self._start_worker)

    def freeze_worker(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            self._freeze(worker, self.rng.choice((1.0, 5.0, 7.0, 8.0, 12.0, 20.0)))

    def _freeze(self, worker: SimulatedWorker, seconds: float) -> None:
        self.world.say(f"freeze {worker.name} for {seconds} s")
        worker.freeze(seconds)
        if self.rng.random() < 0.5:
            for actor in worker.actors():
                for session in list(actor.sessions):
                    session.lose("no sign of life", None)

    def drain_worker(self) -> None:
        worker = self._some_worker()
        if worker is not None and not worker.shared.draining:
            self.world.say(f"drain {worker.name}")
            worker.drain()
            self._later(self.rng.choice((0.0, 2.0)), self._start_worker)

    def kill_orchestrator(self) -> None:
        if self.world.orchestrators:
            actor = self.rng.choice(self.world.orchestrators)
            self.world.say(f"kill orchestrator {actor.name}")
            self.world.kill_orchestrator(actor)
            self._later(self.rng.choice((0.0, 0.0, 2.0)), self.world.start_orchestrator)
            check_causes(self.world)

    def freeze_orchestrator(self) -> None:
        if self.world.orchestrators:
            actor = self.rng.choice(self.world.orchestrators)
            seconds = self.rng.choice((0.5, 3.0, 10.0))
            self.world.say(f"freeze {actor.name} for {seconds} s")
            actor.frozen_until = self.world.scheduler.now + seconds
            if self.rng.random() < 0.5:
                for session in list(actor.sessions):
                    session.lose("no sign of life", None)

    def drop_session(self) -> None:
        sessions = self.world.broker.sessions
        if sessions:
            session = self.rng.choice(sessions)
            self.world.say(f"drop {session.name}")
            session.lose("the connection broke", None)

    def restart_broker(self) -> None:
        self.world.say("kill the broker")
        self.world.broker.restart()

    def broker_away(self) -> None:
        self.restart_broker()
        self.world.broker.away = True
        self._later(self.rng.choice((0.5, 4.0)), self._broker_back)

    def _broker_back(self) -> None:
        self.world.broker.away = False

    def storage_away(self) -> None:
        seconds = self.rng.choice((0.3, 3.0))
        self.world.say(f"the database is away for {seconds} s")
        self.world.storage_away = self.world.scheduler.now + seconds

    def odd_message(self) -> None:
        """Somebody sends what nobody can read, or that speaks of nobody."""
        for _ in range(self.rng.choice((1, 3, 10))):
            made = self.world.odd.message(PARTITIONS)
            if made is None:
                return
            to, body = made
            self.world.say(f"odd message to {to.kind}/{to.key}: {body[:100]!r}")
            self.world.oddities += 1
            if to.kind in FANOUTS:
                self.world.broker.broadcast(to, body, "somebody")
            else:
                self.world.broker.put(self.world.broker.declare(to), body, "somebody")

    def set_clock(self) -> None:
        """The server's clock was wrong for a while; it is put right."""
        if self.world.jumped:
            return
        minutes = self.rng.choice((-1, 1, 1, 2))
        self.world.say(f"the server's clock is set by {minutes} minutes")
        self.world.jumped = minutes * 60_000_000
        self._later(self.rng.choice((0.5, 3.0, 8.0)), self._clock_right)

    def _clock_right(self) -> None:
        self.world.say("the server's clock is right again")
        self.world.jumped = 0

    def no_workers(self) -> None:
        """All workers are drained, and others come late."""
        workers = [worker for worker in self.world.living if not worker.shared.draining]
        for worker in workers:
            self.world.say(f"drain {worker.name}")
            worker.drain()
        if workers:
            self._later(self.rng.choice((8.0, 20.0, 40.0)), self._start_worker)

    def purge_queue(self) -> None:
        """An operator empties a work queue."""
        for address, queue in self.world.broker.queues.items():
            if address.kind is Kind.WORK:
                self.world.say(f"purge {address.key}, {len(queue.ready)} messages")
                for message in queue.ready:
                    self.world.purged |= {run for run, _ in runs_of(message.body)}
                queue.ready.clear()

    def purge_runs(self) -> None:
        """Retention: what has ended is deleted."""
        store, before = self.world.store, self.world.clock() + 1
        for state in sorted(TERMINAL):
            page = self._try(lambda state=state: store.purgeable("default", state, before))  # type: ignore[misc]
            if page is None or not page.runs:
                continue
            self.world.say(f"purge {len(page.runs)} {state} runs")
            self._try(lambda page=page: (store.purge_runs("default", page.runs, before),))  # type: ignore[misc]
            there = {row[0] for row in self.world.db.ask("SELECT id FROM aiki_runs")}
            self.world.gone |= {raw.hex() for raw in page.runs if raw not in there}

    def lose_dispatch(self) -> None:
        """A dispatch vanishes from its queue without a trace."""
        for address, queue in self.world.broker.queues.items():
            if address.kind is Kind.WORK and queue.ready:
                message = queue.ready.pop(0)
                self.world.say(f"lose {message.body[:60]!r}")
                self.world.purged |= {run for run, _ in runs_of(message.body)}
                return


def simulate(seed: int, tell: Callable[[str], None] | None = None, *, disorder: float = 0.0, stopping: bool = False) -> int:
    """Live through one seed; the digest of its trace. Raises AssertionError (`Wrong`) for whatever is wrong."""
    world = World(seed, tell, disorder=disorder, stopping=stopping)
    with living(world):
        Fate(world).live()
    return world.digest
