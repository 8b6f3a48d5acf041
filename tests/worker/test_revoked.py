"""What a worker remembers of revocations: all that may meet it, in little memory, at a cost that does not grow."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from aiki.worker.revoked import KEPT, Revoked
from aiki.worker.slots import Shared
from tests.scale import FULL, scaled


def run(number: int) -> bytes:
    return number.to_bytes(16)


def test_a_revocation_is_of_one_run_and_epoch() -> None:
    revoked = Revoked()
    assert not revoked.covers(run(1), 1)
    assert revoked.add(run(1), 2)
    assert revoked.covers(run(1), 2)
    assert not revoked.covers(run(1), 1)
    assert not revoked.covers(run(2), 2)
    assert revoked.add(run(1), 2)
    assert len(revoked) == 1, "one that is told again takes no more room"


def shared_kib() -> int:
    """How much shared memory this process has in memory, KiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssShmem:")[2].split()[0])


def test_very_many_are_all_met_and_cost_as_much_as_few() -> None:
    """All that a million cancels at once revoke. Cost is processor time for each, of the last against the first tenth."""
    count = scaled(20_000, 1_000_000)
    revoked = Revoked() if FULL else Revoked(first=8, kept=count)
    before = shared_kib()
    costs = []
    for part in range(10):
        began = time.thread_time()
        for number in range(part * count // 10, (part + 1) * count // 10):
            assert revoked.add(run(number), 1)
        costs.append(time.thread_time() - began)
    assert not revoked.should_turn, "so many need no snapshot"
    assert all(revoked.covers(run(number), 1) for number in range(count))
    assert not any(revoked.covers(run(number), 2) for number in range(count))
    assert shared_kib() - before < 32 * 1024
    assert costs[-1] < 5 * costs[0]


def test_another_process_reads_what_is_written_later() -> None:
    shared = Shared(1)
    pid = os.fork()
    if pid == 0:
        while not shared.go:
            pass
        missing = [number for number in range(3000) if not shared.revoked.covers(run(number), 1)]
        os._exit(1 if missing or shared.revoked.covers(run(1), 2) else 0)
    for number in range(3000):
        shared.revoked.add(run(number), 1)
    shared.go = 1
    assert os.waitpid(pid, 0)[1] == 0


def test_a_turn_forgets_only_what_a_snapshot_before_it_lacked() -> None:
    revoked = Revoked(first=8, tables=3, kept=100)
    for number in range(101):
        revoked.add(run(number), 1)
    assert revoked.should_turn
    revoked.turn()
    assert revoked.turning
    assert not revoked.should_turn
    assert all(revoked.covers(run(number), 1) for number in range(101)), "nothing is forgotten while the snapshot is awaited"
    revoked.add(run(1000), 1)  # heard meanwhile
    for number in range(50, 101):
        revoked.add(run(number), 1)  # the snapshot
    revoked.completed()
    assert not revoked.turning
    assert revoked.complete == 1
    assert all(revoked.covers(run(number), 1) for number in range(101)), "a child may hold what the snapshot lacked"
    revoked.turn()
    assert [number for number in (*range(101), 1000) if revoked.covers(run(number), 1)] == [*range(50, 101), 1000]


def test_what_a_turn_empties_gives_its_memory_back() -> None:
    revoked = Revoked()
    before = shared_kib()
    for number in range(20_000):
        revoked.add(run(number), 1)
    grown = shared_kib() - before
    assert grown > 200
    for _ in range(2):
        revoked.turn()
        revoked.completed()
    assert shared_kib() - before < grown // 4
    assert not revoked.covers(run(5), 1)


def test_turns_are_rare_however_many_are_of_use() -> None:
    revoked = Revoked(first=8, kept=1000)
    turns = 0
    for number in range(8000):
        revoked.add(run(number), 1)
        if revoked.should_turn:
            turns += 1
            revoked.turn()
            for again in range(number + 1):
                revoked.add(run(again), 1)  # all of them are still of use
            revoked.completed()
    assert turns <= 10
    assert KEPT == 1_000_000


def test_no_room_is_told() -> None:
    revoked = Revoked(first=4, tables=2)
    added = [number for number in range(100) if revoked.add(run(number), 1)]
    assert 20 < len(added) < 48
    assert all(revoked.covers(run(number), 1) for number in added)


def test_nothing_is_turned_before_every_child_is_rid_of_what_it_took() -> None:
    shared = Shared(2)
    for slot in shared.slots:
        slot.reset()
    shared.slots[0].pid = 7
    assert shared.may_turn
    shared.revoked.turn()
    shared.revoked.completed()
    assert not shared.may_turn
    shared.slots[0].rid = 1
    assert shared.may_turn, "a slot without a child holds nothing up"


@pytest.mark.parametrize("value", [b"", b"x" * 40])
def test_a_run_of_another_length_is_padded_or_cut_and_harms_nothing(value: bytes) -> None:
    revoked = Revoked()
    revoked.add(value, 1)
    assert not revoked.covers(run(1), 1)
