"""How full the broker's work queues are: asked over a short-lived session, and remembered for a moment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Final

from aiki.broker import Broker, broker_of, work
from aiki.broker.base import Depth
from aiki.errors import BrokerUnavailable
from aiki.settings import Settings
from aiki.storage import Store

log = logging.getLogger(__name__)

FRESH: Final = 2.0
"""Seconds for which an answer counts, also that there was none."""
TIMEOUT: Final = 2.0


class Depths:
    """One a process; threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._broker = broker_of(settings) if settings.broker_url else None
        self._asking = threading.Lock()
        self._known: dict[tuple[str, str], tuple[float, Depth | None]] = {}
        self._down_until = 0.0

    def of(self, store: Store, queues: Sequence[str]) -> dict[str, Depth | None]:
        """Messages ready and consumers of each queue; None where there is no such queue, or the broker does not answer.

        Markers are not counted. `store` is bound to the namespace.
        """
        namespace = store.namespace
        with self._asking:
            now = time.monotonic()
            stale = [queue for queue in queues if self._known.get((namespace, queue), (0.0, None))[0] <= now]
            if stale and now >= self._down_until and self._broker is not None:
                self._ask(self._broker, store, stale)
            self._known = {key: item for key, item in self._known.items() if item[0] > now or key[0] == namespace}
            return {queue: self._known.get((namespace, queue), (0.0, None))[1] for queue in queues}

    def _ask(self, broker: Broker, store: Store, queues: Sequence[str]) -> None:
        namespace = store.namespace
        marked = store.marked_queues(namespace)
        for queue in queues:
            self._known.pop((namespace, queue), None)
        try:
            session = broker.connect("aiki api queues", TIMEOUT)
            try:
                for queue in queues:
                    depth = session.depth(work(namespace, queue))
                    if depth is not None and (namespace, queue) in marked:
                        depth = depth.without_marker()
                    self._known[namespace, queue] = (time.monotonic() + FRESH, depth)
            finally:
                session.close()
        except BrokerUnavailable as error:
            log.warning("the broker does not say how full its queues are: %s", error)
            self._down_until = time.monotonic() + FRESH
