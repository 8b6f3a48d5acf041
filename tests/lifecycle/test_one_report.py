"""The way of one report: storage locks, lifecycle decides, storage writes. And that a decision reaches for nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import aiki
from aiki import messages as m
from aiki.lifecycle.batch import Item
from aiki.messages import Report
from aiki.states import State
from aiki.storage import Store
from tests.ready_made import sqlite_database
from tests.storage.bench import ONE, Bench
from tests.storage.conftest import SetClock

ROOT = Path(aiki.__file__).parent
MOST_FILES = 14
"""Files of ours that a task's result enters, on its way from `Inbound.apply` to the commit and back: of these three are the
database's driver (`storage/engine/`), and two are words (`ids`, `states`)."""


def test_a_result_crosses_the_wall_between_orchestrator_and_storage_twice_and_enters_few_files(tmp_path: Path) -> None:
    clock = SetClock()
    bench = Bench(Store(sqlite_database(tmp_path / "aiki.db"), clock=clock), clock)
    first, second = bench.start(kind="task"), bench.start(kind="task")
    bench.complete(first)  # what is loaded and remembered at first is there
    item = Item(Report(m.COMPLETED, second, 1, {"ms": 1, "e": "json", "r": "4"}), ONE, bytes.fromhex(second))
    files: list[str] = []

    def note(frame: FrameType | None) -> None:
        path = Path(frame.f_code.co_filename) if frame is not None else None
        if path is not None and path.is_relative_to(ROOT):
            files.append(str(path.relative_to(ROOT)))

    def watch(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            note(frame)
        elif event == "return":
            note(frame.f_back)

    sys.setprofile(watch)
    try:
        done = list(bench.inbound.apply("default", [item]))
    finally:
        sys.setprofile(None)
    assert len(done) == 1
    assert bench.state(second) == State.COMPLETED
    sides = [file.split("/")[0] for file in files if file.startswith(("orchestrator/", "storage/"))]
    stays = [side for at, side in enumerate(sides) if at == 0 or side != sides[at - 1]]
    assert stays == ["orchestrator", "storage", "orchestrator"]
    assert len(set(files)) <= MOST_FILES, sorted(set(files))
