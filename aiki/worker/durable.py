"""Executing a workflow: its function is called with a `WorkflowRun` over its history, and what it issues is reported.

What is reported is confirmed by the broker before anything that depends on it begins. The function runs on the child's main
thread; while it is in a durable operation nothing interrupts it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import os
import secrets
import select
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from aiki import messages, tracing
from aiki.broker.base import answers
from aiki.ceilings import REPORT_BYTES
from aiki.context import Call, current_run_or_none, inside_step, inside_workflow
from aiki.errors import TaskCancelled
from aiki.history import UNDO, History, Step, ValueKey
from aiki.hooks import NONE, Around, AroundHook
from aiki.messages import Dispatch, Report, Values
from aiki.replay import Changed, Left, LimitReached, Limits, Replay, Stop, Suspended
from aiki.worker.connection import Connection
from aiki.worker.describe import describe
from aiki.worker.fetching import ASK_AGAIN, GIVE_UP, Fetched
from aiki.worker.freeing import clear_frames
from aiki.worker.gate import CANCEL, SOFT, Gate
from aiki.worker.inbox import Inbox
from aiki.worker.ledger import Ledger
from aiki.worker.looping import Loop, drive, is_awaitable
from aiki.worker.registry import Definition, tries_of
from aiki.worker.slots import Entry, Shared, Slot
from aiki.worker.stopping import end_forked_copy, fell_with_the_worker
from aiki.workflow_host import About, StepCall
from aiki.workflow_run import Continued, WorkflowRun

_WAIT_SECONDS: Final = 2.0
_MAX_STACK: Final = 16 * 1024


@dataclass(slots=True, eq=False)
class Port:
    """The services of a child for the workflow that it executes. `lock` is held by the main thread outside of user code."""

    lock: threading.Lock
    connection: Connection
    ledger: Ledger
    inbox: Inbox
    gate: Gate
    slot: Slot
    shared: Shared
    wake: int
    leaving: Callable[[], bool]
    settings: Any
    abandon: Callable[[], object]
    """Report the run as one whose function cannot be left, and end this process."""
    loop: Loop
    answers_at: str = field(default_factory=lambda: secrets.token_hex(16))
    """The address for answers. A process that may bind a queue to the answers receives those whose address it knows, and
    executors are named in messages that others receive."""


class Host:
    """One call of a workflow's function, on this child. See `aiki.workflow_host.Host`."""

    def __init__(
        self,
        port: Port,
        dispatch: Dispatch,
        history: History,
        index: int,
        progress: Callable[..., None],
        hooks: Sequence[AroundHook] = (),
    ) -> None:
        self._port = port
        self._hooks = hooks
        self._dispatch = dispatch
        self._index = index
        self._latest = history.now
        self._pid = os.getpid()
        self.give_back: Callable[[], NoReturn] | None = None
        """Leave the function, and have the run go on elsewhere."""
        self._progress = progress
        self._cancel = messages.OPT_CANCEL in dispatch.options
        self._aborted = False
        self._limit_raised = False
        self.undone = any(step.kind == UNDO for step in history.steps)

    # ------------------------------------------------------------ what is asked of the run
    @property
    def cancel_requested(self) -> bool:
        """See `aiki.workflow_host.Host`."""
        return self._cancel or self._port.slot.cancel_soon == self._index

    @property
    def pausing(self) -> bool:
        """See `aiki.workflow_host.Host`."""
        return self._port.slot.pause_soon == self._index

    @property
    def leaving(self) -> bool:
        """See `aiki.workflow_host.Host`."""
        return self._port.leaving()

    @property
    def aborted(self) -> bool:
        """See `aiki.workflow_host.Host`."""
        self._aborted = self._aborted or self._port.slot.cancelled[0] == self._port.gate.index
        return self._aborted

    @property
    def max_payload(self) -> int:
        """See `aiki.workflow_host.Host`."""
        return int(self._port.settings.payload_limit)

    # ------------------------------------------------------------ operations
    def operation(self) -> AbstractContextManager[None]:
        """See `aiki.workflow_host.Host`."""
        return self

    def __enter__(self) -> None:
        self._port.gate.leave()
        self.check()

    def __exit__(self, *error: object) -> None:
        self._port.gate.enter_durable()

    def take_limit(self) -> BaseException | None:
        """The error of the workflow's own soft limit, once, when that is over."""
        return self._port.gate.take_soft_limit()

    def check(self) -> None:
        """Raise if what is done here is of no more use."""
        if self.aborted:
            raise TaskCancelled("the run was ended, or is executed elsewhere: nothing that is done here counts")

    def now(self) -> int:
        """See `aiki.workflow_host.Host`."""
        self._latest = max(self._latest, self._port.shared.now())
        return self._latest

    def report(self, steps: list[Step]) -> None:
        """See `aiki.workflow_host.Host`."""
        self.undone = self.undone or any(step.kind == UNDO for step in steps)
        with self._port.lock:
            ledger = self._port.ledger
            ledger.add_steps(self._dispatch, steps)
            if ledger.size > REPORT_BYTES:
                ledger.flush()

    def confirm(self) -> bool:
        """See `aiki.workflow_host.Host`."""
        port = self._port
        connection, ledger = port.connection, port.ledger
        with port.lock:
            ledger.flush()
            while connection.unconfirmed or ledger.pending:
                self.check()
                if connection.session is None and not connection.connect():
                    if self.leaving:
                        return False
                    _pause(port.wake, min(connection.retry_in(), _WAIT_SECONDS))
                    continue
                for delivery in connection.receive(_WAIT_SECONDS, port.wake):
                    port.inbox.accept(delivery)
                ledger.settle()
                ledger.flush()
        return True

    def fetch(self, number: int, keys: Sequence[ValueKey]) -> Values | None:
        """Ask for values of the run's history, and wait for the answer. None: none is to be had here, the run is given back."""
        port, dispatch = self._port, self._dispatch
        connection, inbox = port.connection, port.inbox
        source = answers(port.answers_at)
        give_up, ask_at = time.monotonic() + GIVE_UP, 0.0
        subscribed: object = None
        with port.lock:
            while time.monotonic() < give_up:
                self.check()
                if connection.session is None and not connection.connect():
                    if self.leaving:
                        return None
                    _pause(port.wake, min(connection.retry_in(), _WAIT_SECONDS))
                    continue
                if subscribed is not connection.session:  # an answer to the session before is lost with it
                    if not connection.subscribe(source, 1):
                        continue
                    subscribed, ask_at = connection.session, 0.0
                if time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + ASK_AGAIN
                    body = {"n": number, "k": list(keys), "at": port.answers_at}
                    port.ledger.add(dispatch.partition, Report(messages.FETCH, dispatch.run_id, dispatch.epoch, body), None)
                port.ledger.flush()
                for delivery in connection.receive(_WAIT_SECONDS, port.wake):
                    inbox.accept(delivery)
                port.ledger.settle()
                while inbox.values:
                    found = inbox.values.popleft()
                    if found.number == number and found.run_id == dispatch.run_id:
                        return found
        return None

    # ------------------------------------------------------------ steps
    def execute(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], call: StepCall) -> Any:
        """See `aiki.workflow_host.Host`."""
        limited = bool(call.soft or call.hard)
        if limited:
            self._begin_entry(call)
        error: BaseException | None = None
        before = self._port.gate.softened
        try:
            traced = tracing.step(call.step.name, call.step.ordinal, call.attempt)
            with traced, inside_step(call.step.ordinal, call.attempt, call.step.name, call.max_attempts):
                return self._surround(fn, args, kwargs)
        except BaseException as raised:
            error = self._meant(raised, before)
            if self.leaving and self.give_back is not None and fell_with_the_worker(error):
                self.give_back()
            if error is not raised:
                raise error from None
            raise
        finally:
            if os.getpid() != self._pid:
                end_forked_copy(error)
            if limited:
                self._begin_entry(None)

    def _surround(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call the step's function inside of the hooks."""
        run = current_run_or_none()
        if not self._hooks or run is None:
            return self._call(fn, args, kwargs, None)
        around = Around(self._hooks, run)
        value: Any = None
        error: BaseException | None = None
        try:
            around.enter()
            value = self._call(fn, args, kwargs, around)
        except BaseException as raised:  # noqa: BLE001  it is raised again, when the hooks have been left
            error = raised
        error = around.leave(error)
        try:
            if error is not None:
                raise error
            return value
        finally:
            del error  # its traceback holds this frame

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], around: Around | None) -> Any:
        """Call it, and close the gate. Three times: a soft limit and a cancel may each interrupt that (see gate.py)."""
        gate = self._port.gate
        try:
            try:
                try:
                    return self._call_open(fn, args, kwargs, around)
                finally:
                    gate.leave()
            finally:
                gate.leave()
        finally:
            gate.leave()

    def _call_open(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], around: Around | None
    ) -> Any:
        gate, loop = self._port.gate, self._port.loop
        if inspect.iscoroutinefunction(fn):
            return loop.run(drive(gate, lambda: fn(*args, **kwargs), around), contextvars.copy_context())
        loop.offer()
        gate.enter()
        value = fn(*args, **kwargs)
        gate.leave()
        if not is_awaitable(value):
            return value
        return loop.run(drive(gate, lambda: value, around), contextvars.copy_context())

    def _meant(self, raised: BaseException, before: int) -> BaseException:
        """The error that a step has raised; for a cancelled asyncio task it is the cancel or the soft limit that caused it, if
        there was one."""
        gate = self._port.gate
        if not isinstance(raised, asyncio.CancelledError):
            return raised
        if gate.raised & CANCEL:
            return TaskCancelled("the run was cancelled")
        if gate.softened > before:
            return gate.soft_error().with_traceback(raised.__traceback__)
        return raised

    def _begin_entry(self, call: StepCall | None) -> None:
        """Have the supervisor enforce a step's own limits (or the workflow's again): it knows entries of the slot."""
        port, slot, gate = self._port, self._port.slot, self._port.gate
        mine: Entry = slot.entry(self._index)
        if call is None:
            limits = (mine.soft, mine.hard, mine.retry_delay, mine.attempt)
            ordinal = -1
        else:
            limits = (call.soft, call.hard, call.retry_delay, call.attempt)
            ordinal = call.step.ordinal
        began = mine.began if call is None else time.monotonic_ns()
        index = slot.begin(mine.run, mine.epoch, mine.partition, mine.definition, began, *limits, ordinal)
        with port.lock:
            if call is None and not self.aborted:
                self._move_requests(index)
            if call is None:
                self._index = index
                port.ledger.begun_and_reported = index
            else:
                self._limit_raised = bool(gate.raised & SOFT)
            gate.arm(index, limits[0])
            if call is None and self._limit_raised:
                gate.raised = SOFT  # once a call of the function, and not again for each step
            slot.execute(index)

    def _move_requests(self, index: int) -> None:
        self._cancel = self.cancel_requested
        if self.pausing:
            self._port.slot.pause_soon = index

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        """See `aiki.workflow_host.Host`."""
        return describe(error)

    def progress(self, fraction: float | None, message: str) -> None:
        """See `aiki.workflow_host.Host`."""
        self._progress(fraction, message)


