"""What a workflow's run needs of the process that calls its function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiki.history import Step
from aiki.retry import NO_POLICY, Tries


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step that is to be executed now.

    Limits are seconds, 0 for none; `retry_delay` is that after a hard limit, -1 for none.
    """

    step: Step
    attempt: int
    soft: float = 0.0
    hard: float = 0.0
    retry_delay: float = -1.0
    max_attempts: int = 1


@dataclass(frozen=True, slots=True)
class About:
    """What a dispatch says of the run."""

    run_id: str
    name: str
    version: str
    attempt: int
    reference_id: str | None = None
    tries: Tries = NO_POLICY
    options: Mapping[str, Any] = field(default_factory=dict)


class Host(Protocol):
    """The process that calls the function: its clock, its reports, its way to execute a step."""

    @property
    def cancel_requested(self) -> bool:
        """Whether the run is to be cancelled."""

    @property
    def pausing(self) -> bool:
        """Whether the run is to be given back and kept."""

    @property
    def leaving(self) -> bool:
        """Whether this process is to end."""

    @property
    def aborted(self) -> bool:
        """Whether what this process does is of no more use: the run was ended, or is executed elsewhere."""

    @property
    def max_payload(self) -> int:
        """The largest result, in bytes."""

    def operation(self) -> AbstractContextManager[None]:
        """Around each durable operation, so that nothing interrupts it. Raises what is to be raised in the function."""

    def now(self) -> int:
        """The server's time, microseconds since the Unix epoch; never goes back within a call of the function."""

    def report(self, steps: list[Step]) -> None:
        """Take over steps for the next report."""

    def confirm(self) -> bool:
        """Wait until all that was taken over is confirmed. False: that cannot be waited for, the process is to end."""

    def execute(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], call: StepCall) -> Any:
        """Call a step's function; raises what it raises."""

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        """An error's type, message and traceback as text."""

    def progress(self, fraction: float | None, message: str) -> None:
        """Show how far the run is."""
