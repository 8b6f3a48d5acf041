"""The broker as a process uses it that knows the database: with the installation's signatures, and only if it is this one's.

The broker keeps a record of whose it is. A second installation that is pointed at the same broker under the same prefix, a
staging copy or a developer's machine, would take the first one's reports and throw them away. So each session looks at that
record first, and is refused if it names another.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from aiki.broker import BrokerForeign, Session, broker_of
from aiki.broker.signed import SignedBroker
from aiki.errors import StorageUnavailable
from aiki.settings import Settings, hidden
from aiki.signing import REQUIRE, Installation, Keys
from aiki.storage import Store
from aiki.storage.engine import safe_url

FRESH: Final = 5.0
"""Seconds for which what was read of the installation counts."""
LOOK_AGAIN: Final = 1.0
"""Seconds between two looks because of a signature that is not known."""


class InstallationRing:
    """The keys of all namespaces of an installation; see `aiki.signing.Ring`. Threads may share it."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._installation = store.installation()
        self._read_at = monotonic()
        self._keys: dict[str, Keys] = {}
        self._switched = False

    @property
    def installation(self) -> Installation:
        """As it was when it was last looked at: a few seconds ago at the most, unless the database is away."""
        if self._monotonic() - self._read_at > FRESH:
            self._read()
        return self._installation

    @property
    def required(self) -> bool:
        """See `Ring`."""
        return self.installation.signatures == REQUIRE

    def keys(self, namespace: str) -> Keys | None:
        """See `Ring`."""
        installation = self.installation
        now = self._store.clock() if installation.other is not None else 0
        if self._switched is not (installation.other is not None and now >= installation.switch_at):
            self._switched = not self._switched
            self._keys = {}
        known = self._keys.get(namespace)
        if known is None:
            known = self._keys[namespace] = installation.keys(namespace, now)
        return known

    def refresh(self) -> bool:
        """See `Ring`."""
        return self._monotonic() - self._read_at > LOOK_AGAIN and self._read()

    def _read(self) -> bool:
        with self._lock:
            self._read_at = self._monotonic()  # also if it fails: what is known counts on
            try:
                found = self._store.installation()
            except StorageUnavailable:
                return False
            if found == self._installation:
                return False
            self._installation, self._keys = found, {}
            return True


def owned_broker(settings: Settings, store: Store, *, heartbeat: int = 0) -> tuple[SignedBroker, InstallationRing]:
    """The broker that the settings name, for a process that knows the database. Raises `StorageUnavailable`."""
    ring = InstallationRing(store)

    def claim(session: Session) -> None:
        try:
            session.claim(ring.installation.id)
        except BrokerForeign as error:
            raise foreign(error, settings, store, ring.installation.id) from None

    return SignedBroker(broker_of(settings, heartbeat=heartbeat), ring, claim), ring


def foreign(error: BrokerForeign, settings: Settings, store: Store, installation: str) -> BrokerForeign:
    """The error in words that say what to do."""
    return BrokerForeign(
        error.owner,
        f"the broker at {hidden(settings.broker_url)} (prefix {settings.prefix}) is that of installation {error.owner}, and "
        f"the database at {safe_url(store.db.url)} is installation {installation}: nothing is taken from it or sent to it. "
        "Give one of the two another AIKI_PREFIX, virtual host or database. If the other database is gone for good: "
        "aiki installation take-broker",
    )
