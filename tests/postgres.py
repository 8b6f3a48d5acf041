"""Private PostgreSQL servers for tests and benchmarks, as the others in `tests.services`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
from sqlalchemy.engine import make_url

from tests import provision
from tests.services import MariaServer, Server


class PostgresServer(Server):
    """A PostgreSQL server with durable commits. Its superuser `postgres` needs no password; it listens on 127.0.0.1 alone.

    :param fast: commits are not written to the disk before they are answered: for those who never kill it.
    """

    kind = "PostgreSQL"

    def __init__(self, *, url: str = "", fast: bool = False) -> None:
        super().__init__(url)
        self._durable = "off" if fast else "on"
        if not self.outside:
            self._url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def _user(self) -> list[str]:
        # It refuses to run as root.
        root = os.geteuid() == 0
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.home, "postgres")
        command = [*self._user(), str(provision.need_postgres() / "initdb"), "-D", str(self.home / "data"), "-U", "postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(command, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"a database directory cannot be made ({' '.join(command)}):\n{made.stdout}{made.stderr}")

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": self.port,
            "fsync": self._durable,
            "synchronous_commit": self._durable,
            "full_page_writes": self._durable,
            "max_connections": 300,
            "deadlock_timeout": "200ms",
            "dynamic_shared_memory_type": "mmap",  # within its directory: nothing outside of it outlives a SIGKILL
            "log_min_messages": "error",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [*self._user(), str(provision.need_postgres() / "postgres"), "-D", str(self.home / "data"), *settings]

    def _probe(self) -> None:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError as error:
            raise ConnectionError(str(error)) from error

    def _signal(self, number: signal.Signals) -> None:
        """Each connection has a process of its own: all of them are killed, or stand still, together."""
        if self._process is None or number is signal.SIGTERM:
            super()._signal(number)
            return
        super()._signal(signal.SIGSTOP)  # it starts no more of them
        children = psutil.Process(self._process.pid).children(recursive=True)
        super()._signal(number)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        if number is signal.SIGKILL:
            psutil.wait_procs(children, timeout=10)

    def execute(self, statement: str, database: str = "", parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement by a connection of its own and return its rows."""
        with self._connection(database) as connection:
            cursor = connection.execute(statement, tuple(parameters) or None)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def _connection(self, database: str = "") -> Iterator[Any]:
        import psycopg

        at = make_url(self._url).set(drivername="postgresql")
        url = (at.set(database=database) if database else at).render_as_string(hide_password=False)
        connection = psycopg.connect(url, autocommit=True, connect_timeout=2)
        try:
            yield connection
        finally:
            connection.close()

    def create_database(self, name: str = "") -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = name or f"aiki_test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0")
        return make_url(self._url).set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database` made, whoever still uses it."""
        self.execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        """End it in its own way, so that it gives its shared memory back, and throw its data away."""
        if self._owner == os.getpid() and self.running:
            self.stop(timeout=10)
        super().close()


DatabaseServer = MariaServer | PostgresServer


def shared_postgres() -> PostgresServer:
    """The PostgreSQL for those who only use it: somebody's, or a private one that is not started yet."""
    return PostgresServer(url=provision.outside_url(provision.POSTGRES_VARIABLE) or "", fast=True)
