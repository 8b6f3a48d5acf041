"""A service that enqueues without pause, and remembers what was accepted: what crashes are tried under."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from aiki.errors import Unavailable


class Load:
    """Enqueues `task(i)` about `rate` times a second on a thread of its own, from `with` to the end of its block.

    :ivar accepted: number to run id, of those whose enqueue returned.
    :ivar refused: how many enqueues said that something is away; whether these runs exist is open.
    :ivar slowest: seconds that the slowest enqueue took, however it ended.
    """

    def __init__(self, task: Any, rate: float, first: int = 0) -> None:
        self._task = task
        self._pause = 1 / rate
        self._next = first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._error: BaseException | None = None
        self.accepted: dict[int, str] = {}
        self.refused = 0
        self.slowest = 0.0

    def _work(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                number, self._next = self._next, self._next + 1
                begun = time.monotonic()
                try:
                    self.accepted[number] = self._task.enqueue(number).id
                except Unavailable:
                    self.refused += 1
                self.slowest = max(self.slowest, time.monotonic() - begun)
        except BaseException as error:
            self._error = error

    def stop(self) -> None:
        """Enqueue no more; raises what the thread raised."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "an enqueue hangs"
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if kind is None:
            self.stop()
