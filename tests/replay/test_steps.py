"""Steps: their retries, their errors live and replayed, what cannot be carried, where they may be called."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from aiki import NotDurable, PayloadError, SoftTimeLimitExceeded, StepFailed, StepTimedOut, TaskCancelled, WorkflowRun
from aiki.history import Arrival
from tests.replay.host import World
from tests.replay.shop import CardDeclined, Detailed, Flaky, RetryLater, a, b, child, fail, flaky, later, nested, slow, take


def attempts(world: World) -> list[int]:
    return [attempt for _, _, attempt in world.executed]


# ---------------------------------------------------------------- retries
def test_retries_without_delay_go_on_in_place(world: World) -> None:
    Flaky.script = [ValueError("1"), ValueError("2"), "third"]
    assert world.call(lambda run: flaky(1)).value == "third"
    assert attempts(world) == [1, 2, 3]
    assert world.reports >= 3, "each attempt is recorded before the next begins"
    assert world.steps[0].attempt == 3


def test_retries_with_a_delay_hold_nothing(world: World) -> None:
    Flaky.script = [ValueError("1"), "second"]
    ended = world.call(lambda run: slow(1))
    assert ended.waits is not None
    assert [(item.kind, item.seconds) for item in ended.waits.items] == [("retry", 10.0)]
    assert world.steps[0].more["due"] == world.now + 10_000_000
    world.move(9)
    assert world.call(lambda run: slow(1)).kind == "suspended"
    assert attempts(world) == [1], "not before its time"
    world.move(1)
    assert world.call(lambda run: slow(1)).value == "second"
    assert attempts(world) == [1, 2]


def test_the_attempts_of_a_step_survive_the_process(world: World) -> None:
    Flaky.script = [ValueError("1"), ValueError("2"), ValueError("not recorded"), ValueError("3"), "never"]
    world.die_after = 2
    assert world.call(lambda run: flaky(1)).kind == "died"
    world.die_after = None
    assert world.call(lambda run: flaky(1)).text == "ValueError: 3"
    assert attempts(world) == [1, 2, 3, 3], "what was not confirmed is done again"


def test_retry_later_says_when_and_is_not_limited(world: World) -> None:
    Flaky.script = [*[RetryLater(30, "busy") for _ in range(5)], "at last"]
    for _ in range(5):
        ended = world.call(lambda run: later(1))
        assert ended.waits is not None
        assert ended.waits.items[0].seconds == 30.0
        world.move(30)
    assert world.call(lambda run: later(1)).value == "at last"


@pytest.mark.parametrize("seconds", [float("inf"), 1e14])
def test_a_step_that_asks_for_a_time_that_never_comes_waits_as_long_as_any_may(world: World, seconds: float) -> None:
    Flaky.script = [RetryLater(seconds), "at last"]
    ended = world.call(lambda run: later(1))
    assert ended.waits is not None
    assert ended.waits.items[0].seconds == 30 * 86400.0
    world.move(30 * 86400)
    assert world.call(lambda run: later(1)).value == "at last"


def test_what_is_to_be_given_up_on_is_not_retried(world: World) -> None:
    Flaky.script = [CardDeclined("no"), "never"]
    ended = world.call(lambda run: slow(1))
    assert isinstance(ended.error, CardDeclined)
    assert attempts(world) == [1]


# ---------------------------------------------------------------- errors
def caught(call: Any) -> Any:
    def flow(run: WorkflowRun) -> Any:
        try:
            call(run)
        except Exception as error:
            told = (
                type(error),
                str(error),
                error.args,
                {k: v for k, v in vars(error).items() if k not in ("traceback", "__notes__")},
            )
        run.wait_event("go")
        return told

    return flow


class Quiet(Exception):
    def __str__(self) -> str:
        return "always the same"


def raiser(error: BaseException) -> Any:
    def call(run: WorkflowRun) -> Any:
        def fn() -> None:
            raise error

        run.step("boom", fn)

    return call


def decorated() -> Exception:
    error = CardDeclined("no")
    error.code = 7  # type: ignore[attr-defined]
    return error


class Local(Exception):
    """Its constructor takes what `args` does not hold."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (CardDeclined("no funds"), True),
        (ValueError("bad", 3), True),
        (KeyError("k"), True),
        (Quiet("x"), True),
        (OSError(2, "gone"), True),
        (Detailed("m"), True),
        (Detailed("m", 5), False),
        (decorated(), False),
        (Local(1, 2), False),
        (ValueError(object()), False),
        (ValueError("x" * 100_000), False),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), True),
        (type("Inner", (Exception,), {})("x"), False),
    ],
)
def test_an_error_is_the_same_live_and_replayed(world: World, error: Exception, kept: bool) -> None:
    flow = caught(raiser(error))
    assert world.call(flow).kind == "suspended"
    live = _live(flow)
    world.send("go")
    replayed = world.call(flow).value
    assert replayed[0] is live[0]
    assert replayed[1:] == live[1:] or not kept
    assert replayed[1] == live[1]
    assert (replayed[0] is StepFailed) == (not kept)
    if not kept:
        assert replayed[3]["error_type"].endswith(type(error).__qualname__)


