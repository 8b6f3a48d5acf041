"""The demo's second story: a checkout as a durable workflow, whose process is killed half-way.

What the history says was done is held against what the steps themselves noted in a file: no step that was recorded ran again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import shop
from staging import DemoFailed, Progress, print_rows, wait

from aiki import Handle, State
from aiki.model import StepView

ORDER = "c-1003"  # none of the first story's; the bank does not answer the first time (`shop.hiccups_of`)
ITEMS = ["lamp", "carpet", "bookshelf"]
RESULT = {
    "receipt": f"charged 42.00 for order {ORDER}",
    "approved by": "Ada",
    "parcel": f"label on parcel of 3 for {ORDER}, handed over",
}


class Note(NamedTuple):
    """What a step noted: `began` or `ended`, its name, what it was about, its process, the time (microseconds)."""

    what: str
    name: str
    key: str
    pid: int
    at: int


class Line(NamedTuple):
    """A step of the checkout, or of a run that it started, with the notes of those that began it."""

    run: str
    step: StepView
    began: list[Note]
    ended: list[Note]


def run(directory: Path, progress: Progress, alive: Callable[[], None]) -> int:
    """The story; how many steps there were. Raises `DemoFailed`."""
    notes = directory / "notes"
    handle = shop.checkout.options(reference_id=ORDER).enqueue(ORDER, 4200, ITEMS)
    progress.done(f"the checkout of order {ORDER} is enqueued as a workflow")
    wait_until_it_waits(handle, "event approved", progress, alive)
    progress.done("it charged the card, had three items reserved in parallel, and waits for an event; no process holds it")
    handle.send_event("approved", {"by": "Ada"}, reference_id="approval")
    handle.send_event("approved", {"by": "Ada"}, reference_id="approval")
    progress.done("the event 'approved' was sent, twice under one reference id: it counts once")
    pid = kill_packing(notes, progress, alive)
    progress.done(f"process {pid} was killed with SIGKILL while it executed the workflow, in the middle of packing")
    wait(lambda: handle.done() or None, alive, "the checkout has not ended")
    progress.done("the checkout has ended")
    if handle.status() is not State.COMPLETED or handle.result() != RESULT:
        raise DemoFailed(f"the checkout is {handle.status()}, and must be completed with {RESULT}")
    lines = account(handle, [note for note in read(notes) if note.name != "charge" or note.key == ORDER])
    verify(lines, pid)
    tell(handle, lines)
    return len(lines)


def wait_until_it_waits(handle: Handle[Any], what: str, progress: Progress, alive: Callable[[], None]) -> None:
    """Wait until nobody holds the run and it waits for this."""

    def waits() -> bool | None:
        view = handle.view()
        progress.show(f"the checkout is {view.state}" + (f" ({view.waiting_on})" if view.waiting_on else ""))
        if view.ended:
            raise DemoFailed(f"the checkout is {view.state} already: {view.error_message}")
        return (view.state is State.WAITING and what in (view.waiting_on or "")) or None

    wait(waits, alive, f"the checkout never waited on {what}")


def kill_packing(notes: Path, progress: Progress, alive: Callable[[], None]) -> int:
    """Kill the process that packs, while it does; its id."""

    def process() -> int | None:
        progress.show("waiting for the process that packs")
        return next((note.pid for note in read(notes) if note.name == "pack"), None)

    pid = wait(process, alive, "nobody ever packed")
    os.kill(pid, signal.SIGKILL)
    return pid


def read(notes: Path) -> list[Note]:
    """All that was noted so far. A line that is being written is not there yet."""
    found = []
    for line in notes.read_text().splitlines(keepends=True) if notes.exists() else []:
        if line.endswith("\n"):
            what, name, key, pid, at = line.split()
            found.append(Note(what, name, key, int(pid), int(at)))
    return found


# ---------------------------------------------------------------- the account
def account(handle: Handle[Any], notes: list[Note]) -> list[Line]:
    """Every step, those of the child after the one that started it, with what the steps themselves noted."""
    lines = []
    for step in handle.history():
        lines.append(_line("checkout", step, notes))
        if step.kind == "child" and step.child_id is not None:
            lines += [_line("shipping", inner, notes) for inner in shop.app.handle(step.child_id).history()]
    return lines


def _line(run: str, step: StepView, notes: list[Note]) -> Line:
    name = step.name.rpartition(".")[2].replace(" ", "_")
    mine = [note for note in notes if note.name == name and (step.kind != "task" or f'"{note.key}"' in (step.input or ""))]
    return Line(run, step, [n for n in mine if n.what == "began"], [n for n in mine if n.what == "ended"])


def verify(lines: list[Line], killed: int) -> None:
    """Each step ran to its end once, and none began after its result was recorded. Raises `DemoFailed`."""
    kinds = [line.step.kind for line in lines]
    expected = ["step", "task", "task", "task", "event", "sleep", "step", "child", "step", "step"]
    if kinds != expected:
        raise DemoFailed(f"the steps are {kinds}, and must be {expected}")
    for run, step, began, ended in lines:
        if step.state != "completed":
            raise DemoFailed(f"{run} #{step.ordinal} {step.name} is {step.state}")
        if step.kind not in ("step", "task"):
            continue
        if len(ended) != 1:
            raise DemoFailed(f"{step.name} ran to its end {len(ended)} times")
        late = [note for note in began if step.finished_at is not None and note.at > step.finished_at]
        if late:
            raise DemoFailed(f"{step.name} began again after it was recorded, in process {late[0].pid}")
        executors = [note.pid for note in began]
        if len(executors) != {"shop.charge": 2, "shop.pack": 2}.get(step.name, 1):
            raise DemoFailed(f"{step.name} was begun {len(executors)} times, by {executors}")
        if step.name == "shop.pack" and executors[0] != killed:
            raise DemoFailed(f"{step.name} was begun by {executors}, and {killed} was killed")


def tell(handle: Handle[Any], lines: list[Line]) -> None:
    """Which steps ran where."""
    rows = [["run", "step", "kind", "name", "attempt", "executed by"]]
    for run, step, began, _ in lines:
        where = [f"{step.worker}/{note.pid}" for note in began]
        if len(where) > 1:
            where[0] += " (killed)" if step.name == "shop.pack" else " (failed)"
        shown = ", then ".join(where) or ("nobody: a run of its own" if step.kind == "child" else "nobody: it waited")
        rows.append([run, f"#{step.ordinal}", step.kind, step.name, str(step.attempt or ""), shown])
    print_rows(rows, left=len(rows[0]))
    detail = shop.app.client.detail(handle.id)
    crash = next((attempt for attempt in detail.attempts if attempt.outcome == "crashed"), None)
    if crash is None or crash.signal != "SIGKILL":
        raise DemoFailed("the checkout's attempts must name one SIGKILL")
    print(f"  killed:  run {handle.id}, attempt {crash.number}: {crash.signal}; attempt {detail.run.attempt} completed")
    ran = sum(len(line.began) for line in lines)
    print(
        f"  again:   of {len(lines)} steps none ran again after it was recorded; {ran} executions, one failed, one was killed\n"
    )
