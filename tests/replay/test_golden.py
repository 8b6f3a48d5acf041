"""Histories that earlier releases recorded are replayed to what they led to then (see golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiki.history import History
from tests.replay.golden import flows
from tests.replay.golden.make import outcome_of, replayed

FILES = sorted((Path(__file__).parent / "golden").glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_history_leads_where_it_led_when_it_was_recorded(path: Path) -> None:
    golden = json.loads(path.read_text())
    history = History.from_wire(golden["history"])
    ended, world = replayed(history, flows.FLOWS[golden["workflow"]], golden["args"], history.now)
    assert json.loads(json.dumps(outcome_of(ended, world))) == golden["outcome"], ended.text
    assert world.executed == [], "what is recorded is not done again"
    assert json.loads(json.dumps(history.to_wire())) == golden["history"]


def test_none_is_missing() -> None:
    recorded = {json.loads(path.read_text())["workflow"] for path in FILES}
    assert recorded == set(flows.FLOWS)
