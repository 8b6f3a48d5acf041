"""Which children a supervisor counts as taking work: one that hangs is none, one that executes for long is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from aiki import vitals
from aiki.vitals import Vitals, find
from aiki.worker import health
from aiki.worker.health import DIES, Health
from aiki.worker.slots import LEAVING, PREPARING, Shared, Slot


@dataclass
class Place:
    slot: Slot
    pid: int = 0
    born: float = 0.0
    failures: int = 0


class Family:
    """Two children; this process stands for both, for it exists and is not stopped."""

    def __init__(self) -> None:
        self.page = Vitals("worker")
        self.places = [Place(slot, os.getpid(), time.monotonic()) for slot in Shared(2).slots]
        self.health = Health(self.page, self.places)

    def turn(self, *, takes: bool = True) -> None:
        for place in self.places:
            place.slot.turn(takes)
            place.slot.ready = True

    def seen(self, *, after: float = 0.0, link: bool = True, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[int, str]:
        """How many take work when it is looked at so many seconds from now, and what is said of the first that does not."""
        self.health._next = 0.0
        if monkeypatch is not None:
            at, real = time.monotonic_ns() + int(after * 1e9), time.monotonic
            monkeypatch.setattr(health.time, "monotonic_ns", lambda: at)
            monkeypatch.setattr(health.time, "monotonic", lambda: real() + after)
        self.health.look(link=link)
        monkeypatch.undo() if monkeypatch is not None else None
        return self.word(vitals.TAKING), self.reading().texts[vitals.INSIDE]

    def reading(self) -> vitals.Reading:
        [found] = find("worker", os.getpid()).readings
        return found

    def word(self, word: int) -> int:
        return self.reading().words[word]


@pytest.fixture
def family() -> Iterator[Family]:
    made = Family()
    yield made
    made.page.close()


def test_children_that_turn_and_are_subscribed_take_work(family: Family) -> None:
    family.turn()
    assert family.seen() == (2, "")
    assert family.word(vitals.CHILDREN) == 2
    assert family.word(vitals.STUCK) == 0
    assert family.word(vitals.STARTED) > 0


def test_children_that_have_not_come_up_are_not_started(family: Family) -> None:
    taking, said = family.seen()
    assert (taking, "is starting" in said) == (0, True)
    assert family.word(vitals.STARTED) == 0
    assert family.word(vitals.STUCK) == 0


def test_without_a_link_it_is_not_started(family: Family) -> None:
    family.turn()
    family.seen(link=False)
    assert family.word(vitals.STARTED) == 0


def test_one_that_hangs_does_not_take(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.turn()
    taking, said = family.seen(after=25, monkeypatch=monkeypatch)
    assert taking == 0
    assert said.startswith(f"child 0 (pid {os.getpid()}) has not moved for 25 s, and executes nothing")
    assert family.word(vitals.STUCK) > 0
    family.turn()
    assert family.seen() == (2, "")
    assert family.word(vitals.STUCK) == 0


def test_one_that_executes_for_very_long_is_well(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.turn()
    for place in family.places:
        place.slot.execute(place.slot.begin(b"r" * 16, 1, 0, 0, time.monotonic_ns(), 0.0, 0.0, -1.0, 1))
    assert family.seen(after=100_000, monkeypatch=monkeypatch) == (2, "")


def test_one_that_leaves_is_well(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.turn()
    for place in family.places:
        place.slot.state = LEAVING
    assert family.seen(after=25, monkeypatch=monkeypatch) == (2, "")


def test_one_that_has_lost_its_queues_has_a_moment(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.turn()
    family.seen()
    family.turn(takes=False)
    assert family.seen() == (2, "")
    taking, said = family.seen(after=15, monkeypatch=monkeypatch)
    assert (taking, "is not subscribed to its queues" in said) == (0, True)
    assert family.word(vitals.STUCK) == 0, "it moves: to start it anew would not help"


def test_one_that_dies_again_and_again_is_told(family: Family) -> None:
    family.turn()
    family.places[1].pid, family.places[1].failures = 0, DIES
    taking, said = family.seen()
    assert (taking, said) == (1, "child 1 dies as soon as it is started; the log says of what")


def test_children_that_are_gone_are_not_started(family: Family) -> None:
    """Their hook raises, say: between two tries there is no child at all."""
    for place in family.places:
        place.pid, place.failures = 0, 1
    assert family.seen() == (0, "child 0 is being started")
    assert family.word(vitals.STARTED) == 0
    family.turn()
    family.places[0].pid = os.getpid()
    family.seen()
    assert family.word(vitals.STARTED) == 0, "one is still missing"


def test_one_that_is_replaced_has_a_moment(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.turn()
    family.seen()
    place = family.places[0]
    place.slot.reset()
    place.pid = 0
    assert family.seen(after=2, monkeypatch=monkeypatch) == (2, "")
    place.pid, place.born = os.getpid(), time.monotonic() + 3
    assert family.seen(after=5, monkeypatch=monkeypatch) == (2, ""), "it is starting"
    place.slot.turn(False)
    assert family.seen(after=15, monkeypatch=monkeypatch) == (2, ""), "it subscribes"
    family.places[1].slot.turn(True)
    taking, said = family.seen(after=30, monkeypatch=monkeypatch)
    assert said.startswith("child 0 (pid "), "the moment is over"
    assert taking < 2


def test_one_whose_successor_dies_at_once_has_no_moment(family: Family) -> None:
    family.turn()
    family.seen()
    place = family.places[0]
    place.slot.reset()
    place.pid, place.failures = 0, 1
    assert family.seen() == (1, "child 0 is being started")


def test_one_that_is_stopped_or_hangs_has_no_moment(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    family.turn()
    family.seen()
    for place in family.places:
        place.born += 1.0  # successors
    monkeypatch.setattr(health, "state_of", lambda _pid: "T")
    assert "is stopped by a signal" in family.seen()[1]


def test_one_that_is_in_its_hooks_for_long_is_not_stuck(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that loads a model, say: to start the worker anew would not help."""
    for place in family.places:
        place.slot.state = PREPARING
    taking, said = family.seen(after=240, monkeypatch=monkeypatch)
    assert (taking, said) == (0, f"child 0 (pid {os.getpid()}) has been in its hooks of @app.on_child_start for 240 s")
    assert family.word(vitals.STUCK) == 0
    assert family.word(vitals.STARTED) == 0
    for place in family.places:
        place.slot.state = 0
    assert "does not start" in family.seen(after=240, monkeypatch=monkeypatch)[1]
    assert family.word(vitals.STUCK) > 0
