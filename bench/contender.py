"""What a product under measurement provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bench.config import Config

if TYPE_CHECKING:
    from bench.program import Program


class Contender(ABC):
    """A product in one variant. Its no-op task `noop(number, text)` marks its number and returns `{"n": number}`. So does its
    workflow `flow(number)`, after `STEPS` steps that do nothing; it notes its beginning, too.

    :ivar stores: whether results are stored, so that `stored` counts them.
    :ivar on_arrival: whether it begins with work when that is sent, so that its worker must run before.
    :ivar in_process: whether the work is done in the client's process: there is no worker.
    """

    stores = False
    on_arrival = False
    in_process = False

    def __init__(self, config: Config, variant: str) -> None:
        self.config = config
        self.variant = variant

    @abstractmethod
    def prepare(self) -> None:
        """Start what belongs to it beside the worker, connect and declare. Not timed."""

    @abstractmethod
    def enqueue(self, count: int) -> None:
        """Enqueue tasks 0 to `count` - 1 from this process. Timed."""

    @abstractmethod
    def in_broker(self, count: int) -> bool:
        """Whether the broker holds all `count` tasks."""

    @abstractmethod
    def worker_command(self) -> list[str]:
        """Its worker with `CHILDREN` processes, otherwise as it comes."""

    def await_worker(self, worker: Program) -> None:  # noqa: B027 - most have nothing to wait for
        """Return when a worker that was just started takes work. Not timed."""

    @abstractmethod
    def services(self) -> Mapping[str, int]:
        """Process ids of all that it uses beside client and worker, by component."""

    def worker_environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The worker's environment."""
        return dict(inherited)

    def stored(self) -> int:
        """How many results are stored by now."""
        return 0

    def round_trip(self) -> Callable[[int], object]:
        """The function that enqueues task `n` and waits for its result, which it returns."""
        raise NotImplementedError(f"{type(self).__name__} has no results to wait for")

    @abstractmethod
    def close(self) -> None:
        """End what `prepare` began."""
