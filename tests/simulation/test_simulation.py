"""The whole system on seeded clocks, store and broker: thousands of schedules, each checked. And that the checks find things.

A failure names its seed; `python -m tests.simulation SEED` replays it with a trace.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from aiki.orchestrator import core, workflows
from aiki.storage.applying import Applying, Effects
from aiki.storage.store import Store
from aiki.storage.waking import Waits
from tests.scale import scaled
from tests.simulation import world as worlds
from tests.simulation.database import simulated_store
from tests.simulation.fate import simulate

SEEDS = range(1, 1 + scaled(2000, 40_000))
DISORDERED = range(1, 1 + scaled(250, 5000))
DISORDER = 0.3
CHUNK = 25
PROCESSES = 2


def told(seed: int, disorder: float = 0.0) -> str | None:
    """What is wrong with a seed, and how to see it; None if nothing is."""
    try:
        simulate(seed, disorder=disorder)
    except Exception:
        more = f" --disorder {disorder}" if disorder else ""
        return f"seed {seed}; replay it with: python -m tests.simulation {seed}{more}\n{traceback.format_exc()}"
    return None


def all_told(work: tuple[range, float]) -> list[str]:
    """What is wrong with some seeds."""
    seeds, disorder = work
    return [text for seed in seeds if (text := told(seed, disorder)) is not None]


def check_all(seeds: range, disorder: float = 0.0) -> None:
    chunks = [(seeds[start : start + CHUNK], disorder) for start in range(0, len(seeds), CHUNK)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        for failures in pool.imap_unordered(all_told, chunks):
            assert not failures, "\n".join(failures)


def test_every_seed_ends_as_it_must() -> None:
    check_all(SEEDS)


def test_safety_does_not_rest_on_the_order_of_reports() -> None:
    """Reports of one partition overtake each other, too: steps may be done again, but none that is recorded."""
    check_all(DISORDERED, DISORDER)


def test_a_seed_is_the_same_in_every_process() -> None:
    """Whatever the order of sets, the process's number and the real time."""
    code = "from tests.simulation.fate import simulate; print([simulate(seed) for seed in range(1, 9)])"
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


def test_the_thin_connection_is_as_sqlalchemy_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(1, 13)
    thin = [simulate(seed) for seed in seeds]
    store, db = simulated_store(lambda: worlds.BEGINNING, worlds.PARTITIONS)
    db.use_sqlalchemy()
    monkeypatch.setattr(worlds, "_shared_store", lambda: (store, db))
    assert [simulate(seed) for seed in seeds] == thin


# ---------------------------------------------------------------- the checks find things
@contextmanager
def no_fencing() -> Iterator[None]:
    """Reports of stale epochs and of second executors count."""
    real = core.apply_report

    def apply_report(row: Any, report: Any, source: Any, *rest: Any) -> None:
        real(row, report._replace(epoch=row.epoch), source._replace(executor=row.executor or source.executor), *rest)

    with patch.object(core, "apply_report", apply_report):
        yield


@contextmanager
def no_outbox() -> Iterator[None]:
    """What is to be published at once is published without a recorded delivery."""
    real = Applying._write_deliveries

    def write(self: Applying, writes: Any, namespace: str, effects: Effects, now: int) -> Any:
        due_now = [(row, again) for row, due_at, again in effects.dispatch.values() if due_at <= now]
        for row, _ in due_now:
            del effects.dispatch[row.id]
        real(self, writes, namespace, effects, now)
        return due_now

    with patch.object(Applying, "_write_deliveries", write):
        yield


@contextmanager
def no_keys_of_steps() -> Iterator[None]:
    """A step that is reported again is recorded again."""
    real = workflows.steps

    def steps(row: Any, report: Any, now: int, effects: Effects) -> None:
        _, db = worlds._shared_store()
        done = {row[0] for row in db.ask("SELECT ordinal FROM aiki_steps WHERE run_id = ? AND state <> 'open'", row.id)}
        items, fresh = [], row.history
        for item in report.body["s"]:
            if item[0] in done:
                fresh = max(fresh, *(one[0] + 1 for one in report.body["s"]))
                item = [fresh, *item[1:]]
            items.append(item)
        real(row, report._replace(body={"s": items}), now, effects)

    with patch.object(workflows, "steps", steps):
        yield


@contextmanager
def no_keys_of_arrivals() -> Iterator[None]:
    """An event that is sent again is another one."""
    real = Store.send_event

    def send_event(
        self: Store, run_id: str, name: str, payload: Any, *, reference_id: str | None = None, actor: str = ""
    ) -> Any:
        return real(self, run_id, name, payload, actor=actor)

    with patch.object(Store, "send_event", send_event):
        yield


@contextmanager
def no_second_look() -> Iterator[None]:
    """What came while a run was being left is not looked at when it suspends."""

    def suspended(row: Any, report: Any, now: int, effects: Effects) -> None:
        workflows.suspend(row, Waits.from_wire(report.body), (), effects, now)

    with patch.object(workflows, "suspended", suspended):
        yield


@pytest.mark.parametrize("switched_off", [no_fencing, no_outbox, no_keys_of_steps, no_keys_of_arrivals, no_second_look])
def test_what_is_switched_off_is_missed(switched_off: Callable[[], Any]) -> None:
    with switched_off():
        for seed in SEEDS:
            if (text := told(seed)) is not None:
                print(text.splitlines()[-1], f"(found by seed {seed})")
                return
    pytest.fail(f"none of {len(SEEDS)} seeds finds it")
