"""Retention: deleting runs that ended long enough ago, beside all else and slowly enough to be noticed by nobody.

On a thread of its own, in one of all orchestrators (a chore with a holder). A transaction deletes a few hundred runs by primary
key; after each one it rests twice as long as that took, so that the database has at most a third of one connection's work from
it, and less the busier it is.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final
from uuid import uuid4

from aiki import retention
from aiki.clock import SECOND
from aiki.errors import AikiError
from aiki.orchestrator.isolation import words
from aiki.settings import Settings
from aiki.storage import Store

log = logging.getLogger("aiki.orchestrator.retention")

CHORE: Final = "retention"
HELD: Final = 60.0
"""Seconds after which another orchestrator takes over from one that is gone."""
EVERY: Final = 60.0
"""Seconds from the end of one round to the next."""
WORKERS_KEPT: Final = 7 * 86400
"""Seconds for which workers that stopped or were lost are still listed."""
REST: Final = 2.0
GIVEN_UP: Final = 7 * 86400
"""Seconds for which webhook deliveries that were given up are kept."""
RUNS: Final = 200


class Retention:
    """Does one transaction a call; see the module."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._kept = retention.parse(settings.retention) if settings.retention else {}
        self._sleep = sleep
        self._monotonic = monotonic
        self._holder = f"{socket.gethostname()[:24]}-{os.getpid()}-{uuid4().hex[:12]}"
        self._round: Iterator[int] | None = None
        self._next = 0.0
        self._deleted = 0

    def run_once(self) -> int:
        """One transaction; true if there is more to do at once. Raises `StorageUnavailable`."""
        now = self._monotonic()
        if self._round is None and now < self._next:
            return 0
        if not self._store.take_chore(CHORE, self._holder, HELD):
            self._round, self._next = None, now + EVERY / 4
            return 0
        if self._round is None:
            self._round = self._work()
            self._deleted = 0
        began = self._monotonic()
        found = next(self._round, None)
        if found is None:
            self._round, self._next = None, self._monotonic() + EVERY
            if self._deleted:
                log.info("deleted %d runs that ended longer ago than they are kept (%s)", self._deleted, self._kept)
            return 0
        if found:
            self._sleep(REST * (self._monotonic() - began))
        return 1

    def close(self) -> None:
        """See `background.Chore`."""

    def _work(self) -> Iterator[int]:
        """One round over everything. Each step is a transaction and gives how many rows it deleted."""
        now = self._store.clock()
        while count := self._store.purge_leftovers():
            yield count
        while count := self._store.purge_workers(now - WORKERS_KEPT * SECOND):
            yield count
        # Not those that have definitions: what nobody has defined, and sign-ins, which have no namespace, end too.
        for namespace in self._store.namespaces_in("aiki_runs", "aiki_audit", "aiki_dead_letters", "aiki_webhook_deliveries"):
            for state, seconds in self._kept.items():
                before = now - seconds * SECOND
                old = (
                    self._table(f"aiki_{state}", namespace, before)
                    if state in (retention.AUDIT, retention.DEAD_LETTERS)
                    else self._runs(namespace, state, before)
                )
                yield from self._isolated(old, f"{state} of {namespace}")
            old = self._table("aiki_webhook_deliveries", namespace, now - GIVEN_UP * SECOND)
            yield from self._isolated(old, f"webhook deliveries of {namespace}")
        while count := self._store.purge_leftovers():
            yield count

    def _isolated(self, steps: Iterator[int], what: str) -> Iterator[int]:
        """Go on with the rest where something cannot be deleted."""
        try:
            yield from steps
        except AikiError:
            raise
        except Exception as error:  # noqa: BLE001  the boundary of one place
            log.error("%s cannot be deleted, and the others are: %s", what, words(error))
            self._store.count_refusals({"retention": 1}, {"retention": f"{what}: {words(error)}"})

    def _runs(self, namespace: str, state: str, before: int) -> Iterator[int]:
        after: tuple[int, bytes] | None = (0, b"")
        while after is not None:
            page = self._store.purgeable(namespace, state, before, after, RUNS)
            deleted = self._store.purge_runs(namespace, page.runs, before) if page.runs else 0
            self._deleted += deleted
            after = page.next
            yield deleted

    def _table(self, table: str, namespace: str, before: int) -> Iterator[int]:
        while count := self._store.purge_table(table, namespace, before):
            yield count
