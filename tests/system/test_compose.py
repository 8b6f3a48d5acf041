"""`compose.yaml`, `Dockerfile` and `rabbitmq/setup.sh`: read without Docker, and what they set up done on real servers.

The users that they make are given to real processes: these do all that they must, and cannot do what they need not.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
import yaml

from aiki.cli.main import COMMANDS
from tests import provision
from tests.services import MariaServer, RabbitServer
from tests.system.system import System
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def compose(**environment: str) -> dict[str, Any]:
    """The file as `docker compose` reads it, with variables of this environment filled in."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, needed, _ = match[1].partition(":?")
        if needed:
            return environment.get(name) or "set"
        name, _, default = match[1].partition(":-")
        return environment.get(name) or default

    text = re.sub(r"\$\$|\$\{([^}]*)\}", value, (ROOT / "compose.yaml").read_text())
    found: dict[str, Any] = yaml.safe_load(text)
    return found


OURS = ("migrate", "orchestrator", "server", "worker")


def test_what_depends_on_what_is_there() -> None:
    services = compose()["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            needs_health = condition["condition"] == "service_healthy"
            assert not needs_health or "healthcheck" in services[other], f"{name} waits for the health of {other}"
            ends = condition["condition"] == "service_completed_successfully"
            assert ends == (services[other].get("restart") in ("no", "on-failure")), f"{name} waits for {other}"
    for name in ("rabbitmq", "mysql", "orchestrator", "server", "worker"):
        assert "healthcheck" in services[name]


def test_nothing_listens_beyond_this_machine_and_ours_have_no_rights() -> None:
    services = compose()["services"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name in OURS:
        service = services[name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "no-new-privileges:true" in service["security_opt"]
    users = re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["10001"]


def test_no_password_is_written_twice_in_different_ways_and_all_come_from_the_environment() -> None:
    text = (ROOT / "compose.yaml").read_text()
    secrets = set(re.findall(r"\$\{([A-Z_]*(?:PASSWORD|API_KEY)[A-Z_]*):\?", text))
    assert not re.findall(r"\$\{[A-Z_]*(?:PASSWORD|API_KEY)[A-Z_]*:-", text), "none has a default that everybody knows"
    made = subprocess.run([ROOT / "scripts" / "compose-env"], capture_output=True, text=True, check=True).stdout
    lines = dict(line.split("=") for line in made.splitlines())
    assert set(lines) == secrets
    assert len(set(lines.values())) == len(secrets)
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in lines.values())
    given = {name: f"0{name.lower()}0" for name in secrets}
    filled = str(compose(**given)["services"]) + str(compose(**given)["configs"])
    for name, value in given.items():
        assert value in filled, name
    assert "aiki-local" not in filled
    assert "guest" not in filled


def test_every_container_has_limits() -> None:
    for name, service in compose()["services"].items():
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service), name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_the_worker_knows_the_broker_alone() -> None:
    services = compose()["services"]
    assert not any("DATABASE" in name or "API_KEY" in name for name in services["worker"]["environment"])
    assert "aiki-worker:" in services["worker"]["environment"]["AIKI_BROKER_URL"]
    assert "aiki-server:" in services["server"]["environment"]["AIKI_BROKER_URL"]
    assert "aiki-orchestrator:" in services["orchestrator"]["environment"]["AIKI_BROKER_URL"]
    for name in ("server", "orchestrator"):
        assert "//aiki:" in services[name]["environment"]["AIKI_DATABASE_URL"]


def test_commands_and_health_checks_are_commands_of_ours() -> None:
    services = compose()["services"]
    for name in OURS:
        _is_ours(services[name]["command"])
        if "healthcheck" in services[name]:
            assert services[name]["healthcheck"]["test"][0] == "CMD"
            _is_ours(services[name]["healthcheck"]["test"][1:])
    done = re.findall(r"^CMD (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert [yaml.safe_load(line) for line in done] == [["aiki", "--help"]]


def _is_ours(words: list[str]) -> None:
    program, *rest = words
    if program == "aiki":
        assert rest[0] in COMMANDS, words
    else:
        assert program in ("aiki-server", "aiki-worker"), words


def test_what_the_image_is_built_from_is_there() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in shlex.split(line)[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    assert "--require-hashes" in text


def test_compose_itself_agrees_where_it_is_there() -> None:
    try:
        there = subprocess.run(["docker", "compose", "version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return
    if there.returncode == 0:
        command = ["docker", "compose", "-f", str(ROOT / "compose.yaml"), "config", "-q"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- on real servers
SECRETS = {f"AIKI_{who}_PASSWORD": f"of{who.lower()}1" for who in ("ORCHESTRATOR", "SERVER", "WORKER", "MIGRATE", "DATABASE")}


@pytest.fixture(scope="module")
def set_up() -> Iterator[RabbitServer]:
    with RabbitServer() as server:
        _run_setup(server)
        yield server


def _run_setup(server: RabbitServer, **changed: str) -> subprocess.CompletedProcess[str]:
    tool = provision.rabbitmq_program("rabbitmqctl")
    assert tool is not None
    environment = {**server._environment(), **SECRETS, **changed}
    environment["PATH"] = f"{tool.parent}:{os.environ['PATH']}"
    command = ["sh", str(ROOT / "rabbitmq" / "setup.sh"), "-n", server.node]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=not changed)


@pytest.fixture
def database(maria: MariaServer) -> Iterator[tuple[str, str]]:
    """The URLs for migrations and for everybody else, of users made as `compose.yaml` makes them."""
    url = maria.create_database()
    name = str(sa.make_url(url).database)
    sql = compose(**SECRETS)["configs"]["mysql-users"]["content"]
    sql = sql.replace(" ON aiki.*", f" ON `{name}`.*").replace("'aiki", f"'{name[-8:]}-aiki")
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for statement in filter(str.strip, sql.split(";")):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    base = sa.make_url(url)
    migrate = base.set(username=f"{name[-8:]}-aiki-migrate", password=SECRETS["AIKI_MIGRATE_PASSWORD"])
    plain = base.set(username=f"{name[-8:]}-aiki", password=SECRETS["AIKI_DATABASE_PASSWORD"])
    yield migrate.render_as_string(hide_password=False), plain.render_as_string(hide_password=False)
    with engine.connect() as connection:
        for user in (migrate.username, plain.username):
            connection.exec_driver_sql(f"DROP USER '{user}'@'%%'")
    engine.dispose()
    maria.drop_database(url)


def test_with_their_own_users_the_processes_do_all_that_they_must(
    set_up: RabbitServer, database: tuple[str, str], make_system: Callable[..., System], free_port: Callable[[], int]
) -> None:
    migrate, plain = database
    broker = "amqp://aiki-{0}:{1}@127.0.0.1:" + f"{set_up.port}/aiki"
    urls = {who: broker.format(who, SECRETS[f"AIKI_{who.upper()}_PASSWORD"]) for who in ("orchestrator", "server", "worker")}
    system = make_system(migrate, urls["orchestrator"])  # which makes the tables
    system.env |= {"AIKI_DATABASE_URL": plain, "AIKI_PREFIX": "aiki", "AIKI_RETENTION": "60s"}
    orchestrator = system.orchestrator()
    system.env["AIKI_BROKER_URL"] = urls["worker"]
    without = {key: value for key, value in system.env.items() if key != "AIKI_DATABASE_URL"}
    kept, system.env = system.env, without
    worker = system.worker()
    system.env = {**kept, "AIKI_BROKER_URL": urls["server"]}
    port = free_port()
    server = system.server(port)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: _answers(f"{address}/readyz"), 30, "the server")
    from aiki import Aiki

    app = Aiki(server_url=address)
    handle = app.task(name="shop.nap")(lambda i, seconds: i).enqueue(7, 0.1)
    assert handle.result(timeout=30) == 7
    long = app.task(name="shop.noop")(lambda i: i).options(countdown=3600).enqueue(1)
    long.cancel()
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    assert 'aiki_up{part="broker"} 1.0' in text
    assert 'aiki_report_queue_consumers{partition="0"} 1.0' in text
    for check, process in (("orchestrator", orchestrator), ("server", server), ("worker", worker)):
        command = [sys.executable, "-m", "aiki", "alive", check, "--pid", str(process.pid)]
        # One child has executed the run; the other may still be on its way to its queues.
        wait_until(partial(_is_well, command, system.env), 30, f"the {check} to be well")
    assert worker.stop() == 0


def test_a_server_that_does_not_answer_is_not_well(free_port: Callable[[], int]) -> None:
    command = [sys.executable, "-m", "aiki", "alive", "server", "--bind", f"0.0.0.0:{free_port()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "does not answer" in done.stderr


def _is_well(command: list[str], env: dict[str, str]) -> bool:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return (done.returncode, done.stderr) == (0, "")


def _answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url).status == 200)
    except OSError:
        return False


def test_servers_cannot_change_the_tables(database: tuple[str, str]) -> None:
    from aiki.storage import upgrade

    migrate, plain = database
    upgrade(migrate)
    engine = sa.create_engine(plain)
    for statement in (
        "DROP TABLE aiki_runs",
        "ALTER TABLE aiki_runs ADD COLUMN x INT",
        "CREATE TABLE x (y INT)",
        "TRUNCATE TABLE aiki_runs",
    ):
        with engine.connect() as connection, pytest.raises(sa.exc.OperationalError) as told:
            connection.exec_driver_sql(statement)
        assert isinstance(told.value.orig, pymysql.err.OperationalError)
        assert told.value.orig.args[0] in (1142, 1044)
    engine.dispose()


def test_setting_up_again_changes_passwords_and_loses_nothing(set_up: RabbitServer) -> None:
    _run_setup(set_up)
    told = _run_setup(set_up, AIKI_WORKER_PASSWORD="")
    assert told.returncode == 2
    assert "AIKI_WORKER_PASSWORD is not set" in told.stderr
