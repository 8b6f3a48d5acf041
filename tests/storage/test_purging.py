"""Retention: what may be deleted is, with all that is its own; what may not stays whole."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from aiki import codec, ids
from aiki import messages as m
from aiki.clock import SECOND
from aiki.history import Wait
from aiki.model import NewRun
from aiki.orchestrator.retention import Retention
from aiki.settings import Settings
from aiki.storage import Store, purging
from aiki.storage.applying import ATTEMPTS_KEPT, ATTEMPTS_LOOKED_AT
from tests.storage.bench import Bench, child, step, submission
from tests.storage.conftest import SetClock

DAY = 86400.0


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    return Bench(emptied_store, clock)


def keep(bench: Bench, text: str) -> None:
    """One whole round of retention."""
    rests: list[float] = []
    settings = Settings.load({}, retention=text)
    chore = Retention(bench.store, settings, sleep=rests.append)
    while chore.run_once():
        pass
    bench.store.db.transaction(lambda c: bench.store.db.execute(c, "DELETE FROM aiki_chores", ()))


def names(bench: Bench) -> Counter[str]:
    rows = bench.store.db.read(lambda c: bench.store.db.execute(c, "SELECT name FROM aiki_runs", ()).fetchall())
    return Counter(row[0] for row in rows)


def left(bench: Bench, *but: str) -> dict[str, int]:
    """How many rows there are that belong to runs."""
    return {table: len(rows) for table, rows in bench.everything().items() if rows and table not in but}


def end(bench: Bench, name: str, state: str = "completed", **options: Any) -> str:
    run = bench.start(name, kind="task", **options)
    if state == "completed":
        bench.complete(run, "x" * 10)
    elif state == "cancelled":
        bench.cancel(run)
    else:
        bench.fail(run)
    return run


def register(bench: Bench) -> None:
    from aiki.model import DefinitionInfo

    bench.store.register_definitions([DefinitionInfo("a")])


def test_each_state_has_its_time(bench: Bench, clock: SetClock) -> None:
    register(bench)
    for name, state in (("old", "completed"), ("bad", "failed"), ("off", "cancelled")):
        end(bench, name, state)
    clock.move(8 * DAY)
    end(bench, "young")
    keep(bench, "completed=7d failed=30d")
    assert names(bench) == {"bad": 1, "off": 1, "young": 1}
    clock.move(23 * DAY)
    keep(bench, "completed=7d failed=30d")
    assert names(bench) == {"off": 1}
    keep(bench, "1d")
    assert left(bench, "revocations") == {}


def test_nothing_of_a_deleted_run_is_left(bench: Bench, clock: SetClock) -> None:
    register(bench)
    run = bench.start("shop.flow", reference_id="o-1")
    part = child()
    bench.steps(run, step(0, "step", "a", "completed", e="json", r="1"), submission(1, part))
    bench.complete(bench.id(part), 1)
    bench.stir()
    bench.send(run, "note", 1)
    bench.fail(run)
    clock.move(2 * DAY)
    keep(bench, "1d")
    keep(bench, "1d")  # the child ended in another state than its parent, and may have been looked at first
    assert left(bench) == {}
    tables = ("aiki_reference_ids", "aiki_leftovers", "aiki_run_logs")
    for table in tables:
        sql = f"SELECT COUNT(*) FROM {table}"
        assert bench.store.db.read(lambda c, sql=sql: bench.store.db.execute(c, sql, ()).fetchone())[0] == 0
    # The reference id is free again.
    assert bench.state(bench.start("shop.flow", reference_id="o-1")) == "queued"


def test_what_has_not_ended_is_never_deleted(bench: Bench, clock: SetClock) -> None:
    register(bench)
    waits = bench.start()
    bench.suspend(waits, Wait("event", 0, 0, "x"), steps=(step(0, "event", "x"),))
    bench.start("queued", kind="task")
    again = end(bench, "again", "failed")
    clock.move(400 * DAY)
    bench.retry(again)
    before = bench.everything()
    keep(bench, "60s")
    assert bench.everything() == before
    # Nor if it was asked for by name.
    ids = [bytes.fromhex(run) for run in (waits, again)]
    assert bench.store.purge_runs("default", ids, clock.now + 10**12) == 0


def test_a_child_is_kept_as_long_as_its_parent(bench: Bench, clock: SetClock) -> None:
    register(bench)
    run, part = bench.start(), child()
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, part),))
    bench.complete(bench.id(part), 1)
    clock.move(10 * DAY)
    keep(bench, "completed=1d")
    assert names(bench) == {"shop.flow": 1, "shop.part": 1}
    bench.stir()
    bench.fail(run)
    clock.move(10 * DAY)
    # The parent has failed, and may be retried until it is deleted itself.
    keep(bench, "completed=1d failed=30d")
    assert names(bench) == {"shop.flow": 1, "shop.part": 1}
    clock.move(30 * DAY)
    keep(bench, "completed=1d failed=30d")
    keep(bench, "completed=1d failed=30d")
    assert names(bench) == {}


def test_a_run_that_a_workflow_follows_is_kept_for_it(bench: Bench, clock: SetClock) -> None:
    register(bench)
    end(bench, "shop.part", reference_id="r-1", state="failed")
    run = bench.start()
    follower = child(reference="r-1", on="return_existing")
    bench.suspend(run, Wait("child", 0, 0, ""), steps=(submission(0, follower),))
    bench.stir()
    clock.move(10 * DAY)
    keep(bench, "failed=1d")
    assert names(bench)["shop.part"] == 1
    bench.complete(run)
    clock.move(10 * DAY)
    keep(bench, "1d")
    keep(bench, "1d")
    assert names(bench) == {}


def test_a_family_goes_in_one_transaction_or_from_the_top(bench: Bench, clock: SetClock) -> None:
    register(bench)
    top, middle, leaf = bench.start(), child("shop.middle", kind="workflow"), child("shop.leaf")
    bench.steps(top, submission(0, middle))
    bench.steps(bench.id(middle), submission(0, leaf))
    for run in (bench.id(leaf), bench.id(middle), top):
        bench.complete(run)
    clock.move(10 * DAY)
    ids = {name: bytes.fromhex(run) for name, run in (("top", top), ("middle", bench.id(middle)), ("leaf", bench.id(leaf)))}
    before = clock.now
    assert bench.store.purge_runs("default", [ids["middle"], ids["leaf"]], before) == 0
    assert bench.store.purge_runs("default", [ids["leaf"]], before) == 0
    assert bench.store.purge_runs("default", [ids["top"], ids["leaf"]], before) == 1
    assert bench.store.purge_runs("default", [ids["leaf"], ids["middle"]], before) == 2


def test_a_long_history_goes_in_parts_whatever_dies_in_between(
    bench: Bench, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(bench)
    monkeypatch.setattr(purging, "LONG", 10)
    run = bench.start()
    bench.steps(run, *(step(n, "step", "a", "completed", e="json", r="1") for n in range(35)))
    bench.complete(run)
    clock.move(10 * DAY)
    assert bench.store.purge_runs("default", [bytes.fromhex(run)], clock.now) == 1
    assert left(bench) == {"steps": 35}
    assert bench.store.purge_leftovers(limit=20) == 20
    keep(bench, "1d")
    assert left(bench) == {}
    assert bench.store.purge_leftovers() == 0


def test_the_walk_ends_where_nothing_can_be_old_enough(bench: Bench, clock: SetClock) -> None:
    for _ in range(5):
        end(bench, "a")
        clock.move(1)
    before = clock.now - 2_500_000
    first = bench.store.purgeable("default", "completed", before, limit=2)
    assert (len(first.runs), first.next is None) == (2, False)
    second = bench.store.purgeable("default", "completed", before, first.next or (0, b""), limit=2)
    assert (len(second.runs), second.next) == (1, None)


def test_audit_and_dead_letters_have_their_own_times(bench: Bench, clock: SetClock) -> None:
    register(bench)
    bench.cancel(bench.start("a", kind="task"))
    bench.store.save_dead_letter("default", "q", "rejected", {}, b"x")
    clock.now += 400 * int(DAY) * 1_000_000
    keep(bench, "1d")
    count = "SELECT (SELECT COUNT(*) FROM aiki_audit) + (SELECT COUNT(*) FROM aiki_dead_letters)"
    assert bench.store.db.read(lambda c: bench.store.db.execute(c, count, ()).fetchone())[0] == 2
    keep(bench, "audit=30d dead_letters=30d")
    assert bench.store.db.read(lambda c: bench.store.db.execute(c, count, ()).fetchone())[0] == 0


def test_one_process_at_a_time_does_a_chore(bench: Bench, clock: SetClock) -> None:
    store = bench.store
    assert store.take_chore("retention", "one", 60)
    assert not store.take_chore("retention", "two", 60)
    assert store.take_chore("retention", "one", 60)
    clock.move(61)
    assert store.take_chore("retention", "two", 60)
    assert not store.take_chore("retention", "one", 60)


def test_it_rests_longer_than_it_works(bench: Bench, clock: SetClock) -> None:
    register(bench)
    end(bench, "a")
    clock.move(10 * DAY)
    now = [0.0]
    rests: list[float] = []

    def monotonic() -> float:
        now[0] += 0.5
        return now[0]

    chore = Retention(bench.store, Settings.load({}, retention="1d"), sleep=rests.append, monotonic=monotonic)
    while chore.run_once():
        pass
    assert rests
    assert all(rest >= 1.0 for rest in rests)


def test_workers_that_are_long_gone_are_forgotten(bench: Bench, clock: SetClock) -> None:
    rows = []
    for number, (state, days) in enumerate((("lost", 8), ("stopped", 8), ("alive", 8), ("lost", 6), ("stopped", 1))):
        heard = clock() - int(days * DAY * SECOND)
        rows.append(("red", bytes([number]) * 16, state, f"w{number}", "h", 1, "[]", 1, "[]", "1", "[]", heard, heard))
    columns = ("namespace", "id", "state", "name", "host", "pid", "queues", "concurrency", "definitions", "version", "children")
    bench.store.db.transaction(lambda c: bench.store.db.insert(c, "aiki_workers", (*columns, "started_at", "heard_at"), rows))
    keep(bench, "30d")
    found = bench.store.db.read(lambda c: bench.store.db.execute(c, "SELECT name FROM aiki_workers ORDER BY name").fetchall())
    assert [row[0] for row in found] == ["w2", "w3", "w4"], "who is alive is for the orchestrator to judge"


def test_namespaces_without_definitions_are_seen_to(bench: Bench, clock: SetClock) -> None:
    lonely = bench.store.of("lonely")
    made = lonely.create_runs([NewRun(str(ids.new_id()), "nobody.defined", codec.encode(1))]).accepted[0]
    lonely.cancel_run(made.id, actor="ann")
    bench.store.audit("", "sign-in", "ann")
    clock.move(2 * DAY)
    assert lonely.get_run(made.id) is not None
    keep(bench, "cancelled=1d audit=1d")
    assert lonely.get_run(made.id) is None
    sql = "SELECT COUNT(*) FROM aiki_audit"
    assert bench.store.db.read(lambda c: bench.store.db.execute(c, sql).fetchone())[0] == 0


def test_a_task_that_is_tried_for_ever_keeps_its_newest_attempts(bench: Bench, clock: SetClock) -> None:
    register(bench)
    run = bench.start("shop.part", kind="task")
    for _ in range(260):
        bench.report(run, (m.RETRY, {"ms": 1, "type": "RetryLater", "message": "", "tb": "", "delay": 1}))
        clock.move(2)
        bench.sweep()
    rows = bench.everything()["attempts"]
    assert ATTEMPTS_KEPT <= len(rows) < ATTEMPTS_KEPT + ATTEMPTS_LOOKED_AT
    assert max(row[2] for row in rows) >= 260


def test_a_workflow_that_goes_on_as_new_keeps_its_present_turn_and_little_more(
    bench: Bench, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiki.storage import applying

    monkeypatch.setattr(applying, "FORMER_STEPS_KEPT", 6)
    register(bench)
    run = bench.start()
    again = dict(zip(("e", "r"), codec.encode([[], {}]), strict=True))
    parts = []
    for turn in range(12):
        first = 4 * turn
        part = child(n=turn)
        bench.steps(run, step(first, "step", "a", "completed", e="json", r="1"), submission(first + 1, part))
        assert bench.row(run)["history"] == first + 2
        bench.complete(bench.id(part), turn)
        bench.stir()
        parts.append(bench.id(part))
        if turn < 11:
            bench.report(
                run, (m.STEPS, {"s": [step(first + 2, "step", "b", "completed", e="json", r="1")]}), (m.CONTINUED, again)
            )
    row = bench.row(run)
    assert (row["history_from"], row["history"]) == (44, 46)
    ordinals = sorted(item[2] for item in bench.everything()["steps"])
    assert ordinals == [*range(38, 46)], "six of the turns before, and those of this one"
    assert len(bench.everything()["inbox"]) <= 4
    clock.move(2 * DAY)
    keep(bench, "completed=1d")
    left_runs = {bytes(item[1]).hex() for item in bench.everything()["runs"]}
    assert left_runs == {run, parts[-1]}, "children of former turns are of no more use"
