"""A child's second thread: it does the I/O while user code runs long, and nothing else.

The main thread holds `lock` whenever it is not in user code, so the two never meet. The keeper ticks only while there is work;
it falls asleep after a second without any, and is woken by the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

TICK: Final = 0.04
_IDLE_TICKS: Final = 25


class Keeper(threading.Thread):
    """Calls `upkeep` every `TICK` seconds while the main thread is in user code, holding the lock.

    :param busy: whether user code runs.
    """

    def __init__(self, lock: threading.Lock, upkeep: Callable[[], None], busy: Callable[[], bool]) -> None:
        super().__init__(name="aiki-keeper", daemon=True)
        self._lock = lock
        self._upkeep = upkeep
        self._busy = busy
        self._wake = threading.Event()
        self._asleep = False
        self._noted = 0

    def note(self) -> None:
        """The main thread is about to run something."""
        self._noted += 1
        if self._asleep:
            self._wake.set()

    def run(self) -> None:
        """Tick for ever: the process ends without asking this thread."""
        seen, idle = -1, 0
        while True:
            time.sleep(TICK)
            if self._busy():
                idle = 0
                if self._lock.acquire(blocking=False):
                    try:
                        self._upkeep()
                    finally:
                        self._lock.release()
                continue
            if self._noted != seen:
                seen, idle = self._noted, 0
                continue
            idle += 1
            if idle >= _IDLE_TICKS:
                self._sleep(seen)
                idle = 0

    def _sleep(self, seen: int) -> None:
        self._wake.clear()
        self._asleep = True
        # Looked at again after `_asleep` is set: the main thread may have noted something just before it.
        if self._noted == seen:
            self._wake.wait()
        self._asleep = False
