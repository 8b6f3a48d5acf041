"""What code inside a step of a workflow sees of the run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from aiki.context import CurrentRun, current_run, inside_workflow, set_current_run
from aiki.history import OPEN, STEP, History, Step
from aiki.messages import Dispatch
from aiki.worker.durable import Host, Port
from aiki.worker.looping import Loop
from aiki.workflow_host import StepCall

RUN = "0" * 31 + "7"


class OpenGate:
    """A gate that is never closed: nothing interrupts these steps."""

    raised = softened = 0

    def enter(self) -> None: ...
    def enter_async(self) -> None: ...
    def leave(self) -> None: ...


def seen() -> tuple[str, int, str]:
    return current_run().key, current_run().attempt, current_run().name


async def seen_later() -> tuple[str, int, str]:
    return seen()


def call(ordinal: int, attempt: int) -> StepCall:
    return StepCall(Step(ordinal, STEP, "charge", "", OPEN, attempt - 1, {}), attempt)


def test_each_step_has_its_own_key_and_attempt_plain_or_async() -> None:
    port = cast(Port, SimpleNamespace(gate=OpenGate(), loop=Loop(), leaving=lambda: False))
    host = Host(port, cast(Dispatch, SimpleNamespace(options={})), History(), 0, lambda *_: None)
    set_current_run(CurrentRun(RUN, 4, "shop.checkout", None, lambda *_: None))
    whole = current_run().id
    functions: list[Any] = [seen, seen_later, seen_later]
    try:
        with inside_workflow(cast(Any, host)):
            found = [host.execute(fn, (), {}, call(n, n + 2)) for n, fn in enumerate(functions)]
            assert current_run().key == whole, "outside of steps it is the workflow's again"
    finally:
        port.loop.close()
        set_current_run(None)
    assert found == [(f"{whole}:{n}", n + 2, "charge") for n in range(3)]


def test_each_step_knows_where_it_stands_in_its_own_policy() -> None:
    port = cast(Port, SimpleNamespace(gate=OpenGate(), loop=Loop(), leaving=lambda: False))
    host = Host(port, cast(Dispatch, SimpleNamespace(options={})), History(), 0, lambda *_: None)
    set_current_run(CurrentRun(RUN, 4, "shop.checkout", None, lambda *_: None))
    try:
        with inside_workflow(cast(Any, host)):
            calls = [replace(call(n, n + 1), max_attempts=2) for n in range(2)]
            found = [host.execute(stands, (), {}, each) for each in calls]
    finally:
        port.loop.close()
        set_current_run(None)
    assert found == [(1, 2, False), (2, 2, True)]


def stands() -> tuple[int, int, bool]:
    return current_run().attempt, current_run().max_attempts, current_run().is_last_attempt
