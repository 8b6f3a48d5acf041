"""Code as people write it: asynchronous clients, wrappers, limits that are swallowed, and what is no `Exception`."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aiki import failures, messages
from aiki.context import CurrentRun, inside_workflow, set_current_run
from aiki.errors import SoftTimeLimitExceeded, TaskCancelled
from aiki.history import OPEN, STEP, History, Step
from aiki.hooks import AroundHook
from aiki.messages import Dispatch
from aiki.retry import RetryPolicy
from aiki.worker.durable import Host, Port
from aiki.worker.gate import Gate
from aiki.worker.slots import CANCEL, Slot
from aiki.workflow_host import StepCall
from tests.worker.conftest import Place, StartWorker
from tests.worker.harness import Orchestrator
from tests.worker.test_executor import Bench, bench, raiser

__all__ = ["bench"]


class Client:
    """Keeps a connection that belongs to the loop in which it was made, as asynchronous clients do."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self) -> int:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        assert self._loop is asyncio.get_running_loop(), "attached to a different loop"
        assert not self._loop.is_closed()
        await asyncio.sleep(0)
        return id(self._loop)


def awaited(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them: what it makes is not asynchronous, and gives a coroutine."""

    @functools.wraps(fn)
    def wrapper(*args: Any) -> Any:
        return fn(*args)

    return wrapper


class Later:
    """Awaitable, and no coroutine."""

    def __await__(self) -> Any:
        return asyncio.sleep(0, 7).__await__()


def steps(bench: Bench, *hooks: AroundHook) -> Callable[..., Any]:
    """Executes steps of workflow runs, each of a run of its own, in the process of the bench."""
    port = SimpleNamespace(gate=bench.gate, slot=bench.slot, loop=bench.executor.loop, leaving=lambda: False)

    def execute(fn: Callable[..., Any], *args: Any) -> Any:
        bench.gate.arm(1000, 0.0)
        host = Host(cast(Port, port), cast(Dispatch, SimpleNamespace(options={})), History(), 0, lambda *_: None, hooks)
        with inside_workflow(cast(Any, host)):
            return host.execute(fn, args, {}, StepCall(Step(0, STEP, "s", "", OPEN, 0, {}), 1))

    return execute


def test_tasks_and_the_steps_of_several_runs_share_one_loop(bench: Bench) -> None:
    client = Client()
    step = steps(bench)
    loops = {int(bench.run(client.ask).body["r"]), step(client.ask), step(client.ask), int(bench.run(client.ask).body["r"])}

    def plain() -> int:
        loop = asyncio.get_event_loop()
        loop.run_until_complete(client.ask())
        return id(loop)

    assert {*loops, int(bench.run(plain).body["r"]), step(plain)} == loops
    assert len(loops) == 1


def test_a_plain_task_finds_a_loop_whatever_ran_before(bench: Bench) -> None:
    def runs_its_own() -> None:
        asyncio.run(asyncio.sleep(0))

    def closes() -> None:
        asyncio.get_event_loop().close()

    def gets() -> bool:
        return asyncio.get_event_loop().is_closed()

    async def sleeps() -> None:
        await asyncio.sleep(0)

    for before in (gets, runs_its_own, sleeps, closes):
        assert bench.run(before).kind == messages.COMPLETED
        assert bench.run(gets).body["r"] == "false"
        assert steps(bench)(gets) is False
        assert bench.run(sleeps).kind == messages.COMPLETED


@pytest.mark.parametrize("where", ["task", "step"])
def test_what_a_wrapper_gives_is_awaited(bench: Bench, where: str) -> None:
    @awaited
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return number * 2

    class Callable_:
        async def __call__(self, number: int) -> int:
            return await double(number)

    def call(fn: Callable[..., Any], *args: Any) -> Any:
        return steps(bench)(fn, *args) if where == "step" else int(bench.run(fn, *args).body["r"])

    assert call(double, 4) == 8
    assert call(functools.partial(double, 4)) == 8
    assert call(Callable_(), 4) == 8
    assert call(lambda: Later()) == 7


def test_a_workflow_whose_wrapper_gives_a_coroutine_is_told_so(bench: Bench) -> None:
    async def flow(_run: Any = None) -> None: ...

    durable: Any = SimpleNamespace(run=None, stopped=lambda body: None, failed_at=lambda error, body: None)
    got = bench.run(awaited(flow), kind="workflow", durable=durable)
    assert got.kind == messages.FAILED
    assert "a workflow is a plain function" in got.body["message"]


class Interrupted(Gate):
    """A gate that a soft limit and a cancel meet in the moment in which it is closed."""

    def __init__(self, slot: Slot, due: str) -> None:
        super().__init__(slot)
        self.due = list(due)

    def leave(self) -> None:
        if self.open and self.due:
            kind = self.due.pop(0)
            self._slot.soft_limit(self.index) if kind == "s" else self._slot.interrupt(self.index, CANCEL)
            self.check()
        super().leave()


@pytest.mark.parametrize("due", ["sc", "cs", "c", "s", ""])
@pytest.mark.parametrize("fails", [True, False])
def test_hooks_of_a_step_are_left_whatever_interrupts_it(bench: Bench, due: str, fails: bool) -> None:
    noted: list[str] = []

    @contextmanager
    def around(_run: CurrentRun) -> Iterator[None]:
        noted.append("entered")
        try:
            yield
        finally:
            noted.append("left, and closed" if not gate.open else "left, and open")

    gate = Interrupted(bench.slot, due)
    bench.gate = gate
    raised: list[BaseException] = []
    set_current_run(CurrentRun("0" * 31 + "7", 1, "flow", None, lambda *_: None))
    try:
        steps(bench, AroundHook("around", around, False))(raiser(ValueError("its own")) if fails else int)
    except BaseException as error:
        raised.append(error)
    finally:
        set_current_run(None)
    assert noted == ["entered", "left, and closed"]
    expected = {"s": SoftTimeLimitExceeded, "c": TaskCancelled, "": ValueError}[due[-1:]]
    assert [type(error) for error in raised] == ([expected] if due or fails else [])
    assert gate.due == []


@pytest.mark.parametrize("hooked", [True, False])
def test_a_step_that_is_cancelled_before_it_begins_leaves_the_gate_closed(bench: Bench, hooked: bool) -> None:
    bench.slot.interrupt(1000, CANCEL)
    hooks = [AroundHook("around", lambda _run: nullcontext(), False)] if hooked else []
    with pytest.raises(TaskCancelled):
        steps(bench, *hooks)(int)
    assert not bench.gate.open


def soften(bench: Bench) -> None:
    """What the supervisor does at the limit, and some time after it."""
    bench.slot.soft_limit(bench.gate.index)
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_soft_limit_is_not_swallowed_by_a_loop_that_goes_on(bench: Bench) -> None:
    rounds: list[int] = []

    def stubborn() -> str:
        while len(rounds) < 50:
            try:
                rounds.append(len(rounds))
                soften(bench)
            except Exception:
                pass
        return "it went on"

    got = bench.run(stubborn, retry=RetryPolicy.fixed(2, 3.0, retry_on=(Exception,)))
    assert (got.kind, got.body["outcome"], got.body["delay"]) == (messages.RETRY, "timed_out", 3.0)
    assert rounds == [0]


def test_a_soft_limit_is_raised_again(bench: Bench) -> None:
    caught: list[BaseException] = []

    def swallows() -> None:
        for _ in range(3):
            try:
                soften(bench)
            except BaseException as error:
                caught.append(error)
            os.kill(os.getpid(), signal.SIGUSR1)  # no new word of the supervisor: nothing is raised

    assert bench.run(swallows).kind == messages.COMPLETED
    assert [type(error) for error in caught] == [SoftTimeLimitExceeded] * 3


def test_an_asynchronous_task_that_swallows_its_soft_limit_meets_it_again(bench: Bench) -> None:
    async def swallows() -> None:
        for _ in range(2):
            try:
                soften(bench)
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
        soften(bench)
        await asyncio.sleep(60)

    assert bench.run(swallows).body["outcome"] == "timed_out"


def test_a_supervisor_tells_of_a_soft_limit_again_after_a_while(
    embedded: Place, orchestrator: Orchestrator, start: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word goes out once, then at an interval, for as long as the task runs; a swallowing one meets it a second time."""
    start("-c", "1", app="tests.worker.swallowing_app")
    got = orchestrator.report(orchestrator.run("swallow_once"), timeout=30)
    assert got.body["outcome"] == "timed_out"


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()], ids=lambda e: type(e).__name__
)
def test_the_policy_of_a_task_is_asked_about_whatever_it_raises(bench: Bench, error: BaseException) -> None:
    got = bench.run(raiser(error), retry=RetryPolicy.fixed(2, 3.0))
    assert (got.kind, got.body["delay"]) == (messages.RETRY, 3.0)

    async def raises() -> None:
        raise error

    got = bench.run(raises, retry=RetryPolicy.fixed(2, 3.0))
    assert (got.kind, got.body["delay"]) == (messages.RETRY, 3.0)


