"""The backend of the endpoints: the embedded client of this process, its definitions, and one waiter for all held requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from aiki.api.depths import Depths
from aiki.api.hub import Hub
from aiki.client.embedded import EmbeddedClient
from aiki.client.waiter import Waiter
from aiki.clock import now_us
from aiki.errors import ConfigurationError, StorageUnavailable, UnknownTask
from aiki.model import DefinitionInfo
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store

log = logging.getLogger(__name__)

DEFINITION_TTL: Final = 5.0
"""Seconds for which a definition's options are taken for granted."""
MAX_DEFINITIONS: Final = 10_000


class Backend:
    """One a process, made after the fork; opened by the first request that needs the database.

    :param max_held: requests that may wait for a run's end at a time.
    :param max_streams: event streams that may be open at a time.
    """

    def __init__(self, settings: Settings, client: EmbeddedClient | None, max_held: int, max_streams: int = 500) -> None:
        self.settings = settings
        self._client = EmbeddedClient(settings, "api") if client is None else client
        self._opening = threading.Lock()
        self._opened = False
        self.holding: Callable[[], AbstractContextManager[None]] = nullcontext
        """Entered while a request waits."""
        self._held = threading.BoundedSemaphore(max_held)
        self._waiter = Waiter(self._ended)
        self.depths = Depths(settings)
        self.hub = Hub(max_streams, max_held)
        self._definitions: dict[tuple[str, str, str | None], tuple[float, DefinitionInfo]] = {}

    # ------------------------------------------------------------ the client
    @property
    def client(self) -> EmbeddedClient:
        """The client, its database opened and its schema checked; raises `StorageUnavailable`."""
        if not self._opened:
            self._open()
        return self._client

    @property
    def store(self) -> Store:
        """The client's store."""
        return self.client.store

    def _open(self) -> None:
        # One opens, the others wait for it, but none beyond the deadline: with a silent database each try takes all of it.
        if not self._opening.acquire(timeout=self.settings.timeout):
            raise StorageUnavailable("the database has not answered yet")
        try:
            _ = self._client.store
            self._opened = True
        except ConfigurationError as error:
            log.error("%s", error)
            raise StorageUnavailable(str(error), retry_after=5.0) from error
        finally:
            self._opening.release()

    @property
    def opened(self) -> bool:
        """Whether there was a connection to the database."""
        return self._opened

    def now(self) -> int:
        """The server's clock, microseconds since the Unix epoch; without a call of the database."""
        return self._client.now() if self._opened else now_us()

    def broker_state(self) -> str:
        """`up`, `down`, or `unknown` while nothing was published from here yet."""
        publisher = self.client.publisher
        if publisher.down:
            return "down"
        return "up" if publisher.confirmed else "unknown"

    # ------------------------------------------------------------ definitions
    def definition(self, store: Store, name: str, version: str | None = None, kind: str | None = None) -> DefinitionInfo:
        """The definition that is registered under a name in the store's namespace, in this version or in that which was
        registered last.

        :param kind: the kind that the caller expects.
        :raises UnknownTask: with the closest names, or with the versions that there are.
        :raises ConfigurationError: it is of another kind.
        """
        cached = self._definitions.get((store.namespace, name, version))
        if cached is not None and time.monotonic() < cached[0] and kind in (None, cached[1].kind):
            return cached[1]
        found = store.definition(name, version)
        if found is None:
            versions = [] if version is None else store.versions_of(name)
            closest = [] if versions else store.closest_names(name)
            raise UnknownTask(name, closest, version=version, versions=versions)
        if kind not in (None, found.kind):
            raise ConfigurationError(f"kind: {name} is registered as a {found.kind}, not as a {kind}; leave kind out")
        if len(self._definitions) >= MAX_DEFINITIONS:
            self._definitions.clear()
        self._definitions[store.namespace, name, version] = (time.monotonic() + DEFINITION_TTL, found)
        return found

    def register(self, client: EmbeddedClient, definitions: Sequence[DefinitionInfo]) -> None:
        """Make definitions known in the client's namespace."""
        client.register(definitions)
        namespace = client.store.namespace
        for item in definitions:
            self._definitions.pop((namespace, item.name, item.version), None)
            self._definitions.pop((namespace, item.name, None), None)

    # ------------------------------------------------------------ waiting
    @contextmanager
    def holding_a_thread(self) -> Iterator[bool]:
        """Whether one more request may keep its thread for long; it counts among those that wait."""
        got = self._held.acquire(blocking=False)
        try:
            yield got
        finally:
            if got:
                self._held.release()

    def hold(self, namespace: str, run_id: str, seconds: float) -> None:
        """Wait until the run ends, `seconds` are over or the server stops; not at all if too many wait already."""
        if not self._held.acquire(blocking=False):
            return
        try:
            with self.holding():
                self._waiter.wait(f"{namespace}/{run_id}", seconds)
        finally:
            self._held.release()

    def _ended(self, waiting: Sequence[str]) -> dict[str, State]:
        """One query for each namespace of those who wait."""
        by_namespace: dict[str, list[str]] = {}
        for namespace, _, run_id in (item.partition("/") for item in waiting):
            by_namespace.setdefault(namespace, []).append(run_id)
        out: dict[str, State] = {}
        for namespace, run_ids in by_namespace.items():
            ended = self.client.acting("", namespace).store.ended(run_ids)
            out |= {f"{namespace}/{run_id}": state for run_id, state in ended.items()}
        return out

    # ------------------------------------------------------------ end
    def release(self) -> None:
        """Send home all who wait, now and from now on."""
        self._waiter.close()
        self.hub.close()

    def close(self) -> None:
        """Send home all who wait, publish what is to be published, let go of connections."""
        self.release()
        self._client.close()
