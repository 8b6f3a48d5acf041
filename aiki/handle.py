"""A handle: a run's id and the ways to ask about it."""

from __future__ import annotations

import asyncio
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast

from aiki import codec
from aiki.context import executing_workflow, refuse_in_workflow
from aiki.errors import ConfigurationError, ResultTimeout, RunCancelled, RunFailed, Unauthorized, Unavailable
from aiki.model import End, RunDetail, RunView, StepView
from aiki.options import check_reference, check_step_name
from aiki.states import State

if TYPE_CHECKING:
    from aiki.app import Aiki
    from aiki.client import Client

R = TypeVar("R")

DEFAULT_TIMEOUT = 60.0
SOON = 0.05
_IN_WORKFLOWS = (
    "In workflows, wait for runs that were submitted with the future's result(), for others with run.wait_event(name)"
)
_SLICE = 30.0

apps: weakref.WeakValueDictionary[str, Aiki] = weakref.WeakValueDictionary()
"""The apps of this process by name, so that unpickled handles find theirs."""


class Handle(Generic[R]):
    """A run that was enqueued. Two handles of one run are equal; a handle can be pickled, or made anew by `app.handle(id)`."""

    __slots__ = ("_app", "_name", "id")

    def __init__(self, app: Aiki, run_id: str, name: str | None = None) -> None:
        self._app = app
        self._name = name
        self.id = run_id

    @property
    def name(self) -> str:
        """The task's name; asked for if this handle was made from an id alone."""
        if self._name is None:
            self._name = self.view().name
        return self._name

    @property
    def _client(self) -> Client:
        if executing_workflow():
            refuse_in_workflow(f"{sys._getframe(1).f_code.co_name.lstrip('_')}() of {self!r}", _IN_WORKFLOWS)
        return self._app.client

    # ------------------------------------------------------------ look
    def view(self) -> RunView:
        """The run as it is now. Raises `RunNotFound`, `Unavailable`."""
        return self._client.get(self.id)

    def status(self) -> State:
        """The run's state now."""
        return self.view().state

    def done(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self.view().ended

    # ------------------------------------------------------------ wait
    def wait(self, timeout: float | None = DEFAULT_TIMEOUT) -> bool:
        """Whether the run ends within `timeout` seconds (None: wait for ever). Goes on through outages."""
        return self._wait(_Patience(timeout)) is not None

    def result(self, timeout: float | None = DEFAULT_TIMEOUT) -> R:
        """What the task returned, waiting for it up to `timeout` seconds (None: for ever).

        :raises RunFailed: it failed or is dead; with the original error's type, message and traceback text.
        :raises RunCancelled: it was cancelled.
        :raises ResultTimeout: it has not ended in time. It goes on, and can be asked again.
        """
        patience = _Patience(timeout)
        end = self._soon(patience)
        if end is not None and end.state is State.COMPLETED:
            return cast(R, None if end.result is None else codec.decode(end.result, what=f"result of {self._name or self.id}"))
        detail = self._wait(patience)
        if detail is None:
            self._late(patience)
        return cast(R, outcome(detail))

    def _soon(self, patience: _Patience) -> End | None:
        """Most results that are waited for are there in a moment: one question then answers for state and result."""
        try:
            return self._client.soon(self.id, max(0.0, min(patience.left(), SOON)))
        except Unavailable:
            return None

    async def aresult(self, timeout: float | None = DEFAULT_TIMEOUT) -> R:
        """As `result`, for callers in an event loop. Any number may wait at once."""
        patience = _Patience(timeout)
        while True:
            try:
                detail = await asyncio.to_thread(self._client.detail, self.id)
                if detail.run.ended:
                    return cast(R, outcome(detail))
                patience.seen(detail.run)
                if patience.left() <= 0:
                    self._late(patience)
                await self._client.aended(self.id, patience.slice())
            except Unavailable as error:
                patience.away(error)
                if patience.left() <= 0:
                    self._late(patience)
                await asyncio.sleep(patience.pause(error))

    def _wait(self, patience: _Patience) -> RunDetail | None:
        while True:
            try:
                detail = self._client.detail(self.id, wait=patience.slice())
                if detail.run.ended:
                    return detail
                patience.seen(detail.run)
            except Unavailable as error:
                patience.away(error)
                time.sleep(patience.pause(error))
            if patience.left() <= 0:
                return None

    def _late(self, patience: _Patience) -> NoReturn:
        message = f"run {self.id} of {self._name or 'its task'} had not ended after {patience.timeout:g} s; {patience.told}"
        raise ResultTimeout(message) from patience.error

    # ------------------------------------------------------------ act
    def cancel(self, reason: str = "") -> State:
        """Cancel the run: at once if nobody executes it, else it is interrupted. Its state now; an ended run stays as it is.

        A workflow that has begun meets the cancel as an exception at its next durable point; a second cancel ends it at once.
        """
        return self._client.cancel(self.id, reason=reason).state

    def terminate(self, reason: str = "") -> State:
        """End the run now, without calling its code again: no compensation, no `finally` of a workflow."""
        return self._client.cancel(self.id, reason=reason, at_once=True).state

    def pause(self, reason: str = "") -> State:
        """Keep the run from going on until `resume`; a workflow that runs stops at its next durable point."""
        return self._client.pause(self.id, reason=reason).state

    def resume(self, reason: str = "") -> State:
        """Have a paused run go on."""
        return self._client.resume(self.id, reason=reason).state

    def wake(self, name: str = "", reason: str = "") -> State:
        """End a workflow's sleep early: the one of that name, or any. Raises `RunConflict` if it does not sleep."""
        return self._client.wake(self.id, name=name, reason=reason).state

    def send_event(self, name: str, data: Any = None, *, reference_id: str | None = None, reason: str = "") -> None:
        """Send an event that the workflow waits for, or will wait for (`run.wait_event(name)`).

        :param data: what `wait_event` returns; anything that an argument of a task can be.
        :param reference_id: sending an event of this name again under the same one changes nothing.
        :raises RunConflict: the run has ended, or is a task.
        """
        check_step_name(name)
        check_reference(f"event {name}", reference_id)
        payload = None if data is None else codec.encode(data, limit=self._app.settings.payload_limit, what=f"event {name}")
        self._client.send_event(self.id, name, payload, reference_id=reference_id, reason=reason)

    def history(self) -> list[StepView]:
        """All that a workflow has issued, by ordinal."""
        out: list[StepView] = []
        while page := self._client.history(self.id, after=out[-1].ordinal if out else -1):
            out += page
        return out

    def retry(self, reason: str = "") -> State:
        """Have a failed, dead or cancelled run go on, under the same id, its retry policy from the beginning.

        :raises RunConflict: it is in another state.
        """
        return self._client.retry(self.id, reason=reason).state

    def rerun(self, *, from_step: int | None = None, reason: str = "") -> Handle[R]:
        """A new run with the same input; of a workflow, from that step of its `history()` on: those before it are copied."""
        return Handle(self._app, self._client.rerun(self.id, from_step=from_step, reason=reason).id, self._name)

    # ------------------------------------------------------------ as a value
    def __repr__(self) -> str:
        return f"<Handle {self._name or ''} {self.id}>".replace("  ", " ")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._app.name, self.id, self._name)


