"""The workflows that system tests run, found by workers as the module `flows`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import shop

from aiki import Aiki, RetryPolicy, WorkflowRun, first, gather

app = Aiki("flows")


@app.task
def add(key: str, a: int, b: int) -> int:
    """A step with a side effect that the ledger shows."""
    shop.mark("start", key)
    shop.mark("done", key)
    return a + b


@app.task(retry=RetryPolicy.fixed(max_attempts=50, delay=0.2))
def flaky(key: str, fails: int) -> int:
    """Fails the first times that this process sees the key."""
    shop.mark("start", key)
    seen = _seen[key] = _seen.get(key, 0) + 1
    if seen <= fails:
        raise ValueError(f"not yet: {seen} of {fails}")
    return seen


_seen: dict[str, int] = {}


@app.task
def slow(key: str, seconds: float) -> str:
    shop.mark("start", key)
    time.sleep(seconds)
    shop.mark("done", key)
    return key


@app.workflow
def doubled(run: WorkflowRun, key: str, n: int) -> int:
    """A child: two steps."""
    return add(f"{key}.1", n, 0) + add(f"{key}.2", n, 0)


@app.workflow
def ten(run: WorkflowRun, i: int) -> dict[str, Any]:
    """Ten steps: inline, submitted, a child, a sleep, an event."""
    total = add(f"{i}.a", i, 1)
    total = add(f"{i}.b", total, 1)
    left, right = add.submit(f"{i}.c", total, 1), add.submit(f"{i}.d", total, 2)
    child = doubled.submit(f"{i}.e", total)
    total = sum(gather(left, right, child))
    run.sleep("rest", 0.2)
    total = add(f"{i}.f", total, 1)
    told = run.wait_event("go", timeout=600)
    total = add(f"{i}.g", total, told)
    stamp = str(run.uuid4())
    return {"total": add(f"{i}.h", total, 1), "stamp": stamp}


@app.workflow
def inline(run: WorkflowRun, i: int, count: int) -> int:
    """As many inline steps as asked for."""
    total = 0
    for number in range(count):
        total = add(f"{i}.{number}", total, 1)
    return total


@app.workflow
def fan(run: WorkflowRun, i: int, count: int) -> int:
    """Fans out, gathers; says in the ledger how often it was called."""
    shop.mark("called", i)
    return sum(gather(*[shop_noop.submit(n) for n in range(count)]))


@app.task
def shop_noop(n: int) -> int:
    return n


@app.workflow
def sleeper(run: WorkflowRun, i: int, seconds: float) -> bool:
    woken = run.sleep("long", seconds)
    shop.mark("awake", i)
    return woken


@app.workflow
def until(run: WorkflowRun, i: int, at: float) -> None:
    """Sleeps until a time (Unix seconds)."""
    run.sleep("until", max(0.0, at - run.now().timestamp()))
    shop.mark("awake", i)


@app.workflow
def compensated(run: WorkflowRun, i: int) -> str:
    """Reserves, then waits for long; a cancel has the reservation released."""
    with run.saga() as saga:
        add(f"{i}.reserve", 1, 1)
        saga.compensate(add, f"{i}.release", 1, 1)
        run.wait_event("never", timeout=3600)
    return "went through"


@app.workflow
def raced(run: WorkflowRun, i: int) -> str:
    """Waits for an event or a time, does one step more."""
    event, timer = run.event("go"), run.timer("limit", 0.3)
    won = first(event, timer)
    add(f"{i}.after", 1, 1)
    return "event" if won is event else "timer"


@app.workflow
def waiting(run: WorkflowRun, i: int) -> Any:
    add(f"{i}.before", 1, 1)
    data = run.wait_event("go")
    add(f"{i}.after", 1, 1)
    return data


@app.workflow
def dawdling(run: WorkflowRun, i: int, count: int, seconds: float) -> int:
    """Slow inline steps."""
    for number in range(count):
        slow(f"{i}.{number}", seconds)
    return count


@app.workflow
def looping(run: WorkflowRun, i: int, rounds: int, done: int = 0) -> int:
    """Continues as new after each few steps."""
    for number in range(3):
        add(f"{i}.{done}.{number}", 1, 1)
    if done + 1 < rounds:
        run.continue_as_new(i, rounds, done + 1)
    return done + 1


@app.workflow
def broken_then_mended(run: WorkflowRun, i: int) -> int:
    """Fails at a step that fails twice in each process."""
    add(f"{i}.first", 1, 1)
    return flaky_once(f"{i}.flaky")


@app.task
def flaky_once(key: str) -> int:
    shop.mark("start", key)
    seen = _seen[key] = _seen.get(key, 0) + 1
    if seen == 1:
        raise ValueError("the first time it fails")
    return seen


@app.task(time_limit=1.0, retry=RetryPolicy.fixed(max_attempts=2, delay=0.1))
def overlong(key: str, seconds: float) -> str:
    shop.mark("start", key)
    if _first_time(key):
        time.sleep(seconds)
    return "in time"


def _first_time(key: str) -> bool:
    """Whether no process has done this yet."""
    try:
        (Path(os.environ["LEDGER"]).parent / f"once-{key}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@app.workflow
def limited(run: WorkflowRun, i: int) -> str:
    """A step that runs into its own limit, once."""
    add(f"{i}.before", 1, 1)
    told = overlong(f"{i}.overlong", 30)
    add(f"{i}.after", 1, 1)
    return told


@app.workflow
def hopeless(run: WorkflowRun, i: int) -> str:
    """A step that kills its process each time."""
    add(f"{i}.before", 1, 1)
    return run.step("die", shop.suicide.fn, i)


@app.workflow
def heavy(run: WorkflowRun, i: int, size: int) -> None:
    """Holds so many bytes, in one of three ways, while it sleeps for long."""
    held: list[Any] = [b"x" * size] if i % 3 == 0 else [[n, str(n)] for n in range(size // 140)]
    if i % 3 == 2:
        held.append(held)  # only the collector can free it
    run.sleep("long", 86400.0)
    held.clear()
