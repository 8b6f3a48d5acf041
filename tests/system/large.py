"""Workflows and tasks of large values."""

from __future__ import annotations

from aiki import Aiki, WorkflowRun, gather

app = Aiki()
KB = 1000


@app.task
def make(size: int, letter: str = "x") -> str:
    return letter * size


@app.task
def measure(text: str) -> int:
    return len(text)


@app.workflow
def collect(run: WorkflowRun, count: int, size: int) -> list[int]:
    """Results from outside, larger together than a history may be, then a step, a sleep, and all of them again."""
    futures = [make.submit(size, chr(97 + number % 26)) for number in range(count)]
    found = gather(*futures)
    first = measure(found[-1])
    run.sleep("nap", 0.2)
    again = [future.result() for future in reversed(futures)]
    return [first, len(found), sum(map(len, again)), int(again == found[::-1])]


@app.workflow
def build(run: WorkflowRun, count: int, size: int) -> int:
    """Steps of its own whose results are large, and a replay in between."""
    total = 0
    for number in range(count):
        total += len(run.step(f"make-{number}", make.fn, size))
    run.sleep("nap", 0.1)
    return total


@app.workflow
def hand_out(run: WorkflowRun, count: int, size: int) -> int:
    """A fan-out of large inputs."""
    return sum(gather(*[measure.submit(chr(97 + number % 26) * size) for number in range(count)]))


@app.workflow
def wide(run: WorkflowRun, count: int) -> int:
    """More children than a history may have."""
    return len(gather(*[measure.submit(str(number)) for number in range(count)]))


@app.workflow
def listen(run: WorkflowRun) -> list[int]:
    """Events, beside others that it never waits for."""
    sizes = [len(run.wait_event("large")) for _ in range(3)]
    run.sleep("nap", 0.1)
    return sizes
