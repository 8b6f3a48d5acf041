"""What the simulation runs: small workflows and tasks, each with a known right result.

Each step's first argument is a label, unique within the run: by it the external ledger of side effects knows the step.
`effect` is where time passes, processes die and the others get on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiki import Aiki, EventTimeout, RetryPolicy, WorkflowCancelled, WorkflowRun, as_completed, first, gather

app = Aiki("simulation", database_url="sqlite:///nowhere/aiki.db", broker_url="sqlite:///nowhere/broker.db")


class Effects:
    """Put there by the world that is simulated at present."""

    do: Callable[[str], int]
    """Take effect under a label; how often it has been done by now."""


effects = Effects()


# ---------------------------------------------------------------- tasks
@app.task
def add(label: str, value: int) -> int:
    effects.do(label)
    return value + 1


@app.task(retry=RetryPolicy.fixed(3, delay=0.5))
def flaky(label: str, fails: int) -> str:
    if effects.do(label) <= fails:
        raise ConnectionError(f"{label} is not there yet")
    return label


DEADLY = "deadly"
"""The label of a step whose process dies."""


@app.task(time_limit=60)
def die(label: str) -> None:
    effects.do(label)


@app.task
def broken(label: str) -> None:
    effects.do(label)
    raise ValueError(f"{label} is broken")


@app.task(retry=RetryPolicy.fixed(2))
def square(value: int) -> int:
    effects.do("square")
    return value * value


# ---------------------------------------------------------------- workflows
@app.workflow
def inline(run: WorkflowRun, count: int) -> int:
    return sum(add(f"add {number}", number) for number in range(count))


@app.workflow
def retried(run: WorkflowRun, fails: int) -> list[str]:
    return [flaky("a", fails), flaky("b", 0)]


@app.workflow(retry=RetryPolicy.fixed(2, delay=0.5))
def failing(run: WorkflowRun) -> str:
    add("before", 1)
    broken("never")
    return "never"


@app.workflow
def fan(run: WorkflowRun, count: int) -> int:
    futures = [square.submit(number) for number in range(count)]
    add("between", 1)
    return sum(gather(*futures))


@app.workflow
def streamed(run: WorkflowRun, count: int) -> list[int]:
    return sorted(future.result() for future in as_completed(*[square.submit(number) for number in range(count)]))


@app.workflow
def race(run: WorkflowRun) -> str:
    timer, task, event = run.timer("limit", 3), square.submit(7), run.event("go")
    winner = first(timer, task, event)
    add("after", 1)
    if winner is task:
        assert task.result() == 49
        return "task"
    return "timer" if winner is timer else f"event {winner.result()}"


@app.workflow
def parent(run: WorkflowRun, count: int) -> list[Any]:
    one = fan.submit(count)
    two = inline(count)
    run.sleep("rest", 1)
    return [one.result(), two, square.submit(count).result()]


@app.workflow
def sleeper(run: WorkflowRun, count: int) -> int:
    for number in range(count):
        run.sleep(f"nap {number}", 2)
        add(f"woke {number}", number)
    return count


@app.workflow
def waiter(run: WorkflowRun, count: int) -> list[Any]:
    got: list[Any] = []
    for number in range(count):
        try:
            got.append(run.wait_event("e", timeout=4))
        except EventTimeout:
            got.append(None)
        add(f"got {number}", number)
    return got


@app.workflow
def undoing(run: WorkflowRun) -> str:
    try:
        with run.saga() as saga:
            add("reserve", 1)
            saga.compensate(add, "release", 1)
            run.sleep("think", 1)
            broken("charge")
    except ValueError:
        return "undone"
    return "never"


@app.workflow
def tidy(run: WorkflowRun, count: int) -> int:
    try:
        for number in range(count):
            add(f"do {number}", number)
            run.sleep(f"rest {number}", 1)
        return count
    except WorkflowCancelled:
        add("tidy up", 1)
        raise


@app.workflow
def looping(run: WorkflowRun, left: int, total: int) -> int:
    add(f"lap {left}", left)
    if left:
        run.continue_as_new(left - 1, total + left)
    return total


@app.workflow
def values(run: WorkflowRun) -> list[Any]:
    chosen = [run.random(), str(run.uuid4()), run.now().isoformat()]
    repeat("values", chosen)
    run.sleep("rest", 1)
    return chosen


@app.task
def repeat(label: str, chosen: list[Any]) -> list[Any]:
    effects.do(label)
    return chosen


@app.workflow
def caught(run: WorkflowRun) -> str:
    future = broken.submit("child")
    try:
        future.result()
    except Exception:
        return "caught"
    return "never"


@app.workflow
def deadly(run: WorkflowRun, before: int) -> str:
    """Kills its process each time, once it has done some things."""
    for number in range(before):
        add(f"step {number}", number)
    die(DEADLY)
    return "never"


def right(name: str, arguments: list[Any], result: Any) -> bool:
    """Whether a completed run's result is a right one."""
    exact: dict[str, Callable[..., Any]] = {
        "inline": lambda count: sum(number + 1 for number in range(count)),
        "retried": lambda fails: ["a", "b"],
        "fan": lambda count: sum(number * number for number in range(count)),
        "streamed": lambda count: [number * number for number in range(count)],
        "parent": lambda count: [sum(n * n for n in range(count)), sum(n + 1 for n in range(count)), count * count],
        "sleeper": lambda count: count,
        "undoing": lambda: "undone",
        "tidy": lambda count: count,
        "looping": lambda left, total: total + left * (left + 1) // 2,
        "caught": lambda: "caught",
        "add": lambda label, value: value + 1,
        "flaky": lambda label, fails: label,
        "square": lambda value: value * value,
    }
    short = name.rpartition(".")[2]
    if short in exact:
        return bool(exact[short](*arguments) == result)
    if short == "race":
        return result in ("task", "timer") or str(result).startswith("event ")
    if short == "waiter":
        return isinstance(result, list) and len(result) == arguments[0]
    return short == "values" and len(result) == 3  # and what is deadly completes never


def may_fail(name: str) -> bool:
    """Whether the run's own code raises in the end."""
    return name.rpartition(".")[2] in ("failing", "broken")


def starts() -> list[tuple[Any, Callable[[Any], list[Any]]]]:
    """What can be enqueued, with how to choose arguments."""
    return [
        (inline, lambda rng: [rng.randrange(1, 5)]),
        (retried, lambda rng: [rng.randrange(3)]),
        (failing, lambda rng: []),
        (fan, lambda rng: [rng.randrange(1, 4)]),
        (streamed, lambda rng: [rng.randrange(1, 4)]),
        (race, lambda rng: []),
        (parent, lambda rng: [rng.randrange(1, 3)]),
        (sleeper, lambda rng: [rng.randrange(1, 3)]),
        (waiter, lambda rng: [rng.randrange(1, 4)]),
        (undoing, lambda rng: []),
        (tidy, lambda rng: [rng.randrange(1, 3)]),
        (looping, lambda rng: [rng.randrange(3), 0]),
        (values, lambda rng: []),
        (caught, lambda rng: []),
        (square, lambda rng: [rng.randrange(10)]),
        (flaky, lambda rng: ["task", rng.randrange(3)]),
    ]
