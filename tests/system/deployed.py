"""An app that is deployed again and again, found by workers as `deployed`: two releases take turns, by RELEASE in the
environment."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import shop

from aiki import Aiki, RetryPolicy, WorkflowRun, current_run

app = Aiki("deployed")
ODD = int(os.environ.get("RELEASE", "0")) % 2 == 1


if ODD:

    @app.task
    def nap(i: int, seconds: float, unit: float = 1.0) -> int:
        time.sleep(seconds * unit)
        return i

else:

    @app.task
    def nap(i: int, seconds: float) -> int:
        time.sleep(seconds)
        return i


@app.task
def program(i: int, seconds: float) -> int:
    """Runs a program that runs another, and tells how that ended."""
    script = f"sh -c 'sleep {seconds} && echo {i}' & wait $!"
    done = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)
    return int(done.stdout)


def _dawdle(i: int, seconds: float) -> int:
    time.sleep(seconds)
    return i


@app.task
def pool(i: int, seconds: float) -> int:
    """Has a pool do it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        return executor.submit(_dawdle, i, seconds).result()


@app.task
async def async_nap(i: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return i


@app.task(retry=RetryPolicy.fixed(2, 0.2))
def second_try(i: int, seconds: float) -> int:
    """Fails after a while, and succeeds at its next attempt."""
    time.sleep(seconds)
    if current_run().attempt == 1:
        raise ConnectionError("not at first")
    return i


@app.task
def held(i: int) -> int:
    """Ends when the test says so."""
    while not (Path(os.environ["LEDGER"]).parent / "released").exists():
        time.sleep(0.05)
    return i


@app.workflow
def event(run: WorkflowRun, i: int, seconds: float) -> int:
    """Waits for an event between two steps."""
    first = nap(i, seconds)
    run.wait_event("go")
    return first + program(0, seconds)


@app.workflow
def children(run: WorkflowRun, i: int, seconds: float) -> int:
    """Waits for others."""
    handles = [nap.submit(n, seconds) for n in range(3)]
    return i + sum(handle.result() for handle in handles) - 3


@app.workflow
def sleeper(run: WorkflowRun, i: int, seconds: float) -> int:
    for number in range(3):
        run.sleep(f"rest {number}", seconds)
        nap(i, seconds / 3)
    return i


@app.workflow
def changed(run: WorkflowRun, i: int, seconds: float) -> int:
    """The odd release has a step more, behind the event: what has done it cannot go on with the even one."""
    nap(i, seconds)
    run.wait_event("go")
    if ODD:
        run.step("audit", shop.noop.fn, i)
    return nap(i, seconds)


PLAIN = (nap, program, pool, async_nap, second_try, children, sleeper)
"""They end by themselves; all return their first argument."""
TOLD = (event, changed)
"""They wait for the event `go`."""
