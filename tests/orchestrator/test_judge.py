"""The judge of inquiries, by itself: when it may say that nobody holds a run."""

from __future__ import annotations

from aiki.broker import Delivery, reports
from aiki.messages import Held, RunKey
from aiki.orchestrator.judge import MAX_RUNS, Carrier, Judge

KEY = RunKey("aa" * 16, 1)


def carrier(partition: int = 2) -> Carrier:
    return Carrier(Delivery(reports(partition), b"", False, 1))


def test_a_run_is_free_only_after_all_have_answered_and_their_reports_were_taken() -> None:
    judge = Judge(10)
    judge.add("n", KEY, again=False, carrier=carrier())
    [round_] = judge.ask({"n": {"w1", "w2"}}, 0.0)
    judge.answer("w1", round_.nonce, [])
    assert judge.answered() == []
    judge.answer("w2", round_.nonce, [])
    # A report that was confirmed before an answer may still be in the partition's queue.
    assert judge.settled() == []
    assert [r.partitions for r in judge.answered()] == [{2}]
    assert judge.answered() == []
    assert judge.settled() == []
    judge.synced(round_.nonce, 3)
    assert judge.settled() == []
    judge.synced(round_.nonce, 2)
    [verdict] = judge.settled()
    assert verdict.free == {KEY: False}
    assert len(judge) == 0


def test_a_run_that_somebody_holds_is_not_free() -> None:
    judge = Judge(10)
    judge.add("n", KEY, again=False, carrier=carrier())
    [round_] = judge.ask({"n": {"w"}}, 0.0)
    verdict = judge.answer("w", round_.nonce, [Held(*KEY, "w/0.1", 5)])
    assert verdict is not None
    assert [item[0] for item in verdict.held] == [KEY]
    assert [r.partitions for r in judge.answered()] == [set()]
    [rest] = judge.settled()
    assert rest.free == {}


def test_a_worker_that_is_gone_is_waited_for_no_more() -> None:
    judge = Judge(10)
    judge.add("n", KEY, again=False, carrier=carrier())
    judge.ask({"n": {"w"}}, 0.0)
    judge.gone("w")
    assert len(judge.answered()) == 1


def test_one_answer_is_a_whole_answer_however_many_runs_are_in_question() -> None:
    judge = Judge(10)
    keys = [RunKey(f"{i:032x}", 1) for i in range(2 * MAX_RUNS + 1)]
    for key in keys:
        judge.add("n", key, again=False, carrier=carrier())
    rounds = judge.ask({"n": {"w"}}, 0.0)
    assert [len(r.open) for r in rounds] == [MAX_RUNS, MAX_RUNS, 1]
    judge.answer("w", rounds[0].nonce, [])
    assert judge.answered() == [rounds[0]]
