"""The shared memory: what is held, and the promise between revoking and beginning."""

from __future__ import annotations

import os
import time

from aiki.worker.slots import (
    BUSY,
    CANCEL,
    ENTRIES,
    IDLE,
    Shared,
    Slot,
)


def begin(slot: Slot, run: bytes, epoch: int = 1, **more: float) -> int:
    return slot.begin(run, epoch, 3, 7, 123_456, more.get("soft", 0.0), more.get("hard", 0.0), more.get("retry_delay", -1.0), 2)


def run(number: int) -> bytes:
    return number.to_bytes(16)


def test_an_entry_comes_back_as_it_was_written() -> None:
    slot = Shared(2).slots[1]
    slot.reset()
    begin(slot, run(5), 9, soft=1.5, hard=30.0, retry_delay=2.5)
    entry = slot.entry(0)
    assert entry == (run(5), 9, 3, 7, 123_456, 1.5, 30.0, 2.5, 2, -1)
    slot.begin(run(6), 9, 3, 7, 123_456, 0.0, 1.0, -1.0, 1, 17)
    assert slot.entry(1).ordinal == 17


def test_held_is_what_is_begun_and_not_confirmed() -> None:
    slot = Shared(1).slots[0]
    slot.reset()
    for number in range(4):
        begin(slot, run(number))
    slot.execute(3)
    slot.confirm(2)
    incarnation, held = slot.held()
    assert incarnation == 1
    assert [(item.at, item.executing, item.entry.run) for item in held] == [(2, False, run(2)), (3, True, run(3))]
    latest = slot.latest()
    assert latest is not None
    assert (latest.at, latest.executing) == (3, True)
    slot.executed()
    slot.confirm(4)
    assert slot.held()[1] == []
    assert slot.latest() is None


def test_the_ring_wraps() -> None:
    slot = Shared(1).slots[0]
    slot.reset()
    for number in range(3 * ENTRIES):
        begin(slot, run(number))
        slot.confirm(max(0, number - 500))
    held = slot.held()[1]
    assert [item.entry.run for item in held] == [run(item.at) for item in held]
    assert held[-1].at == 3 * ENTRIES - 1


def test_reset_clears_all_but_counts_incarnations() -> None:
    shared = Shared(2)
    slot = shared.slots[0]
    assert slot.reset() == 1
    slot.pid, slot.state, slot.ready, slot.want, slot.leased = 5, BUSY, True, 7, 0
    slot.interrupt(0, CANCEL)
    slot.soft_limit(0)
    begin(slot, run(1))
    slot.execute(0)
    assert slot.reset() == 2
    assert (slot.pid, slot.state, slot.ready, slot.want, slot.leased, slot.executing) == (0, 0, False, 0, None, None)
    assert slot.cancelled[0] == -1
    assert slot.softened == -1
    assert slot.held() == (2, [])
    shared.slots[1].state = IDLE
    assert shared.slots[0].state == 0


def test_no_run_is_both_begun_and_promised_away() -> None:
    """The race of ASK, between two processes: for each run, the child sees the revocation or the link sees the run held."""
    rounds = 1000
    shared = Shared(1)
    slot = shared.slots[0]
    slot.reset()
    pid = os.fork()
    if pid == 0:
        for number in range(rounds):
            while shared.go < number + 1:
                pass
            index = begin(slot, run(number))
            if not shared.revoked.covers(run(number), 1):
                slot.execute(index)
            slot.want = number + 1
        os._exit(0)
    missed = []
    try:
        for number in range(rounds):
            shared.go = number + 1
            for _ in range(number % 40):
                pass  # meet the child at another moment each round
            shared.revoked.add(run(number), 1)
            time.sleep(0.0001)
            held = any(item.entry.run == run(number) for item in slot.held()[1])
            while slot.want < number + 1:
                pass
            if slot.executing == number and not held:
                missed.append(number)
            slot.confirm(number + 1)
    finally:
        os.waitpid(pid, 0)
    assert missed == []
