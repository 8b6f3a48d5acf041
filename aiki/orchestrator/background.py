"""Work beside the orchestrator's loop, each on a thread and with a store of its own, so that it never holds up reports.

Each waits while the database is away. A thread that meets an unexpected error logs it and goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, Protocol

from aiki.errors import AikiError
from aiki.settings import Settings
from aiki.storage import Store, open_store

log = logging.getLogger("aiki.orchestrator")

IDLE: Final = 1.0
"""Seconds between looks where there was nothing to do."""
AFTER_FAILURE: Final = 5.0


class Chore(Protocol):
    """Something to be done again and again."""

    def run_once(self) -> float | int:
        """Do what there is to do; true if there may be more at once."""

    def close(self) -> None:
        """Let go of what it holds."""


Make = Callable[[Store, Settings], Chore]


class Background:
    """Threads that do chores until `close`."""

    def __init__(self, settings: Settings, chores: dict[str, Make], *, idle: float = IDLE) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._idle = idle
        self._threads = [
            threading.Thread(target=self._run, args=(name, make), name=name, daemon=True) for name, make in chores.items()
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """Stop; what is in the middle of something is left: all of it can be interrupted."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout)

    def _run(self, name: str, make: Make) -> None:
        while not self._stop.is_set():
            try:
                self._work(make)
            except AikiError as error:
                log.warning("%s: %s", name, error)
            except Exception:
                log.exception("%s failed, and goes on", name)
            self._stop.wait(AFTER_FAILURE)

    def _work(self, make: Make) -> None:
        store = open_store(self._settings, primary=True)
        chore = make(store, self._settings)
        try:
            while not self._stop.is_set():
                if not chore.run_once():
                    self._stop.wait(self._idle)
        finally:
            chore.close()
            store.close()
