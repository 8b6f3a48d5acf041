"""Virtual time and actors: threads of which exactly one runs at a time, the next one chosen by a seeded generator.

An actor runs until it waits (`Scheduler.wait`). Whoever waits chooses the next among those whose time has come; if there is
none, time goes on to the first whose time will come. So nothing sleeps, and the same seed gives the same order of everything.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, Final

from aiki import context

NEVER: Final = float("inf")
STEPS: Final = 400_000
"""Switches after which a simulation is taken to go round for ever."""


class Killed(BaseException):
    """The actor is dead: whatever it wants to do to the world raises this."""


class Endless(AssertionError):
    """The simulation goes round and round without an end."""


class Actor:
    """One process of the simulated system.

    :ivar wake_at: when it wants to run next, in seconds of virtual time.
    :ivar frozen_until: stopped (SIGSTOP) until then, whatever it wants.
    """

    def __init__(self, name: str, main: Callable[[], object] | None) -> None:
        self.name = name
        self.main = main
        self.wake_at = 0.0
        self.frozen_until = 0.0
        self.dead = False
        self.ended = False
        self.go = threading.Semaphore(0)
        self.thread: threading.Thread | None = None
        self.here: Any = None
        self.data: Any = None
        """Whatever its owner wants to remember."""
        self.sessions: list[Any] = []
        self.skew: int | None = None
        """Microseconds by which its clock is wrong; None: nobody has asked for the time yet."""

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Scheduler:
    """See the module. The thread that makes it is the actor `fate`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 0.0
        self.fate = Actor("fate", None)
        self.actors = [self.fate]
        self.current = self.fate
        self.failure: BaseException | None = None
        self.steps = 0

    # ------------------------------------------------------------ actors
    def spawn(self, name: str, main: Callable[[], object], *, after: float = 0.0) -> Actor:
        """A new actor that begins `after` seconds from now."""
        actor = Actor(name, main)
        actor.wake_at = self.now + after
        self.actors.append(actor)
        return actor

    def kill(self, actor: Actor) -> None:
        """End an actor where it is. Its code is unwound, but can do nothing to the world any more."""
        assert self.current is not actor
        actor.dead = True
        if actor.thread is not None and not actor.ended:
            killer, self.current = self.current, actor
            killer.here, context._here = context._here, actor.here
            actor.go.release()
            actor.thread.join()
            self.current = killer
            context._here = killer.here
        actor.ended = True
        self._forget(actor)

    def close(self) -> None:
        """End all actors but the one that calls."""
        for actor in list(self.actors):
            if actor is not self.current:
                self.kill(actor)

    def _forget(self, actor: Actor) -> None:
        if actor in self.actors:
            self.actors.remove(actor)

    def _run(self, actor: Actor) -> None:
        actor.go.acquire()
        context._here = None
        try:
            if not actor.dead:
                assert actor.main is not None
                actor.main()
        except Killed:
            pass
        except BaseException as error:
            self.failure = self.failure or error
        actor.ended = True
        if actor.dead:
            return  # whoever killed it goes on
        self._forget(actor)
        self._hand_on()

    # ------------------------------------------------------------ waiting
    def check(self) -> None:
        """Raise `Killed` in an actor that is dead."""
        if self.current.dead:
            raise Killed

    def wait(self, until: float) -> None:
        """Let others run; come back when `until` has come, or somebody says so (`Actor.wake_at`)."""
        me = self.current
        if me.dead:
            raise Killed
        me.wake_at = until
        self._hand_on()
        if me.dead:
            raise Killed
        if me is self.fate and self.failure is not None:
            raise self.failure

    def fail(self, error: BaseException) -> None:
        """End the simulation, whatever the actor's code makes of the error."""
        self.failure = self.failure or error
        self.wait(self.now)

    def _hand_on(self) -> None:
        me = self.current
        actor = self._choose()
        if actor is me:
            return
        me.here, context._here = context._here, actor.here
        self.current = actor
        if actor.thread is None and actor is not self.fate:
            actor.thread = threading.Thread(target=self._run, args=(actor,), name=actor.name, daemon=True)
            actor.thread.start()
        actor.go.release()
        if me.ended:
            return
        me.go.acquire()
        context._here = me.here

    def _choose(self) -> Actor:
        self.steps += 1
        if self.failure is not None:
            return self.fate
        if self.steps > STEPS:
            self.failure = Endless(f"{STEPS:,} switches and no end, at {self.now:.1f} s")
            return self.fate
        ready, soonest = [], NEVER
        for actor in self.actors:
            at = actor.wake_at if actor.wake_at > actor.frozen_until else actor.frozen_until
            if at <= self.now:
                ready.append(actor)
            elif at < soonest:
                soonest = at
        if ready:
            return ready[0] if len(ready) == 1 else ready[int(self.rng.random() * len(ready))]
        assert soonest < NEVER, "nobody has anything to do any more"
        self.now = soonest
        return self._choose()
