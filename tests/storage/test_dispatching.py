"""What dispatches carry, by bytes: what is loaded at once, and what of a long history stays outside of it."""

from __future__ import annotations

import pytest

from aiki import messages as m
from aiki.ceilings import HISTORY_FULL, HISTORY_INLINE
from aiki.history import History, ValueKey, Wait
from aiki.storage import Store, dispatching
from tests.storage.bench import QUEUED, Bench, child, step, submission
from tests.storage.conftest import SetClock

NAP = Wait("sleep", 30, 30, "nap", None, 1.0)


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    emptied_store.can_fetch = lambda namespace: True
    return Bench(emptied_store, clock)


def text(size: int, letter: str = "x") -> str:
    return f'"{letter * (size - 2)}"'


def long(bench: Bench, count: int, size: int) -> str:
    """A workflow with results of `count` steps of so many bytes each, dispatched after a sleep."""
    run = bench.start()
    steps = [step(n, "step", "large", "completed", 1, e="json", r=text(size, chr(97 + n % 26))) for n in range(count)]
    bench.suspend(run, NAP, steps=(*steps, step(count, "sleep", "nap")))
    bench.out.pop(run)
    bench.clock.move(1)
    return run


def fetched(bench: Bench, run: str) -> tuple[History, list[ValueKey]]:
    """The history that was sent, and the values that were looked up when all of it was looked at."""
    asked: list[ValueKey] = []

    def fetch(key: ValueKey) -> str:
        asked.append(key)
        found = bench.store.values("default", run, [key])[key]
        assert found is not None
        return found

    history = History.from_wire(bench.out[run].options[m.OPT_HISTORY], fetch)
    return history, asked


def test_a_short_history_is_sent_whole(bench: Bench) -> None:
    run = long(bench, 9, 100_000)
    bench.sweep()
    history, asked = fetched(bench, run)
    assert (len(history.steps), history.outside, bench.out[run].options[m.OPT_KIND]) == (10, [], "workflow")
    assert [len(one.payload.text) for one in history.steps[:9] if one.payload] == [100_000] * 9
    assert asked == []


def test_of_a_long_history_the_largest_values_stay_outside(bench: Bench) -> None:
    run, part = bench.start(), child()
    small, large = text(300), text(HISTORY_INLINE, "y")
    steps = (step(0, "step", "a", "completed", 1, e="json", r=small), step(1, "step", "b", "completed", 1, e="json", r=large))
    bench.suspend(run, Wait("child", 2, 2, ""), steps=(*steps, submission(2, part)))
    bench.complete(bench.id(part), "z" * 500_000)
    bench.stir()
    assert bench.out[run].options[m.OPT_KIND] == m.KIND_OUTSIDE, "a worker that cannot fetch does not know it"
    assert len(m.DispatchList("default", "q", [bench.out[run]]).encode()) < HISTORY_INLINE
    history, asked = fetched(bench, run)
    assert [key[:2] for key, _ in history.outside] == [("s", 1)]
    assert [one.payload.text for one in history.steps[:2] if one.payload] == [small, large]
    assert [arrival.payload.text for arrival in history.arrivals if arrival.payload] == [text(500_002, "z")]
    assert set(asked) == {ValueKey("s", 1, "r")}


def test_a_history_goes_whole_while_a_worker_of_an_earlier_release_is_there(bench: Bench) -> None:
    bench.store.can_fetch = lambda namespace: False
    run, longer = long(bench, 20, 100_000), long(bench, 14, 1_000_000)
    bench.sweep()
    bench.sweep()
    history, _ = fetched(bench, run)
    assert history.outside == []
    assert HISTORY_FULL < 14 * 1_000_000
    history, _ = fetched(bench, longer)
    assert history.outside, "no message could carry it"


def test_whoever_knows_no_workers_leaves_a_long_history_to_an_orchestrator(bench: Bench) -> None:
    run = long(bench, 20, 100_000)
    bench.store.can_fetch = None
    assert bench.sweep() == []
    bench.store.can_fetch = lambda namespace: True
    assert bench.sweep() == [run], "its delivery is due at once"
    assert bench.out[run].epoch == bench.row(run)["epoch"]


def test_what_is_too_much_at_once_is_taken_part_by_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "CLAIM_BYTES", 1_000_000)
    runs = {long(bench, 4, 100_000) for _ in range(6)}
    tasks = {bench.start("shop.task", "x" * 700_000, kind="task", due_at=bench.clock.now + 1) for _ in range(3)}
    bench.clock.move(1)
    rounds = []
    while found := bench.sweep():
        rounds.append(found)
    assert sorted(run for found in rounds for run in found) == sorted(runs | tasks), "each once"
    assert max(map(len, rounds)) <= 2
    assert {bench.state(run) for run in runs} == {QUEUED}


def test_values_are_answered_as_many_as_an_answer_carries(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "FETCH_BYTES", 250_000)
    run = long(bench, 5, 100_000)
    keys = [ValueKey("s", n, "r") for n in (3, 1, 2)]
    found = bench.store.values("default", run, keys)
    assert {key: len(value or "") for key, value in found.items()} == {keys[0]: 100_000, keys[1]: 100_000}
    gone = [ValueKey("s", 77, "r"), ValueKey("a", "00" * 16, "r"), ValueKey("s", 0, "tb")]
    assert bench.store.values("default", run, gone) == dict.fromkeys(gone)
    assert bench.store.values("other", run, keys[:1]) == {keys[0]: None}, "of no other namespace"
