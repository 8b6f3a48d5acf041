"""Dead letters that cannot be kept as they are: kept cut, said so, and nobody is held up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aiki import messages as m
from aiki.broker import DEAD
from aiki.orchestrator.letters import MAX_BODY
from aiki.states import State
from tests.orchestrator.test_loop import Stage

HEADER = '[1,"work",{"ns":%s,"q":"default"},[]]'


@pytest.fixture(params=["sqlite", "maria"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """A server is stricter than SQLite about what fits."""
    made = Stage(tmp_path, request.getfixturevalue("maria_tables") if request.param == "maria" else "")
    yield made
    made.close()


@pytest.mark.parametrize(
    "namespace",
    ['"Unternehmen für Öfen"', '"\\ud800"', f'"{"n" * 9_000_000}"', "[" * 100_000],
    ids=["not ASCII", "half a pair", "9 MB long", "nested"],
)
def test_a_letter_of_an_impossible_namespace_is_kept_and_stops_nobody(stage: Stage, namespace: str) -> None:
    body = (HEADER % namespace).encode()
    session = stage.broker.connect("an odd one")
    session.send(DEAD, body)
    session.settled()
    [run_id] = stage.enqueue()
    worker = stage.worker()
    _, message = worker.take()
    worker.report(message.runs[0], m.COMPLETED, ms=1)
    worker.until(lambda: stage.state(run_id) is State.COMPLETED)
    worker.until(lambda: stage.store.dead_letter_count() == 1)
    [letter] = stage.store.dead_letters()
    assert letter.body == body[:MAX_BODY]
    assert ("cut" in letter.headers) is (len(body) > MAX_BODY)
    assert stage.orchestrators[0].isolation.counted["loop"] == 0
    session.close()
