"""The rules of the core, without I/O: one row, reports in, row and effects out."""

from __future__ import annotations

import pytest

from aiki import messages as m
from aiki.clock import SECOND
from aiki.lifecycle import reports
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RUN_FIELDS, RunRow, delivery_id, run_row
from aiki.lifecycle.reports import Outcome, Rules, Source
from aiki.lifecycle.skills import Skill
from aiki.messages import Report, RunKey
from aiki.states import OPERATOR_TRANSITIONS, TERMINAL, TRANSITIONS, State, may_follow

RUN = bytes(range(16))
NOW = 1_800_000_000_000_000
RULES = Rules(NOW, 3, {})
ONE = Source("a" * 32, "a/0.1")
OTHER = Source("b" * 32, "b/0.1")


def row(**values: object) -> RunRow:
    given: dict[str, object] = dict.fromkeys(RUN_FIELDS)
    given |= {
        "id": RUN,
        "kind": "task",
        "name": "shop.charge",
        "version": "1",
        "queue": "default",
        "state": "queued",
        "epoch": 1,
        "attempt": 1,
        "crashes": 0,
        "idle_dispatches": 0,
        "partition_no": 0,
        "cancel_requested": 0,
        "updated_at": NOW,
    }
    return run_row((given | values).values())


def apply(
    target: RunRow, kind: str, body: dict[str, object] | None = None, epoch: int = 1, source: Source = ONE, rules: Rules = RULES
) -> tuple[Effects, Outcome]:
    effects, outcome = Effects(), Outcome()
    reports.apply_report(target, Report(kind, RUN.hex(), epoch, body or {}), source, rules, effects, outcome)
    return effects, outcome


def test_a_result_completes_the_run_once() -> None:
    run = row()
    effects, _ = apply(run, m.COMPLETED, {"ms": 12, "e": "json", "r": "4"})
    assert run.state == State.COMPLETED
    assert run.started_at == NOW - 12_000
    assert [payload.text for _, payload in effects.results] == ["4"]
    assert delivery_id(RUN, 1) in effects.forget
    effects, _ = apply(run, m.COMPLETED, {"ms": 12, "e": "json", "r": "4"})
    assert effects == Effects()


def test_the_first_report_binds_and_a_second_executor_changes_nothing() -> None:
    run = row()
    apply(run, m.STARTED, {"ms": 300})
    assert (run.state, run.executor) == (State.RUNNING, "a/0.1")
    effects, outcome = apply(run, m.COMPLETED, {"r": "5"}, source=OTHER)
    assert run.state == State.RUNNING
    assert effects.results == []
    _, outcome = apply(run, m.STARTED, source=OTHER)
    assert outcome.abort == [RunKey(RUN.hex(), 1)]
    apply(run, m.COMPLETED, {"r": "6"})
    assert run.state == State.COMPLETED


@pytest.mark.parametrize("kind", sorted(reports.RUN_REPORTS))
def test_a_stale_epoch_changes_nothing(kind: str) -> None:
    run = row(epoch=2)
    before = row(epoch=2)
    effects, outcome = apply(run, kind, {"delay": 1})
    if kind == m.CRASHED:
        assert run.crashes == 1, "a crash counts, whatever the epoch is by then"
        run.crashes = 0
    assert run == before
    assert effects.dispatch == {}
    assert outcome.abort == ([RunKey(RUN.hex(), 1)] if kind in (m.STARTED, m.PROGRESS, m.STEPS) else [])


@pytest.mark.parametrize("kind", sorted(reports.RUN_REPORTS))
@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_terminal_state_is_left_by_no_report(kind: str, state: State) -> None:
    run = row(state=state.value, executor=ONE.executor)
    effects, _ = apply(run, kind, {"delay": 1})
    assert run.state == state
    assert effects.dispatch == {}
    assert effects.results == []


