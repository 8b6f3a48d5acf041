"""The executor alone, in this process: nothing that user code does comes out of it but a report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiki import messages
from aiki.context import NoCurrentRun, current_run, current_run_or_none
from aiki.errors import RetryLater, SoftTimeLimitExceeded, TaskCancelled
from aiki.messages import Report
from aiki.retry import RetryPolicy
from aiki.settings import Settings
from aiki.worker.describe import MAX_MESSAGE, MAX_TRACEBACK, describe
from aiki.worker.executor import Attempt, Executor
from aiki.worker.gate import Gate
from aiki.worker.slots import CANCEL, Shared, Slot
from tests.worker.harness import make
from tests.worker.sample_app import Definition


class Bench:
    """An executor over a slot of its own."""

    def __init__(self) -> None:
        self.slot: Slot = Shared(1).slots[0]
        self.slot.reset()
        self.gate = Gate(self.slot)
        self.gate.install()
        self.executor = Executor(Settings.load({}), self.gate)

    def run(self, fn: Callable[..., Any], *args: Any, attempt: int = 1, durable: Any = None, **definition: Any) -> Report:
        found = Definition("task", fn, **definition)
        dispatch = make("task", *args, attempt=attempt)
        index = self.slot.begin(bytes.fromhex(dispatch.run_id), 1, 0, 0, time.monotonic_ns(), 0, 0, -1, attempt)
        self.gate.arm(index, 0.5)
        self.slot.execute(index)
        try:
            return self.executor.execute(Attempt(dispatch, found, time.monotonic_ns(), durable=durable))
        finally:
            self.slot.executed()
            self.slot.confirm(index + 1)


@pytest.fixture
def bench() -> Iterator[Bench]:
    before = signal.getsignal(signal.SIGUSR1)
    made = Bench()
    made.executor.loop.begin()
    yield made
    made.executor.close()
    signal.signal(signal.SIGUSR1, before)


def raiser(error: BaseException) -> Callable[[], None]:
    def fn() -> None:
        raise error

    return fn


class BadStr(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__module__", "__qualname__"):
            raise RuntimeError("no name")
        return super().__getattribute__(name)


class BadType(Exception, metaclass=Meta):
    pass


class NotMineRetry(RetryLater):
    def __init__(self) -> None:
        pass


class WildRetry(RetryLater):
    def __init__(self, seconds: Any) -> None:
        self.seconds = seconds


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        asyncio.CancelledError(),
        TaskCancelled("by itself"),
        BadStr(),
        BaseExceptionGroup("g", [KeyboardInterrupt(), ExceptionGroup("h", [BadStr()])]),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_exception_becomes_a_failure(bench: Bench, error: BaseException) -> None:
    got = bench.run(raiser(error))
    assert got.kind == messages.FAILED
    assert got.body["type"]
    assert isinstance(got.body["message"], str)
    assert isinstance(got.body["tb"], str)


def test_the_event_loop_outlives_what_breaks_out_of_it(bench: Bench) -> None:
    async def leave() -> None:
        task = asyncio.create_task(asyncio.sleep(3600))
        await asyncio.sleep(0)
        assert not task.done()
        raise SystemExit(3)

    async def count() -> int:
        await asyncio.sleep(0.001)
        return len(asyncio.all_tasks())

    for _ in range(3):
        assert bench.run(leave).body["type"] == "SystemExit"
        assert bench.run(count).body["r"] == "1"


def test_a_type_without_a_name(bench: Bench) -> None:
    got = bench.run(raiser(BadType()))
    assert (got.kind, got.body["type"]) == (messages.FAILED, "Exception")


def test_retry_later_of_any_make(bench: Bench) -> None:
    for error, delay in [
        (RetryLater(3), 3.0),
        (RetryLater(float("inf")), 30 * 86400.0),
        (NotMineRetry(), 0.0),
        (WildRetry("soon"), 0.0),
        (WildRetry(float("nan")), 0.0),
        (WildRetry(10**400), 30 * 86400.0),
        (WildRetry(-1), 0.0),
    ]:
        got = bench.run(raiser(error))
        assert (got.kind, got.body["delay"], got.body["asked"]) == (messages.RETRY, delay, 1)


def test_the_policy_decides_by_attempt_and_type(bench: Bench) -> None:
    policy = RetryPolicy.fixed(2, 4.0, give_up_on=(KeyError,))
    assert bench.run(raiser(ValueError()), retry=policy).body["delay"] == 4.0
    assert bench.run(raiser(ValueError()), retry=policy, attempt=2).kind == messages.FAILED
    assert bench.run(raiser(KeyError()), retry=policy).kind == messages.FAILED
    dispatch = make("task", rp={"nonsense": 1})
    bench.gate.arm(0, 0)
    got = bench.executor.execute(Attempt(dispatch, Definition("task", raiser(ValueError("mine"))), 0))
    assert got.kind == messages.FAILED
    assert "mine" in got.body["message"]
    assert "retry policy cannot be applied" in got.body["message"]


def test_long_texts_are_cut_and_say_so() -> None:
    def deep(depth: int) -> None:
        if depth:
            deep(depth - 1)
        raise ValueError("é" * 50_000)

    with pytest.raises(ValueError) as caught:
        deep(50)
    told = describe(caught.value)
    assert len(told.message.encode()) <= MAX_MESSAGE
    assert len(told.traceback.encode()) <= MAX_TRACEBACK
    assert "left out" in told.message
    assert told.message.startswith("éé")
    assert told.message.endswith("éé")


def test_causes_are_told() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        told = describe(error)
    assert "KeyError: 'inner'" in told.traceback
    assert "direct cause" in told.traceback


def test_the_current_run_is_that_of_the_task_and_of_nobody_else(bench: Bench) -> None:
    seen: list[Any] = []

    def sync() -> None:
        seen.append(current_run())

    async def asynchronous() -> None:
        await asyncio.sleep(0)
        seen.append(current_run())

    bench.run(sync)
    bench.run(asynchronous)
    assert [type(item).__name__ for item in seen] == ["CurrentRun", "CurrentRun"]
    assert seen[0].id != seen[1].id
    assert current_run_or_none() is None
    with pytest.raises(NoCurrentRun, match="outside of a run"):
        current_run()


def test_progress_is_checked(bench: Bench) -> None:
    def wrong() -> None:
        current_run().progress(1.5)

    assert bench.run(wrong).body["type"] == "ValueError"

    def right() -> None:
        current_run().progress(None, "x" * 10_000)

    bench.run(right)
    assert bench.executor.last_progress == (None, "x" * 500)


def test_the_run_logger_names_the_run(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def log() -> str:
        current_run().logger.warning("hello %s", "you")
        return current_run().id

    got = bench.run(log)
    run_id = got.body["r"].strip('"')
    (record,) = caplog.records
    assert record.getMessage() == f"run {run_id}: hello you"
    assert record.run_id == run_id  # type: ignore[attr-defined]


def test_an_interrupt_for_another_entry_is_not_delivered(bench: Bench) -> None:
    def interrupted() -> str:
        bench.slot.interrupt(bench.gate.index + 1, CANCEL)
        bench.slot.soft_limit(bench.gate.index - 1)
        os.kill(os.getpid(), signal.SIGUSR1)
        return "whole"

    assert bench.run(interrupted).kind == messages.COMPLETED
    assert bench.run(lambda: "next").kind == messages.CANCELLED, "an interrupt that came before the code began"


def test_a_result_after_a_swallowed_cancel_counts(bench: Bench) -> None:
    def swallows() -> str:
        try:
            bench.slot.interrupt(bench.gate.index, CANCEL)
            os.kill(os.getpid(), signal.SIGUSR1)
        except TaskCancelled:
            return "kept"
        return "?"

    assert bench.run(swallows).body["r"] == '"kept"'


def test_whatever_follows_a_cancel_is_a_cancel(bench: Bench) -> None:
    def cleans_up_badly() -> None:
        try:
            bench.slot.interrupt(bench.gate.index, CANCEL)
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            raise ValueError("in the cleanup")

    assert bench.run(cleans_up_badly).kind == messages.CANCELLED


def test_a_soft_limit_is_caught_like_any_error(bench: Bench) -> None:
    def tidy() -> str:
        try:
            bench.slot.soft_limit(bench.gate.index)
            os.kill(os.getpid(), signal.SIGUSR1)
        except SoftTimeLimitExceeded as error:
            return str(error)
        return "?"

    assert "0.5 s" in bench.run(tidy).body["r"]


def test_interrupts_at_any_moment_never_escape(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of signals over many short tasks: each ends in a report, and between them nothing is raised."""
    # An interrupt may meet a finalizer, or a callback of the collector that another test has left: Python drops it there.
    monkeypatch.setattr(sys, "unraisablehook", lambda _unraisable: None)
    stop = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def storm() -> None:
        while not stop.is_set():
            index = bench.gate.index
            bench.slot.soft_limit(index)
            signal.pthread_kill(main, signal.SIGUSR1)
            bench.slot.interrupt(index, CANCEL)
            signal.pthread_kill(main, signal.SIGUSR1)

    def sync() -> None:
        try:
            sum(range(200))
        except SoftTimeLimitExceeded:
            raise ValueError("out of the handler") from None

    async def asynchronous() -> None:
        await asyncio.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        kinds = [bench.run(sync if number % 8 else asynchronous).kind for number in range(4000)]
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert len(kinds) == 4000
    assert set(kinds) <= {messages.COMPLETED, messages.CANCELLED, messages.FAILED}
    assert messages.CANCELLED in kinds


class Compensated:
    """A workflow's execution that failed after its compensations were run."""

    run = None
    undone = True

    def stopped(self, body: dict[str, Any]) -> None:
        """It came to an end of its own."""

    def failed_at(self, error: BaseException, body: dict[str, Any]) -> None:
        body.update({"at": [3], "undone": 1} if self.undone else {"at": [3]})


@pytest.mark.parametrize("error", [ValueError("no"), RetryLater(5)])
@pytest.mark.parametrize(("undone", "kind"), [(True, messages.FAILED), (False, messages.RETRY)])
def test_what_was_compensated_is_not_retried(bench: Bench, error: Exception, undone: bool, kind: str) -> None:
    def flow(run: Any) -> None:
        raise error

    durable: Any = Compensated()
    durable.undone = undone
    report = bench.run(flow, kind="workflow", durable=durable, retry=RetryPolicy.fixed(3))
    assert (report.kind, report.body["at"], "undone" in report.body) == (kind, [3], undone)
