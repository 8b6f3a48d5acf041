"""The metrics as Prometheus reads them: names, labels, and where each value comes from.

Labels are namespaces, states, queues, registered names and addresses of the API: bounded, and never what a request says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import aiki
from aiki.clock import SECOND
from aiki.storage.gauging import Gauged
from aiki.storage.statistics import Totals
from aiki.storage.tallying import BOUNDS, COLUMNS, COUNTERS, RAN, WAITED

if TYPE_CHECKING:
    from aiki.api.metrics import Seen


MAX_NAMES: Final = 100
"""Names and queues of a namespace that have series of their own."""
SOURCES: Final = ("reports", "heartbeat", "work", "runs")
"""Counters that are shown from the start, so that the first refusal is seen as a rise."""
OUTCOMES: Final = ("completed", "failed", "dead", "cancelled")
TOLD: Final = (10, 50, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 3_600_000)
"""Milliseconds: those of the bounds of the histograms in the database that are told."""
assert set(TOLD) <= set(BOUNDS)


class Series(Collector):
    """A snapshot as metrics, of `namespaces` alone if they are named."""

    def __init__(self, seen: Seen, now: int, namespaces: frozenset[str] | None) -> None:
        self._seen = seen
        self._now = now
        self._namespaces = namespaces

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        seen = self._seen
        yield _gauge("aiki_info", "The server's version.", ("version",), {(aiki.__version__,): 1})
        up = {("database",): seen.database is not None, ("broker",): seen.depths is not None}
        yield _gauge("aiki_up", "1: the part answered when it was last asked.", ("part",), up)
        yield _gauge("aiki_metrics_seconds", "How long it took to look at database and broker.", (), {(): seen.took})
        if seen.database is not None:
            yield from self._runs(seen.database)
            yield from self._workers(seen.database)
            yield from self._outbox(seen.database)
            yield from self._totals()
        if seen.depths is not None:
            yield from self._broker(seen)

    def _visible(self, values: Mapping[Any, float]) -> dict[Any, float]:
        """Those whose first label, the namespace, may be seen."""
        return {key: value for key, value in values.items() if self._namespaces is None or key[0] in self._namespaces}

    def _seconds_since(self, moment: int) -> float:
        return max(0.0, (self._now - moment) / SECOND)

    def _runs(self, found: Gauged) -> Iterator[Metric]:
        yield _gauge(
            "aiki_runs",
            "Runs that have not ended, by state; 100000 stands for that many or more.",
            ("namespace", "state"),
            self._visible(found.runs),
        )
        oldest = {key: self._seconds_since(since) for key, since in found.queues.items()}
        yield _gauge(
            "aiki_queue_oldest_seconds",
            "How long the oldest queued run of a queue has been waiting.",
            ("namespace", "queue"),
            self._visible(oldest),
        )
        paused = dict.fromkeys(found.paused, 1)
        yield _gauge("aiki_queue_paused", "1: people have paused the queue.", ("namespace", "queue"), self._visible(paused))

    def _workers(self, found: Gauged) -> Iterator[Metric]:
        workers = {(namespace,): count for namespace, count in found.workers.items()}
        yield _gauge("aiki_workers", "Live workers.", ("namespace",), self._visible(workers))
        yield _gauge(
            "aiki_worker_children",
            "Child processes of live workers: busy or idle.",
            ("namespace", "state"),
            self._visible(found.children),
        )

    def _outbox(self, found: Gauged) -> Iterator[Metric]:
        letters = {(namespace,): count for namespace, count in found.dead_letters.items()}
        yield _gauge(
            "aiki_dead_letters",
            "Messages kept because nobody could read or place them.",
            ("namespace",),
            self._visible(letters),
        )
        waiting = {(namespace,): counts[0] for namespace, counts in found.webhooks.items()}
        given_up = {(namespace,): counts[1] for namespace, counts in found.webhooks.items()}
        labels = ("namespace",)
        yield _gauge("aiki_webhook_deliveries", "Webhooks' deliveries that wait.", labels, self._visible(waiting))
        yield _gauge("aiki_webhook_given_up", "Webhooks' deliveries that were given up.", labels, self._visible(given_up))
        if self._namespaces is not None:
            return
        yield _gauge("aiki_orchestrators", "Orchestrators that were heard lately.", (), {(): found.orchestrators})
        if found.orchestrator_heard is not None:
            silent = self._seconds_since(found.orchestrator_heard)
            yield _gauge("aiki_orchestrator_heard_seconds", "How long ago any orchestrator was heard.", (), {(): silent})
        refused = CounterMetricFamily(
            "aiki_refused",
            "Messages, runs and duties of orchestrators that failed and were set apart, by what they were.",
            labels=("source",),
        )
        for source, count in {**dict.fromkeys(SOURCES, 0), **found.refused}.items():
            refused.add_metric((source,), count)
        yield refused
        yield _gauge("aiki_outbox_deliveries", "Deliveries that are recorded, due or not.", (), {(): found.outbox})
        yield _gauge("aiki_outbox_due", "Deliveries that are due and not published yet.", (), {(): found.due})
        late = 0.0 if found.oldest_due is None else self._seconds_since(found.oldest_due)
        yield _gauge("aiki_outbox_oldest_due_seconds", "For how long the oldest of them has been due.", (), {(): late})

    def _totals(self) -> Iterator[Metric]:
        ended = CounterMetricFamily("aiki_runs_ended", "Runs that ended, by how.", labels=("namespace", "name", "outcome"))
        begun = CounterMetricFamily("aiki_runs_started", "Runs that began to execute.", labels=("namespace", "name"))
        again = CounterMetricFamily("aiki_attempts_retried", "Further attempts.", labels=("namespace", "name"))
        waited = HistogramMetricFamily(
            "aiki_run_waiting_seconds", "From a run's dispatch to its start.", labels=("namespace", "queue")
        )
        ran = HistogramMetricFamily("aiki_run_running_seconds", "From a run's start to its end.", labels=("namespace", "name"))
        for namespace, totals in self._seen.totals.items():
            if self._namespaces is not None and namespace not in self._namespaces:
                continue
            for name, sums in _summed(totals, 0).items():
                begun.add_metric((namespace, name), sums[COLUMNS.index("started")])
                again.add_metric((namespace, name), sums[COLUMNS.index("retried")])
                for outcome in OUTCOMES:
                    ended.add_metric((namespace, name, outcome), sums[COLUMNS.index(outcome)])
                ran.add_metric((namespace, name), *_histogram(sums, RAN[0], "ran_ms"))
            for queue, sums in _summed(totals, 1).items():
                waited.add_metric((namespace, queue), *_histogram(sums, WAITED[0], "waited_ms"))
        yield from (begun, ended, again, waited, ran)

    def _broker(self, seen: Seen) -> Iterator[Metric]:
        ready = {key: depth.ready for key, depth in (seen.depths or {}).items()}
        consumers = {key: depth.consumers for key, depth in (seen.depths or {}).items()}
        labels = ("namespace", "queue")
        yield _gauge(
            "aiki_queue_messages", "Messages that wait in a queue; each carries up to 50 runs.", labels, self._visible(ready)
        )
        yield _gauge(
            "aiki_queue_consumers", "Consumers of a queue: about one a child process.", labels, self._visible(consumers)
        )
        if self._namespaces is not None:
            return
        waiting = {(str(number),): depth.ready for number, depth in seen.reports.items()}
        listening = {(str(number),): depth.consumers for number, depth in seen.reports.items()}
        yield _gauge("aiki_report_queue_messages", "Reports that wait for an orchestrator.", ("partition",), waiting)
        yield _gauge("aiki_report_queue_consumers", "Orchestrators that listen to a partition.", ("partition",), listening)
        yield _gauge("aiki_dead_queue_messages", "Dead letters that no orchestrator has taken yet.", (), {(): seen.dead})
        yield _gauge("aiki_broker_blocked", "1: the broker takes no messages (a memory or disk alarm).", (), {(): seen.blocked})


def _summed(totals: Totals, by: int) -> dict[str, list[int]]:
    """Sums by name (0) or by queue (1): of those with the most ends, all others together as `other`."""
    sums: dict[str, list[int]] = {}
    for name, queue, numbers in totals.rows:
        into = sums.setdefault(name if by == 0 else queue, [0] * len(COLUMNS))
        for at, number in enumerate(numbers):
            into[at] += number
    if len(sums) <= MAX_NAMES:
        return sums
    most = sorted(sums, key=lambda key: -sum(sums[key][: len(COUNTERS)]))
    other = [sum(numbers) for numbers in zip(*(sums[key] for key in most[MAX_NAMES:]), strict=True)]
    return {**{key: sums[key] for key in most[:MAX_NAMES]}, "other": other}


def _histogram(sums: list[int], first: str, total: str) -> tuple[list[tuple[str, float]], float]:
    at = COLUMNS.index(first)
    counts = list(accumulate(sums[at : at + len(BOUNDS) + 1]))
    buckets = [(str(bound / 1000), float(counts[BOUNDS.index(bound)])) for bound in TOLD]
    return [*buckets, ("+Inf", float(counts[-1]))], sums[COLUMNS.index(total)] / 1000


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, float(value))
    return family


def write(seen: Seen, now: int, namespaces: frozenset[str] | None, own: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The text and its content type; `own` holds what the server measures of itself."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Series(seen, now, namespaces))
    registry.register(_Own(own))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Own(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self._registry.collect()
