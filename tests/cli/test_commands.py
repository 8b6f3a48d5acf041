"""The commands by themselves: help, errors, exit codes, what they load."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from aiki.cli import main
from tests.cli.process import Process, aiki, run, wait_gone


def test_help_lists_every_command_and_the_exit_codes(tmp_path: Path) -> None:
    done = aiki("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("dev", "worker", "server", "orchestrator", "db", "runs", "workers", "doctor"):
        assert f"\n  {name} " in done.stdout
        assert main.load(name).get_short_help_str(), name
    assert "Exit codes:" in done.stdout


def test_a_worker_loads_no_database_and_no_server(tmp_path: Path) -> None:
    code = (
        "import sys, aiki.cli.main as m; m.load('worker'); import aiki.worker.main;"
        "print([n for n in ('sqlalchemy', 'pymysql', 'alembic', 'flask', 'gunicorn', 'watchfiles') if n in sys.modules])"
    )
    done = run(["-c", code], tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_orchestrator_loads_no_server(tmp_path: Path) -> None:
    code = (
        "import sys, aiki.cli.main as m; m.load('orchestrator'); import aiki.orchestrator;"
        "print([n for n in ('flask', 'gunicorn', 'watchfiles', 'urllib3') if n in sys.modules])"
    )
    done = run(["-c", code], tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orchestrator_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with Process(["-m", "aiki", "orchestrator"], tmp_path) as process:
        process.wait_for_line("listening")
        process.signal(number)
        assert process.wait() == 0, process.text
        assert "Traceback" not in process.text


def test_what_was_started_for_another_process_ends_with_it(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "command = [sys.executable, '-m', 'aiki', 'orchestrator']\n"
        "subprocess.Popen(command, env={**os.environ, 'AIKI_PARENT_PID': str(os.getpid())})\n"
        "time.sleep(600)\n"
    )
    with Process(["-c", code], tmp_path) as process:
        process.wait_for_line("listening")
        family = process.family()
        process.signal(signal.SIGKILL)
        process.wait()
        wait_gone(family)


# ---------------------------------------------------------------- errors
NOWHERE = "mysql+pymysql://u:secret@127.0.0.1:9/x"


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (("runs", "list", "--database", "oracle://x/y"), 2, "mysql+pymysql://"),
        (("runs", "list", "--database", NOWHERE), 4, "127.0.0.1"),
        (("runs", "list", "--server", "http://127.0.0.1:9"), 4, "127.0.0.1"),
        (("runs", "show", "not-an-id"), 1, "there is no run not-an-id"),
        (("runs", "cancel", "01a20943-4ee8-70cf-ace3-dd420de01a90"), 1, "there is no run"),
        (("runs", "list", "--namespace", "a/b"), 2, "namespace"),
        (("db", "upgrade", "--database", NOWHERE), 4, "127.0.0.1"),
        (("workers", "--database", NOWHERE), 4, "127.0.0.1"),
        (("nothing",), 2, "No such command"),
    ],
)
def test_errors_are_short_and_keep_passwords(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIKI_TIMEOUT", "2")
    monkeypatch.setattr("sys.argv", ["aiki", *arguments])
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr()
    assert end.value.code == code, said.err
    assert says in said.err
    assert "Traceback" not in said.err
    assert "secret" not in said.out + said.err


def test_an_orchestrator_says_why_it_cannot_start(tmp_path: Path) -> None:
    done = aiki("orchestrator", "--broker", "redis://x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "aiki: broker URL begins with 'redis'; it must be amqp://, amqps:// or sqlite:///\n"
    places = ["--database", NOWHERE, "--broker", f"sqlite:///{tmp_path}/b.db"]
    away = aiki("orchestrator", *places, cwd=tmp_path, AIKI_TIMEOUT="1")
    assert away.returncode == 4
    assert "127.0.0.1" in away.stderr
    assert len(away.stderr.splitlines()) == 1


def test_a_setting_that_makes_no_sense(tmp_path: Path) -> None:
    done = aiki("runs", "list", cwd=tmp_path, AIKI_PARTITIONS="many")
    assert done.returncode == 2
    assert done.stderr == "aiki: AIKI_PARTITIONS='many': it must be of type int\n"


# ---------------------------------------------------------------- db
def test_db_on_mysql(tmp_path: Path, mysql_database: str) -> None:
    before = aiki("db", "status", cwd=tmp_path, AIKI_DATABASE_URL=mysql_database)
    assert before.returncode == 1
    assert "aiki db upgrade" in before.stdout
    refused = aiki("runs", "list", cwd=tmp_path, AIKI_DATABASE_URL=mysql_database)
    assert refused.returncode == 2
    assert "aiki db upgrade" in refused.stderr
    assert aiki("db", "upgrade", cwd=tmp_path, AIKI_DATABASE_URL=mysql_database).returncode == 0
    again = aiki("db", "upgrade", "--database", mysql_database, cwd=tmp_path)
    assert "nothing to do" in again.stdout
    after = aiki("db", "status", "-o", "json", cwd=tmp_path, AIKI_DATABASE_URL=mysql_database)
    assert after.returncode == 0
    assert json.loads(after.stdout)["current"] is True


def test_runs_list_of_an_empty_embedded_default(tmp_path: Path) -> None:
    done = aiki("runs", "list", "-o", "json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"runs": [], "next": None}
    assert oct(os.stat(tmp_path / ".aiki").st_mode & 0o777) == "0o700"


# ---------------------------------------------------------------- doctor
def test_doctor_where_nothing_was_started(tmp_path: Path) -> None:
    done = aiki("doctor", cwd=tmp_path)
    assert done.returncode == 0
    assert "aiki dev" in done.stdout
    assert not (tmp_path / ".aiki").exists(), "it changes nothing"


def test_doctor_without_an_orchestrator(tmp_path: Path) -> None:
    with Process(["-m", "aiki", "orchestrator"], tmp_path) as process:
        process.wait_for_line("listening")
        assert aiki("doctor", cwd=tmp_path).returncode == 0
        process.signal(signal.SIGTERM)
        process.wait()
    done = aiki("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "fail  orchestrator: none is listening" in done.stdout
    assert "aiki orchestrator" in done.stdout


def test_doctor_on_servers(tmp_path: Path, mysql_database: str, amqp_url: str) -> None:
    env = {"AIKI_DATABASE_URL": mysql_database, "AIKI_BROKER_URL": amqp_url, "AIKI_PREFIX": "doctor"}
    missing = {c["what"]: c for c in json.loads(aiki("doctor", "-o", "json", cwd=tmp_path, **env).stdout)}
    assert missing["schema"]["verdict"] == "fail"
    assert missing["schema"]["todo"] == "run: aiki db upgrade"
    assert missing["broker"]["verdict"] == "ok"
    aiki("db", "upgrade", cwd=tmp_path, **env)
    with Process(["-m", "aiki", "orchestrator"], tmp_path, **env) as process:
        process.wait_for_line("listening")
        done = aiki("doctor", cwd=tmp_path, **env)
        assert done.returncode == 0, done.stdout
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_doctor_with_everything_away(tmp_path: Path) -> None:
    env = {"AIKI_DATABASE_URL": "mysql+pymysql://u:secret@127.0.0.1:9/x", "AIKI_BROKER_URL": "amqp://u:secret@127.0.0.1:9//"}
    done = aiki("doctor", cwd=tmp_path, AIKI_TIMEOUT="1", **env)
    assert done.returncode == 1
    assert "fail  database" in done.stdout
    assert "fail  broker" in done.stdout
    assert "secret" not in done.stdout