def _live(flow: Any) -> Any:
    """What the function meets the first time: the event is there already, so that it ends in the same call."""
    world = World()
    world.send("go")
    return world.call(flow).value


def test_a_failed_step_is_not_done_again_and_its_error_names_it(world: World) -> None:
    def flow(run: WorkflowRun) -> Any:
        try:
            fail("x")
        except CardDeclined as error:
            run.wait_event("go")
            return error.__cause__

    world.call(flow)
    world.send("go")
    cause = world.call(flow).value
    assert isinstance(cause, StepFailed)
    assert (cause.step, cause.state, cause.error_message) == ("shop.fail", "failed", "x")
    assert "raise CardDeclined" in cause.traceback
    assert len(world.executed) == 1


def test_a_result_that_cannot_be_carried_fails_the_step_for_good(world: World) -> None:
    Flaky.script = [object()]
    ended = world.call(lambda run: flaky(1))
    assert isinstance(ended.error, PayloadError)
    assert "result of shop.flaky" in ended.text
    assert attempts(world) == [1], "another attempt would not help"
    assert "result of shop.flaky" in world.call(lambda run: flaky(1)).text


def test_a_result_that_is_too_large_fails_the_step_with_numbers(world: World) -> None:
    world.max_payload = 1000
    ended = world.call(lambda run: run.step("big", lambda: "x" * 2000))
    assert ended.kind == "failed"
    assert "over the limit of 1,000" in ended.text


def test_an_argument_that_cannot_be_carried_raises_before_anything_starts(world: World) -> None:
    ended = world.call(lambda run: take(object()))
    assert ended.kind == "failed"
    assert "arguments of shop.take" in ended.text
    assert world.steps == {}


@pytest.mark.parametrize("value", [None, 0, "", [], {"a": (1, {2})}, b"\x00", 1e300, "ünï\ud800"])
def test_results_come_back_as_they_were(world: World, value: Any) -> None:
    def flow(run: WorkflowRun) -> Any:
        got = run.step("value", lambda: value)
        run.wait_event("go")
        return got

    world.call(flow)
    world.send("go")
    got = world.call(flow).value
    assert got == value
    assert type(got) is type(value)


# ---------------------------------------------------------------- where
def in_thread(fn: Any) -> Any:
    out: list[Any] = []

    def work() -> None:
        try:
            out.append(fn())
        except Exception as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return out[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda run: a(1),
        lambda run: a.submit(1),
        lambda run: child(1),
        lambda run: run.step("x", str, 1),
        lambda run: run.sleep("x", 0),
        lambda run: run.wait_event("x"),
        lambda run: run.now(),
        lambda run: run.patched("p"),
    ],
)
def test_an_operation_in_another_thread_raises(world: World, call: Any) -> None:
    world.send("x", 1)
    ended = world.call(lambda run: in_thread(lambda: call(run)))
    assert isinstance(ended.value, NotDurable)
    assert "thread" in str(ended.value)
    assert world.steps == {}


@pytest.mark.parametrize(
    "call", [lambda run: run.step("x", str, 1), lambda run: run.sleep("x", 0), lambda run: run.now(), lambda run: a.submit(1)]
)
def test_an_operation_inside_of_a_step_raises(world: World, call: Any) -> None:
    ended = world.call(lambda run: run.step("outer", lambda: call(run)))
    assert isinstance(ended.error, NotDurable)
    assert len(world.steps) == 1


def test_inside_of_a_step_tasks_are_plain_calls_in_threads_too(world: World) -> None:
    ended = world.call(lambda run: run.step("outer", lambda: [a(1), in_thread(lambda: b(2))]))
    assert ended.value == ["a1", "b2"]
    assert [name for name, _, _ in world.executed] == ["outer"]


def test_an_async_task_is_a_step_and_what_it_calls_is_plain(world: World) -> None:
    assert world.call(lambda run: nested(1)).value == "a1b1"
    assert len(world.steps) == 1


def test_functions_that_call_steps_are_just_code(world: World) -> None:
    def helper(n: int) -> str:
        return a(n) if n == 0 else helper(n - 1) + b(n)

    assert world.call(lambda run: helper(3)).value == "a0b1b2b3"
    assert len(world.steps) == 4


def test_a_plain_function_is_called_as_it_is(world: World) -> None:
    ended = world.call(lambda run: run.step("join", "-".join, ["x", "y"]))
    assert ended.value == "x-y"


