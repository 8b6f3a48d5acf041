"""Where RabbitMQ, MariaDB, MySQL and PostgreSQL come from, so that `make test` needs nothing but itself.

Tests meet two each of the first two kinds: those that the system has, RabbitMQ 3.10 and MariaDB 10.11 on Debian 12, and newer
ones, RabbitMQ 4 and MySQL 9; and one PostgreSQL. In this order: the servers that the environment names (`AIKI_TEST_AMQP_URL`,
`AIKI_TEST_MYSQL_URL`, `AIKI_TEST_RABBITMQ4_URL`, `AIKI_TEST_MYSQL9_URL`, `AIKI_TEST_POSTGRES_URL`); programs that are
installed; programs that apt installs, when we are root (the newer ones into a Debian of their own, `tests.sid`); the services
of `compose.yaml` and `tests/newer.compose.yaml`, when there is a Docker. Otherwise an error: a missing server never skips a
test.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import sid

ROOT = Path(__file__).resolve().parent.parent
AMQP_VARIABLE = "AIKI_TEST_AMQP_URL"
MYSQL_VARIABLE = "AIKI_TEST_MYSQL_URL"
RABBITMQ4_VARIABLE = "AIKI_TEST_RABBITMQ4_URL"
MYSQL9_VARIABLE = "AIKI_TEST_MYSQL9_URL"
POSTGRES_VARIABLE = "AIKI_TEST_POSTGRES_URL"
COMPOSE_AMQP_URL = "amqp://admin:aiki-local@127.0.0.1:5672//"
COMPOSE_MYSQL_URL = "mysql+pymysql://root:aiki-local@127.0.0.1:3306/"
_COMPOSE_SECRETS = (
    *("RABBITMQ_ADMIN_PASSWORD", "MYSQL_ROOT_PASSWORD", "AIKI_ORCHESTRATOR_PASSWORD", "AIKI_SERVER_PASSWORD"),
    *("AIKI_WORKER_PASSWORD", "AIKI_MIGRATE_PASSWORD", "AIKI_DATABASE_PASSWORD", "AIKI_API_KEY"),
)
"""compose.yaml asks for all of them."""
COMPOSE_RABBITMQ4_URL = "amqp://guest:guest@127.0.0.1:25672//"
COMPOSE_MYSQL9_URL = "mysql+pymysql://root:aiki-local@127.0.0.1:23306/"
COMPOSE_POSTGRES_URL = "postgresql://postgres:aiki-local@127.0.0.1:25432/postgres"

# Debian keeps servers where the PATH of a user does not look.
_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/libexec", "/usr/local/sbin", "/opt/homebrew/sbin"]
)
_COMMON = """Tests of the broker and the database run against real servers. Do one of these:
  - install them:  apt-get install rabbitmq-server mariadb-server postgresql  (or run this as root, and it is done for you)
  - name running ones:  AIKI_TEST_AMQP_URL=amqp://user:password@host:5672//
                        AIKI_TEST_MYSQL_URL=mysql+pymysql://user:password@host:3306/  (may create databases)
                        AIKI_TEST_RABBITMQ4_URL and AIKI_TEST_MYSQL9_URL: the same, for RabbitMQ 4 and MySQL 9
                        AIKI_TEST_POSTGRES_URL=postgresql://user:password@host:5432/postgres  (may create databases)
  - install Docker with its compose plugin; the services of compose.yaml are then used"""


class NoServer(RuntimeError):
    """A server that the tests need can be neither found nor installed."""


def say(text: str) -> None:
    """One line of progress."""
    print(f"services: {text}", file=sys.stderr, flush=True)


def rabbitmq_program(name: str = "rabbitmq-server") -> Path | None:
    """RabbitMQ's own script, not the wrapper in /usr/sbin, which changes to another user."""
    places = [
        Path("/usr/lib/rabbitmq/bin"),
        *sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), reverse=True),
    ]
    for place in places:
        if (place / name).exists():
            return place / name
    found = shutil.which(name, path=_PATH)
    return Path(found) if found else None


def program(*names: str) -> Path | None:
    """The first of these programs that is installed."""
    for name in names:
        found = shutil.which(name, path=_PATH)
        if found:
            return Path(found)
    return None


def mysqld() -> Path | None:
    """The database server's program."""
    return program("mariadbd", "mysqld")


def need_rabbitmq() -> Path:
    """RabbitMQ's program, installed now if need be; raises `NoServer`."""
    found = rabbitmq_program() or (_apt() and rabbitmq_program())
    if not found:
        raise NoServer(f"there is no rabbitmq-server on this machine. {_COMMON}")
    return found


def need_mysqld() -> Path:
    """The database server's program, installed now if need be; raises `NoServer`."""
    found = mysqld() or (_apt() and mysqld())
    if not found:
        raise NoServer(f"there is neither mariadbd nor mysqld on this machine. {_COMMON}")
    return found


def rabbitmq_command(name: str = "rabbitmq-server", *, newer: bool = False) -> list[str]:
    """The command line of one of RabbitMQ's programs, to which arguments may be added; raises `NoServer`.

    :param newer: RabbitMQ 4, wherever it is, instead of the one that the system has.
    """
    if not newer or "rabbitmq_server-4" in str(_real(rabbitmq_program())):
        need_rabbitmq()
        found = rabbitmq_program(name)
        if found is None:
            raise NoServer(f"{name} is not installed beside rabbitmq-server")
        return [str(found)]
    return _in_sid(f"/usr/lib/rabbitmq/bin/{name}")


