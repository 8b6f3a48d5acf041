"""Reports by bytes: cut where they can be, and said to be too large where not."""

from __future__ import annotations

from aiki import messages as m
from aiki.ceilings import REPORT_BYTES
from aiki.history import Step
from aiki.messages import Report, ReportList
from aiki.worker.sizes import parts_of_steps, weight_of, without_what_is_too_large

RUN = "ab" * 16
WORKER = "cd" * 16


def step(ordinal: int, size: int) -> Step:
    return Step(ordinal, "step", "x", "", "completed", 1, {"e": "json", "r": "1" * size})


def test_steps_are_cut_into_parts_in_their_order() -> None:
    steps = [step(n, 400_000) for n in range(7)] + [step(7, 5_000_000)] + [step(n, 10) for n in range(8, 500)]
    weighed = list(parts_of_steps(steps))
    parts = [part for part, _ in weighed]
    assert [one for part in parts for one in part] == steps
    assert [len(part) for part in parts[:5]] == [2, 2, 2, 1, 1]
    assert max(len(part) for part in parts) == 200
    for part, weight in weighed:
        assert weight == weight_of(Report(m.STEPS, RUN, 1, {"s": part}))
        assert len(part) == 1 or weight_of(Report(m.STEPS, RUN, 1, {"s": part})) <= REPORT_BYTES + 1000
    assert list(parts_of_steps([])) == []


def test_a_report_that_no_message_can_carry_says_that_its_run_fails() -> None:
    other = Report(m.COMPLETED, "ef" * 16, 3, {"ms": 2, "e": "json", "r": '"fine"'})
    large = Report(m.COMPLETED, RUN, 1, {"ms": 5, "e": "json", "r": '"' + "x" * 20_000 + '"'})
    body = ReportList("default", WORKER, f"{WORKER}/0.1", [other, large]).encode()
    made = without_what_is_too_large(body, 10_000)
    assert made is not None
    found = ReportList.decode(made).reports
    assert found[0] == other
    assert (found[1].kind, found[1].run_id, found[1].epoch, found[1].body["ms"]) == (m.FAILED, RUN, 1, 5)
    assert found[1].body["type"] == "aiki.errors.MessageTooLarge"
    assert "its result is too large to be sent" in found[1].body["message"]
    assert without_what_is_too_large(body, 100) is None


def test_a_failure_that_is_too_large_is_told_without_the_arguments_of_its_error() -> None:
    told = {"ms": 5, "type": "shop.Declined", "message": "no", "tb": "there", "outcome": "failed"}
    large = Report(m.FAILED, RUN, 1, {**told, "a": '["' + "x" * 20_000 + '"]'})
    assert weight_of(large) > 20_000
    small = Report(m.FAILED, "ef" * 16, 3, {**told, "a": "[1]"})
    made = without_what_is_too_large(ReportList("default", WORKER, f"{WORKER}/0.1", [small, large]).encode(), 10_000)
    assert made is not None
    assert ReportList.decode(made).reports == [small, Report(m.FAILED, RUN, 1, told)]
    hopeless = Report(m.FAILED, RUN, 1, {**large.body, "tb": "y" * 20_000})
    made = without_what_is_too_large(ReportList("default", WORKER, f"{WORKER}/0.1", [hopeless]).encode(), 10_000)
    assert made is not None
    assert ReportList.decode(made).reports[0].body["type"] == "aiki.errors.MessageTooLarge"
