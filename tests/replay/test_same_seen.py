"""All that a workflow's code sees is the same in the first call of its function and in every replay.

Programs of all operations are drawn, and run with deaths, pauses, cancels, soft limits and things that come in any order; each
call writes down whatever it saw. What one call has seen, the next one sees again, and goes on from there.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aiki import Future, RetryPolicy, WorkflowRun, as_completed, first, gather
from aiki.history import CHILD_ENDED, EVENT_SENT
from tests.replay.host import Ended, World
from tests.replay.shop import Detailed, a, app, b, child, fail

_failures: dict[str, int] = {}


@app.task(name="shop.again", retry=RetryPolicy.fixed(3, delay=5))
def again(key: str) -> str:
    """Fails the first time."""
    _failures[key] = _failures.get(key, 0) + 1
    if _failures[key] == 1:
        raise ValueError("not yet")
    return key


def spoil(given: list[Any]) -> int:
    """Changes what it is given."""
    given.append("spoilt")
    return len(given)


def chained() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        wrong = Detailed("outer", 7)
        wrong.add_note("a note")
        raise wrong from error


def told(error: BaseException | None) -> Any:
    """What can be seen of an error."""
    if error is None:
        return None
    seen = {key: value for key, value in vars(error).items() if key != "traceback"}
    return type(error).__name__, error.args, str(error), sorted(map(str, seen.items())), told(error.__cause__)


class Program:
    """A workflow's function over a list of operations, drawn by hypothesis. `seen` is what the present call has seen."""

    def __init__(self, operations: list[tuple[str, int]]) -> None:
        self.operations = operations
        self.seen: list[Any] = []

    def __call__(self, run: WorkflowRun) -> Any:
        futures: list[Future[Any]] = []
        with run.saga() as saga:
            for place, (name, n) in enumerate(self.operations):
                try:
                    self.note(place, name, getattr(self, name)(run, futures, n, saga))
                except Exception as error:
                    self.note(place, name, told(error))
                self.note("history", run.history_size, run.history_nearly_full)
            self.note("all", *(repr(future) for future in futures))
        return len(self.seen)

    def note(self, *what: Any) -> None:
        self.seen.append(what)

    def inline(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        saga.compensate(b, n)
        return a(n), b(n)

    def failing(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return fail("declined") if n % 2 else run.step("chained", chained)

    def retried(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return again(f"{id(self)} {n}")[-1]

    def closure(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        got = run.step("build", lambda: {"n": [n, (n,)]})
        got["n"].append("changed")
        return got, run.step("build", lambda: {"n": [n, (n,)]})

    def spoilt(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        given = [n]
        return run.step("spoil", spoil, given), run.step("spoil by name", spoil, given=given), given

    def submit(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        task = (a, child, fail)[n % 3]
        bound = task.options(reference_id=f"r{n}") if n > 5 else task.plain  # type: ignore[attr-defined]
        made = bound.submit(str(n)) if task is fail else bound.submit(n)
        futures.append(made)
        return made.run_id, made.name, made.ordinal, repr(made), sorted(name for name in dir(made) if name[0] != "_")

    def timer(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        futures.append(run.timer(f"t{n % 2}", n * 10))
        return repr(futures[-1])

    def event(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        futures.append(run.event("go", timeout=n * 10 if n % 2 else None))
        return repr(futures[-1])

    def sleep(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return run.sleep(f"s{n % 2}", n * 5)

    def wait_event(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return run.wait_event("go", timeout=n + 1)

    def values(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return run.now(), run.uuid4(), run.random(), run.attempt, run.id, run.version, run.reference_id, run.name

    def patched(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return run.patched(f"p{n % 2}")

    def result(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        if not futures:
            return None
        one = futures[n % len(futures)]
        return one.result(), one.result() is one.result()

    def gather(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        found = gather(*futures[: n + 1], return_exceptions=bool(n % 2))
        return [told(item) if isinstance(item, Exception) else item for item in found]

    def first(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return futures.index(first(*futures[: n + 1])) if futures else None

    def as_completed(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        return [futures.index(one) for one in as_completed(*futures[: n + 1])]

    def undone(self, run: WorkflowRun, futures: list[Any], n: int, saga: Any) -> Any:
        try:
            with run.saga() as inner:
                inner.compensate(a, n)
                inner.compensate(fail, "cannot be undone")
                fail("to be undone")
        except Exception as error:
            return told(error), getattr(error, "__notes__", [])


NAMES = sorted(name for name in vars(Program) if name[0] != "_" and name != "note")
OPERATIONS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 8)), min_size=1, max_size=8)
FATES = st.lists(
    st.tuples(st.sampled_from(["go", "die", "pause", "leave", "cancel", "limit", "wake"]), st.integers(0, 5)), max_size=12
)


def call(world: World, program: Program, before: list[Any]) -> tuple[Ended, list[Any]]:
    """Call it once; gives what it has seen that can never be seen otherwise."""
    program.seen = []
    certain = 0

    def confirmed() -> None:
        nonlocal certain
        certain = len(program.seen)

    world.confirmed = confirmed
    ended = world.call(program)
    both = min(len(before), len(program.seen))
    assert program.seen[:both] == before[:both]
    seen = program.seen[:certain] if ended.kind == "died" else program.seen
    return ended, seen if len(seen) > len(before) else before


def let_come(world: World, ended: Ended, n: int) -> None:
    """Some of what it waits for comes: the ends of children in any order, an event, or time goes by."""
    assert ended.waits is not None
    waits = [item for item in ended.waits.items if item.kind == CHILD_ENDED]
    for item in waits:
        for ordinal in range(item.first, item.last + 1):
            if ordinal % 2 != n % 2 and not any(one.ordinal == ordinal for one in world.arrivals):
                if world.steps[ordinal].name == "shop.fail":
                    world.end_child(ordinal, error="CardDeclined: no")
                else:
                    world.end_child(ordinal, {"by": [ordinal]})
    if n % 3 == 0 and any(item.kind == EVENT_SENT for item in ended.waits.items):
        world.send("go", {"n": [n]})
    world.move(7 * n + 1)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, FATES)
def test_what_the_code_sees_is_the_same_in_each_replay(operations: list[tuple[str, int]], fates: list[tuple[str, int]]) -> None:
    _failures.clear()
    world, program = World(), Program(operations)
    before: list[Any] = []
    for turn in range(100):
        fate, n = fates[turn] if turn < len(fates) else ("go", turn % 6)
        world.die_after = world.reports + n if fate == "die" else None
        world.pausing, world.leaving = fate == "pause", fate == "leave"
        world.cancelling = world.cancelling or fate == "cancel"
        world.limits_due = int(fate == "limit")
        world.attempt += fate == "die"
        ended, before = call(world, program, before)
        if fate == "wake":
            world.wake()
        if ended.kind == "suspended":
            let_come(world, ended, n)
        elif ended.kind not in ("died", "left"):
            break
    else:
        raise AssertionError(f"it never ended: {ended}")
    world.executed.clear()
    world.die_after, world.pausing, world.leaving, world.limits_due = None, False, False, 0
    last, seen = call(world, program, before)
    assert (last.kind, seen) == (ended.kind, before)
    assert world.executed == []