# ---------------------------------------------------------------- children
def test_a_child_keeps_its_id_and_its_input(world: World) -> None:
    ids: list[str] = []

    def flow(run: WorkflowRun) -> Any:
        future = child.options(queue="q", reference_id="r-1").submit(1)
        ids.append(future.run_id)
        return child(2), future.result()

    assert world.call(flow).waits.items[0].seconds == 0, "under a reference id, which run it is is known once it is recorded"
    assert ids == []
    world.call(flow)
    world.end_child(1, "two")
    world.call(flow)
    world.end_child(0, "one")
    assert world.call(flow).value == ("two", "one")
    assert len(set(ids)) == 1
    assert ids[0] == world.children[0].id
    made = world.children[0]
    assert (made.name, made.kind, made.queue, made.reference_id) == ("shop.child", "workflow", "q", "r-1")
    assert len(world.children) == 2


@pytest.mark.parametrize("outcome", ["failed", "dead", "cancelled"])
def test_a_child_that_failed_raises_with_what_is_known(world: World, outcome: str) -> None:
    world.call(lambda run: child(1))
    world.end_child(0, error="ValueError: no", outcome=outcome)
    ended = world.call(lambda run: child(1))
    assert isinstance(ended.error, StepFailed)
    assert (ended.error.state, ended.error.error_type, ended.error.error_message) == (outcome, "ValueError", "no")
    assert world.run is not None
    assert world.run.raised == (ended.error, [0]), "a retry goes on from there"


def test_ends_of_children_that_nobody_started_are_passed_over(world: World) -> None:
    world.arrivals.append(Arrival("0" * 32, "child", "x", 7, "completed", None, None, None, None))
    assert world.call(lambda run: a(1)).value == "a1"


# ---------------------------------------------------------------- the log
def test_the_log_and_progress_are_silent_while_replaying(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shop.flow")

    def flow(run: WorkflowRun) -> Any:
        run.logger.info("begun")
        run.progress(0.1)
        a(1)
        run.logger.info("one")
        run.wait_event("go")
        run.logger.info("came")
        run.progress(1.0, "done")

    world.call(flow)
    world.send("go")
    world.call(flow)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" ")[2] for line in lines] == ["begun", "one", "came"]
    assert all(line.startswith("run 00000000-0000-0000-0000-000000000001: ") for line in lines)
    assert world.said == [(0.1, ""), (1.0, "done")]


# ---------------------------------------------------------------- what is no Exception
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), TaskCancelled("its own")])
def test_whatever_a_step_raises_is_its_own_failure(world: World, error: BaseException) -> None:
    """Its policy is asked, and the workflow meets an `Exception`, live and replayed."""
    Flaky.script = [error, "second"]
    assert world.call(lambda run: slow(1)).kind == "suspended"
    world.move(10)
    assert world.call(lambda run: slow(1)).value == "second"

    def raises() -> None:
        raise error

    def flow(run: WorkflowRun) -> str:
        try:
            run.step("charge", raises)
        except StepFailed as failed:
            return f"{failed.error_type} {run.wait_event('go')}"
        return "?"

    again = World()
    assert again.call(flow).kind == "suspended"
    again.send("go", 1)
    assert again.call(flow).value.endswith(f"{type(error).__name__} 1")


def test_the_soft_limit_of_a_step_is_met_as_an_error_and_that_of_the_workflow_is_not(world: World) -> None:
    def limited() -> None:
        raise SoftTimeLimitExceeded("the task ran longer than its soft time limit of 1 s")

    met: list[BaseException] = []

    def flow(run: WorkflowRun) -> str:
        try:
            run.step("limited", limited)
        except Exception as error:
            met.append(error)
        try:
            run.wait_event("go")
        except Exception:
            return "swallowed"
        return "went on"

    assert world.call(flow).kind == "suspended"
    world.limits_due = 1
    ended = world.call(flow)
    assert (ended.kind, type(ended.error)) == ("failed", SoftTimeLimitExceeded)
    assert [(type(error), isinstance(error, SoftTimeLimitExceeded)) for error in met] == [(StepTimedOut, True)] * 2


def test_a_soft_limit_that_an_earlier_release_recorded_is_met_as_one(world: World) -> None:
    """It recorded the error's arguments, too, for its class was an `Exception`."""
    told = {"t": "aiki.errors.SoftTimeLimitExceeded", "m": "too long", "tb": "", "a": '["too long"]'}

    def flow(run: WorkflowRun) -> str:
        try:
            run.step("limited", len, [])
        except SoftTimeLimitExceeded as error:
            return type(error).__name__
        return "?"

    assert world.call(flow).value == "?"
    done = world.steps[0]
    world.steps[0] = done._replace(state="failed", more={"at": done.more["at"], "i": done.more["i"], **told})
    assert world.call(flow).value == "StepTimedOut"
