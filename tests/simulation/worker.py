"""A simulated worker: the real child and the real link, as actors; the supervisor and the operating system are played.

A child can be killed wherever it waits, which is between any two operations and around each side effect. Its supervisor tells
the link of it, as the real one does; when the whole worker dies, nobody tells anybody.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from aiki import clock, ids
from aiki.messages import Report
from aiki.settings import Settings
from aiki.storage.engine import database
from aiki.worker import child as child_module
from aiki.worker import connection as connection_module
from aiki.worker import durable as durable_module
from aiki.worker import executor as executor_module
from aiki.worker import link as link_module
from aiki.worker import notices
from aiki.worker import subscriptions as subscriptions_module
from aiki.worker.child import Child
from aiki.worker.executor import Attempt
from aiki.worker.identity import Identity
from aiki.worker.link import Link
from aiki.worker.notices import LeftRun, Notice
from aiki.worker.options import Options
from aiki.worker.registry import Registry
from aiki.worker.slots import Shared, Slot
from aiki.worker.strays import Mark
from tests.simulation.scheduler import Actor

if TYPE_CHECKING:
    from tests.simulation.world import World

_wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
"""Nobody writes to it: who is to look up is woken by the scheduler."""


class VirtualTime:
    """Stands for the module `time`, and for `select`, in the worker's modules."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        return 1000.0 + self._world.scheduler.now

    def monotonic_ns(self) -> int:
        return int(self.monotonic() * 1e9)

    def time_ns(self) -> int:
        return self._world.local_clock() * 1000

    def time(self) -> float:
        return self._world.local_clock() / 1e6

    def sleep(self, seconds: float) -> None:
        self._world.scheduler.wait(self._world.scheduler.now + seconds)

    def select(self, reading: Any, writing: Any, other: Any, seconds: float) -> None:
        self.sleep(seconds)


class NoKeeper:
    """The keeper's work is done where side effects take time."""

    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    note = start


class NoMemory:
    """All children are this one process, whose memory says nothing of theirs."""

    def settle(self) -> None:
        pass


@contextmanager
def patched(world: World) -> Iterator[None]:
    """The worker's modules live in the simulation's time."""
    time = VirtualTime(world)
    with ExitStack() as stack:
        timed = (child_module, subscriptions_module, durable_module, executor_module, link_module, connection_module)
        for module in (*timed, database, clock):
            stack.enter_context(patch.object(module, "time", time))
        stack.enter_context(patch.object(link_module, "select", time))
        stack.enter_context(patch.object(link_module, "TICK_SECONDS", 0.5))
        # Heartbeats say what differs from process to process, and traces show heartbeats.
        stack.enter_context(patch.object(link_module, "rss_kib", lambda _: 50_000))
        stack.enter_context(patch.object(os, "getppid", lambda: 1))
        stack.enter_context(patch.object(child_module, "Keeper", NoKeeper))
        stack.enter_context(patch.object(child_module, "Memory", NoMemory))
        stack.enter_context(patch.object(child_module, "LEASE_SECONDS", 4.0))
        stack.enter_context(patch.object(child_module, "default_in_copies", lambda *_: None))
        stack.enter_context(patch.object(child_module.Gate, "installed", lambda _: True))
        stack.enter_context(patch.object(durable_module, "_pause", lambda _, seconds: time.sleep(max(seconds, 0.01))))
        yield


class SimulatedChild(Child):
    """The real child, without signals."""

    def _install_handlers(self) -> None:
        pass

    def _pause(self, seconds: float) -> None:
        child_module.time.sleep(max(seconds, 0.01))

    def _clear_away(self, attempt: Attempt, report: Report) -> None:
        """What is simulated starts no processes."""

    def interrupted(self) -> None:
        """What the signal of the supervisor does to user code."""
        self._gate._on_signal(0, None)

    def keep(self) -> None:
        """What the keeper does while user code runs."""
        with self._lock:
            self.upkeep()

    @property
    def epoch(self) -> int:
        """Of the dispatch that it executes."""
        assert self._current is not None
        return self._current.dispatch.epoch

    def held_runs(self) -> set[tuple[str, int]]:
        """What it has begun, what waits in it, and what it has not reported yet: (run, epoch)."""
        found = {(item.entry.run.hex(), item.entry.epoch) for item in self._slot.held()[1]}
        return found | {(job.dispatch.run_id, job.dispatch.epoch) for job in self._inbox.jobs}

    def unconfirmed(self) -> list[bytes]:
        """Messages that it keeps until they are confirmed."""
        return unconfirmed(self._connection)

    def pending(self) -> set[tuple[str, int]]:
        """Reports that are not sent yet: (run, epoch)."""
        return {(r.run_id, r.epoch) for found in self._ledger._batch.values() for r, *_ in found}


