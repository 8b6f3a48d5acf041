"""Workflows that hold on to things when they are left, found by workers as the module `stubborn`."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import shop

from aiki import Aiki, SoftTimeLimitExceeded, WorkflowRun
from aiki.errors import NotDurable

app = Aiki("stubborn")


@app.task
def note(key: str) -> str:
    """A step with a side effect that the ledger shows."""
    shop.mark("start", key)
    return key


@app.task
def weigh() -> int:
    """KiB that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


class Node:
    """Something that refers to itself, so that only the collector frees it."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.me = self


def items(key: str) -> Iterator[int]:
    """A generator with a task call at its end."""
    try:
        yield from range(2)
    finally:
        note(f"{key}.end")


@app.workflow
def generator(run: WorkflowRun, i: int, hold: str) -> str:
    """Waits while it holds a generator, in a loop, a variable or a cycle."""
    made = items(f"{i}")
    kept: Any = None
    if hold == "cycle":
        kept = Node(made)
    elif hold == "error":
        try:
            raise LookupError("kept")
        except LookupError as error:
            kept = error, made
    for number in made if hold != "loop" else items(f"{i}"):
        run.sleep(f"nap {number}", 0.05)
        note(f"{i}.{number}")
    del kept, made
    return "done"


@app.workflow
def collecting(run: WorkflowRun, i: int, turns: int) -> str:
    """Has the collector run within its own code and its steps."""
    for turn in range(turns):
        gc.collect()
        run.step(f"collect {turn}", gc.collect)
        note(f"{i}.{turn}")
    return "done"


@app.workflow
def swallowing(run: WorkflowRun, i: int, how: str) -> str:
    """Catches what leaves it."""
    note(f"{i}.before")
    if how == "loop":
        while True:
            try:
                run.sleep("long", 3600)
            except:  # noqa: E722
                pass
    if how == "finally":
        while True:
            try:
                run.wait_event("never")
            finally:
                continue  # noqa: B012
    if how == "finalizer":

        def endless() -> Iterator[int]:
            try:
                yield 1
            finally:
                while True:
                    try:
                        note(f"{i}.never")
                    except BaseException:
                        pass

        made = endless()
        next(made)
        run.sleep("long", 3600)
    if how == "spin":
        try:
            run.sleep("long", 3600)
        finally:
            while True:
                time.sleep(0.01)
    return "never"


@app.workflow
def outside(run: WorkflowRun, i: int, other: str) -> dict[str, str]:
    """Tries everything that acts or reads outside of its history, in its own code and in a thread."""
    handle = app.handle(other)
    calls = {
        "enqueue": lambda: note.enqueue(f"{i}.x"),
        "delay": lambda: note.delay(f"{i}.x"),
        "apply_async": lambda: note.apply_async((f"{i}.x",)),
        "enqueue_many": lambda: note.enqueue_many([(f"{i}.x",)]),
        "options": lambda: note.options(countdown=1).enqueue(f"{i}.x"),
        "workflow": lambda: outside.enqueue(i, other),
        "result": lambda: handle.result(timeout=1),
        "wait": lambda: handle.wait(timeout=1),
        "status": handle.status,
        "name": lambda: handle.name,
        "cancel": handle.cancel,
        "retry": handle.retry,
        "rerun": handle.rerun,
        "send_event": lambda: handle.send_event("go"),
        "history": handle.history,
        "runs": lambda: next(app.runs()),
        "client": lambda: app.client,
        "thread": lambda: in_thread(lambda: note.enqueue(f"{i}.x")),
    }
    found = {}
    for name, call in calls.items():
        try:
            found[name] = f"done: {call()!r}"
        except NotDurable as error:
            found[name] = str(error)
    run.sleep("nap", 0.05)
    run.sleep("nap", 0.05)
    return found


@app.workflow
def within_a_step(run: WorkflowRun, i: int) -> Any:
    """A step may do all of it."""
    run_id = run.step("enqueue", enqueue, f"{i}.x")
    run.sleep("nap", 0.05)
    return run.step("result", ask, run_id), run.step("thread", lambda: in_thread(lambda: note.enqueue(f"{i}.y").id)) != run_id


def enqueue(key: str) -> str:
    return note.enqueue(key).id


def ask(run_id: str) -> str:
    return str(app.handle(run_id).result(timeout=30))


def in_thread(fn: Any) -> Any:
    """What it returns or raises in a thread of its own."""
    out: list[Any] = []

    def work() -> None:
        try:
            out.append((fn(), None))
        except BaseException as error:
            out.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    value, error = out[0]
    if error is not None:
        raise error
    return value


@app.workflow(soft_time_limit=0.5)
def limited(run: WorkflowRun, i: int) -> list[str]:
    """Its soft limit is over between two of its steps, the first time that it is called."""
    seen = [note(f"{i}.a")]
    try:
        if not run.replaying:
            time.sleep(1.0)
        note(f"{i}.b")
        seen.append("in time")
    except SoftTimeLimitExceeded as error:
        seen.append(str(error))
    seen.append(note(f"{i}.c"))
    run.sleep("nap", 0.05)
    seen.append(note(f"{i}.d"))
    return seen


@app.workflow
def heavy(run: WorkflowRun, i: int, mib: int, how: str) -> int:
    """Waits while it holds much."""
    held: Any = bytearray(mib << 20) if how == "one" else [bytes(700) + bytes([n % 256]) for n in range(mib * 1400)]
    kept = Node(held) if how == "cycle" else None
    run.wait_event("go", timeout=600)
    return len(held) + (kept is None)
