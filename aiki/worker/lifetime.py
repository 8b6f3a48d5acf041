"""The lifetime of a child: a number of runs and a limit of memory, after which another child takes its place."""

from __future__ import annotations

import logging
import os
import time
from typing import Final

from aiki.worker.process import rss_kib

_log = logging.getLogger("aiki.worker.child")

MEMORY_SECONDS: Final = 0.02
"""Between two looks at the memory."""


class Lifetime:
    """Of one child.

    :param max_tasks: runs after which it leaves; `max_memory`: KiB above which it does. 0 or None: never.
    """

    def __init__(self, max_tasks: int | None, max_memory: int | None) -> None:
        self._max_tasks = max_tasks
        self._max_memory = max_memory
        self._executed = 0
        self._next_memory = 0.0

    def over_after_run(self) -> bool:
        """A run is done: whether it was the last one."""
        self._executed += 1
        if self._executed != self._max_tasks:
            return False
        _log.info("leaving after %d tasks", self._executed)
        return True

    def over_by_memory(self) -> bool:
        """Whether this process has become too large."""
        if not self._max_memory:
            return False
        now = time.monotonic()
        if now < self._next_memory:
            return False
        self._next_memory = now + MEMORY_SECONDS
        rss = rss_kib(os.getpid())
        if rss <= self._max_memory:
            return False
        _log.info("leaving with %d KiB of memory, over the limit of %d", rss, self._max_memory)
        return True
