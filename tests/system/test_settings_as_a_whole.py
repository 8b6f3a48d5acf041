"""Settings are taken as a whole: with one URL set, nobody makes up another."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki import Aiki
from aiki.errors import ConfigurationError, RunFailed
from tests.cli.process import Process, aiki, run
from tests.system.system import System

APP = """
from aiki import Aiki

app = Aiki()

@app.task
def inner() -> str:
    return "inner"

@app.task
def outer() -> str:
    return inner.enqueue().id
"""

NAMED = """
from aiki import Aiki

app = Aiki(broker_url="{broker}")

@app.task
def alone() -> None:
    pass
"""


@pytest.mark.parametrize("by_option", [False, True])
def test_a_worker_with_the_broker_alone_works_and_its_tasks_cannot_enqueue(
    embedded_system: System, tmp_path: Path, by_option: bool
) -> None:
    system = embedded_system
    system.orchestrator()
    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / "lonely.py").write_text(APP)
    broker = system.settings.broker_url
    options = ["--broker", broker] if by_option else []
    env = {} if by_option else {"AIKI_BROKER_URL": broker}
    with Process(["-m", "aiki.cli.main", "worker", "-A", "lonely", "-c", "1", *options], folder, **env) as worker:
        worker.wait_for_line("orchestrator knows this worker")
        app = Aiki(database_url=system.settings.database_url, broker_url=broker)
        with app:
            inner = app.task(name="lonely.inner")(lambda: None)
            outer = app.task(name="lonely.outer")(lambda: None)
            assert inner.enqueue().result(timeout=30) == "inner"
            handle = outer.enqueue()
            with pytest.raises(RunFailed, match="set AIKI_DATABASE_URL too") as caught:
                handle.result(timeout=30)
    assert "AIKI_SERVER_URL" in str(caught.value)
    assert not (folder / ".aiki").exists()


@pytest.mark.parametrize(
    ("arguments", "needs"),
    [
        (["orchestrator"], "AIKI_DATABASE_URL"),
        (["server"], "AIKI_DATABASE_URL"),
        (["runs", "list"], "AIKI_DATABASE_URL"),
        (["queues"], "AIKI_DATABASE_URL"),
        (["db", "upgrade"], "AIKI_DATABASE_URL"),
        (["users", "list"], "AIKI_DATABASE_URL"),
        (["dev", "-A", "alone"], "AIKI_DATABASE_URL"),
    ],
)
def test_commands_say_what_is_to_be_set(tmp_path: Path, arguments: list[str], needs: str) -> None:
    (tmp_path / "alone.py").write_text(NAMED.format(broker=f"sqlite:///{tmp_path}/broker.db"))
    done = aiki(*arguments, cwd=tmp_path, AIKI_BROKER_URL=f"sqlite:///{tmp_path}/broker.db")
    assert done.returncode == 2, done.stderr
    assert needs in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".aiki").exists()


@pytest.mark.parametrize("command", ["orchestrator", "server"])
def test_a_database_alone_is_not_enough_for_who_publishes(tmp_path: Path, command: str) -> None:
    done = aiki(command, cwd=tmp_path, AIKI_DATABASE_URL=f"sqlite:///{tmp_path}/a.db")
    assert (done.returncode, "needs AIKI_BROKER_URL" in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / ".aiki").exists()


def test_a_script_with_the_database_alone_cannot_enqueue_but_read_and_cancel(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/a.db"
    script = "from aiki import Aiki\napp = Aiki()\nt = app.task(name='t')(lambda: None)\nprint(list(app.runs()))\nt.enqueue()"
    done = run(["-c", script], tmp_path, AIKI_DATABASE_URL=database)
    assert done.stdout == "[]\n"
    assert "ConfigurationError: to enqueue needs AIKI_BROKER_URL" in done.stderr
    whole = Aiki(database_url=database, broker_url=f"sqlite:///{tmp_path}/b.db")
    with whole:
        run_id = whole.task(name="t")(lambda: None).options(countdown=3600).enqueue().id
    done = aiki("runs", "cancel", run_id, cwd=tmp_path, AIKI_DATABASE_URL=database)
    assert done.returncode == 0, done.stderr
    shown = aiki("runs", "list", cwd=tmp_path, AIKI_DATABASE_URL=database)
    assert "cancelled" in shown.stdout
    assert not (tmp_path / ".aiki").exists()


def test_arguments_and_environment_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("AIKI_DATABASE_URL", "AIKI_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIKI_BROKER_URL", f"sqlite:///{tmp_path}/b.db")
    app = Aiki()
    with pytest.raises(ConfigurationError, match=r"set AIKI_DATABASE_URL too.*or AIKI_SERVER_URL"):
        app.client  # noqa: B018
    with Aiki(database_url=f"sqlite:///{tmp_path}/a.db") as mixed:
        assert mixed.task(name="t")(lambda: None).enqueue().status() == "queued"
    assert not (tmp_path / ".aiki").exists()