class Execution:
    """A workflow's function, ready to be called: `run` is its first argument."""

    def __init__(
        self, port: Port, dispatch: Dispatch, definition: Definition, index: int, progress: Callable[..., None]
    ) -> None:
        self._fetched = Fetched(self._ask)
        history = History.from_wire(dispatch.options.get(messages.OPT_HISTORY), self._fetched.get)
        self._fetched.expect(history.outside)
        limits = Limits(port.settings.history_steps, port.settings.history_bytes)
        self._replay = Replay(dispatch.name, history, limits)
        hooks = getattr(definition, "hooks", NONE).around_run
        self._host = Host(port, dispatch, history, index, progress, hooks)
        about = About(
            *(dispatch.run_id, dispatch.name, dispatch.version, dispatch.attempt),
            *(dispatch.options.get(messages.OPT_REFERENCE), tries_of(dispatch, definition)),
        )
        self.run = WorkflowRun(self._host, self._replay, about, definition.arguments, self._host.take_limit)
        self._host.give_back = self._give_back
        self._port = port
        self._name = dispatch.name
        self._call: Call | None = None
        self._left = False

    def _give_back(self) -> NoReturn:
        self._replay.leave(Left())

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around everything that a call of the function causes."""
        with inside_workflow(self.run, self.stuck) as self._call:
            yield

    def free(self, error: BaseException | None) -> None:
        """The function has been left, perhaps by this error: free what it held, inside of `call`, where all is refused."""
        self.end()
        left = weakref.ref(self.run)
        errors = [error, self._replay.stop, self.run.forget()]
        del self.run
        clear_frames(errors)
        errors.clear()
        error = None
        if left() is not None:
            gc.collect()  # something that refers to itself holds it, and perhaps more

    def end(self) -> None:
        """The function has been left."""
        self._left = True
        if self._call is not None:
            self._call.end()

    def stuck(self) -> NoReturn:
        """The function cannot be left: it catches what leaves it, over and over. Its run fails, and this process ends."""
        self._port.abandon()
        raise AssertionError("unreachable")

    @property
    def leaving(self) -> bool:
        """Whether the function is to be left, or is left."""
        return self._left or self._replay.stop is not None

    def stuck_report(self, body: dict[str, Any]) -> str:
        """The kind of report of a function that cannot be left, with its body filled."""
        kind = self.stopped(body)
        if kind in (messages.CHANGED, messages.FAILED):
            return kind
        body.pop("e", None), body.pop("r", None)
        body["type"], body["outcome"], body["tb"] = "aiki.errors.WorkflowStuck", "failed", _main_stack()
        body["message"] = (
            f"the function of {self._name} was to be left while its run waits, and did not end: it catches what leaves it, "
            "again and again (`except:` or `except BaseException:` without `raise`, a `finally` or a finalizer that never "
            "ends). Catch Exception instead, or raise again; then retry the run"
        )
        return messages.FAILED

    def _ask(self, number: int, keys: Sequence[ValueKey]) -> Values:
        found = self._host.fetch(number, keys)
        if found is None:
            self._replay.leave(Left())
        return found

    def close(self) -> list[Step]:
        """The function is left; what it issued last is still to be reported."""
        self._fetched.close()
        return self._replay.take_fresh()

    @property
    def turned(self) -> bool:
        """Whether the function goes on as new."""
        return self._replay.first > 0

    @property
    def aborted(self) -> bool:
        """Whether what it did counts no more."""
        return self._host.aborted

    def stopped(self, body: dict[str, Any]) -> str | None:
        """The kind of report if the function was left by us, with its body filled; None if it came to an end of its own."""
        self.end()
        stop: Stop | None = self._replay.stop
        if isinstance(stop, LimitReached):
            self._replay.withhold()
        body["n"] = self._replay.reported
        if stop is None:
            return None
        if isinstance(stop, Suspended):
            body |= stop.waits.to_wire()
            return messages.SUSPENDED
        if isinstance(stop, Continued):
            body["e"], body["r"] = stop.payload
            return messages.CONTINUED
        if isinstance(stop, Changed):
            body["message"] = str(stop)
            return messages.CHANGED
        if isinstance(stop, LimitReached):
            body["type"], body["message"], body["tb"] = describe(stop.error)
            return messages.FAILED
        return messages.RETURNED

    def failed_at(self, error: BaseException, body: dict[str, Any]) -> None:
        """Add to a failure's body what a retry goes on from: the steps whose error it is."""
        if self._host.undone:
            body["undone"] = 1
        if self.run.raised is None:
            return
        raised, ordinals = self.run.raised
        seen: set[int] = set()
        left = [error]
        while left:
            one = left.pop()
            if one is raised:
                body["at"] = ordinals
                return
            if id(one) in seen:
                continue
            seen.add(id(one))
            left += [other for other in (one.__cause__, one.__context__) if other is not None]


def _main_stack() -> str:
    """Where the main thread is now, as text."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame))[-_MAX_STACK:]


def _pause(wake: int, seconds: float) -> None:
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    if poller.poll(max(seconds, 0.01) * 1000):
        try:
            os.eventfd_read(wake)
        except BlockingIOError:
            pass
