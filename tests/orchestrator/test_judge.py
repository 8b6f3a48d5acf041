"""The judge of inquiries, by itself: when it may say that nobody holds a run."""

from __future__ import annotations

from aiki.broker import Delivery, reports
from aiki.messages import Held, RunKey
from aiki.orchestrator.judge import MAX_RUNS, Carrier, Judge

KEY = RunKey("aa" * 16, 1)


def carrier(partition: int = 2) -> Carrier:
    return Carrier(Delivery(reports(partition), b"", False, 1))


def test_a_question_is_settled_only_after_all_have_answered() -> None:
    judge = Judge(10)
    judge.add("n", KEY, again=False, carrier=carrier())
    [round_] = judge.ask({"n": {"w1", "w2"}}, 0.0)
    judge.answer("w1", round_.nonce, [])
    assert judge.answered() == []
    assert not judge.promised(round_.nonce)
    judge.answer("w2", round_.nonce, [])
    # A report that was confirmed before an answer may still be in the partition's queue: the caller sends it behind that.
    [done] = judge.answered()
    assert {partition: set(open_) for partition, open_ in done.by_partition().items()} == {2: {KEY}}
    assert judge.promised(round_.nonce)
    assert judge.answered() == []
    assert len(judge) == 0
    judge.clear()
    assert not judge.promised(round_.nonce)


def test_a_run_that_somebody_holds_is_not_free() -> None:
    judge = Judge(10)
    judge.add("n", KEY, again=False, carrier=carrier())
    [round_] = judge.ask({"n": {"w"}}, 0.0)
    verdict = judge.answer("w", round_.nonce, [Held(*KEY, "w/0.1", 5)])
    assert verdict is not None
    assert [item[0] for item in verdict.held] == [KEY]
    assert [r.open for r in judge.answered()] == [{}]


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