class Slow(Exception):
    """A user's exception that takes its time to be made: a cancel comes meanwhile."""

    interrupt: Callable[[], None] | None = None

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if self.interrupt is not None:
            self.interrupt()


@pytest.mark.parametrize(
    "rebuild", [lambda error: failures.make(QUALIFIED, '["x"]'), failures.arguments_of], ids=["make", "look"]
)
def test_a_cancel_that_comes_while_a_users_exception_is_made_anew_is_met_after_it(
    bench: Bench, rebuild: Callable[[Exception], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code runs within a durable operation, which nothing interrupts: neither is the cancel swallowed there, nor does the
    error look like one that cannot be made."""
    index = bench.slot.begin(bytes(16), 1, 0, 0, 0, 0, 0, -1, 1)
    bench.gate.arm(index, 0.0)
    port = SimpleNamespace(gate=bench.gate, slot=bench.slot, loop=bench.executor.loop, leaving=lambda: False)
    host = Host(cast(Port, port), cast(Dispatch, SimpleNamespace(options={})), History(), index, lambda *_: None)
    raised = Slow("x")
    failures.trust(Slow.__init__)
    bench.gate.enter_durable()

    def interrupt() -> None:
        bench.slot.interrupt(index, CANCEL)
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(Slow, "interrupt", staticmethod(interrupt))
    made: object = None
    with pytest.raises(TaskCancelled), host.operation():
        made = rebuild(raised)
    assert made is not None
    bench.gate.leave()


QUALIFIED = f"{__name__}.Slow"
