"""What the guide of retries says."""

from __future__ import annotations

from pathlib import Path

from aiki import messages as m
from aiki.clock import SECOND
from aiki.lifecycle import reports
from aiki.states import State
from aiki.storage import Store
from tests.lifecycle.test_reports import NOW, RUN, apply, row, settle
from tests.ready_made import sqlite_database
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock


def test_the_wait_for_the_next_attempt_survives_a_restart_of_everything(tmp_path: Path) -> None:
    url, clock = sqlite_database(tmp_path / "aiki.db"), SetClock()
    store = Store(url, clock=clock)
    before = Bench(store, clock)
    run = before.start("shop.charge", kind="task")
    before.report(run, (m.RETRY, {"ms": 1, "delay": 30.0, "type": "E", "message": "no", "tb": ""}))
    assert before.state(run) == State.WAITING
    store.close()
    clock.move(3600)  # nobody was there when its time came
    store = Store(url, clock=clock)
    after = Bench(store, clock)
    assert after.sweep() == [run]
    assert (after.out[run].attempt, after.state(run)) == (2, State.QUEUED)
    store.close()


def test_after_a_crash_it_goes_on_at_once_and_then_after_growing_pauses() -> None:
    run, waited = row(options='{"mc":9}'), []
    for _ in range(8):
        effects, _ = apply(run, m.CRASHED, {"signal": "SIGKILL"}, epoch=run.epoch)
        waited.append((effects.dispatch[RUN][1] - NOW) / SECOND)
        run.state = State.QUEUED.value  # its time has come
    assert waited[0] == 0
    assert waited == sorted(waited)
    assert 0 < waited[1] < waited[2] < waited[-1] <= 60


def test_a_run_may_be_lost_eight_times_at_once_and_sixty_times_in_all() -> None:
    run, at_once, waiting = row(), 0, 0
    while True:
        effects = settle(run, epoch=run.epoch)
        if run.state == State.DEAD:
            break
        delay = (effects.dispatch[RUN][1] - NOW) / SECOND
        at_once, waiting = at_once + (delay == 0), waiting + (delay > 0)
        assert delay <= 90
        run.state = State.QUEUED.value
    assert (at_once, at_once + waiting) == (7, reports.BACKSTOP) == (7, 60)  # the eighth time it waits
    assert (run.error_type, run.crashes, run.attempt) == ("NoProgress", 0, 1)
