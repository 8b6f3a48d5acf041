"""`aiki queues`, `batches`, `dead`, and runs by filters, over the API in the command's own process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aiki.cli.main import aiki
from aiki.settings import Settings
from aiki.storage import open_store
from tests.storage.test_creating import new


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def do(*arguments: str) -> Result:
    return CliRunner().invoke(aiki, arguments)


def test_runs_are_found_by_filters_and_mistakes_pointed_at() -> None:
    store = open_store(Settings.load())
    run = new()
    store.create_runs([run])
    store.close()
    (line,) = do("runs", "list", "status:queued,scheduled", "-o", "jsonl").stdout.splitlines()
    assert json.loads(line)["id"] == run.id
    assert do("runs", "list", "status:failed", "-o", "jsonl").stdout == ""
    wrong = do("runs", "list", "status:faild")
    assert wrong.exit_code == 2
    assert "  status:faild\n         ^^^^^\n" in wrong.stderr
    begun = do("runs", "cancel", "--all", "status:queued,scheduled", "--no-wait", "-o", "json")
    assert begun.exit_code == 0, begun.output
    batch = json.loads(begun.stdout)
    assert (batch["operation"], batch["expected"]) == ("cancel", 1)
    assert do("batches", "stop", batch["id"]).stdout.startswith(f"{batch['id']}  cancel stopped")
    assert do("runs", "cancel").exit_code == 2


def test_a_queue_is_paused_and_resumed() -> None:
    assert "look" in do("queues", "pause", "default", "--reason", "look").stdout
    (queue,) = json.loads(do("queues", "-o", "json").stdout)
    assert queue["paused"]["reason"] == "look"
    assert do("queues", "resume", "default").stdout == "default  not paused\n"
    assert do("queues", "purge", "default").exit_code == 2
    assert json.loads(do("dead", "-o", "json").stdout) == []
