"""What is counted of runs: once each, whatever is repeated; and what needs attention."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import codec, ids
from aiki.clock import SECOND
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.model import NewRun
from aiki.states import State
from aiki.storage import Store
from aiki.storage.tallying import BOUNDS, BUCKETS, MINUTE, percentile
from tests.storage.conftest import SetClock

HOUR = 60 * MINUTE


def make(store: Store, count: int, name: str = "mail", queue: str = "default") -> list[bytes]:
    runs = [NewRun(str(ids.new_id()), name, codec.encode([[], {}]), queue=queue) for _ in range(count)]
    store.create_runs(runs)
    return [ids.to_bytes(run.id) for run in runs]


def end(store: Store, runs: list[bytes], state: State, millis: int = 0, *, start: bool = True, fail: bool = False) -> None:
    now = store.clock()

    def decide(rows: dict[bytes, RunRow], _effects: Effects) -> None:
        for row in rows.values():
            row.state = state.value
            row.started_at = now - millis * 1000 if start else row.started_at
            row.finished_at = now
        if fail:
            raise RuntimeError

    store.apply(store.namespace, runs, decide)


def test_what_ends_is_counted_once(store: Store, clock: SetClock) -> None:
    first = clock.now
    mails, reports = make(store, 6), make(store, 2, "report", "bulk")
    clock.move(3)
    end(store, mails[:3], State.COMPLETED, 200)
    with pytest.raises(RuntimeError):
        end(store, mails[3:], State.FAILED, 10, fail=True)
    end(store, mails[3:5], State.FAILED, 10)
    end(store, mails[5:], State.CANCELLED, start=False)
    clock.move(60)
    end(store, reports, State.DEAD, 40)
    assert store.fold_tallies() == 4
    assert store.fold_tallies() == 0
    counted = store.throughput(first, clock.now + 1, MINUTE)
    assert [(item.started, item.completed, item.failed, item.dead, item.cancelled) for item in counted] == [
        (5, 3, 2, 0, 1),
        (2, 0, 0, 2, 0),
    ]
    assert [item.at % MINUTE for item in counted] == [0, 0]
    assert sum(item.ended for item in store.throughput(first - HOUR, clock.now + 1, HOUR)) == 8
    assert [item.dead for item in store.throughput(first, clock.now + 1, MINUTE, queue="bulk")] == [0, 2]
    failing = store.top_failing(first, clock.now + 1)
    assert [(item.name, item.failed, item.ended) for item in failing] == [("mail", 2, 6), ("report", 2, 2)]
    assert store.state_counts()[State.COMPLETED].text == "3"
    assert store.state_counts(cap=2)[State.COMPLETED].text == "2+"
    found = store.latencies(first, clock.now + 1, name="mail")
    assert (found.running.count, found.running.mean) == (5, (3 * 200 + 2 * 10) / 5)
    assert 100 < (found.running.p95 or 0) <= 200
    assert found.waiting.count == 5
    assert 2000 < (found.waiting.p50 or 0) <= 5000
    nothing = store.latencies(first, clock.now + 1, name="nobody")
    assert nothing.running.p99 is None


def test_sums_are_kept_for_as_long_as_their_width_is_asked_for(store: Store, clock: SetClock) -> None:
    store.register_definitions_if_new("default", [("mail", "1", "task")])
    first = clock.now
    for _ in range(4):
        end(store, make(store, 5), State.COMPLETED, 5)
        store.fold_tallies()
        clock.move(3 * 3600)
    store.drop_old_statistics()
    assert sum(item.completed for item in store.throughput(clock.now - 5 * HOUR, clock.now, MINUTE)) == 5
    assert sum(item.completed for item in store.throughput(first, clock.now, HOUR)) == 20
    assert sum(item.completed for item in store.throughput(clock.now - 200 * 24 * HOUR, clock.now, 24 * HOUR)) == 20
    assert len(store.throughput(clock.now - 200 * 24 * HOUR, clock.now, MINUTE)) <= 2000


def test_two_may_fold_at_once_and_namespaces_are_apart(store: Store, open_store: Any, clock: SetClock) -> None:
    other = open_store(namespace="other")
    end(store, make(store, 3), State.COMPLETED)
    end(other, make(other, 4), State.FAILED)
    assert other.fold_tallies() == 2
    since = clock.now - MINUTE
    assert sum(item.completed for item in store.throughput(since, clock.now + 1, MINUTE)) == 3
    assert sum(item.ended for item in other.throughput(since, clock.now + 1, MINUTE)) == 4
    assert [item.name for item in store.top_failing(since, clock.now + 1)] == []
    assert other.state_counts()[State.COMPLETED].number == 0


def test_retries_are_counted(store: Store, clock: SetClock) -> None:
    runs = make(store, 2)

    def decide(rows: dict[bytes, RunRow], _effects: Effects) -> None:
        for row in rows.values():
            row.attempt += 1
            row.state = State.WAITING.value

    store.apply("default", runs, decide)
    store.fold_tallies()
    assert [item.retried for item in store.throughput(clock.now, clock.now + 1, MINUTE)] == [2]


def test_percentiles() -> None:
    buckets = [0] * BUCKETS
    assert percentile(buckets, 0.5) is None
    buckets[3] = 10
    assert BOUNDS[2] < (percentile(buckets, 0.5) or 0) < BOUNDS[3]
    buckets[-1] = 1
    assert (percentile(buckets, 0.99) or 0) > BOUNDS[-1]
    assert len(buckets) == 24


def test_what_needs_attention(store: Store, clock: SetClock) -> None:
    quiet = {item.kind for item in store.needs_attention()}
    assert quiet == {"no_orchestrator"}
    store.save_orchestrator(ids.new_id().hex, "alive", "here", 1, "1")
    assert store.needs_attention() == []
    stalled, running = make(store, 3, "checkout"), make(store, 1, "slow")
    make(store, 4, queue="bulk")
    dead = make(store, 1)

    def decide(rows: dict[bytes, RunRow], _effects: Effects) -> None:
        for raw, row in rows.items():
            row.state = State.RUNNING.value if raw in running else State.STALLED.value
            row.started_at = clock.now if raw in running else None
            row.waiting_on = None if raw in running else "no worker has checkout@1"

    store.apply("default", [*stalled, *running], decide)
    end(store, dead, State.DEAD)
    clock.move(2 * 3600)
    store.save_dead_letter("default", "reports", "unreadable", {}, b"x")
    found = {item.kind: item for item in store.needs_attention()}
    assert set(found) == {"no_orchestrator", "no_worker", "stalled", "stuck", "dead", "dead_letters"}
    assert found["no_worker"].text == "no worker takes from queue bulk; 4 runs wait"
    assert found["stalled"].text == "no worker has checkout@1; 3 runs are stalled"
    assert found["stuck"].text == "1 run of slow without progress, the longest for 2 h"
    assert found["no_worker"].since == clock.now - 7200 * SECOND
    for item in found.values():
        if item.where and item.count:
            from aiki.filters import parse

            assert store.count(parse(item.where)) == item.count, item
    store.pause_queue("bulk", actor="anna")
    assert "paused by anna" in next(item.text for item in store.needs_attention() if item.kind == "queue_paused")
