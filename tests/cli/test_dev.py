"""`aiki dev` as its users meet it: one terminal that runs it, and another."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests import services
from tests.cli.process import ROOT, Process, aiki, run, wait_gone
from tests.waiting import wait_until

GREETING = "Ctrl-C stops everything"
TWO_TASKS = """
from aiki import Aiki
app = Aiki("two")

@app.task
def add(a: int, b: int) -> int:
    return a + b

@app.task(queue="reports")
def which() -> str:
    return "old"

@app.task
def slow(seconds: float) -> str:
    import time
    time.sleep(seconds)
    return "done"
"""


def start(directory: Path, *options: str, app: str = "two") -> Process:
    port = services.free_port()
    process = Process(["-m", "aiki", "dev", "-A", app, "--port", str(port), *options], directory)
    process.port = port  # type: ignore[attr-defined]
    return process


def ask(directory: Path, expression: str, module: str = "two", timeout: float = 60) -> str:
    """What a second terminal prints for an expression."""
    done = run(["-c", f"import {module} as m; print({expression})"], directory, timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "two.py").write_text(TWO_TASKS)
    return tmp_path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Process, Path]]:
    """The example shop, running."""
    place = tmp_path_factory.mktemp("shop")
    shutil.copy(ROOT / "examples" / "shop.py", place)
    with start(place, app="shop") as process:
        process.wait_for_line(GREETING)
        yield process, place


# ---------------------------------------------------------------- a second terminal
def test_second_terminal_enqueues_with_no_configuration(shop: tuple[Process, Path]) -> None:
    _, place = shop
    assert ask(place, "m.charge.enqueue('o-1', 4200).result()", "shop") == "charged 42.00 for order o-1"


def test_the_example_that_it_prints_runs(shop: tuple[Process, Path]) -> None:
    process, place = shop
    line = process.wait_for_line('python -c "')
    code = line.split('python -c "')[1].removesuffix('"')
    done = run(["-c", code], place)
    assert done.returncode == 0, done.stderr
    assert "charged" in done.stdout


def test_the_api_answers_where_it_says(shop: tuple[Process, Path]) -> None:
    process, place = shop
    run_id = ask(place, "(h := m.charge.enqueue('o-2', 100), h.result(), h.id)[2]", "shop")
    url = process.wait_for_line("API: ").split("API:")[1].strip()
    with urllib.request.urlopen(f"{url}/{run_id}", timeout=10) as answer:
        assert json.load(answer)["state"] == "completed"


def test_runs_are_listed_shown_retried_and_cancelled(shop: tuple[Process, Path]) -> None:
    _, place = shop
    failed = ask(place, "(h := m.refund.enqueue('o-3', 100), h.wait(), h.id)[2]", "shop")
    listed = json.loads(aiki("runs", "list", "--state", "failed", "-o", "json", cwd=place).stdout)
    assert failed in [item["id"] for item in listed["runs"]]
    table = aiki("runs", "list", "--name", "shop.refund", cwd=place).stdout
    assert failed in table
    assert "RefundRefused" in table

    shown = aiki("runs", "show", failed, cwd=place)
    assert "RefundRefused: order o-3" in shown.stdout
    assert "Traceback" in shown.stdout, "the task's traceback"
    data = json.loads(aiki("runs", "show", failed, "-o", "json", cwd=place).stdout)
    assert data["input"] == [["o-3", 100], {}]
    assert [attempt["outcome"] for attempt in data["attempts"]] == ["retried", "failed"]

    assert aiki("runs", "retry", failed, cwd=place).returncode == 0

    def failed_again() -> bool:
        again = json.loads(aiki("runs", "show", failed, "-o", "json", cwd=place).stdout)
        return again["state"] == "failed" and len(again["attempts"]) > 2

    wait_until(failed_again, 30)

    later = ask(place, "m.charge.options(countdown=3600).enqueue('o-4', 1).id", "shop")
    cancelled = aiki("runs", "cancel", later, "--reason", "not wanted", cwd=place)
    assert cancelled.stdout.split() == [later, "cancelled"]
    refused = aiki("runs", "retry", ask(place, "(h := m.charge.enqueue('o-5', 1), h.wait(), h.id)[2]", "shop"), cwd=place)
    assert refused.returncode == 1
    assert "completed" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_runs_through_the_server(shop: tuple[Process, Path]) -> None:
    process, place = shop
    server = process.wait_for_line("API: ").split("API:")[1].strip().removesuffix("/api/v1/runs")
    run_id = ask(place, "(h := m.charge.enqueue('o-6', 100), h.result(), h.id)[2]", "shop")
    there = aiki("runs", "show", run_id, "--server", server, "-o", "json", cwd=place)
    here = aiki("runs", "show", run_id, "-o", "json", cwd=place)
    assert there.returncode == 0, there.stderr
    assert json.loads(there.stdout) == json.loads(here.stdout)


def test_doctor_and_workers(shop: tuple[Process, Path]) -> None:
    _, place = shop

    def all_well() -> bool:
        done = aiki("doctor", "-o", "json", cwd=place)
        found = {check["what"]: check["verdict"] for check in json.loads(done.stdout)}
        return done.returncode == 0 and found.get("workers") == found.get("orchestrator") == found.get("schema") == "ok"

    wait_until(all_well, 30)
    workers = json.loads(aiki("workers", "-o", "json", cwd=place).stdout)
    assert [worker["name"] for worker in workers] == ["dev"]
    assert {"name": "shop.charge", "version": "1"} in workers[0]["definitions"]
    assert "dev" in aiki("workers", cwd=place).stdout


# ---------------------------------------------------------------- reload
def test_a_changed_function_is_picked_up_and_a_broken_one_is_not(directory: Path) -> None:
    with start(directory) as process:
        process.wait_for_line(GREETING)
        assert ask(directory, "m.which.enqueue().result()") == "old"

        (directory / "two.py").write_text(TWO_TASKS.replace('"old"', '"new"'))
        process.wait_for_line("reloaded")
        assert ask(directory, "m.which.enqueue().result()") == "new"

        good = (directory / "two.py").read_text()
        seen = len(process.lines)
        (directory / "two.py").write_text(good + "\nx = (\n")
        process.wait_for_line("SyntaxError", after=seen)
        process.wait_for_line("stays as it is", after=seen)
        code = (
            "import aiki; from aiki import Aiki; app = Aiki('c')\n"
            "@app.task(name='two.add')\ndef add(a: int, b: int) -> int: ...\n"
            "print(add.enqueue(1, 2).result())"
        )
        assert run(["-c", code], directory).stdout.strip() == "3", "the old worker goes on"

        seen = len(process.lines)
        (directory / "two.py").write_text(good.replace('"new"', '"newest"'))
        process.wait_for_line("reloaded", after=seen)
        assert ask(directory, "m.which.enqueue().result()") == "newest"


def test_a_reload_lets_a_running_task_end(directory: Path) -> None:
    with start(directory, "-c", "1") as process:
        process.wait_for_line(GREETING)
        run_id = ask(directory, "m.slow.enqueue(4.0).id")
        wait_until(lambda: ask(directory, f"m.app.handle('{run_id}').status()") == "running", 20)
        (directory / "two.py").write_text(TWO_TASKS.replace('"old"', '"new"'))
        process.wait_for_line("reloaded")
        assert ask(directory, "m.which.enqueue().result()") == "new", "the new worker does not wait for the old one's task"
        assert ask(directory, f"(h := m.app.handle('{run_id}'), h.result(), h.view().attempt)[1:]") == "('done', 1)"


def test_an_app_that_is_broken_from_the_start_is_waited_for(directory: Path) -> None:
    (directory / "two.py").write_text("x = (\n")
    with start(directory) as process:
        process.wait_for_line("waiting for a change")
        (directory / "two.py").write_text(TWO_TASKS)
        process.wait_for_line(GREETING)
        assert ask(directory, "m.add.enqueue(2, 3).result()") == "5"


def test_without_reload_a_broken_app_is_an_error(directory: Path) -> None:
    (directory / "two.py").write_text("x = (\n")
    done = aiki("dev", "-A", "two", "--port", str(services.free_port()), "--no-reload", cwd=directory)
    assert done.returncode == 2
    assert "SyntaxError" in done.stdout


# ---------------------------------------------------------------- ends
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_children(directory: Path, number: signal.Signals) -> None:
    with start(directory) as process:
        process.wait_for_line(GREETING)
        family = process.family()
        assert len(family) >= 6, "orchestrator, server and its process, worker, link, two children"
        process.signal(number)
        assert process.wait() == 0
        wait_gone(family, 5)
        assert "stopped" in process.lines[-1]


def test_a_second_ctrl_c_does_not_wait_for_tasks(directory: Path) -> None:
    with start(directory) as process:
        process.wait_for_line(GREETING)
        run_id = ask(directory, "m.slow.enqueue(120.0).id")
        wait_until(lambda: ask(directory, f"m.app.handle('{run_id}').status()") == "running", 20)
        family = process.family()
        process.signal(signal.SIGINT)
        process.wait_for_line("tasks that run may end")
        process.signal(signal.SIGINT)
        process.wait(8)
        wait_gone(family, 5)


def test_kill_9_takes_all_children_along(directory: Path) -> None:
    with start(directory) as process:
        process.wait_for_line(GREETING)
        family = process.family()
        process.signal(signal.SIGKILL)
        process.wait()
        wait_gone(family, 10)


def test_what_dies_is_started_again(directory: Path) -> None:
    with start(directory) as process:
        process.wait_for_line(GREETING)
        for role in ("worker", "orchestrator", "server"):
            victim = process.one(role)
            victim.send_signal(signal.SIGKILL)
            process.wait_for_line(f"the {role} ended .SIGKILL.; it is started again")
            wait_until(lambda: _started_again(process, role, victim), 20)  # noqa: B023  (called at once)
        assert ask(directory, "m.add.enqueue(1, 2).result()") == "3"


def _started_again(process: Process, role: str, victim: psutil.Process) -> bool:
    try:
        return process.one(role).pid != victim.pid
    except AssertionError:
        return False


# ---------------------------------------------------------------- what is wrong from the start
def test_a_taken_port_is_told_in_one_line(directory: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        done = aiki("dev", "-A", "two", "--port", str(port), cwd=directory)
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_app_may_name_its_own_database(directory: Path) -> None:
    named = f"database_url='sqlite:///{directory}/else/runs.db', broker_url='sqlite:///{directory}/else/broker.db'"
    (directory / "two.py").write_text(TWO_TASKS.replace('Aiki("two")', f'Aiki("two", {named})'))
    with start(directory) as process:
        process.wait_for_line(GREETING)
        assert ask(directory, "m.add.enqueue(1, 2).result()") == "3"
        assert (directory / "else" / "runs.db").exists()
        assert not (directory / ".aiki").exists()
