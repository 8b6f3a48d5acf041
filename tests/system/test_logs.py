"""What runs log, from the code to the database, in real processes; and JSON lines of all of them."""

from __future__ import annotations

import json

from tests.system.system import System
from tests.waiting import wait_until


def told(system: System, run_id: str) -> list[tuple[str, str, int, int | None]]:
    return [(line.level, line.message, line.attempt, line.step) for line in system.store.run_logs(run_id)]


def test_what_runs_log_is_kept_whatever_becomes_of_them(system: System) -> None:
    system.env["AIKI_LOG_FORMAT"] = "json"
    orchestrator = system.orchestrator()
    worker = system.worker(app="monitored", concurrency=2, ready=True)
    app = system.app("monitored")
    names = {name: app.definitions[f"monitored.{name}"].enqueue(*args) for name, args in CALLS.items()}
    assert names["talk"].result(timeout=30) == 7
    assert names["flow"].result(timeout=30) == 3
    system.wait_states(60, completed=3, failed=1, dead=1)
    talk = told(system, names["talk"].id)
    assert talk[0] == ("info", "talking 7", 1, None)
    assert [line[0] for line in talk] == ["info", "warning"]
    assert [line[1:3] for line in told(system, names["again"].id)] == [("attempt 1", 1), ("attempt 2", 2)]
    assert [line[1] for line in told(system, names["last_words"].id)] == ["last words"] * 3  # one an attempt
    flow = told(system, names["flow"].id)
    assert [(line[1], line[3]) for line in flow][:1] == [("talking 1", 0)]
    assert len(flow) == 2  # its step's lines once, however often it is replayed
    lines = [json.loads(line) for line in worker.log.splitlines() if line.startswith("{")]
    assert any(line.get("run_id") == names["talk"].id and line["message"] == "talking 7" and "worker" in line for line in lines)
    wait_until(lambda: "listening" in orchestrator.log, 10, "the orchestrator's line")
    assert all(json.loads(line)["logger"] for line in orchestrator.log.splitlines())


def test_switched_off_nothing_is_reported(embedded_system: System) -> None:
    system = embedded_system
    system.env["AIKI_RUN_LOGS"] = "0"
    system.orchestrator()
    system.worker(app="monitored")
    handle = system.app("monitored").definitions["monitored.talk"].enqueue(1)
    assert handle.result(timeout=30) == 1
    assert told(system, handle.id) == []


CALLS: dict[str, tuple[int, ...]] = {"talk": (7,), "again": (), "last_words": (), "flow": ()}
