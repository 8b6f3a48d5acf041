"""Freeing what a workflow's function held, and the memory of a child."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiki import WorkflowRun
from aiki.arguments import Arguments
from aiki.messages import Dispatch
from aiki.retry import RetryPolicy
from aiki.worker.durable import Execution, Port
from aiki.worker.freeing import Memory
from aiki.worker.gate import Gate
from aiki.worker.ledger import Ledger
from aiki.worker.looping import Loop
from aiki.worker.slots import Shared


class Held:
    """What a function holds; `me` makes it a cycle."""

    def __init__(self, run: Any = None) -> None:
        self.me = self if run is not None else None
        self.run = run


def call(fn: Any) -> BaseException | None:
    """Have a worker's parts call a workflow's function, and free what it held; gives what it raised, cleared."""
    slot = Shared(1).slots[0]
    gate = Gate(slot)
    gate.arm(0, 0.0)
    settings = SimpleNamespace(history_steps=100, history_bytes=10_000, payload_limit=1000)
    shared = SimpleNamespace(now=lambda: 0)
    ledger = SimpleNamespace(size=0, add_steps=lambda *_: None)
    port = Port(
        *(threading.Lock(), cast(Any, None), cast(Ledger, ledger), cast(Any, None), gate, slot, cast(Shared, shared), 0),
        *(lambda: False, settings, lambda: None, Loop()),
    )
    dispatch = Dispatch("0" * 32, 1, "flow", "1", 1, 0, "json", "[[],{}]", {})
    definition = SimpleNamespace(arguments=Arguments("flow", fn, 1), retry=RetryPolicy.never())
    execution = Execution(port, dispatch, cast(Any, definition), 0, lambda *_: None)
    with execution.call():
        error = None
        try:
            fn(execution.run)
        except BaseException as raised:
            error = raised
        execution.free(error)
    return error


def test_a_plain_function_is_freed_without_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[Any]] = []

    def flow(run: WorkflowRun) -> None:
        held, futures = Held(), [run.timer("t", 5)]
        kept.append(weakref.ref(held))
        kept.append(weakref.ref(futures[0]))
        run.sleep("long", 60)

    monkeypatch.setattr(gc, "collect", lambda: pytest.fail("the collector was run"))
    gc.disable()
    try:
        assert type(call(flow)).__name__ == "Suspended"
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()


def test_what_refers_to_itself_is_freed_by_the_collector() -> None:
    kept: list[weakref.ref[Held]] = []

    def flow(run: WorkflowRun) -> None:
        held = Held(run)
        kept.append(weakref.ref(held))
        run.sleep("long", 60)

    call(flow)
    assert kept[0]() is None


def test_errors_that_were_caught_are_cleared_with_what_was_raised() -> None:
    kept: list[weakref.ref[Held]] = []

    def fails() -> None:
        held = Held()
        kept.append(weakref.ref(held))
        raise LookupError

    def flow(run: WorkflowRun) -> None:
        try:
            fails()
        except LookupError:
            run.sleep("long", 60)

    call(flow)
    assert kept[0]() is None


def test_what_watches_the_memory_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert Memory().resident() > 0
    assert len(os.listdir("/proc/self/fd")) == before
