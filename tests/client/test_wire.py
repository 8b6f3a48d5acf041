"""The API's JSON: there and back again, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki import codec, errors, ids
from aiki.client import wire
from aiki.model import Accepted, Attempt, DefinitionInfo, NewRun, Page, RunDetail, RunView
from aiki.states import State

RUN_ID = str(ids.new_id())
NOW = 1_800_000_000_123_456
VIEW = RunView(
    RUN_ID, "default", "task", "shop.charge", "1", "money", State.WAITING, 2, 1, "o-1", "retry", "w1", False, 0.5, "half",
    "ValueError", "no", NOW, None, NOW + 1, None, None, NOW + 2,
)  # fmt: skip


def through(data: Any) -> Any:
    return json.loads(json.dumps(data))


@given(st.integers(min_value=-(2**50), max_value=2**52))
def test_times_are_exact(us: int) -> None:
    text = wire.time_to_json(us)
    assert text is not None
    assert text.endswith("Z")
    assert wire.time_from_json(text) == us


@pytest.mark.parametrize("text", ["2026-01-01T00:00:00", "soon", "", "2026-13-01T00:00:00Z"])
def test_times_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(wire.WireError):
        wire.time_from_json(text)


def test_all_objects_go_there_and_back() -> None:
    run = NewRun(
        RUN_ID, "shop.charge", codec.encode([["é\ud800"], {}]), "money", "2", "workflow", NOW, NOW + 5,
        {"tl": 5.0, "sl": 1.0, "rp": {"max_attempts": 3}, "mc": 2}, "o-1", "return_existing",
    )  # fmt: skip
    data = through(wire.new_run_to_json(run))
    assert data["options"] == {"time_limit": 5.0, "soft_time_limit": 1.0, "retry": {"max_attempts": 3}, "max_crashes": 2}
    assert wire.new_run_from_json(data, now=NOW) == run
    plain = NewRun(RUN_ID, "x", codec.encode([[], {}]))
    assert wire.new_run_from_json(through(wire.new_run_to_json(plain)), now=NOW) == plain
    accepted = Accepted(RUN_ID, State.QUEUED, True)
    assert wire.accepted_from_json(through(wire.accepted_to_json(accepted))) == accepted
    attempt = Attempt(1, 3, "crashed", "Crashed", "died", "", "w1", "SIGKILL", None, None, NOW)
    detail = RunDetail(VIEW, run.input, None, "tb", [attempt])
    assert wire.detail_from_json(through(wire.detail_to_json(detail))) == detail
    page = Page([VIEW, VIEW], RUN_ID)
    assert wire.page_from_json(through(wire.page_to_json(page))) == page
    definition = DefinitionInfo("x", "2", "workflow", {"queue": "a", "expires": 5.0})
    assert wire.definition_from_json(through(wire.definition_to_json(definition))) == definition


def test_a_newer_servers_fields_are_passed_over() -> None:
    assert wire.run_from_json({**wire.run_to_json(VIEW), "mood": "good"}) == VIEW


def test_plain_json_gets_the_definitions_defaults() -> None:
    definition = DefinitionInfo(
        "shop.charge", "3", "task", {"queue": "money", "expires": 10, "max_crashes": 1, "time_limit": 5}
    )
    run = wire.new_run_from_json({"name": "shop.charge", "args": [1], "countdown": 2.5}, now=NOW, definition=definition)
    assert codec.decode(run.input) == [[1], {}]
    assert (run.queue, run.version, run.due_at, run.expires_at) == ("money", "3", NOW + 2_500_000, NOW + 10_000_000)
    assert run.options == {"mc": 1}
    assert ids.parse_id(run.id) is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "name"),
        ({"name": 5}, "name"),
        ({"name": "x", "args": "abc"}, "args must be a list"),
        ({"name": "x", "kwargs": []}, None),
        ({"name": "x", "input": {"text": "[]"}}, "input"),
        ({"name": "x", "input": {"encoding": "json", "text": "é"}}, "ASCII"),
        ({"name": "x", "input": {"encoding": "json", "text": "[]"}, "args": []}, "either"),
        ({"name": "x", "id": "o-1"}, "UUID"),
        ({"name": "x", "countdown": "5"}, "countdown"),
        ({"name": "x", "countdown": float("nan")}, "countdown"),
        ({"name": "x", "due_at": "soon"}, "ISO-8601"),
        ({"name": "x", "options": [1]}, "options"),
    ],
)
def test_what_cannot_be_understood_names_its_field(data: dict[str, Any], message: str | None) -> None:
    if message is None:
        wire.new_run_from_json(data, now=NOW)
        return
    with pytest.raises(wire.WireError, match=message):
        wire.new_run_from_json(data, now=NOW)


def test_too_large_an_input_is_refused() -> None:
    for extra in ({"args": ["x" * 100]}, {"input": {"encoding": "json", "text": "x" * 100}}):
        with pytest.raises(errors.PayloadTooLarge):
            wire.new_run_from_json({"name": "x", **extra}, now=NOW, limit=50)


@pytest.mark.parametrize(
    "error",
    [
        errors.UnknownTask("shop.chrage", ["shop.charge"]),
        errors.ReferenceConflict("shop.charge", "o-1", RUN_ID),
        errors.RunConflict("it is completed"),
        errors.RunNotFound(RUN_ID),
        errors.PayloadTooLarge("20 MB"),
        errors.ConfigurationError("queue 'a b'"),
        errors.Unauthorized("no key"),
        errors.Unavailable("the database is away", 2.0),
    ],
)
def test_errors_go_there_and_back(error: errors.AikiError) -> None:
    problem = through(wire.problem_to_json(error))
    again = wire.problem_from_json(problem["status"], problem)
    assert type(again) is type(error)
    assert str(again) == str(error)
    for name in ("closest", "run_id", "retry_after"):
        assert getattr(again, name, None) == getattr(error, name, None)


def test_problems_that_are_not_ours_are_server_errors() -> None:
    assert isinstance(wire.problem_from_json(500, None), errors.ServerError)
    assert isinstance(wire.problem_from_json(418, {"code": "teapot"}), errors.ServerError)
    assert isinstance(wire.problem_from_json(503, "down"), errors.Unavailable)
