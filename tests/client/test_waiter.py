"""The waiter: one query for many, growing intervals, outages, event loops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence

import pytest

from aiki.client.waiter import MAX_INTERVAL, Waiter
from aiki.errors import StorageUnavailable
from aiki.states import State
from tests.waiting import wait_until


class Runs:
    """Which runs have ended, and what was asked."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.asked: list[list[str]] = []
        self.away = 0
        self.lock = threading.Lock()

    def ended(self, run_ids: Sequence[str]) -> Mapping[str, State]:
        with self.lock:
            self.asked.append([*run_ids])
            if self.away:
                self.away -= 1
                raise StorageUnavailable("away")
            return {run_id: State.COMPLETED for run_id in run_ids if run_id in self.done}


def test_a_wait_ends_with_the_run_or_with_the_time() -> None:
    runs = Runs()
    waiter = Waiter(runs.ended)
    assert not waiter.wait("a", 0.05)
    threading.Timer(0.05, runs.done.add, ["a"]).start()
    began = time.monotonic()
    assert waiter.wait("a", 20)
    assert time.monotonic() - began < 5
    assert len(waiter) == 0
    waiter.close()


def test_many_threads_share_one_query() -> None:
    runs = Runs()
    waiter = Waiter(runs.ended)
    answers: list[State | None] = []
    threads = [threading.Thread(target=lambda i=i: answers.append(waiter.wait(str(i % 10), 20))) for i in range(40)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    wait_until(lambda: any(len(asked) == 10 for asked in [*runs.asked]), 10, "a query for all ten runs")
    assert all(len(asked) == len(set(asked)) for asked in runs.asked)
    runs.done |= {str(i) for i in range(10)}
    for thread in threads:
        thread.join()
    assert answers == [State.COMPLETED] * 40
    waiter.close()


def test_the_interval_grows_with_the_time_waited() -> None:
    runs = Runs()
    now = [100.0]
    waiter = Waiter(runs.ended, clock=lambda: now[0])
    waiter._thread = threading.current_thread()  # the test polls
    entry = waiter._add("a", lambda: None)
    pauses = []
    for _ in range(400):
        now[0] = entry.due
        waiter.poll()
        pauses.append(entry.due - now[0])
    assert pauses[0] == pytest.approx(0.001)
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_INTERVAL
    assert len(runs.asked) == 400


def test_an_outage_is_waited_out() -> None:
    runs = Runs()
    runs.away = 2
    runs.done.add("a")
    waiter = Waiter(runs.ended)
    assert waiter.wait("a", 20)
    runs.away = 10**9
    assert not waiter.wait("a", 0.1)
    waiter.close()


def test_event_loops_are_told_and_may_be_gone() -> None:
    runs = Runs()
    waiter = Waiter(runs.ended)

    async def both() -> tuple[bool, bool]:
        asyncio.get_running_loop().call_later(0.05, runs.done.add, "a")
        return await waiter.await_end("a", 20), await waiter.await_end("b", 0.05)

    assert asyncio.run(both()) == (True, False)

    async def cancelled() -> None:
        task = asyncio.ensure_future(waiter.await_end("b", None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert len(waiter) == 0
    waiter.close()


def test_closing_sends_everybody_home() -> None:
    waiter = Waiter(Runs().ended)
    answers: list[State | None] = []
    thread = threading.Thread(target=lambda: answers.append(waiter.wait("a", None)))
    thread.start()
    wait_until(lambda: len(waiter) == 1)
    waiter.close()
    thread.join(10)
    assert answers == [None]
    assert not waiter.wait("a", None)
