"""Workflows without a worker: histories as an orchestrator would record them, runs moved by hand."""

from __future__ import annotations

from typing import Any

from aiki import codec, history, ids
from aiki.clock import SECOND
from aiki.history import COMPLETED, OPEN, Step, Wait, Waits
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.waits import suspend
from aiki.model import NewRun
from aiki.states import State
from aiki.storage import Store

NAME = "shop.checkout"


def new_workflow(*args: object, **fields: object) -> NewRun:
    return NewRun(str(ids.new_id()), NAME, codec.encode([[*args], {}]), kind="workflow", **fields)  # type: ignore[arg-type]


def done(ordinal: int, name: str, result: Any = None, **more: Any) -> Step:
    """A step that ran in the workflow's own process."""
    payload = codec.encode(result)
    told = {"i": '["o-1"]', "ms": 12, "e": payload.encoding, "r": payload.text, **more}
    return Step(ordinal, history.STEP, name, "0" * 32, COMPLETED, 1, told)


def child(ordinal: int, run: NewRun) -> Step:
    """A task or a workflow that was started."""
    kind = history.CHILD if run.kind == "workflow" else history.TASK
    return Step(ordinal, kind, run.name, "1" * 32, OPEN, 0, {"c": ids.to_bytes(run.id).hex()})


def record(store: Store, run_id: str, *steps: Step, children: tuple[NewRun, ...] = ()) -> None:
    """Have the workflow run, with these steps."""
    raw = ids.to_bytes(run_id)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        row = rows[raw]
        row.state = State.RUNNING.value
        effects.was_out.add(raw)  # somebody executes it, whatever it waited for before
        row.history = max([row.history, *(step.ordinal + 1 for step in steps)])
        effects.steps.update({(raw, step.ordinal): (step, True) for step in steps})
        effects.children += children

    store.apply(store.namespace, [raw], decide)


def sleep(store: Store, run_id: str, ordinal: int, name: str, seconds: float = 3600) -> None:
    """Have the workflow, which runs, sleep."""
    raw = ids.to_bytes(run_id)
    record(store, run_id, Step(ordinal, history.SLEEP, name, "", OPEN, 0, {}))

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        now = store.clock()
        due = now + int(seconds * SECOND)
        suspend(rows[raw], Waits(False, [Wait(history.SLEEP, ordinal, ordinal, name, due)]), (), effects, now)

    store.apply(store.namespace, [raw], decide)
