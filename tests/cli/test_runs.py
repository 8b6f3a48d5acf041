"""`aiki runs` on workflows that are moved by hand: steering, events, histories."""

from __future__ import annotations

import csv
import getpass
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from aiki import codec, ids
from aiki.cli import main
from aiki.history import COMPLETED, FAILED, OPEN, STEP, Step
from aiki.settings import Settings
from aiki.states import State
from aiki.storage import Store, open_store
from aiki.storage.auditing import AuditFilter
from tests.client.contract import events
from tests.client.ending import end
from tests.client.workflows import child, done, new_workflow, record, sleep
from tests.storage.test_creating import new


class Said(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `aiki runs …` on the embedded default of an empty directory."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("AIKI_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr("sys.argv", ["aiki", "runs", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def store(cli: Cli) -> Iterator[Store]:
    made = open_store(Settings.load())
    yield made
    made.close()


@pytest.fixture
def flow(store: Store) -> str:
    """A workflow that has done two steps and runs."""
    run = new_workflow("o-1")
    store.create_runs([run])
    record(store, run.id, done(0, "reserve", {"shelf": 7}), done(1, "shop.charge", 4200, ms=61_000))
    return run.id


def as_json(said: Said) -> Any:
    assert said.code == 0, said.err
    return json.loads(said.out)


# ---------------------------------------------------------------- act
def test_a_workflow_is_cancelled_and_terminated(cli: Cli, flow: str) -> None:
    assert cli("cancel", flow).out == f"{flow}  running (to be cancelled: its code meets it at its next durable point)\n"
    assert cli("terminate", flow, "--reason", "now").out == f"{flow}  cancelled\n"
    refused = cli("retry", flow)
    assert refused.code == 1
    assert "rerun makes a new run" in refused.err


def test_runs_are_paused_and_resumed(cli: Cli, store: Store, flow: str) -> None:
    assert cli("pause", flow).out == f"{flow}  running (to be paused: at its next durable point)\n"
    assert cli("resume", flow).out == f"{flow}  running\n"
    sleep(store, flow, 2, "night")
    task = new()
    store.create_runs([task])
    said = cli("pause", flow, task.id, "--reason", "look").out
    assert said == f"{flow}  paused\n{task.id}  paused\n"
    assert "  paused by an operator" in cli("list").out
    assert "paused by an operator" in cli("show", task.id).out
    assert [run["state"] for run in as_json(cli("resume", flow, task.id, "-o", "json"))] == ["queued", "queued"]
    again = cli("resume", flow)
    assert (again.code, again.out) == (1, "")
    assert "only paused runs can be resumed" in again.err


def test_a_sleep_is_ended(cli: Cli, store: Store, flow: str) -> None:
    assert cli("wake", flow).code == 1
    sleep(store, flow, 2, "night")
    assert "('day')" in cli("wake", flow, "--name", "day").err
    assert cli("wake", flow, "--name", "night").out == f"{flow}  queued\n"


def test_events_carry_json(cli: Cli, store: Store, flow: str) -> None:
    assert cli("event", flow, "seen").out == f"{flow}  running\n"
    for _ in range(2):
        as_json(cli("event", flow, "paid", "--data", '{"cents": 4200, "by": "Zoë"}', "--reference", "p-1", "-o", "json"))
    assert cli("event", flow, "at", "--data", '{"$aiki": "decimal", "v": "1.50"}').code == 0
    came = events(store, flow)
    assert len(came) == 3
    assert dict(came)["paid"] == codec.encode({"cents": 4200, "by": "Zoë"})
    assert str(codec.decode(dict(came)["at"] or codec.encode(None))) == "1.50"
    wrong = cli("event", flow, "paid", "--data", "paid")
    assert wrong.code == 2
    assert "text needs quotes" in wrong.err
    assert cli("event", flow, "").code == 2
    end(store, flow)
    refused = cli("event", flow, "paid")
    assert refused.code == 1
    assert "it is completed" in refused.err


def test_a_rerun_goes_on_from_a_step(cli: Cli, store: Store, flow: str) -> None:
    (again,) = as_json(cli("rerun", flow, "--from-step", "1", "-o", "json"))
    assert [step.name for step in store.history(again["id"])] == ["reserve"]
    refused = cli("rerun", flow, "--from-step", "2")
    assert refused.code == 1
    assert "from step 2" in refused.err


def test_each_verb_records_the_reason_and_who_gave_it(cli: Cli, store: Store, flow: str) -> None:
    task = new()
    store.create_runs([task])
    end(store, task.id, State.FAILED, error=("ValueError", "no"))
    sleep(store, flow, 2, "night")
    said = [
        cli("retry", task.id, "--reason", "because of retry"),
        cli("pause", task.id, "--reason", "because of pause"),
        cli("resume", task.id, "--reason", "because of resume"),
        cli("wake", flow, "--reason", "because of wake"),
        cli("event", flow, "paid", "--reason", "because of event"),
        cli("rerun", task.id, "--reason", "because of rerun"),
        cli("cancel", task.id, "--reason", "because of cancel"),
        cli("terminate", flow, "--reason", "because of terminate"),
    ]
    assert [each.code for each in said] == [0] * 8, [each.err for each in said]
    records = store.audit_log(AuditFilter(), limit=50)
    verbs = ("retry", "pause", "resume", "wake", "event", "rerun", "cancel", "terminate")
    told = {record.action: (record.reason, record.actor) for record in records if record.reason}
    assert told == {verb: (f"because of {verb}", f"cli:{getpass.getuser()}") for verb in verbs}
    assert all(record.actor == f"cli:{getpass.getuser()}" for record in records)


def test_a_verb_that_is_refused_for_one_run_is_done_to_the_others(cli: Cli, store: Store, flow: str) -> None:
    task = new()
    store.create_runs([task])
    end(store, task.id, State.FAILED, error=("ValueError", "no"))
    said = cli("retry", "nonsense", flow, task.id, "--reason", "x")
    assert said.code == 1
    assert said.out == f"{task.id}  queued\n"
    assert "there is no run nonsense" in said.err
    assert "only failed, dead and cancelled runs can be retried" in said.err


# ---------------------------------------------------------------- look
def test_show_prints_the_steps(cli: Cli, store: Store, flow: str) -> None:
    part = new("shop.ship", parent_id=ids.to_bytes(flow), parent_ordinal=2)
    failed = Step(3, STEP, "notify\x1b[31m", "", FAILED, 3, {"t": "SmtpError", "m": "no such host"})
    trying = Step(4, STEP, "print", "", OPEN, 1, {"t": "PrinterJam", "m": "tray 2", "due": store.clock() + 90_500_000})
    record(store, flow, child(2, part), failed, trying, children=(part,))
    lines = [line.split() for line in cli("show", flow).out.splitlines()]
    begin = lines.index(["steps:"])
    assert lines[begin + 1 : begin + 5] == [
        ["STEP", "KIND", "NAME", "STATE", "ATTEMPT", "TOOK", "CHILD", "WHY"],
        ["0", "step", "reserve", "completed", "1", "12ms"],
        ["1", "step", "shop.charge", "completed", "1", "1m"],
        ["2", "task", "shop.ship", "open", part.id],
    ]
    assert lines[begin + 5][2:6] == ["notify\ufffd[31m", "failed", "3", "SmtpError:"]
    assert " ".join(lines[begin + 6]).startswith("4 step print open 1 due in ")
    assert " ".join(lines[begin + 6]).endswith("; PrinterJam: tray 2")
    assert f"parent:       {flow}" in cli("show", part.id).out
    shown = as_json(cli("show", flow, "-o", "json"))
    assert [step["ordinal"] for step in shown["steps"]] == [0, 1, 2, 3, 4]
    assert shown["steps"][0]["result"] == {"shelf": 7}
    assert as_json(cli("show", part.id, "-o", "json"))["steps"] == []
    listed = as_json(cli("list", "--parent", flow, "-o", "json"))["runs"]
    assert [run["id"] for run in listed] == [part.id]
    assert [run["id"] for run in as_json(cli("list", "--kind", "workflow", "-o", "json"))["runs"]] == [flow]
    assert cli("list", "--parent", "nothing").code == 2


def test_a_long_history_is_folded(cli: Cli, store: Store, flow: str) -> None:
    def steps_of(count: int) -> list[str]:
        out = cli("show", flow).out.splitlines()
        return out[out.index("steps:") + 2 :]

    record(store, flow, *(done(i, f"step-{i}") for i in range(2, 50)))
    assert len(steps_of(50)) == 50
    record(store, flow, *(done(i, f"step-{i}") for i in range(50, 1234)))
    lines = steps_of(1234)
    assert len(lines) == 51
    assert lines[25] == f"… 1,184 more: aiki runs history {flow}"
    assert lines[24].split()[0] == "24"
    assert lines[26].split()[0] == "1209"
    assert lines[50].split()[0] == "1233"


def test_history_lists_steps_with_results(cli: Cli, store: Store, flow: str) -> None:
    record(store, flow, Step(2, "value", "now", "", COMPLETED, 0, {"e": "json", "r": json.dumps("x" * 100)}))
    table = cli("history", flow)
    assert '{"shelf": 7}' in table.out
    assert "x" * 58 + "…" in table.out
    assert table.err == ""
    page = cli("history", flow, "--limit", "2")
    assert len(page.out.splitlines()) == 3
    assert page.err == "more: --after 1\n"
    rest = as_json(cli("history", flow, "--after", "1", "-o", "json"))
    assert [step["name"] for step in rest["steps"]] == ["now"]
    assert rest["next"] is None
    assert cli("history", str(ids.new_id())).code == 1


def test_a_failed_child_is_told(cli: Cli, store: Store, flow: str) -> None:
    part = new("shop.ship", parent_id=ids.to_bytes(flow), parent_ordinal=2)
    record(store, flow, child(2, part), children=(part,))
    end(store, part.id, State.FAILED, error=("ValueError", "no such street"))
    assert "ValueError: no such street" in cli("show", flow).out


# ---------------------------------------------------------------- follow
def test_watch_tells_steps_and_how_it_ends(cli: Cli, store: Store, flow: str) -> None:
    end(store, flow, State.FAILED, error=("ValueError", "no\x1b[31m such card"))
    said = cli("watch", flow)
    assert said.code == 1
    first, second, last = said.out.splitlines()
    assert "step 0 step reserve  completed" in first
    assert "step 1 step shop.charge  completed  1m" in second
    assert last.endswith("shop.checkout  failed  ValueError: no\ufffd[31m such card")
    kinds = [
        "ordinal" if "ordinal" in json.loads(line) else "run" for line in cli("watch", flow, "-o", "jsonl").out.splitlines()
    ]
    assert kinds == ["ordinal", "ordinal", "run"]
    assert cli("watch", str(ids.new_id())).code == 1


def test_watch_sees_a_run_go_on(cli: Cli, store: Store) -> None:
    task = new()
    store.create_runs([task])
    timer = threading.Timer(1.5, end, (store, task.id), {"result": "done"})
    timer.start()
    said = cli("watch", task.id)
    timer.join()
    assert said.code == 0
    assert [line.split()[2] for line in said.out.splitlines()] == ["queued", "completed"]


def test_what_came_to_a_run_is_listed(cli: Cli, flow: str) -> None:
    cli("event", flow, "paid", "--data", "1", "--reference", "p-1")
    (event,) = as_json(cli("events", flow, "-o", "json"))["events"]
    assert (event["kind"], event["name"], event["step"]) == ("event", "paid", None)
    assert "paid" in cli("events", flow).out


def test_runs_are_exported_however_many_there_are(cli: Cli, store: Store) -> None:
    made = [new("=mail") for _ in range(450)]
    store.create_runs(made)
    lines = cli("export", "status:queued", "name:=mail").out.splitlines()
    assert {json.loads(line)["id"] for line in lines} == {run.id for run in made}
    assert len(cli("export", "-n", "201").out.splitlines()) == 201
    header, *rows = csv.reader(cli("export", "--format", "csv").out.splitlines())
    assert len(rows) == 450
    assert rows[0][header.index("name")] == "'=mail"
    assert cli("export", "status:nonsense").code == 2
