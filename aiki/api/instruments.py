"""Metrics that a server process measures of itself: durations of requests, requests that are held, open streams.

Gunicorn's workers are processes: each writes its values into files of one directory (`MULTIPROCESS`, made by the master before
it forks), and the one that is scraped adds them up. Without that directory the values are this process's own.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiki.clock import now_us

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

MEMORY: Final = "/dev/shm"  # noqa: S108  (a directory in memory; what is made there is this process's own)
MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that prometheus_client looks at when it is first imported: so nothing here imports it at the top."""
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0, 30.0)
SINCE: Final = "since"
"""The file with the time at which the counters of all processes begin."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Instruments:
    """The instruments of one app. Labels come from the app's own table of addresses, never from what is asked for."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Gauge, Histogram

        self._shared = bool(os.environ.get(MULTIPROCESS))
        # In several processes the files hold the values, and a registry must not hold them a second time.
        self._registry = None if self._shared else CollectorRegistry()
        self._durations = Histogram(
            "aiki_http_request_duration_seconds",
            "Time from a request's arrival to its answer; held and streamed requests are left out.",
            ("endpoint", "method", "status"),
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._held = Gauge(
            "aiki_http_requests_held",
            "Requests that wait for a run to end.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )
        self._streams = Gauge(
            "aiki_http_streams", "Open server-sent event streams.", registry=self._registry, multiprocess_mode="livesum"
        )

    def answered(self, endpoint: str | None, method: str, status: int, seconds: float) -> None:
        """A request was answered."""
        known = method if method in METHODS else "other"
        self._durations.labels(endpoint or "none", known, f"{status // 100}xx").observe(seconds)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """While a request waits for a run's end."""
        with self._held.track_inprogress():
            yield

    def streams(self, count: int) -> None:
        """So many streams are open in this process."""
        self._streams.set(count)

    def registry(self) -> CollectorRegistry:
        """The values of all processes of the server."""
        if self._registry is not None:
            return self._registry
        from prometheus_client import CollectorRegistry
        from prometheus_client.multiprocess import MultiProcessCollector

        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return together


def counted_since() -> int:
    """When counters begin (microseconds): the same in all processes of a server, so that none ever falls."""
    folder = os.environ.get(MULTIPROCESS)
    return int((Path(folder) / SINCE).read_text()) if folder else now_us()


# ---------------------------------------------------------------- for the process that forks the others
def share() -> str:
    """Have the processes that are forked from here on share their values; the directory, for `unshare`.

    Where no directory can be written, not even the memory that systems offer as one, it is empty, and nothing is shared.
    """
    for place in (None, MEMORY):
        try:
            folder = tempfile.mkdtemp(prefix="aiki-metrics-", dir=place)
            (Path(folder) / SINCE).write_text(str(now_us()))
        except OSError:
            continue
        os.environ[MULTIPROCESS] = folder
        return folder
    log.warning(
        "no directory for temporary files can be written (neither TMPDIR nor %s): /metrics tells of one process at a time",
        MEMORY,
    )
    return ""


def unshare(folder: str) -> None:
    """Take the directory away."""
    os.environ.pop(MULTIPROCESS, None)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def left(pid: int) -> None:
    """A process has ended: what it held counts no more, what it counted does."""
    folder = os.environ.get(MULTIPROCESS)
    if folder:
        for path in Path(folder).glob(f"gauge_live*_{pid}.db"):
            with suppress(OSError):
                path.unlink()