class _Patience:
    """How long somebody still waits, and what was last heard."""

    def __init__(self, timeout: float | None) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout={timeout!r}: it must be 0 or more seconds, or None to wait for ever")
        self.timeout = float("inf") if timeout is None else float(timeout)
        self._until = time.monotonic() + self.timeout
        self.told = ""
        self.error: Unavailable | None = None

    def left(self) -> float:
        return self._until - time.monotonic()

    def slice(self) -> float:
        """Seconds to wait in one call."""
        return max(0.0, min(_SLICE, self.left()))

    def pause(self, error: Unavailable) -> float:
        """Seconds to wait before asking again after an outage."""
        return max(0.0, min(error.retry_after, self.left()))

    def seen(self, run: RunView) -> None:
        self.error = None
        self.told = f"it is {run.state}" + (f", waiting on {run.waiting_on}" if run.waiting_on else "")

    def away(self, error: Unavailable) -> None:
        self.error = error
        self.told = f"its state could not be asked for: {error}"


def outcome(detail: RunDetail) -> Any:
    """An ended run's result, or its error raised."""
    run = detail.run
    if run.state is State.COMPLETED:
        if detail.withheld:
            raise Unauthorized(
                f"the server does not give the result of run {run.id} to a key of this role; use an operator's key"
            )
        return None if detail.result is None else codec.decode(detail.result, what=f"result of {run.name}")
    if run.state is State.CANCELLED:
        raise RunCancelled(run.id, run.error_message or "")
    raise RunFailed(run.id, run.error_type or "Unknown", run.error_message or "", detail.traceback, run.state.value)


def _restore(app_name: str, run_id: str, name: str | None) -> Handle[Any]:
    app = apps.get(app_name)
    if app is None:
        raise ConfigurationError(
            f"a handle of app {app_name!r} cannot be unpickled here: import the module that makes the app first"
        )
    return Handle(app, run_id, name)
