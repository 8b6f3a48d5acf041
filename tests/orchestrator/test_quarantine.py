"""A message that ended the process that worked on it does not end the next one for ever, nor take others with it."""

from __future__ import annotations

from typing import Any

import pytest

from aiki import messages as m
from aiki.orchestrator.quarantine import ENOUGH
from aiki.states import State
from tests.orchestrator.test_loop import Stage
from tests.orchestrator.test_loop import stage as stage  # noqa: PLC0414  a fixture


class Killed(BaseException):
    """As the kernel ends a process: nothing in it is asked."""


def test_a_message_that_ends_each_process_is_refused_in_the_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = stage.worker()
    culprit, *others = stage.enqueue(count=5)
    runs: list[m.Dispatch] = []
    while len(runs) < 5:
        delivery, message = worker.take()
        runs += message.runs
        worker.session.ack([delivery])
    decode = m.ReportList.decode.__func__  # type: ignore[attr-defined]

    def deadly(cls: Any, body: bytes) -> Any:
        if b'"deadly"' in body:
            raise Killed
        return decode(cls, body)

    monkeypatch.setattr(m.ReportList, "decode", classmethod(deadly))
    for run in runs:
        text = '"deadly"' if run.run_id == culprit.replace("-", "") else "1"
        worker.report(run, m.COMPLETED, ms=1, e="json", r="1", of_tomorrow="deadly" if text != "1" else "")
    worker.session.settled()
    deaths = 0
    for _ in range(300):
        try:
            stage.turn()
        except Killed:
            deaths += 1
            [dead] = stage.orchestrators
            stage.orchestrators.clear()
            session = dead.session
            assert session is not None
            session.close()  # what its end does for it
            stage.orchestrator()
    assert deaths <= ENOUGH + 2
    assert [stage.state(run) for run in others] == [State.COMPLETED] * 4
    [letter] = stage.store.dead_letters()
    assert "ended 3 times" in letter.reason
    assert stage.store.returns([]) == {}
