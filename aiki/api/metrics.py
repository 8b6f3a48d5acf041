"""`GET /metrics`, for Prometheus.

The database and the broker are asked once in a few seconds, however many scrape, at a cost that is bounded by
`aiki.storage.gauging`; every server process gives the same values. The processes' own measurements are in `instruments.py`,
the format is in `series.py`. While the database or the broker is away, `aiki_up` shows it, and the metrics that do not need it
remain.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from flask import Blueprint, Flask, Response, current_app, request

from aiki.api.access import Principal, Role, needs, principal
from aiki.api.backend import Backend
from aiki.api.instruments import Instruments, counted_since
from aiki.broker import DEAD, Depth, broker_of, reports, work
from aiki.errors import AikiError
from aiki.settings import Settings
from aiki.storage.gauging import Gauged
from aiki.storage.statistics import Totals

log = logging.getLogger(__name__)

PATH: Final = "/metrics"
TTL: Final = 5.0
"""Seconds for which a snapshot is served again."""
MAX_NAMESPACES: Final = 50
"""Namespaces whose counters are shown."""
MAX_QUEUES: Final = 200
"""Queues that have series of their own; what a broker is asked about is bounded too."""

blueprint = Blueprint("metrics", __name__)


@dataclass(slots=True)
class Seen:
    """A snapshot of the database and the broker; None where one could not be asked."""

    database: Gauged | None = None
    depths: dict[tuple[str, str], Depth] | None = None
    reports: dict[int, Depth] = field(default_factory=dict)
    dead: int = 0
    blocked: bool = False
    totals: dict[str, Totals] = field(default_factory=dict)
    took: float = 0.0


class Observer:
    """Looks at the database and the broker, once in `TTL` seconds."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self._settings = settings
        self._backend = backend
        self._looking = threading.Lock()
        self._seen: Seen | None = None
        self._until = 0.0
        self._since = counted_since()

    def look(self) -> Seen:
        """The cached snapshot. While one request refreshes it, others get the previous one, if there is one."""
        if self._seen is not None and (time.monotonic() < self._until or self._looking.locked()):
            return self._seen
        with self._looking:
            if self._seen is None or time.monotonic() >= self._until:
                self._seen = self._look()
                self._until = time.monotonic() + TTL
            return self._seen

    def _look(self) -> Seen:
        began = time.monotonic()
        seen = Seen()
        marked: set[tuple[str, str]] = set()
        try:
            store = self._backend.store
            seen.database = store.gauge()
            marked = store.marked_queues()
            namespaces = sorted({namespace for namespace, _ in seen.database.runs})[:MAX_NAMESPACES]
            seen.totals = {name: store.of(name).totals(self._since) for name in namespaces}
        except AikiError as error:
            log.warning("metrics: %s", error)
        names = sorted(seen.database.names)[:MAX_QUEUES] if seen.database else []
        try:
            self._ask_broker(names, marked, seen)
        except AikiError as error:
            log.warning("metrics: %s", error)
        seen.took = time.monotonic() - began
        return seen

    def _ask_broker(self, names: Iterable[tuple[str, str]], marked: set[tuple[str, str]], seen: Seen) -> None:
        settings = self._settings
        broker = broker_of(settings, what="metrics")
        session = broker.connect("aiki metrics", min(2.0, settings.timeout))
        try:
            depths = {name: session.depth(work(*name)) for name in names}
            partitions = {
                number: session.depth(reports(number)) for number in range(self._backend.store.installation().reading)
            }
            dead = session.depth(DEAD)
            session.receive(0.0)
            seen.blocked = bool(session.blocked)
        finally:
            session.close()
        seen.depths = {
            name: depth.without_marker() if name in marked else depth for name, depth in depths.items() if depth is not None
        }
        seen.reports = {number: depth for number, depth in partitions.items() if depth is not None}
        seen.dead = dead.ready if dead else 0


class Metrics:
    """All that the metrics of one app need."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.instruments = Instruments()
        self.observer = Observer(settings, backend)
        self.backend = backend
        self._token = settings.metrics_token

    def visitor(self, path: str, authorization: str) -> Principal | None:
        """Who scrapes with the token that opens this address and nothing else; None where the usual ways in count."""
        scheme, _, given = authorization.partition(" ")
        if not self._token or path != PATH or scheme.lower() != "bearer":
            return None
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token.encode("utf-8", "replace"))
        return Principal("metrics", Role.VIEWER, "key") if same else None


def metrics_of(app: Flask) -> Metrics:
    """An app's metrics."""
    found = app.extensions["aiki.metrics"]
    assert isinstance(found, Metrics)
    return found


@blueprint.get(PATH)
@needs("look")
def metrics() -> Response:
    """All metrics; those of namespaces that the asking key may not see are left out."""
    # Not at the top: prometheus_client looks, when it is imported, whether the processes share their values.
    from aiki.api.series import write

    here = metrics_of(current_app)
    seen = here.observer.look()
    text, content_type = write(
        seen, here.backend.now(), principal().namespaces, here.instruments.registry(), request.headers.get("Accept", "")
    )
    return Response(text, content_type=content_type)