def test_a_retry_waits_under_the_next_epoch() -> None:
    run = row()
    effects, _ = apply(run, m.RETRY, {"ms": 5, "type": "ValueError", "message": "no", "tb": "…", "delay": 2.5})
    assert (run.state, run.attempt, run.epoch, run.executor) == (State.WAITING, 2, 2, None)
    assert "ValueError" in (run.waiting_on or "")
    assert effects.dispatch[RUN][1:] == (NOW + 2_500_000, False)
    assert effects.forget == {delivery_id(RUN, 1)}
    assert len(effects.attempts) == 1


def test_a_retry_of_a_cancelled_run_ends_it() -> None:
    run = row(state="running", executor=ONE.executor, cancel_requested=1)
    effects, _ = apply(run, m.RETRY, {"delay": 1})
    assert run.state == State.CANCELLED
    assert effects.dispatch == {}


def test_the_end_of_a_cancelled_execution_lifts_its_revocation() -> None:
    run = row(state="running", executor=ONE.executor, cancel_requested=1)
    effects, _ = apply(run, m.CANCELLED, {"ms": 5})
    assert run.state == State.CANCELLED
    assert effects.unrevoke == [(RUN, 1)]


def test_crashes_are_charged_and_kill_the_run_after_the_limit() -> None:
    run = row()
    for crash in (1, 2):
        apply(run, m.CRASHED, {"signal": "SIGKILL"}, epoch=run.epoch)
        assert run.crashes == crash
        assert run.state in (State.QUEUED, State.WAITING)
    effects, _ = apply(run, m.CRASHED, {"signal": "SIGKILL"}, epoch=run.epoch)
    assert run.state == State.DEAD
    assert "SIGKILL" in (run.error_message or "")
    assert effects.dispatch == {}
    limited = row(options='{"mc":1}')
    apply(limited, m.CRASHED, {"exit": 3})
    assert limited.state == State.DEAD


def test_one_crash_is_counted_once_however_often_it_is_reported() -> None:
    run = row(epoch=3)
    effects, outcome = Effects(), Outcome()
    report = Report(m.CRASHED, RUN.hex(), 2, {"signal": "SIGKILL"})
    for _ in range(2):
        reports.apply_report(run, report, ONE, RULES, effects, outcome)
    assert run.crashes == 1
    assert len(effects.attempts) == 1


def test_a_returned_run_goes_again_and_nothing_is_charged() -> None:
    run = row(state="running", executor=ONE.executor)
    effects, _ = apply(run, m.RETURNED)
    assert (run.state, run.attempt, run.crashes, run.epoch) == (State.QUEUED, 1, 0, 2)
    assert effects.dispatch[RUN][1] == NOW


def test_an_unknown_definition_parks_unless_a_live_worker_has_it() -> None:
    run = row()
    effects, outcome = apply(run, m.UNKNOWN)
    assert run.state == State.STALLED
    assert run.waiting_on == "no worker has shop.charge@1"
    assert outcome.parked == {("shop.charge", "1")}
    run = row()
    effects, _ = apply(run, m.UNKNOWN, rules=having("task", "default"))
    assert run.state == State.QUEUED
    assert effects.dispatch[RUN][1] == NOW + reports.UNKNOWN_RETRY


def having(kind: str, *queues: str) -> Rules:
    """One live worker has shop.charge@1, as this kind, and takes from these queues."""
    return Rules(NOW, 3, {("shop.charge", "1"): {"w": Skill(kind, frozenset(queues))}})


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (
            having("workflow", "default"),
            "this run of shop.charge@1 is a task, and the workers that are here have it as a workflow",
        ),
        (having("task", "slow"), "no worker that has shop.charge@1 takes from queue default, only from slow"),
    ],
)
def test_a_run_that_no_worker_of_its_queue_can_execute_is_parked_until_one_can(rules: Rules, why: str) -> None:
    run = row()
    effects, _ = apply(run, m.UNKNOWN, rules=rules)
    assert (run.state, run.waiting_on) == (State.STALLED, why)
    assert effects.dispatch == {}
    for other in (rules, Rules(NOW, 3, {})):  # looked at again: it stays, and says what is so now
        reports.unpark(run, other, Effects())
        assert run.state == State.STALLED
    assert run.waiting_on == "no worker has shop.charge@1"
    effects = Effects()
    reports.unpark(run, having("task", "slow", "default"), effects)
    assert run.state == State.QUEUED
    assert effects.dispatch[RUN][1] == NOW


