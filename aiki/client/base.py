"""How the SDK asks: one protocol, spoken over HTTP (`remote.py`) or in this process with database and broker
(`embedded.py`). Both pass `tests/client/contract.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from aiki.codec import Payload
from aiki.model import Accepted, DefinitionInfo, End, NewRun, Page, RunDetail, RunFilter, RunView, StepView

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session


@runtime_checkable
class Client(Protocol):
    """Every call has a deadline (`Settings.timeout` unless told) and raises `aiki.errors.Unavailable` when it cannot be met.

    Asking again with the same ids is safe. Methods may be called from several threads, and survive a fork.
    """

    def enqueue(
        self,
        runs: Sequence[NewRun],
        *,
        session: Session | None = None,
        connection: Connection | None = None,
        batch: int | None = None,
    ) -> list[Accepted]:
        """Record runs and have them dispatched; all of them or none.

        :param session, connection: write in the caller's own transaction (embedded client only): the runs exist once it
            commits, and are dispatched then.
        :param batch: how many runs one message may carry; None leaves it to what is known of the durations.
        :raises ReferenceConflict: a reference id belongs to a run with another input.
        """

    def register(self, definitions: Sequence[DefinitionInfo]) -> None:
        """Make names known. Cheap to repeat."""

    def get(self, run_id: str, *, wait: float = 0.0) -> RunView:
        """The run, at once, or when it has ended, or after `wait` seconds, whatever comes first. Raises `RunNotFound`."""

    def detail(self, run_id: str, *, wait: float = 0.0) -> RunDetail:
        """The run with its payloads and attempts; `wait` as in `get`. Raises `RunNotFound`."""

    def soon(self, run_id: str, timeout: float) -> End | None:
        """The end of the run, if it comes within `timeout` seconds and this client has a fast way to see it; None proves
        nothing."""

    async def aended(self, run_id: str, timeout: float | None) -> bool:
        """Whether the run ends within `timeout` seconds (None: wait for ever). Many may wait at once: none holds a thread."""

    def now(self) -> int:
        """The time by the clock that decides, microseconds since the Unix epoch, as well as it is known here."""

    def list(self, where: RunFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """Runs, newest first; `after` is the `next` of the page before."""

    def cancel(self, run_id: str, *, reason: str = "", at_once: bool = False, once: bool = False) -> RunView:
        """Cancel it: at once if nobody executes it, else it is interrupted. An ended run stays as it is.

        A workflow that has begun meets the cancel in its code; a second cancel, or `at_once`, ends it without.

        :param once: change nothing if a cancel was asked for before.
        """

    def pause(self, run_id: str, *, reason: str = "") -> RunView:
        """Keep it from going on until it is resumed. Raises `RunConflict`."""

    def resume(self, run_id: str, *, reason: str = "") -> RunView:
        """Have a paused run go on. Raises `RunConflict`."""

    def wake(self, run_id: str, *, name: str = "", reason: str = "") -> RunView:
        """End a workflow's sleep early. Raises `RunConflict` if it does not sleep."""

    def send_event(
        self, run_id: str, name: str, payload: Payload | None, *, reference_id: str | None = None, reason: str = ""
    ) -> RunView:
        """Send an event to a workflow; once for each `reference_id`. Raises `RunConflict` if it takes none."""

    def history(self, run_id: str, *, after: int = -1, limit: int = 1000) -> Sequence[StepView]:
        """The steps of a workflow, by ordinal; `after`: the last ordinal of the page before. Raises `RunNotFound`."""

    def retry(self, run_id: str, *, reason: str = "") -> RunView:
        """Have a failed, dead or cancelled run go on under the same id, its retry policy from the beginning.

        :raises RunConflict: it is in another state.
        """

    def rerun(self, run_id: str, *, from_step: int | None = None, new_id: str | None = None, reason: str = "") -> Accepted:
        """A new run with the same input; of a workflow, with all steps before `from_step` copied.

        :param new_id: its id, so that asking again is the same run; by default one is made.
        :raises RunConflict: it cannot go on from that step.
        """

    def close(self) -> None:
        """Flush what is to be published (within the deadline) and let go of connections."""
