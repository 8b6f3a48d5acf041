"""Nothing short waits behind a slow task while a child is idle; nobody hoards."""

from __future__ import annotations

import time
from collections import defaultdict

import pytest

from tests.scale import scaled
from tests.system.system import System

SLOW = scaled(4.0, 20.0)
SHORT = 50
PATIENCE = 0.8
"""Seconds that a short task may wait although a child is idle: 250 ms are meant, the rest is for a busy machine. Below the
second after which a child gives back what it holds even if nobody is idle."""


def longest_wait(system: System, tasks: set[str], since: float) -> float:
    """The longest time for which one of the tasks, enqueued at `since`, waited while some child was idle all the while."""
    spans: dict[int, list[tuple[float, float]]] = defaultdict(list)
    began: dict[str, tuple[int, float]] = {}
    for kind, what, pid, at in sorted(system.marks(), key=lambda mark: mark[3]):
        if kind == "start":
            began[what] = (pid, at)
        elif what in began:
            spans[pid].append((began[what][1], at))
    starts = sorted(at for what, (_, at) in began.items() if what in tasks)
    assert len(starts) == len(tasks)
    longest = 0.0
    for busy in spans.values():
        edges = [since, *(max(edge, since) for span in busy for edge in span), starts[-1]]
        # A child is idle from the end of a task to the start of its next; what starts later than that has waited so long.
        for idle_from, idle_to in zip(edges[0::2], edges[1::2], strict=False):
            waiting_until = min(idle_to, max((at for at in starts if at > idle_from), default=idle_from))
            longest = max(longest, waiting_until - idle_from)
    return longest


def warm_up(system: System, tasks: int) -> None:
    """Have the children learn that tasks are short: then they prefetch many."""
    system.app().definitions["shop.noop"].enqueue_many([(i,) for i in range(tasks)])
    system.wait_ended(tasks)


def check(system: System, already: int, since: float) -> None:
    system.wait_states(SLOW + 60, completed=already + SHORT + 1)
    marks = {(kind, what): at for kind, what, _, at in system.marks()}
    shorts = {str(i) for i in range(1, SHORT + 1)}
    waited = longest_wait(system, shorts, since)
    print(f"\nthe longest wait beside an idle child: {waited * 1000:.0f} ms")
    assert waited < PATIENCE
    assert max(marks["start", what] for what in shorts) < marks["done", "0"]
    assert set(system.starts().values()) == {1}


@pytest.mark.parametrize("warm", [0, 500], ids=["cold", "warm"])
def test_short_tasks_enqueued_one_by_one_pass_a_slow_one(system: System, warm: int) -> None:
    system.orchestrator()
    system.worker(concurrency=2)
    warm_up(system, warm)
    nap = system.app().definitions["shop.nap"]
    nap.enqueue(0, SLOW)
    for i in range(1, SHORT + 1):
        nap.enqueue(i, 0.01)
    check(system, warm, time.time())


@pytest.mark.parametrize("warm", [0, 500], ids=["cold", "warm"])
def test_short_tasks_in_one_list_with_a_slow_first_one_pass_it(system: System, warm: int) -> None:
    system.orchestrator()
    system.worker(concurrency=2)
    warm_up(system, warm)
    nap = system.app().definitions["shop.nap"]
    nap.options(batch=51).enqueue_many([(0, SLOW), *((i, 0.01) for i in range(1, SHORT + 1))])
    check(system, warm, time.time())


def test_an_idle_child_of_another_worker_is_not_kept_waiting_for_long(system: System) -> None:
    system.orchestrator()
    system.worker("-n", "one", concurrency=1)
    system.worker("-n", "two", concurrency=1)
    nap = system.app().definitions["shop.nap"]
    nap.enqueue_many([(0, SLOW), *((i, 0.01) for i in range(1, SHORT + 1))])
    since = time.time()
    system.wait_states(SLOW + 60, completed=SHORT + 1)
    # The children of two workers do not see each other: what waits is given back after a second at the latest.
    assert longest_wait(system, {str(i) for i in range(1, SHORT + 1)}, since) < 2.0


def test_tasks_enqueued_together_are_spread_over_the_children(system: System) -> None:
    system.orchestrator()
    system.worker(concurrency=4)
    system.app().definitions["shop.nap"].enqueue_many([(i, 0.3) for i in range(20)])
    system.wait_states(60, completed=20)
    marks = list(system.marks())
    took = max(at for *_, at in marks) - min(at for *_, at in marks)
    running = most = 0
    for kind, *_ in sorted(marks, key=lambda mark: (mark[3], mark[0] == "start")):
        running += 1 if kind == "start" else -1
        most = max(most, running)
    print(f"\n20 tasks of 0.3 s on 4 children took {took:.2f} s, {most} at a time")
    assert most == 4
    assert took < 3.5  # 1.5 s at best, 6 s one after the other
