"""Batches: each run once, the set fixed when it began, stopped for good, taken over, told in numbers."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import codec, ids
from aiki.errors import ConfigurationError, FilterError, RunConflict, StorageUnavailable
from aiki.filters import parse
from aiki.ids import new_id
from aiki.messages import RunKey
from aiki.model import NewRun
from aiki.storage import Store
from aiki.storage.batches import BatchView, Operation, Target
from aiki.storage.batchwork import LEASE, Lease, Worked, rerun_id
from aiki.storage.dead import FIRST, Cursor
from tests.storage.bench import Bench
from tests.storage.conftest import SetClock

FAILED = Target(q="status:failed")


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def failed(bench: Bench, count: int, name: str = "shop.charge", message: str = "card 1 was declined") -> list[str]:
    """Runs that have failed."""
    runs = [bench.start(name, kind="task") for _ in range(count)]
    for run in runs:
        bench.fail(run, kind="Declined", message=message)
    bench.clock.move(1)
    return [bench.text(run) for run in runs]


def begin(bench: Bench, operation: Operation = Operation.RETRY, target: Target = FAILED, **more: Any) -> BatchView:
    made, created = bench.store.create_batch(str(new_id()), operation, target, expected=1, actor="ann", **more)
    assert created
    return made


def lease(bench: Bench, owner: str = "a" * 32) -> Lease:
    (found,) = bench.store.claim_batches(owner)
    return found


def work(bench: Bench, owner: str = "a" * 32, limit: int = 100) -> list[Worked]:
    """Work on the one batch there is until it is over."""
    held = lease(bench, owner)
    out: list[Worked] = []
    while not out or not out[-1].over:
        bench.clock.move(0.1)
        out.append(bench.store.work_batch(held, limit))
    return out


def batch(bench: Bench, made: BatchView) -> BatchView:
    found = bench.store.batch(made.id)
    assert found is not None
    return found


def attempts(bench: Bench) -> list[int]:
    rows = bench.store.db.read(lambda c: bench.store.db.execute(c, "SELECT attempt FROM aiki_runs ORDER BY id").fetchall())
    return [row[0] for row in rows]


def test_each_run_is_retried_once(bench: Bench) -> None:
    runs = failed(bench, 7)
    made = begin(bench, reason="the bank is back")
    assert (made.state, made.matched) == ("collecting", 0)
    done = work(bench, limit=3)
    assert [item.count for item in done] == [1, 3, 3, 1, 0]
    outgoing = [out for item in done for out in item.applied.outgoing]
    assert sorted(ids.to_text(bytes.fromhex(out.dispatch.run_id)) for out in outgoing) == sorted(runs)
    found = batch(bench, made)
    assert (found.state, found.matched, found.done, found.skipped, found.failed) == ("done", 7, 7, 0, 0)
    assert found.rate()
    assert attempts(bench) == [2] * 7
    assert {item.outcome for item in bench.store.batch_items(made.id)} == {"done"}
    assert bench.store.claim_batches("b" * 32) == []
    log = bench.store.audit_log(_all())
    assert [(entry.action, entry.outcome, entry.affected) for entry in log] == [
        ("batch_retry", "done", 7),
        ("batch_retry", "begun", 1),
    ]
    assert log[0].detail == "7 done, 0 skipped, 0 failed of 7"


def _all() -> Any:
    from aiki.storage.auditing import AuditFilter

    return AuditFilter()


def test_what_comes_later_is_left_out(bench: Bench) -> None:
    early = failed(bench, 2)
    waiting = bench.start("shop.charge", kind="task")
    made = begin(bench)
    bench.clock.move(1)
    late = failed(bench, 2)
    bench.fail(waiting, kind="Declined", message="late")
    work(bench)
    assert batch(bench, made).matched == 2
    assert {item.run_id for item in bench.store.batch_items(made.id)} == set(early)
    assert bench.store.count(parse("status:failed")).number == len(late) + 1


def test_what_has_failed_again_is_passed_over(bench: Bench) -> None:
    first, second = failed(bench, 2)
    made = begin(bench)
    held = lease(bench)
    bench.store.work_batch(held, 10)
    bench.store.retry_run(second)
    bench.clock.move(1)
    bench.fail(ids.to_bytes(second).hex(), kind="Declined", message="again")
    while not bench.store.work_batch(held, 10).over:
        pass
    found = batch(bench, made)
    assert (found.done, found.skipped) == (1, 1)
    assert found.samples == [{"run": second, "outcome": "skipped", "detail": "it has ended since the batch began"}]
    assert bench.state(ids.to_bytes(first).hex()) == "queued"


def test_a_batch_is_taken_over_and_never_done_by_two(bench: Bench, clock: SetClock) -> None:
    failed(bench, 6)
    made = begin(bench)
    mine = lease(bench)
    bench.store.work_batch(mine, 2)
    assert bench.store.work_batch(mine, 2).count == 2
    assert bench.store.claim_batches("b" * 32) == []
    clock.now += LEASE + 1
    (theirs,) = bench.store.claim_batches("b" * 32)
    assert bench.store.work_batch(theirs, 2).count == 2
    late = bench.store.work_batch(mine, 2)
    assert (late.count, late.over, late.applied.outgoing) == (0, True, [])
    while not bench.store.work_batch(theirs, 2).over:
        pass
    assert batch(bench, made).done == 6
    assert attempts(bench) == [2] * 6


def test_a_stop_is_final(bench: Bench) -> None:
    failed(bench, 6)
    made = begin(bench)
    held = lease(bench)
    bench.store.work_batch(held, 2)
    bench.store.work_batch(held, 2)
    stopped = bench.store.stop_batch(made.id, reason="wrong filter", actor="bob")
    assert stopped is not None
    assert (stopped.state, stopped.done) == ("stopped", 2)
    assert bench.store.work_batch(held, 2).over
    assert sorted(attempts(bench)) == [1, 1, 1, 1, 2, 2]
    with pytest.raises(RunConflict, match="is over: it is stopped"):
        bench.store.stop_batch(made.id)
    assert bench.store.stop_batch(str(new_id())) is None
    last = bench.store.audit_log(_all())[0]
    assert (last.actor, last.outcome, last.affected, last.reason) == ("bob", "stopped", 2, "wrong filter")


def test_operations(bench: Bench) -> None:
    queued, other = bench.start("shop.charge", kind="task"), bench.start("shop.charge", kind="task")
    ended = failed(bench, 1)[0]
    named = (bench.text(queued), bench.text(other), ended, str(new_id()))
    made = begin(bench, Operation.PAUSE, Target(ids=named))
    assert (made.state, made.matched) == ("running", 4)
    done = work(bench)
    assert {key for item in done for key in item.pause_soon} == {RunKey(queued, 1), RunKey(other, 1)}
    assert bench.state(queued) == bench.state(other) == "paused"
    found = batch(bench, made)
    assert (found.done, found.skipped) == (2, 2)
    assert {sample["detail"] for sample in found.samples} == {f"run {ended} is failed; it cannot be paused", "it is gone"}

    begin(bench, Operation.RESUME, Target(ids=named[:1]))
    work(bench)
    assert bench.state(queued) == "queued"
    begin(bench, Operation.CANCEL, Target(q="status:queued,paused"), reason="sent twice")
    work(bench)
    assert bench.state(queued) == bench.state(other) == "cancelled"
    assert bench.row(other)["cancel_reason"] == "sent twice"


def test_rerun_makes_each_once(bench: Bench) -> None:
    runs = failed(bench, 3)
    made = begin(bench, Operation.RERUN)
    outgoing = [out for item in work(bench, limit=2) for out in item.applied.outgoing]
    assert len(outgoing) == 3
    copies = {rerun_id(ids.to_bytes(made.id), ids.to_bytes(run)) for run in runs}
    assert {ids.to_text(bytes.fromhex(out.dispatch.run_id)) for out in outgoing} == copies
    assert {bench.store.rerun_of(copy) for copy in copies} == set(runs)
    assert bench.store.reruns(runs[0]) == [rerun_id(ids.to_bytes(made.id), ids.to_bytes(runs[0]))]


def test_failures_of_one_error(bench: Bench) -> None:
    failed(bench, 2, message="card 17 was declined")
    failed(bench, 1, message="card 4 was declined")
    failed(bench, 1, message="no such card")
    (largest, other) = bench.store.failure_groups()
    assert (largest.count, other.count) == (3, 1)
    assert (largest.error_type, largest.names) == ("Declined", {"shop.charge": 3})
    target = Target(fingerprint=largest.fingerprint)
    assert bench.store.preview(target).number == 3
    made = begin(bench, target=target)
    work(bench)
    assert batch(bench, made).done == 3
    assert [group.count for group in bench.store.failure_groups()] == [1]
    with pytest.raises(ConfigurationError, match="32 hexadecimal digits"):
        bench.store.preview(Target(fingerprint="x"))


def test_a_run_that_cannot_be_changed_stops_nobody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = failed(bench, 5)
    spoilt = bytes.fromhex(ids.to_bytes(runs[2]).hex())
    bench.store.db.transaction(
        lambda c: bench.store.db.execute(c, "UPDATE aiki_runs SET failed_at = '{' WHERE id = ?", (spoilt,)).rowcount
    )
    made = begin(bench)
    work(bench)
    found = batch(bench, made)
    assert (found.state, found.done, found.failed) == ("done", 4, 1)
    (sample,) = found.samples
    assert (sample["run"], sample["outcome"]) == (runs[2], "failed")
    assert "JSONDecodeError" in sample["detail"]


def test_a_filter_that_takes_too_long_fails_its_batch_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    failed(bench, 1)
    made = begin(bench)

    def slow(*_args: Any, **_more: Any) -> Any:
        raise StorageUnavailable("max_statement_time exceeded")

    monkeypatch.setattr(bench.store, "search", slow)
    assert bench.store.work_batch(lease(bench), 10).over
    found = batch(bench, made)
    assert found.state == "failed"
    assert "takes too long" in found.samples[0]["detail"]


def test_a_batch_is_of_its_namespace(bench: Bench) -> None:
    other = bench.store.of("other")
    run = NewRun(str(new_id()), "shop.charge", codec.encode([[], {}]))
    other.create_runs([run])
    mine = bench.start("shop.charge", kind="task")
    other.create_batch(str(new_id()), Operation.CANCEL, Target(q="status:queued"), expected=1)
    (held,) = bench.store.claim_batches("a" * 32)
    assert held.namespace == "other"
    while not bench.store.of(held.namespace).work_batch(held, 10).over:
        pass
    assert other.get_run(run.id).state == "cancelled"  # type: ignore[union-attr]
    assert bench.state(mine) == "queued"
    assert bench.store.batches() == []


def test_failures_from_before_are_found(bench: Bench) -> None:
    failed(bench, 5)
    retried = failed(bench, 1)[0]
    bench.store.retry_run(retried)
    before = bench.store.failure_groups()
    bench.store.db.transaction(lambda c: bench.store.db.execute(c, "DELETE FROM aiki_failures").rowcount)
    cursor: Cursor | None = FIRST
    pages = 0
    while cursor is not None:
        cursor = bench.store.index_failures(cursor, limit=2)
        pages += 1
    assert pages == 4
    assert bench.store.failure_groups() == before
    assert before[0].count == 5


def test_batches_that_are_over_are_forgotten(bench: Bench) -> None:
    failed(bench, 3)
    made = begin(bench)
    work(bench)
    assert bench.store.purge_batches(bench.clock.now - 3600_000_000) == 0
    assert [bench.store.purge_batches(bench.clock.now + 1, limit=2) for _ in range(4)] == [2, 1, 1, 0]
    assert bench.store.batch(made.id) is None


def test_asking_again(bench: Bench) -> None:
    failed(bench, 1)
    batch_id = str(new_id())
    first, created = bench.store.create_batch(batch_id, Operation.RETRY, FAILED, expected=1)
    again, created_again = bench.store.create_batch(batch_id, Operation.RETRY, FAILED, expected=1)
    assert (created, created_again, first) == (True, False, again)
    with pytest.raises(RunConflict, match="belongs to another batch"):
        bench.store.create_batch(batch_id, Operation.CANCEL, FAILED, expected=1)
    with pytest.raises(FilterError):
        bench.store.create_batch(str(new_id()), Operation.CANCEL, Target(q="staat:failed"), expected=1)
    assert [item.id for item in bench.store.batches()] == [batch_id]


def test_preview(bench: Bench) -> None:
    failed(bench, 3)
    failed(bench, 1, name="shop.ship")
    found = bench.store.preview(FAILED, sample=2)
    assert (found.number, found.exact, len(found.sample), found.looked) == (4, True, 2, 4)
    assert (found.states, found.names) == ({"failed": 4}, {"shop.charge": 3, "shop.ship": 1})
