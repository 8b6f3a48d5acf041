"""Odd messages of every kind: whatever the bytes, `MessageError` is all that comes out of reading them."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from aiki import messages as m
from aiki.errors import MessageError
from aiki.history import History, Waits
from aiki.messages import Control, DispatchList, Heartbeat, ReportList
from tests.fuzzing import mutate, samples

COUNT = 50_000 if os.environ.get("AIKI_TEST_FULL") else 2_000
READERS: dict[str, Any] = {"work": DispatchList, "reports": ReportList, "control": Control, "heartbeat": Heartbeat}


@pytest.mark.parametrize("kind", READERS)
def test_only_one_error_comes_out(kind: str) -> None:
    rng = random.Random(kind)
    sound = samples("12" * 16)[kind]
    for body in sound:
        found = READERS[kind].decode(body)
        assert not getattr(found, "refused", None), found
    for _ in range(COUNT):
        body = mutate(rng, rng.choice(sound))
        try:
            found = READERS[kind].decode(body)
            for run in found.runs if kind == "work" else ():
                History.from_wire(run.options.get(m.OPT_HISTORY))
            for report in found.reports if kind == "reports" else ():
                if report.kind == m.SUSPENDED and report.body:
                    Waits.from_wire(report.body)
        except MessageError as error:
            str(error).encode("utf-8", "backslashreplace")


def test_one_member_that_does_not_pass_leaves_the_others() -> None:
    run_id = "12" * 16
    body = (
        b'[1,"reports",{"ns":"default","w":"","x":"o"},[["completed","%s",1,{"ms":1}],["retry","%s",1,{"delay":Infinity}],7]]'
    )
    found = ReportList.decode(body % (run_id.encode(), run_id.encode()))
    assert [report.kind for report in found.reports] == [m.COMPLETED, m.RETRY]
    assert list(found.refused) == [1]
    assert "inf" in found.refused[1]
    assert len(found.unreadable) == 1