def test_an_inquiry_is_passed_on_and_changes_nothing() -> None:
    for why, again in (("redelivered", False), ("again", True)):
        run = row()
        effects, outcome = apply(run, m.INQUIRE, {"why": why})
        assert outcome.inquire == [(RunKey(RUN.hex(), 1), again)]
        assert run == row()
        assert effects == Effects()


def settle(target: RunRow, *, lost: str | None = None, copy: bool = False, epoch: int = 1) -> Effects:
    effects = Effects()
    reports.settle_inquiry(target, epoch, RULES, effects, lost=lost, copy_may_be_out=copy)
    return effects


def test_a_run_that_nobody_holds_is_dispatched_anew_uncharged() -> None:
    run = row()
    effects = settle(run, copy=True)
    assert (run.state, run.epoch, run.attempt, run.crashes) == (State.QUEUED, 2, 1, 0)
    assert effects.revoke == [(RunKey(RUN.hex(), 1), False)]
    assert settle(run).dispatch == {}, "the old epoch's inquiry is settled"


def test_a_run_whose_worker_was_lost_is_charged() -> None:
    run = row(state="running", executor=ONE.executor, worker=b"a" * 16)
    effects = settle(run, lost="worker w was lost")
    assert run.crashes == 1
    assert effects.attempts[0][3] == "lost"


def test_a_run_that_is_lost_over_and_over_waits_ever_longer_and_not_forever() -> None:
    """Its neighbours may end the children that take it: it is out of their way for a while, and is not given up soon."""
    run, waited = row(), []
    while run.state != State.DEAD:
        effects = settle(run, epoch=run.epoch)
        if run.state == State.WAITING:
            waited.append((effects.dispatch[RUN][1] - NOW) / SECOND)
            assert "no word from a worker" in (run.waiting_on or "")
            run.state = State.QUEUED.value  # its time has come
    for seconds, about in zip(waited, [1, 2, 4, 8, 16, 32, *[60] * 100], strict=False):
        assert about / 2 <= seconds < about * 1.5
    assert sum(waited) > 40 * 60
    assert "without any word" in (run.error_message or "")


def test_runs_that_were_lost_together_are_not_dispatched_together_again() -> None:
    """One of them may be what ends the children that take all of them."""
    waited = set()
    for number in range(50):
        run = row(id=bytes(15) + bytes([number]), idle_dispatches=reports.AT_ONCE + 6)
        effects = settle(run)
        waited.add(effects.dispatch[run.id][1])
    assert len(waited) == 50


def test_the_backstop_ends_a_run_that_never_makes_progress() -> None:
    run = row(idle_dispatches=reports.BACKSTOP)
    settle(run)
    assert run.state == State.DEAD


def test_a_report_the_database_refuses_fails_its_run_readably() -> None:
    run = row()
    effects = Effects()
    reports.fail_unwritable(run, Report(m.COMPLETED, RUN.hex(), 1, {}), RULES, effects, "too large")
    assert run.state == State.FAILED
    assert "too large" in (run.error_message or "")


def test_every_transition_is_legal_or_not_as_the_table_says() -> None:
    for before in State:
        for after in State:
            allowed = after in TRANSITIONS[before] or (before == after and before not in TERMINAL)
            assert may_follow(before, after) == allowed
            by_operator = allowed or after in OPERATOR_TRANSITIONS.get(before, frozenset())
            assert may_follow(before, after, operator=True) == by_operator
    assert all(not TRANSITIONS[state] for state in TERMINAL)
