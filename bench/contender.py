"""What a product under measurement provides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from bench.config import Config


class Contender(ABC):
    """A product in one variant. Its no-op task `noop(number, text)` marks its number and returns `{"n": number}`.

    :ivar stores: whether results are stored, so that `stored` counts them.
    """

    stores = False

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
