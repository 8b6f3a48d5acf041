"""Many namespaces without work cost an orchestrator next to nothing. Statements are counted, for they are what it waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiki.storage.engine import Database
from tests.orchestrator.test_loop import Stage

COLUMNS = ("namespace", "name", "version", "kind", "options", "registered_at")
SECONDS = 120


def statements(folder: Path, namespaces: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many an orchestrator executes in two minutes, after its first."""
    folder.mkdir()
    stage = Stage(folder)
    rows = [(f"n{number}", "a", "1", "task", "{}", 0) for number in range(namespaces)]
    stage.store.db.transaction(lambda connection: stage.store.db.insert(connection, "aiki_definitions", COLUMNS, rows))
    stage.pass_time(10)
    while stage.orchestrators[0]._indexing._left:
        stage.orchestrators[0]._indexing.run_once()  # once in its life it looks at each
    stage.pass_time(10)
    count = 0
    execute = Database.execute

    def counting(self: Database, connection: Any, sql: str, parameters: Any = ()) -> Any:
        nonlocal count
        count += 1
        return execute(self, connection, sql, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "execute", counting)
        stage.pass_time(SECONDS)
    stage.close()
    return count


def test_a_thousand_namespaces_cost_as_many_statements_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = statements(tmp_path / "few", 1, monkeypatch), statements(tmp_path / "many", 1000, monkeypatch)
    assert few > SECONDS
    assert many - few < SECONDS // 2
