"""That the simulation finds things: with a mend taken out, one of its seeds must fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from aiki.lifecycle import reports, workflows
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.waits import Waits
from aiki.orchestrator.isolation import Done, Isolation
from aiki.storage.applying import Applying
from aiki.storage.engine import Database
from aiki.storage.store import Store
from tests.simulation import world as worlds
from tests.simulation.test_simulation import told

LOOKED_AT = range(1, 301)
"""Seeds among which one must find a mend that is missing."""


@contextmanager
def no_fencing() -> Iterator[None]:
    """Reports of stale epochs and of second executors count."""
    real = reports.apply_report

    def apply_report(row: Any, report: Any, source: Any, *rest: Any) -> None:
        real(row, report._replace(epoch=row.epoch), source._replace(executor=row.executor or source.executor), *rest)

    with patch.object(reports, "apply_report", apply_report):
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


@contextmanager
def no_isolation() -> Iterator[None]:
    """What a unit of the orchestrator's work raises ends the turn."""

    def attempt(self: Isolation, work: Callable[[], Any]) -> Any:
        return Done(work())

    with patch.object(Isolation, "attempt", attempt):
        yield


@contextmanager
def no_ids_of_operations() -> Iterator[None]:
    """What was committed is done again where the answer was lost."""
    with patch.object(Database, "_leave", lambda *_: True):
        yield


MENDS = [no_outbox, no_keys_of_arrivals, no_second_look, no_isolation, no_ids_of_operations]
MENDS_FOR_STOPPED = [no_fencing, no_keys_of_steps]
"""Only what somebody reports who was stopped, while others have gone on, needs these; else that is very rare."""


@pytest.mark.parametrize("switched_off", [*MENDS, *MENDS_FOR_STOPPED])
def test_what_is_switched_off_is_missed(switched_off: Callable[[], Any]) -> None:
    with switched_off():
        for seed in LOOKED_AT:
            if (text := told(seed, stopping=switched_off in MENDS_FOR_STOPPED)) is not None:
                print(text.splitlines()[-1][:500], f"(found by seed {seed})")
                return
    pytest.fail(f"none of {len(LOOKED_AT)} seeds finds it")
