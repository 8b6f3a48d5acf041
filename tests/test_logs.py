"""Log lines: what they say of themselves, and what they never say."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from aiki import logs
from aiki.context import CurrentRun, set_current_run
from aiki.errors import ConfigurationError


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord("shop", logging.INFO, "shop.py", 1, message, args, None, extra=extra)


def line(message: str, *args: object, **extra: object) -> dict[str, object]:
    found: dict[str, object] = json.loads(logs.JsonFormatter().format(record(message, *args, **extra)))
    return found


@pytest.fixture
def run() -> CurrentRun:
    made = CurrentRun("0190aaaabbbb7ccc8ddd000000000001", 2, "shop.charge", None, lambda *_: None)
    set_current_run(made)
    yield made
    set_current_run(None)


def test_a_json_line_says_what_when_and_who() -> None:
    found = line("charged %d", 42, order="o-1", basket=["a"])
    assert (found["level"], found["logger"], found["message"]) == ("info", "shop", "charged 42")
    assert str(found["time"]).endswith("Z")
    assert found["order"] == "o-1"
    assert found["basket"] == "['a']"
    assert "run_id" not in found


def test_inside_a_run_the_run_is_named(run: CurrentRun) -> None:
    found = line("hello")
    assert (found["run_id"], found["task"], found["attempt"]) == (run.id, "shop.charge", 2)
    set_current_run(run.for_step(7, 1, "shop.pay"))
    found = line("hello")
    assert (found["run_id"], found["task"], found["step"]) == (run.id, "shop.pay", 7)


def test_text_names_the_run_once(run: CurrentRun) -> None:
    formatter = logs.TextFormatter(logs.TEXT)
    assert formatter.format(record("hello\nworld")).endswith(f"shop: hello [run {run.id}]\nworld")
    assert formatter.format(record(f"run {run.id}: hello")).count(run.id) == 1


def test_what_a_thread_is_about() -> None:
    with logs.about(request_id="r-1"):
        assert line("hello")["request_id"] == "r-1"
    assert "request_id" not in line("hello")
    logs.identify(worker="w-1")
    assert line("hello")["worker"] == "w-1"
    logs.identify(worker=None)
    assert "worker" not in line("hello")


def test_an_exception_is_one_field() -> None:
    try:
        raise ValueError("amqp://aiki:hunter22@host/")
    except ValueError:
        made = logging.getLogger("shop").makeRecord("shop", logging.ERROR, "f", 1, "it failed", (), sys.exc_info())
    text = logs.JsonFormatter().format(made)
    assert "\n" not in text
    assert "hunter22" not in text
    assert "ValueError" in json.loads(text)["exception"]


@pytest.mark.parametrize(
    "text",
    [
        "cannot reach mysql+pymysql://aiki:hunter22@db:3306/aiki",
        "Authorization: Bearer hunter22hunter22",
        "password=hunter22 was wrong",
        '{"api_key": "hunter22"}',
        "AIKI_API_KEY=hunter22",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    assert "hunter22" not in logs.masked(text)
    assert "***" in logs.masked(text)
    assert "hunter22" not in str(line(text))
    assert "hunter22" not in logs.TextFormatter(logs.TEXT).format(record(text))


def test_ordinary_text_is_left_as_it_is() -> None:
    text = "run 0190 of shop.charge took 3 s at http://127.0.0.1:8470/api?x=1; the token of the parser is odd"
    assert logs.masked(text) == text


def test_an_unknown_format_or_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="AIKI_LOG_FORMAT='xml': it must be text or json"):
        logs.set_up("info", format="xml")
    with pytest.raises(ConfigurationError, match="log level 'loud'"):
        logs.set_up("loud")


def test_every_command_heeds_the_variable(tmp_path: Path) -> None:
    code = "import sys; from aiki.cli import common; common.set_up_logging('info'); import logging; logging.info('hi')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"AIKI_LOG_FORMAT": "json"}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stderr)["message"] == "hi"


def test_our_loggers_speak_again_after_an_application_has_silenced_those_that_were_there() -> None:
    ours, others = logging.getLogger("aiki.of_this_test"), logging.getLogger("aikido.of_this_test")
    ours.disabled = others.disabled = True
    logs.revive()
    assert not ours.disabled
    assert others.disabled
