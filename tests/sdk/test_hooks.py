"""Hooks: what is refused where they are given, and what is called around tasks, workflows and steps."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from aiki import Aiki, ConfigurationError, CurrentRun, RetryPolicy, current_run, messages
from aiki.context import inside_workflow, set_current_run
from aiki.errors import SoftTimeLimitExceeded, TaskCancelled
from aiki.history import OPEN, STEP, History, Step
from aiki.hooks import Hooks
from aiki.messages import Dispatch
from aiki.worker.durable import Host, Port
from aiki.worker.process_hooks import call, call_last
from aiki.worker.registry import load
from aiki.workflow_host import StepCall
from tests.worker.test_executor import Bench, bench

__all__ = ["bench"]

RUN = "0" * 31 + "7"


@pytest.fixture
def app() -> Aiki:
    return Aiki("hooked")


class Heard:
    """Hooks that say what is done, in its order."""

    def __init__(self, app: Aiki) -> None:
        self.said: list[str] = []
        self.app = app

    def around(self, name: str) -> None:
        @self.app.around_run
        def hook(run: CurrentRun) -> Iterator[None]:
            self.said.append(f"{name}>{run.kind}")
            try:
                yield
            except BaseException as error:
                self.said.append(f"{name}!{type(error).__name__}")
                raise
            finally:
                self.said.append(f"<{name}")

    def around_async(self, name: str) -> None:
        @self.app.around_run
        async def hook(run: CurrentRun) -> AsyncIterator[None]:
            await asyncio.sleep(0)
            self.said.append(f"{name}>{run.kind}")
            yield
            await asyncio.sleep(0)
            self.said.append(f"<{name}")

    def task(self) -> str:
        self.said.append("task")
        return "done"

    async def later(self) -> str:
        await asyncio.sleep(0)
        self.said.append("later")
        return "done"


@pytest.fixture
def heard(app: Aiki) -> Heard:
    return Heard(app)


# ---------------------------------------------------------------- where they are given
def coroutine_only() -> Any:
    async def hook(run: CurrentRun) -> None: ...

    return hook


def test_what_cannot_be_a_hook_is_refused_where_it_is_given(app: Aiki) -> None:
    def takes_nothing() -> Iterator[None]:
        yield

    def takes_two(run: CurrentRun, other: int) -> Iterator[None]:
        yield

    for wrong in (takes_nothing, takes_two):
        with pytest.raises(
            ConfigurationError, match=f"@app.around_run of .*{wrong.__name__}.*called with one argument, the run"
        ):
            app.around_run(wrong)
    with pytest.raises(ConfigurationError, match="there is no `yield` in it"):
        app.around_run(coroutine_only())
    with pytest.raises(ConfigurationError, match="stands over a function, not 3"):
        app.around_run(cast(Any, 3))
    with pytest.raises(ConfigurationError, match=r"@app.on_child_start of .*called with no arguments"):
        app.on_child_start(lambda run: None)
    with pytest.raises(ConfigurationError, match="must not be a generator"):
        app.on_child_stop(takes_nothing)
    with pytest.raises(ConfigurationError, match="an event loop does not survive the fork"):
        app.on_worker_start(_later)
    assert app.hooks == Hooks()


async def _later() -> None: ...


def test_a_hook_stays_the_function_that_it_was(app: Aiki) -> None:
    def hook(run: CurrentRun) -> Iterator[None]:
        yield

    assert app.around_run(hook) is hook
    assert app.on_child_start(print) is print


# ---------------------------------------------------------------- around tasks
def test_the_first_is_the_outermost(bench: Bench, app: Aiki, heard: Heard) -> None:
    heard.around("a")
    heard.around("b")
    report = bench.run(heard.task, hooks=app.hooks)
    assert report.kind == messages.COMPLETED
    assert heard.said == ["a>task", "b>task", "task", "<b", "<a"]


def test_asynchronous_tasks_have_both_kinds_around_them_in_their_context(bench: Bench, app: Aiki, heard: Heard) -> None:
    seen = contextvars.ContextVar("seen", default="nothing")

    @app.around_run
    def sets(run: CurrentRun) -> Iterator[None]:
        token = seen.set("by the hook")
        yield
        seen.reset(token)  # raises in another context than it was set in

    heard.around_async("async")
    heard.around("plain")

    async def task() -> str:
        heard.said.append(seen.get())
        return current_run().kind

    assert bench.run(task, hooks=app.hooks).kind == messages.COMPLETED
    assert heard.said == ["plain>task", "async>task", "by the hook", "<async", "<plain"]
    assert seen.get() == "nothing"
    heard.said.clear()
    assert bench.run(heard.task, hooks=app.hooks).kind == messages.COMPLETED
    assert heard.said == ["plain>task", "task", "<plain"], "an asynchronous hook is for asynchronous code alone"


def test_a_plain_function_that_gives_a_coroutine_has_all_around_it(bench: Bench, app: Aiki, heard: Heard) -> None:
    heard.around("plain")
    heard.around_async("async")
    assert bench.run(lambda: heard.later(), hooks=app.hooks).kind == messages.COMPLETED
    assert heard.said == ["plain>task", "async>task", "later", "<async", "<plain"]


def test_context_managers_will_do(bench: Bench, app: Aiki, heard: Heard) -> None:
    @app.around_run
    @contextmanager
    def plain(run: CurrentRun) -> Iterator[None]:
        heard.said.append("plain")
        yield

    @app.around_run
    @asynccontextmanager
    async def later(run: CurrentRun) -> AsyncIterator[None]:
        heard.said.append("async")
        yield

    assert bench.run(heard.later, hooks=app.hooks).kind == messages.COMPLETED
    assert heard.said == ["plain", "async", "later"]
    assert bench.run(heard.task, hooks=app.hooks).kind == messages.COMPLETED


# ---------------------------------------------------------------- what hooks raise
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_hook_raises_before_fails_the_attempt_and_the_task_does_not_begin(
    bench: Bench, app: Aiki, heard: Heard, is_async: bool
) -> None:
    heard.around("outer")

    @app.around_run
    def broken(run: CurrentRun) -> Iterator[None]:
        raise ConnectionError("no database")
        yield

    work: Callable[[], Any] = heard.later if is_async else heard.task
    report = bench.run(work, hooks=app.hooks, retry=RetryPolicy(max_attempts=2))
    assert report.kind == messages.RETRY, "as if the task had raised it: its policy is asked"
    assert report.body["message"] == "no database"
    assert heard.said == ["outer>task", "outer!ConnectionError", "<outer"]


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_hook_raises_after_fails_the_attempt(bench: Bench, app: Aiki, heard: Heard, is_async: bool) -> None:
    @app.around_run
    def commits(run: CurrentRun) -> Iterator[None]:
        yield
        raise ConnectionError("lost during the commit")

    report = bench.run(heard.later if is_async else heard.task, hooks=app.hooks)
    assert (report.kind, report.body["message"]) == (messages.FAILED, "lost during the commit")
    assert "r" not in report.body


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_hook_swallows_was_raised_all_the_same(bench: Bench, app: Aiki, is_async: bool) -> None:
    @app.around_run
    def swallows(run: CurrentRun) -> Iterator[None]:
        try:
            yield
        except ValueError:
            pass

    @app.around_run
    async def swallows_too(run: CurrentRun) -> AsyncIterator[None]:
        try:
            yield
        except ValueError:
            pass

    def plain() -> None:
        raise ValueError("mine")

    async def later() -> None:
        raise ValueError("mine")

    report = bench.run(later if is_async else plain, hooks=app.hooks)
    assert (report.kind, report.body["type"], report.body["message"]) == (messages.FAILED, "ValueError", "mine")


def test_a_hook_may_raise_another_error_in_place_of_the_tasks(bench: Bench, app: Aiki) -> None:
    @app.around_run
    def translates(run: CurrentRun) -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise RuntimeError("translated") from error

    report = bench.run(lambda: {}["a"], hooks=app.hooks)
    assert report.body["type"] == "RuntimeError"
    assert "KeyError" in report.body["tb"]


@pytest.mark.parametrize("wrong", [lambda run: None, lambda run: 3])
def test_a_hook_that_gives_no_context_manager_says_so(bench: Bench, app: Aiki, heard: Heard, wrong: Any) -> None:
    app.around_run(wrong)
    report = bench.run(heard.task, hooks=app.hooks)
    assert report.kind == messages.FAILED
    assert "it must have one `yield`" in report.body["message"]
    assert heard.said == []


def test_a_hook_with_two_yields_or_none_fails_the_attempt(bench: Bench, app: Aiki, heard: Heard) -> None:
    @app.around_run
    def twice(run: CurrentRun) -> Iterator[None]:
        yield
        yield

    report = bench.run(heard.task, hooks=app.hooks)
    assert (report.kind, report.body["message"]) == (messages.FAILED, "generator didn't stop")


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_no_end_of_a_hook_comes_out(bench: Bench, app: Aiki, heard: Heard, ending: BaseException) -> None:
    @app.around_run
    def ends(run: CurrentRun) -> Iterator[None]:
        yield
        raise ending

    assert bench.run(heard.task, hooks=app.hooks).kind == messages.FAILED


# ---------------------------------------------------------------- interrupts
def test_no_interrupt_is_raised_in_a_plain_hook(bench: Bench, app: Aiki, heard: Heard) -> None:
    @app.around_run
    def slow(run: CurrentRun) -> Iterator[None]:
        yield
        bench.slot.soft_limit(bench.gate.index)
        os.kill(os.getpid(), signal.SIGUSR1)
        heard.said.append("cleared away")

    assert bench.run(heard.task, hooks=app.hooks).kind == messages.COMPLETED
    assert heard.said == ["task", "cleared away"]


def test_a_limit_that_comes_during_a_hook_is_raised_where_the_task_begins(bench: Bench, app: Aiki, heard: Heard) -> None:
    @app.around_run
    def slow(run: CurrentRun) -> Iterator[None]:
        bench.slot.soft_limit(bench.gate.index)
        os.kill(os.getpid(), signal.SIGUSR1)
        heard.said.append("begun")
        yield

    report = bench.run(heard.task, hooks=app.hooks)
    assert report.body["outcome"] == "timed_out"
    assert heard.said == ["begun"]


@pytest.mark.parametrize("ends", [True, False])
def test_an_interrupt_of_an_asynchronous_task_is_not_raised_in_its_hooks(
    bench: Bench, app: Aiki, heard: Heard, ends: bool
) -> None:
    heard.around_async("async")

    async def task() -> str:
        bench.slot.soft_limit(bench.gate.index)
        os.kill(os.getpid(), signal.SIGUSR1)
        if not ends:
            await asyncio.sleep(30)
        return "done"

    report = bench.run(task, hooks=app.hooks)
    if ends:
        assert report.kind == messages.COMPLETED
        assert heard.said == ["async>task", "<async"]
    else:
        assert report.body["outcome"] == "timed_out"


def test_a_cancelled_task_leaves_its_hooks(bench: Bench, app: Aiki, heard: Heard) -> None:
    heard.around("a")

    def task() -> None:
        raise TaskCancelled("the run was cancelled")

    bench.run(task, hooks=app.hooks)
    assert heard.said == ["a>task", "a!TaskCancelled", "<a"]


def test_a_forked_copy_leaves_nothing(bench: Bench, app: Aiki, tmp_path: Any) -> None:
    file = tmp_path / "left"

    @app.around_run
    def writes(run: CurrentRun) -> Iterator[None]:
        yield
        with file.open("a") as out:
            out.write(f"{os.getpid()}\n")

    def forks() -> int:
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return pid

    bench.run(forks, hooks=app.hooks)
    assert file.read_text().split() == [str(os.getpid())]


# ---------------------------------------------------------------- workflows and steps
class OpenGate:
    raised = softened = 0

    def enter(self) -> None: ...
    def enter_async(self) -> None: ...
    def leave(self) -> None: ...


def step(fn: Callable[[], Any], hooks: Hooks, loop: Any) -> Any:
    """What a step gives."""
    port = cast(Port, SimpleNamespace(gate=OpenGate(), loop=loop, leaving=lambda: False))
    host = Host(port, cast(Dispatch, SimpleNamespace(options={})), History(), 0, lambda *_: None, hooks.around_run)
    set_current_run(CurrentRun(RUN, 1, "shop.checkout", None, lambda *_: None, "workflow"))
    try:
        with inside_workflow(cast(Any, host)):
            return host.execute(fn, (), {}, StepCall(Step(0, STEP, "charge", "", OPEN, 0, {}), 1))
    finally:
        set_current_run(None)


def test_steps_have_them_around_and_their_errors(bench: Bench, app: Aiki, heard: Heard) -> None:
    heard.around("plain")
    heard.around_async("async")
    loop = bench.executor.loop
    assert step(heard.task, app.hooks, loop) == "done"
    assert step(heard.later, app.hooks, loop) == "done"
    assert heard.said == ["plain>step", "task", "<plain", "plain>step", "async>step", "later", "<async", "<plain"]
    heard.said.clear()

    @app.around_run
    def broken(run: CurrentRun) -> Iterator[None]:
        yield
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        step(heard.task, app.hooks, loop)
    assert heard.said == ["plain>step", "task", "plain!ConnectionError", "<plain"]


class Waiting:
    """Stands for a workflow that is left because it waits, or goes to its end."""

    turned = False

    def __init__(self, leaving: bool) -> None:
        self.leaving = leaving
        self.run = object()

    def stopped(self, body: dict[str, Any]) -> str | None:
        return messages.SUSPENDED if self.leaving else None

    def failed_at(self, error: BaseException, body: dict[str, Any]) -> None: ...


class Left(BaseException):
    pass


def test_a_workflow_that_waits_leaves_its_hooks_without_an_error(bench: Bench, app: Aiki, heard: Heard) -> None:
    heard.around("a")

    def flow(run: object) -> None:
        heard.said.append("flow")
        raise Left

    hooked = {"hooks": app.hooks, "kind": "workflow"}
    assert bench.run(flow, durable=Waiting(leaving=True), **hooked).kind == messages.SUSPENDED
    assert heard.said == ["a>workflow", "flow", "<a"]


def test_what_a_hook_raises_as_a_workflow_waits_is_logged(bench: Bench, app: Aiki, caplog: pytest.LogCaptureFixture) -> None:
    @app.around_run
    def broken(run: CurrentRun) -> Iterator[None]:
        yield
        raise ConnectionError("gone")

    def waits(run: object) -> None:
        raise Left

    hooked = {"hooks": app.hooks, "kind": "workflow"}
    assert bench.run(waits, durable=Waiting(leaving=True), **hooked).kind == messages.SUSPENDED
    assert "a hook around task failed" in caplog.text
    report = bench.run(lambda run: None, durable=Waiting(leaving=False), **hooked)
    assert (report.kind, report.body["message"]) == (messages.FAILED, "gone"), "where the function has ended, it fails the run"


def test_tasks_that_a_hook_calls_around_a_workflow_are_no_steps(bench: Bench, app: Aiki, heard: Heard) -> None:
    @app.task
    def note(what: str) -> None:
        heard.said.append(what)

    @app.around_run
    def notes(run: CurrentRun) -> Iterator[None]:
        note("before")
        yield
        note("after")

    class Refusing:
        def call_task(self, *_: Any) -> Any:
            raise AssertionError("it was taken for a step")

    with inside_workflow(cast(Any, Refusing())) as here:
        report = bench.run(lambda run: None, durable=Waiting(leaving=False), hooks=app.hooks, kind="workflow")
        assert not here.in_step
    assert report.kind == messages.COMPLETED
    assert heard.said == ["before", "after"]


# ---------------------------------------------------------------- processes
def test_hooks_of_processes_are_called_in_order_and_awaited(bench: Bench, app: Aiki, heard: Heard) -> None:
    @app.on_child_start
    def first() -> None:
        heard.said.append("first")

    @app.on_child_start
    async def second() -> None:
        await asyncio.sleep(0)
        heard.said.append("second")

    app.on_child_stop(lambda: heard.said.append("stops last"))
    app.on_child_stop(lambda: 1 / 0)
    app.on_child_stop(lambda: heard.said.append("stops first"))
    call([app.hooks], "child_start", bench.executor.loop)
    call_last([app.hooks], bench.executor.loop)
    assert heard.said == ["first", "second", "stops first", "stops last"]


def test_what_keeps_a_process_from_starting_names_its_hook(app: Aiki) -> None:
    @app.on_worker_start
    def connect() -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError) as caught:
        call([app.hooks], "worker_start")
    assert "connect, @app.on_worker_start" in caught.value.__notes__[0]


def test_two_apps_of_one_worker_have_hooks_of_their_own(
    bench: Bench, app: Aiki, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Aiki("other")
    heard.around("app")
    Heard(other).around("other")
    app.on_child_start(lambda: heard.said.append("app starts"))
    other.on_child_start(lambda: heard.said.append("other starts"))
    mine = app.task(name="mine")(heard.task)
    for name, one in (("module_of_app", app), ("module_of_other", other)):
        module = ModuleType(name)
        module.app = one  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    registry = load(["module_of_app", "module_of_other", "module_of_app:app"])
    call(registry.hooks, "child_start", bench.executor.loop)
    bench.run(mine.fn, hooks=mine.hooks)
    assert heard.said == ["app starts", "other starts", "app>task", "task", "<app"]


def test_soft_limits_are_what_hooks_see(bench: Bench, app: Aiki, heard: Heard) -> None:
    heard.around("a")

    def task() -> None:
        bench.slot.soft_limit(bench.gate.index)
        os.kill(os.getpid(), signal.SIGUSR1)

    assert bench.run(task, hooks=app.hooks).body["outcome"] == "timed_out"
    assert f"a!{SoftTimeLimitExceeded.__name__}" in heard.said
