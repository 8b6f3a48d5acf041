"""What a worker said once does not count a second time."""

from __future__ import annotations

from aiki import messages as m
from aiki.clock import SECOND
from aiki.messages import Heartbeat
from aiki.orchestrator.freshness import WINDOW, WORKERS, Freshness

NOW = 1_800_000_000 * SECOND


def beat(kind: str, worker: str = "w", **fields: object) -> Heartbeat:
    return Heartbeat("default", kind, worker, [], fields)


def test_a_hello_counts_once() -> None:
    fresh = Freshness(lambda: NOW)
    assert fresh.is_fresh(beat(m.HELLO, nonce=5))
    assert not fresh.is_fresh(beat(m.HELLO, nonce=5))
    assert not fresh.is_fresh(beat(m.HELLO, nonce=4))
    assert fresh.is_fresh(beat(m.HELLO, nonce=6))
    assert fresh.is_fresh(beat(m.HELLO, "another", nonce=5))
    assert not fresh.is_fresh(beat(m.HELLO))
    assert not fresh.is_fresh(beat(m.HELLO, nonce="7"))


def test_what_else_it_says_counts_for_some_minutes() -> None:
    now = NOW
    fresh = Freshness(lambda: now)
    said = [beat(kind, at=NOW) for kind in (m.BEAT, m.ANSWER, m.BYE)]
    assert all(map(fresh.is_fresh, said))
    now += (WINDOW - 1) * SECOND
    assert all(map(fresh.is_fresh, said))
    now += 2 * SECOND
    assert not any(map(fresh.is_fresh, said))
    assert not fresh.is_fresh(beat(m.BEAT))
    now = NOW - (WINDOW + 1) * SECOND  # the clock here was put back
    assert not any(map(fresh.is_fresh, said))


def test_the_memory_is_bounded() -> None:
    fresh = Freshness(lambda: NOW)
    for number in range(WORKERS + 10):
        assert fresh.is_fresh(beat(m.HELLO, str(number), nonce=1))
    assert len(fresh._hellos) == WORKERS
