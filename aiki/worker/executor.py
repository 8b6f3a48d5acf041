"""Executes one run: loads its input, calls the user's code, classifies the outcome, and reports it.

A pipeline over one struct, `Attempt`. It is the one boundary at which all errors of user code are caught, be it SystemExit, an
exception that cannot be printed, or an interrupt that arrives between two bytecodes of Aiki's code.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiki import messages, tracing
from aiki.arguments import Arguments
from aiki.codec import Payload, decode, encode
from aiki.context import CurrentRun, beside_workflow, set_current_run
from aiki.errors import (
    ConfigurationError,
    DecodeError,
    PayloadError,
    RetryLater,
    ShapeMismatch,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
    WorkflowCancelled,
)
from aiki.failures import arguments_of, work_done
from aiki.hooks import NONE, Around
from aiki.messages import Dispatch, Report
from aiki.retry import RetryPolicy, asked_delay
from aiki.settings import Settings
from aiki.worker.describe import describe
from aiki.worker.durable import Execution
from aiki.worker.gate import CANCEL, SOFT, Gate
from aiki.worker.looping import Loop, drive, give_up, is_awaitable
from aiki.worker.registry import Definition, tries_of
from aiki.worker.stopping import end_forked_copy, fell_with_the_worker

_log = logging.getLogger(__name__)

_NO_ARGUMENTS: Final = "[[],{}]"


@dataclass(slots=True, eq=False)
class Attempt:
    """One execution of a run."""

    dispatch: Dispatch
    definition: Definition
    began: int
    """Monotonic nanoseconds."""
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    error: BaseException | None = None
    final: bool = False
    """The error is not one that another attempt could mend: no retry policy is asked."""
    durable: Execution | None = None
    """Of a workflow."""
    unfit: str | None = None
    """Why this worker's code cannot execute the run, where another release's may."""

    def policy(self) -> RetryPolicy:
        """The retry policy: the dispatch's own, or the definition's. Raises `ConfigurationError`."""
        wire = self.dispatch.options.get(messages.OPT_RETRY)
        return self.definition.retry if wire is None else RetryPolicy.from_wire(wire)


def timeout_delay(dispatch: Dispatch, definition: Definition) -> float:
    """Seconds until the next attempt if this one is killed at its hard limit; -1 for no next attempt."""
    try:
        delay = Attempt(dispatch, definition, 0).policy().next_delay(TimeLimitExceeded(), dispatch.counted)
    except ConfigurationError:
        return -1.0
    return -1.0 if delay is None else delay


class Executor:
    """Executes runs in this process, one after the other.

    :param leaving: whether this process is to end.
    :ivar last_progress: the progress that the task reported last; the keeper sends it.
    """

    def __init__(self, settings: Settings, gate: Gate, leaving: Callable[[], bool] = lambda: False) -> None:
        self._gate = gate
        self._leaving = leaving
        self._limit = settings.payload_limit
        self._compress_above = settings.compress_above or None
        self.loop = Loop()
        self._pid = os.getpid()
        self.last_progress: tuple[float | None, str] | None = None

    def execute(self, attempt: Attempt) -> Report:
        """Execute and report. Never raises. A workflow is executed inside of its `Execution.call`."""
        self.last_progress = None
        context = contextvars.copy_context()
        span = tracing.begin(attempt.dispatch, attempt.definition.kind, context)
        if self._load(attempt):
            self._run(attempt, context)
        report = self._classify(attempt)
        if span is not None:
            tracing.end(span, report, attempt.error)
        if attempt.durable is None:
            attempt.error = None  # its traceback holds this frame; a workflow's is cleared (`Execution.free`)
        return report

    def close(self) -> None:
        """Release the event loop, in a process that goes on without this executor."""
        self.loop.close()

    # ------------------------------------------------------------ load
    def _load(self, attempt: Attempt) -> bool:
        dispatch = attempt.dispatch
        try:
            if dispatch.input != _NO_ARGUMENTS:
                value = decode(Payload(dispatch.encoding, dispatch.input), what=f"input of {dispatch.name}")
                if type(value) is not list or len(value) != 2 or type(value[0]) is not list or type(value[1]) is not dict:
                    raise DecodeError(f"the input of {dispatch.name} is not [[arguments], {{keyword arguments}}]")
                attempt.args, attempt.kwargs = value
            return self._takes(attempt)
        except ShapeMismatch as error:
            attempt.unfit = _unfit(dispatch, str(error))
        except Exception as error:  # noqa: BLE001  decoding compares values of users' classes, whose code may raise anything
            attempt.error = error
            attempt.final = True
        return False

    def _takes(self, attempt: Attempt) -> bool:
        """Whether this worker's function takes the arguments: it may be of another release than what sent them."""
        arguments: Arguments | None = getattr(attempt.definition, "arguments", None)
        if arguments is None:
            return True  # a definition that says nothing of it
        try:
            arguments.check(tuple(attempt.args), attempt.kwargs)
            # What a workflow goes on with as new was given by its own code, not by whoever enqueued it.
            seen = attempt.dispatch.options.get(messages.OPT_SHAPE)
            if seen is not None and (attempt.durable is None or not attempt.durable.turned):
                arguments.check_types(attempt.args, attempt.kwargs, seen)
        except TypeError as error:
            attempt.unfit = _unfit(attempt.dispatch, str(error))
            return False
        return True

    # ------------------------------------------------------------ run
    def _run(self, attempt: Attempt, context: contextvars.Context) -> None:
        dispatch, gate = attempt.dispatch, self._gate
        reference_id, kind = dispatch.options.get(messages.OPT_REFERENCE), attempt.definition.kind
        tries = tries_of(dispatch, attempt.definition)
        run = CurrentRun(dispatch.run_id, dispatch.attempt, dispatch.name, reference_id, self.note_progress, kind, tries)
        hooks = getattr(attempt.definition, "hooks", NONE).around_run
        around = Around(hooks, run) if hooks else None
        # Three levels: the task's own exception, a soft limit and a cancel may arrive one upon the other (see gate.py).
        try:
            try:
                try:
                    if around is not None:
                        context.run(self._enter, around, run)
                    if attempt.definition.is_async:
                        context.run(set_current_run, run)
                        work = functools.partial(attempt.definition.fn, *attempt.args, **attempt.kwargs)
                        attempt.result = self.loop.run(drive(self._gate, work, around), context)
                    else:
                        attempt.result = context.run(self._call, attempt, run)
                        if is_awaitable(attempt.result):
                            attempt.result = self._await(attempt, context, around)
                except BaseException as error:  # noqa: BLE001  the boundary of user code
                    gate.leave()
                    attempt.error = error
            except BaseException as error:  # noqa: BLE001  the boundary of user code
                gate.leave()
                attempt.error = error
        except BaseException as error:  # noqa: BLE001  the boundary of user code
            gate.leave()
            attempt.error = error
        if os.getpid() != self._pid:
            end_forked_copy(attempt.error)
        if around is not None:
            context.run(self._leave, around, attempt)

    def _enter(self, around: Around, run: CurrentRun) -> None:
        set_current_run(run)
        with beside_workflow():
            around.enter()

    def _leave(self, around: Around, attempt: Attempt) -> None:
        """Leave the hooks. That a workflow's function is left to wait is no error; what they raise then has no place to go."""
        waits = attempt.durable is not None and attempt.durable.leaving
        with beside_workflow():
            error = around.leave(None if waits else attempt.error)
        if not waits:
            attempt.error = error
        elif error is not None:
            _log.error("run %s: a hook around %s failed", attempt.dispatch.run_id, attempt.dispatch.name, exc_info=error)

    def _call(self, attempt: Attempt, run: CurrentRun) -> Any:
        set_current_run(run)
        self.loop.offer()
        if attempt.durable is not None:
            self._gate.enter_durable()
            result = attempt.definition.fn(attempt.durable.run, *attempt.args, **attempt.kwargs)
        else:
            self._gate.enter()
            result = attempt.definition.fn(*attempt.args, **attempt.kwargs)
        self._gate.leave()
        return result

    def _await(self, attempt: Attempt, context: contextvars.Context, around: Around | None) -> Any:
        """Await what a function has given that is not asynchronous itself: one that a decorator has put around `async def`."""
        work, attempt.result = attempt.result, None
        if attempt.durable is not None:
            give_up(work)
            raise ConfigurationError(
                f"the function of workflow {attempt.dispatch.name} has returned something to be awaited: a workflow is a plain "
                "function, also under its decorators; what it awaits are steps (run.step)"
            )
        return self.loop.run(drive(self._gate, lambda: work, around), context)

    def note_progress(self, fraction: float | None, message: str) -> None:
        """Keep the progress that the run reports; the keeper sends it."""
        self.last_progress = (fraction, message)

    # ------------------------------------------------------------ classify and report
    def _classify(self, attempt: Attempt) -> Report:
        dispatch = attempt.dispatch
        body: dict[str, Any] = {"ms": 0}
        kind = None if attempt.durable is None else attempt.durable.stopped(body)
        if attempt.unfit is not None:
            return Report(messages.CHANGED, dispatch.run_id, dispatch.epoch, {**body, "message": attempt.unfit})
        if kind is not None:
            body["ms"] = (time.monotonic_ns() - attempt.began) // 1_000_000
            return Report(kind, dispatch.run_id, dispatch.epoch, body)
        kind = messages.COMPLETED
        if attempt.error is None and attempt.result is not None:
            try:
                payload = encode(
                    attempt.result, limit=self._limit, what=f"result of {dispatch.name}", compress_above=self._compress_above
                )
                body["e"], body["r"] = payload
            except PayloadError as error:
                attempt.error, attempt.final = work_done(error), True
            except Exception as error:  # noqa: BLE001  encoding reads the user's dataclasses: properties may raise anything
                attempt.error, attempt.final = error, True
        if attempt.error is not None:
            kind = self._classify_error(attempt, attempt.error, body)
            if kind == messages.FAILED and (arguments := arguments_of(attempt.error)) is not None:
                body["a"] = arguments
        body["ms"] = (time.monotonic_ns() - attempt.began) // 1_000_000
        return Report(kind, dispatch.run_id, dispatch.epoch, body)

    def _classify_error(self, attempt: Attempt, error: BaseException, body: dict[str, Any]) -> str:
        raised = self._gate.raised
        if (raised & CANCEL or isinstance(error, WorkflowCancelled)) and not attempt.final:
            if attempt.durable is not None and not raised & CANCEL:
                body["met"] = 1
            return messages.CANCELLED
        if attempt.durable is None and self._leaving() and fell_with_the_worker(error):
            return messages.RETURNED
        if raised & SOFT and isinstance(error, asyncio.CancelledError):
            error = self._gate.soft_error().with_traceback(error.__traceback__)
        body["type"], body["message"], body["tb"] = describe(error)
        body["outcome"] = "timed_out" if isinstance(error, SoftTimeLimitExceeded) else "failed"
        if attempt.durable is not None:
            attempt.durable.failed_at(error, body)
        if attempt.final or "undone" in body:  # what was compensated is not to go on from where it failed
            return messages.FAILED
        if isinstance(error, RetryLater):
            body["delay"], body["asked"], body["outcome"] = asked_delay(error), 1, "retried"
            return messages.RETRY
        try:
            delay = attempt.policy().next_delay(error, attempt.dispatch.counted)
        except Exception as failure:  # noqa: BLE001  the policy looks at the user's exception type, which may do anything
            body["message"] = f"{body['message']} (and its retry policy cannot be applied: {describe(failure).message})"
            return messages.FAILED
        if delay is None:
            return messages.FAILED
        body["delay"] = delay
        if body["outcome"] == "failed":
            body["outcome"] = "retried"
        return messages.RETRY


def _unfit(dispatch: Dispatch, why: str) -> str:
    return (
        f"this worker's {dispatch.name}@{dispatch.version} cannot execute the run: {why}. Nothing was started. It goes on when "
        "a worker is started with code that can, or when a retry is asked for"
    )
