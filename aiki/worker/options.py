"""The options of `aiki-worker`."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Final

from aiki.errors import ConfigurationError
from aiki.settings import check_name

MAX_CONCURRENCY: Final = 500
"""Each child costs the worker a file descriptor, and `select` takes those below 1024 only."""

EXIT_WARM: Final = 0
"""Stopped as asked: what ran was finished, the rest given back."""
EXIT_FAILED: Final = 1
"""It could not start."""
EXIT_USAGE: Final = 2
"""An option or an app is wrong."""
EXIT_COLD: Final = 3
"""Stopped at once: what ran was killed and given back."""


@dataclass(frozen=True, slots=True)
class Options:
    """One worker's options; limits are seconds, None for none.

    :ivar apps: `module` or `module:attribute`, as given with `-A`.
    :ivar log_level: None: `info`, unless the app chooses another one for Aiki's own lines.
    :ivar max_tasks: tasks after which a child is replaced, 0 for never.
    :ivar max_memory: KiB of resident memory after which a child is replaced, 0 for never.
    :ivar time_limit: hard limit of tasks that name none.
    :ivar soft_time_limit: soft limit of tasks that name none.
    :ivar prefetch: most messages a child takes ahead of its work.
    :ivar broker_url: overrides the app's.
    :ivar drain_timeout: seconds after which a worker that was asked to stop kills what still runs, and gives it back.
    """

    apps: tuple[str, ...]
    concurrency: int = field(default_factory=lambda: os.cpu_count() or 1)
    queues: tuple[str, ...] = ("default",)
    name: str = field(default_factory=socket.gethostname)
    log_level: str | None = None
    max_tasks: int = 0
    max_memory: int = 0
    time_limit: float | None = None
    soft_time_limit: float | None = None
    prefetch: int = 32
    broker_url: str | None = None
    drain_timeout: float | None = None

    def check(self) -> None:
        """Raise `ConfigurationError` for values that make no sense."""
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ConfigurationError(f"concurrency {self.concurrency}: it must be from 1 to {MAX_CONCURRENCY}")
        if not self.queues:
            raise ConfigurationError("no queue: name at least one with -Q")
        for queue in self.queues:
            check_name("queue", queue)
        if not 1 <= self.prefetch <= 1000:
            raise ConfigurationError(f"prefetch {self.prefetch}: it must be from 1 to 1000")
        if self.max_tasks < 0 or self.max_memory < 0:
            raise ConfigurationError("max-tasks-per-child and max-memory-per-child must not be negative")
        for what, limit in self._seconds():
            if limit is not None and not 0 < limit < float("inf"):
                raise ConfigurationError(f"{what} {limit:g}: it must be more than 0 seconds")

    def _seconds(self) -> tuple[tuple[str, float | None], ...]:
        return (
            ("time-limit", self.time_limit),
            ("soft-time-limit", self.soft_time_limit),
            ("drain-timeout", self.drain_timeout),
        )