def epmd_command(*, newer: bool = False) -> list[str]:
    """The command line of Erlang's port mapper, empty where it is not found."""
    found = program("epmd")
    return _in_sid("/usr/bin/epmd") if newer and found is None else [str(found)] if found else []


def mysqld_command(*, newer: bool = False) -> list[str]:
    """The command line of the database server, to which arguments may be added; raises `NoServer`.

    :param newer: MySQL 9, wherever it is, instead of the one that the system has.
    """
    if not newer:
        return [str(need_mysqld())]
    installed = program("mysqld")
    if installed and " 9." in _output(str(installed), "--version"):
        return [str(installed)]
    return _in_sid("/usr/sbin/mysqld")


def _in_sid(path: str) -> list[str]:
    try:
        return sid.command([path])
    except sid.NoRoot as error:
        raise NoServer(f"{error}\n{_COMMON}") from None


def _real(path: Path | None) -> Path | None:
    return path and path.resolve()


def _output(*command: str) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout


def postgres() -> Path | None:
    """The folder of PostgreSQL's programs. Debian keeps it off the PATH."""
    debian = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdecimal()]
    for folder in sorted(debian, key=lambda path: int(path.parent.name), reverse=True):
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    server = program("postgres")
    return server.resolve().parent if server and program("initdb") else None


def need_postgres() -> Path:
    """The folder of PostgreSQL's programs, installed now if need be; raises `NoServer`."""
    found = postgres() or (apt_install(["postgresql"], lambda: postgres() is not None) and postgres())
    if not found:
        raise NoServer("there is no postgres on this machine: apt-get install postgresql (or run this as root)")
    return found


def chromium() -> Path | None:
    """The browser's program."""
    return program("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def need_chromium() -> Path:
    """The browser's program, installed now if need be; raises `NoServer`."""
    found = chromium() or (apt_install(["chromium"], lambda: bool(chromium())) and chromium())
    if not found:
        raise NoServer("there is no chromium on this machine; the dashboard's tests need one: apt-get install chromium")
    return found


def _apt() -> bool:
    """Both servers by `apt_install`; raises `NoServer` if that fails."""
    try:
        return apt_install(["rabbitmq-server", "mariadb-server"], lambda: bool(rabbitmq_program() and mysqld()))
    except NoServer as error:
        raise NoServer(f"{error}\n{_COMMON}") from None


def apt_install(packages: Sequence[str], present: Callable[[], bool]) -> bool:
    """Install packages if we are root on a system with apt; whether that could be tried. Raises `NoServer` if it fails.

    :param present: whether what they bring is there.
    """
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    # Two test runs at once on a fresh machine: the second waits, and then finds what the first installed.
    with open(Path(tempfile.gettempdir()) / "aiki-test-apt.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if present():
            return True
        say(f"installing {' and '.join(packages)} with apt (once, a minute or two)")
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                [*apt, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
        # A service that cannot be started after the installation (no systemd) is no matter: we start our own.
        if not present():
            raise NoServer(f"apt-get install failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return True


def outside_url(variable: str) -> str | None:
    """The URL of a server that is not ours to start: named in the environment, or from Docker as the last resort."""
    if url := os.environ.get(variable):
        return url
    service, file, url = {
        AMQP_VARIABLE: ("rabbitmq", "compose.yaml", COMPOSE_AMQP_URL),
        MYSQL_VARIABLE: ("mysql", "compose.yaml", COMPOSE_MYSQL_URL),
        RABBITMQ4_VARIABLE: ("rabbitmq4", "tests/newer.compose.yaml", COMPOSE_RABBITMQ4_URL),
        MYSQL9_VARIABLE: ("mysql9", "tests/newer.compose.yaml", COMPOSE_MYSQL9_URL),
        POSTGRES_VARIABLE: ("postgres", "tests/newer.compose.yaml", COMPOSE_POSTGRES_URL),
    }[variable]
    if _ours(variable) or not _docker_runs():
        return None
    say(f"starting {service} with docker compose")
    subprocess.run(
        ["docker", "compose", "-f", str(ROOT / file), "up", "-d", "--wait", service],
        stdin=subprocess.DEVNULL,
        check=True,
        env={**os.environ, **dict.fromkeys(_COMPOSE_SECRETS, "aiki-local")},
    )
    return url


def _ours(variable: str) -> bool:
    """Whether this server can be started here without Docker: it is installed, or can be."""
    if variable in (RABBITMQ4_VARIABLE, MYSQL9_VARIABLE):
        return sid.possible()
    installed = {AMQP_VARIABLE: rabbitmq_program, MYSQL_VARIABLE: mysqld, POSTGRES_VARIABLE: postgres}[variable]()
    return installed is not None or (os.geteuid() == 0 and shutil.which("apt-get") is not None)


def _docker_runs() -> bool:
    if not shutil.which("docker"):
        return False
    return (
        subprocess.run(["docker", "compose", "ls"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    )
