"""The whole system on seeded clocks, store and broker: thousands of schedules, each checked. And that the checks find things.

A failure names its seed; `python -m tests.simulation SEED` replays it with a trace.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import traceback

import pytest

from tests.scale import scaled
from tests.simulation import world as worlds
from tests.simulation.database import simulated_store
from tests.simulation.fate import simulate

SEEDS = range(1, 1 + scaled(800, 40_000))
DISORDERED = range(1, 1 + scaled(100, 5000))
STOPPING = range(1, 1 + scaled(100, 5000))
DISORDER = 0.3
PARTS = scaled(4, 32)
"""Each is a test of its own, so that they run beside each other."""


def told(seed: int, disorder: float = 0.0, *, stopping: bool = False) -> str | None:
    """What is wrong with a seed, and how to see it; None if nothing is."""
    try:
        simulate(seed, disorder=disorder, stopping=stopping)
    except Exception:
        more = (f" --disorder {disorder}" if disorder else "") + (" --stopping" if stopping else "")
        return f"seed {seed}; replay it with: python -m tests.simulation {seed}{more}\n{traceback.format_exc()}"
    return None


def check_all(seeds: range, disorder: float = 0.0, *, stopping: bool = False) -> None:
    failures = [text for seed in seeds if (text := told(seed, disorder, stopping=stopping)) is not None]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_seed_ends_as_it_must(part: int) -> None:
    check_all(SEEDS[part::PARTS])


@pytest.mark.parametrize("part", range(PARTS // 2))
def test_safety_does_not_rest_on_the_order_of_reports(part: int) -> None:
    """Reports of one partition overtake each other, too: steps may be done again, but none that is recorded."""
    check_all(DISORDERED[part :: PARTS // 2], DISORDER)


@pytest.mark.parametrize("part", range(PARTS // 2))
def test_who_was_stopped_for_longer_than_its_lease_changes_nothing(part: int) -> None:
    """Others have taken over when it comes back, and it goes on with what it was doing."""
    check_all(STOPPING[part :: PARTS // 2], stopping=True)


def test_a_seed_is_the_same_in_every_process() -> None:
    """Whatever the order of sets, the process's number and memory, and the real time."""
    seeds = (2, 3, 5, 7, 8, 14, 21, 31)  # they purge runs, and send odd messages made of heartbeats
    code = f"from tests.simulation.fate import simulate; print([simulate(seed) for seed in {seeds}])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": number},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_simulating_leaves_no_file_open() -> None:
    simulate(1)
    before = len(os.listdir("/proc/self/fd"))
    for seed in range(2, 8):
        simulate(seed)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_thin_connection_is_as_sqlalchemy_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(1, 13)
    thin = [simulate(seed) for seed in seeds]
    store, db = simulated_store(lambda: worlds.BEGINNING, worlds.PARTITIONS)
    db.use_sqlalchemy()
    monkeypatch.setattr(worlds, "_shared_store", lambda: (store, db))
    assert [simulate(seed) for seed in seeds] == thin
