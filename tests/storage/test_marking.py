"""Markers and what they prove: numbers of the database, no clocks."""

from __future__ import annotations

import pytest

from aiki import codec, ids
from aiki.messages import RunKey
from aiki.model import NewRun
from aiki.states import State
from aiki.storage import Store
from aiki.storage.marking import SEEN, UNSEEN, Mark
from tests.storage.conftest import SetClock

HOUR = 3600.0


@pytest.fixture
def store(emptied_store: Store) -> Store:
    return emptied_store


def published(store: Store, count: int = 1, **options: object) -> list[NewRun]:
    """Runs whose dispatch is out: published and confirmed."""
    runs = [NewRun(str(ids.new_id()), "a", codec.encode([[], {}]), **options) for _ in range(count)]  # type: ignore[arg-type]
    created = store.create_runs(runs, claim=5)
    store.delivered([item.delivery_id for item in created.outgoing])
    return runs


def pages(store: Store, queue: str = "default") -> list[RunKey]:
    """All revocations of a queue, a page of two after the other."""
    found: list[RunKey] = []
    place: tuple[int, bytes] | None = (UNSEEN, b"")
    while place is not None:
        keys, place = store.revocations("default", queue, place, 2)
        found += keys
    return found


def test_there_is_one_marker_at_a_time_and_numbers_only_rise(store: Store) -> None:
    assert store.mark("default", "q") == Mark(0, 0)
    assert store.next_marker("default", "q") == 1
    assert store.next_marker("default", "q") is None
    store.marker_taken("default", "q", 7)  # nobody has sent that
    assert store.mark("default", "q").out
    store.marker_taken("default", "q", 1)
    assert store.next_marker("default", "q") == 2
    store.marker_taken("default", "q", 1)  # once more
    assert store.mark("default", "q") == Mark(2, 1)
    assert store.next_marker("default", "q", lost=1) is None
    assert store.next_marker("default", "q", lost=2) == 3


def test_a_run_is_proven_by_the_marker_that_is_sent_after_it_was_looked_at(store: Store, clock: SetClock) -> None:
    [run] = published(store)
    key = (ids.to_bytes(run.id), 1)
    assert store.next_marker("default", "default") == 1
    clock.move(60)
    store.await_marker("default", "default", [key])  # behind the marker that is out: the next one proves it
    store.await_marker("default", "default", [(key[0], 2)])  # another epoch
    [found], _ = store.stale_queued("default", 30_000_000)
    assert found.marker == 2
    store.marker_taken("default", "default", 1)
    assert store.next_marker("default", "default") == 2
    assert store.mark("default", "default").taken < found.marker


def test_the_states_that_have_runs_are_found_namespace_by_namespace(store: Store) -> None:
    for number in range(7):
        other = store.of(f"n{number}")
        other.create_runs([NewRun(str(ids.new_id()), "a", codec.encode([[], {}]))])
    published(store, due_at=store.clock() + 10_000_000)
    published(store, 3)
    found, place = [], ""
    while place is not None:
        some, place = store.states_there(place, 2)  # type: ignore[assignment]
        found += some
    assert found == [("default", "queued"), ("default", "scheduled"), *((f"n{number}", "queued") for number in range(7))]


def test_a_revocation_outlives_its_run_and_goes_when_a_marker_proves_it(store: Store, clock: SetClock) -> None:
    [run] = published(store)
    store.cancel_run(run.id)
    clock.move(400 * 24 * HOUR)
    assert store.purge_runs("default", [ids.to_bytes(run.id)], clock.now) == 1
    assert store.get_run(run.id) is None
    key = RunKey(ids.to_bytes(run.id).hex(), 1)
    assert pages(store) == [key]
    assert store.revoked_queues() == [("default", "default")]
    assert store.next_marker("default", "default") == 1
    assert store.prove_revocations("default", "default", SEEN) == 0
    assert store.prove_revocations("default", "default", UNSEEN) == 1
    assert store.prove_revocations("default", "default", SEEN) == 1
    store.marker_taken("default", "default", 1)  # it was in the queue before
    assert store.drop_proven("default", "default") == (0, True)
    assert store.next_marker("default", "default") == 2
    assert store.drop_proven("default", "default") == (0, True)
    assert pages(store) == [key]
    store.marker_taken("default", "default", 2)
    assert store.drop_proven("default", "default") == (1, False)
    assert pages(store) == []


def test_what_was_never_sent_needs_no_revocation(store: Store, clock: SetClock) -> None:
    waiting = [NewRun(str(ids.new_id()), "a", codec.encode([[], {}]), kind=kind) for kind in ("task", "workflow")]
    later = NewRun(str(ids.new_id()), "a", codec.encode([[], {}]), due_at=clock.now + 10_000_000)
    late = NewRun(str(ids.new_id()), "a", codec.encode([[], {}]), expires_at=clock.now + 1_000_000)
    store.create_runs([*waiting, later, late])  # left to the sweeper
    for run in (*waiting, later):
        assert store.cancel_run(run.id).run.state is State.CANCELLED
    clock.move(2)
    store.expire("default", [ids.to_bytes(late.id)])
    assert pages(store) == []
    assert store.claim_due().outgoing == []
    [sent] = published(store)
    store.cancel_run(sent.id)
    assert pages(store) == [RunKey(ids.to_bytes(sent.id).hex(), 1)]


def test_pages_of_revocations_miss_none_while_they_move_on(store: Store) -> None:
    for queue in ("default", "other"):
        for run in published(store, 9, queue=queue):
            store.cancel_run(run.id)
    everything = set(pages(store))
    assert len(everything) == 9
    keys, place = store.revocations("default", "default", (UNSEEN, b""), 2)
    seen = set(keys)
    store.prove_revocations("default", "default", UNSEEN, 5)
    while place is not None:
        keys, place = store.revocations("default", "default", place, 2)
        seen |= set(keys)
    assert seen == everything


def test_all_that_was_told_is_noted_with_few_statements(store: Store, clock: SetClock) -> None:
    for run in published(store, 20):
        store.cancel_run(run.id)
    found = store.unannounced(clock.now)
    assert len(found) == 20
    store.announced([(namespace, key) for namespace, key, _ in found])
    assert store.unannounced(clock.now) == []
    [ahead] = published(store)
    store.cancel_run(ahead.id)
    clock.move(-HOUR)  # the clock was an hour ahead, and is put right
    assert len(store.unannounced(clock.now)) == 1
