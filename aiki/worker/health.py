"""How the children do, in the supervisor's eyes: who takes work or executes it, and who does not move.

A child that executes a run is well, however long that takes: limits are for that. One that executes nothing turns its main loop
every few seconds, whatever the broker does; and it is of use only while it is subscribed to its queues. Children are replaced
as a matter of course (`max_tasks_per_child`, limits): one whose predecessor was well has a moment to come up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from aiki import vitals
from aiki.vitals import Vitals, state_of
from aiki.worker.slots import LEAVING, PREPARING, Slot

LOOK_SECONDS: Final = 1.0
MOVES_SECONDS: Final = 20.0
"""A main loop waits at most two seconds for messages, and five for a connection."""
REPLACED_SECONDS: Final = 20.0
"""How long a child that was well may be gone until its successor takes work."""
SUBSCRIBES_SECONDS: Final = 10.0
"""How long a child may be without its queues: while it connects again, or changes what it takes from."""
DIES: Final = 3
"""A child that died so often in a row without having done anything is not counted on."""


class Place(Protocol):
    """A slot and who sits in it. `failures`: how often in a row who sat there died at once."""

    @property
    def slot(self) -> Slot:
        """The shared memory."""

    @property
    def pid(self) -> int:
        """The child's process id, 0 for none."""

    @property
    def born(self) -> float:
        """When it was started, monotonic seconds."""

    @property
    def failures(self) -> int:
        """See the class."""


class Trouble(NamedTuple):
    """The fault of a child. `moves`: it is alive in some way, or will be."""

    why: str
    moves: bool


class Health:
    """Writes the children's part of the page."""

    def __init__(self, page: Vitals, places: Sequence[Place]) -> None:
        self._page = page
        self._places = places
        self._subscribed: dict[int, int] = {}
        """By slot: when the child was last seen to be subscribed, monotonic nanoseconds."""
        self._well: dict[int, tuple[int, float]] = {}
        """By slot: when a child was last seen to be well, monotonic nanoseconds, and when that child was started."""
        self._next = 0.0
        page.put(vitals.CHILDREN, len(places))

    def look(self, *, link: bool) -> None:
        """To be called in each turn; it looks about once a second. `link`: whether there is one."""
        self._page.now(vitals.TURNED)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        found = [self._trouble(place, time.monotonic_ns()) for place in self._places]
        wrong = [trouble for trouble in found if trouble is not None]
        if link and all(place.pid and place.slot.ready for place in self._places):
            self._page.since(vitals.STARTED, holds=True)
        self._page.put(vitals.TAKING, len(found) - len(wrong))
        self._page.since(vitals.STUCK, holds=len(wrong) == len(found) and not any(trouble.moves for trouble in wrong))
        self._page.tell(vitals.INSIDE, wrong[0].why if wrong else "")

    def _trouble(self, place: Place, now: int) -> Trouble | None:
        found, number = self._trouble_of_child(place, now), place.slot.number
        if found is None:
            self._well[number] = now, place.born
            return None
        if found.moves and place.failures == 0 and (well := self._well.get(number)) is not None:
            at, born = well
            if (not place.pid or place.born != born) and now - at < REPLACED_SECONDS * 1e9:
                return None
        return found

    def _trouble_of_child(self, place: Place, now: int) -> Trouble | None:
        slot, number = place.slot, place.slot.number
        if not place.pid:
            why = f"child {number} dies as soon as it is started; the log says of what" if place.failures >= DIES else ""
            return Trouble(why or f"child {number} is being started", moves=True)
        who = f"child {number} (pid {place.pid})"
        if state_of(place.pid) in "Tt":
            return Trouble(f"{who} is stopped by a signal (SIGSTOP)", moves=False)
        if slot.executing is not None or slot.state == LEAVING:
            self._subscribed[number] = now
            return None
        if not slot.turned:
            age = now / 1e9 - place.born
            if slot.state == PREPARING:
                return Trouble(f"{who} has been in its hooks of @app.on_child_start for {age:.0f} s", moves=True)
            return Trouble(f"{who} is starting", moves=True) if age < MOVES_SECONDS else Trouble(f"{who} does not start", False)
        if now - slot.turned > MOVES_SECONDS * 1e9:
            return Trouble(f"{who} has not moved for {(now - slot.turned) / 1e9:.0f} s, and executes nothing", moves=False)
        if slot.takes:
            self._subscribed[number] = now
        elif now - self._subscribed.get(number, 0) > SUBSCRIBES_SECONDS * 1e9:
            return Trouble(f"{who} is not subscribed to its queues", moves=True)
        return None