def unconfirmed(connection: Any) -> list[bytes]:
    """The messages that a connection keeps."""
    return [sent.body for sent in (*connection._sent.values(), *connection._waiting)]


class Lines:
    """The link's end of its conversation with the supervisor."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker
        self.waiting: deque[dict[str, Any]] = deque()
        self.closed = False

    def fileno(self) -> int:
        return -1

    def flush(self) -> None:
        pass

    def receive(self) -> list[dict[str, Any]]:
        lines = list(self.waiting)
        self.waiting.clear()
        return lines

    def send(self, kind: str, **fields: Any) -> None:
        self._worker.told(kind, fields)


class SimulatedWorker:
    """See the module."""

    def __init__(self, world: World, number: int, concurrency: int, prefetch: int, registry: Registry) -> None:
        self.world = world
        self.name = f"w{number}"
        self.id = ids.new_id().hex
        self.options = Options((), concurrency, ("default",), self.name, prefetch=prefetch)
        self.registry = registry
        self.shared = Shared(concurrency)
        self.children: list[Actor | None] = [None] * concurrency
        self.link: Actor | None = None
        self.lines: Lines | None = None
        self.notices: dict[int, Notice] = {}
        self.cut_off: float = 0.0
        """Until when it counts as a zombie: it was stopped or cut off, and has not been told yet."""
        self.gone = False
        self._count = 0
        for slot in self.shared.slots:
            slot.reset()
            self._start_child(slot, 0.0)
        self._start_link(0.0)

    # ------------------------------------------------------------ starting
    def _start_child(self, slot: Slot, after: float) -> None:
        identity = Identity(self.id, slot.number, slot.incarnation, _wake, Mark(self.id, slot.number, slot.incarnation))
        name = f"{self.name}.{slot.number}.{slot.incarnation}"

        def main() -> None:
            actor = self.world.scheduler.current
            child = actor.data = SimulatedChild(identity, self.registry, self.options, self.shared, self.world.broker)
            child._connection._clock = child_module.time.monotonic
            child.run()
            self.world.scheduler.check()
            self._left(slot)

        self.children[slot.number] = self.world.scheduler.spawn(name, main, after=after)

    def _left(self, slot: Slot) -> None:
        """The child has left by itself: the worker drains."""
        self.children[slot.number] = None
        slot.reset()
        if not self.gone and not any(self.children) and self.lines is not None:
            self.lines.waiting.append({"kind": "stop"})
            self.wake_link()

    def _start_link(self, after: float) -> None:
        lines = self.lines = Lines(self)
        for notice in self.notices.values():
            lines.waiting.append({"kind": "death", "notice": notice.to_wire()})
        if self.shared.draining and not any(self.children):
            lines.waiting.append({"kind": "stop"})

        def main() -> None:
            actor = self.world.scheduler.current
            clock = link_module.time.monotonic
            link = Link(self.id, self.registry, self.options, self.shared, self.world.broker, lines, [], clock)  # type: ignore[arg-type]
            actor.data = link
            link.run()
            self.world.scheduler.check()
            self.link = None
            self.gone = True

        self.link = self.world.scheduler.spawn(f"{self.name}.link", main, after=after)

    def wake_link(self) -> None:
        if self.link is not None:
            self.link.wake_at = min(self.link.wake_at, self.world.scheduler.now)

    # ------------------------------------------------------------ the supervisor
    def told(self, kind: str, fields: dict[str, Any]) -> None:
        """The link says something."""
        if kind == "confirmed":
            self.notices.pop(fields["number"], None)
        elif kind == "interrupt":
            slot = self.shared.slots[fields["slot"]]
            if self.children[slot.number] is not None and slot.incarnation == fields["incarnation"]:
                slot.interrupt(fields["index"], fields["reason"])
                self._wake_child(slot.number)
        elif kind == "drain":
            self.drain()

    def _wake_child(self, number: int) -> None:
        actor = self.children[number]
        if actor is not None:
            actor.wake_at = min(actor.wake_at, self.world.scheduler.now)

    def drain(self) -> None:
        """TERM."""
        self.shared.drain()
        for number in range(len(self.children)):
            self._wake_child(number)

    def actors(self) -> list[Actor]:
        """All that lives of it."""
        return [actor for actor in (*self.children, self.link) if actor is not None]

    # ------------------------------------------------------------ dying
    def kill_child(self, number: int) -> None:
        """kill -9 of a child; the supervisor notices, tells the link, and starts another."""
        actor, slot = self.children[number], self.shared.slots[number]
        if actor is None:
            return
        words, incarnation = list(slot._words), slot.incarnation
        self._end(actor)
        for at, word in enumerate(words):  # its code was unwound, as a killed process's is not
            slot._words[at] = word
        self.children[number] = None
        runs = []
        # A step with a limit of its own has an entry behind its workflow's: the last one counts.
        for item in {(item.entry.run, item.entry.epoch): item for item in slot.held()[1]}.values():
            entry = item.entry
            where = (entry.run.hex(), entry.epoch, entry.partition)
            runs.append(LeftRun(*where, item.executing, 1, entry.hard, entry.retry_delay, entry.attempt, entry.ordinal))
        if runs:
            self._count += 1
            executor = f"{self.id}/{number}.{incarnation}"
            notice = Notice(self._count, executor, 1, notices.CRASH, "SIGKILL", None, False, runs)
            self.notices[notice.number] = notice
            if self.lines is not None:
                self.lines.waiting.append({"kind": "death", "notice": notice.to_wire()})
                self.wake_link()
        slot.reset()
        if self.shared.draining:
            self._left(slot)
        else:
            self._start_child(slot, self.world.rng.choice((0.0, 0.1, 1.0)))

    def kill_link(self) -> None:
        """kill -9 of the link; the supervisor starts another."""
        if self.link is not None:
            self._end(self.link)
            self._start_link(self.world.rng.choice((0.0, 0.1, 2.0)))

    def kill(self) -> None:
        """The machine is gone."""
        self.gone = True
        for actor in self.actors():
            self._end(actor)
        self.children = [None] * len(self.children)
        self.link = self.lines = None

    def freeze(self, seconds: float) -> None:
        """SIGSTOP to all of it, and SIGCONT later."""
        now = self.world.scheduler.now
        for actor in self.actors():
            actor.frozen_until = now + seconds
        if seconds > self.world.settings.lease / 2:
            self.cut_off = now + seconds + self.world.settings.lease

    def _end(self, actor: Actor) -> None:
        sessions = list(actor.sessions)
        self.world.scheduler.kill(actor)
        for session in sessions:
            session.lose("its process was killed", None)

    # ------------------------------------------------------------ for checks
    def holds(self) -> set[tuple[str, int]]:
        """(run, epoch) of all that some part of it has in its hands."""
        found = {(run.run_id, run.epoch) for notice in self.notices.values() for run in notice.runs}
        for actor in self.children:
            if actor is not None and actor.data is not None:
                found |= actor.data.held_runs() | actor.data.pending()
        return found

    def kept(self) -> list[bytes]:
        """Messages that it keeps until they are confirmed."""
        out = []
        for actor in self.children:
            if actor is not None and actor.data is not None:
                out += actor.data.unconfirmed()
        if self.link is not None and self.link.data is not None:
            out += unconfirmed(self.link.data._connection)
        return out


def registry_of(app: Any, settings: Settings, without: Sequence[str] = ()) -> Registry:
    """What a simulated worker can execute."""
    return Registry({key: one for key, one in app.versions.items() if key[0] not in without}, settings)
