"""What a parent's orders do to its child, and an operator's resume to a run that somebody may be at."""

from __future__ import annotations

import pytest

from aiki.history import Arrival
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.ends import conclude
from aiki.lifecycle.record import PAUSED_OUT, RunRow
from aiki.lifecycle.waits import go_on
from aiki.lifecycle.workflows import CANCEL_ORDER, RETRY_ORDER, stir
from aiki.states import State
from tests.lifecycle.test_reports import NOW, RUN, row


def ordered(run: RunRow, *kinds: str) -> Effects:
    """Have the run look at these orders, which it has not seen."""
    effects = Effects()
    orders = [Arrival(f"{n:032x}", kind, "", None, "", None, None, None, None) for n, kind in enumerate(kinds)]
    effects.arrived[run.id] = orders
    effects.fresh[run.id] = {order.id for order in orders}
    stir(run, effects, NOW)
    return effects


@pytest.mark.parametrize("state", ["failed", "dead", "cancelled"])
@pytest.mark.parametrize("kind", ["task", "workflow"])
def test_a_retry_that_was_cancelled_before_it_was_seen_comes_to_nothing(state: str, kind: str) -> None:
    run = row(state=state, kind=kind, ended_at=NOW)
    effects = ordered(run, RETRY_ORDER, CANCEL_ORDER)
    assert run.state == state
    assert effects.told_again == [RUN], "its parent waits for its end"
    assert effects.dispatch == {}
    conclude({RUN: run}, effects, NOW, lambda: True)


def test_a_cancel_that_was_taken_back_by_a_retry_is_a_retry() -> None:
    run = row(state="failed", ended_at=NOW)
    effects = ordered(run, CANCEL_ORDER, RETRY_ORDER)
    assert run.state == State.QUEUED
    assert effects.told_again == []


@pytest.mark.parametrize("state", [State.WAITING, State.STALLED, State.RUNNING, State.COMPLETED])
def test_a_run_that_was_paused_while_it_was_out_may_do_in_one_transaction_what_its_worker_says(state: State) -> None:
    run = row(state="paused", pause_requested=PAUSED_OUT)
    effects = Effects()
    go_on(run, effects, NOW)
    run.state = state.value
    assert [done.state for rows in conclude({RUN: run}, effects, NOW, lambda: True).by_columns.values() for done in rows] == [
        state
    ]
