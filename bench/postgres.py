"""A private PostgreSQL server, for the incumbents that need one."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from sqlalchemy.engine import make_url

from bench.provision import need_postgres
from tests.services import Server


class PostgresServer(Server):
    """A PostgreSQL server with durable commits. Its superuser `postgres` needs no password; it listens on 127.0.0.1 alone."""

    kind = "PostgreSQL"

    def __init__(self) -> None:
        super().__init__()
        self._url = f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def _user(self) -> list[str]:
        # It refuses to run as root.
        root = os.geteuid() == 0
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if root else []

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.home, "postgres")
        command = [*self._user(), str(need_postgres() / "initdb"), "-D", str(self.home / "data"), "-U", "postgres"]
        command += ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(command, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError(f"a database directory cannot be made ({' '.join(command)}):\n{made.stdout}{made.stderr}")

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": self.port,
            "fsync": "on",
            "synchronous_commit": "on",
            "dynamic_shared_memory_type": "mmap",  # within its directory: nothing outside of it outlives a SIGKILL
            "log_min_messages": "error",
        }
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [*self._user(), str(need_postgres() / "postgres"), "-D", str(self.home / "data"), *settings]

    def _probe(self) -> None:
        import psycopg

        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError as error:
            raise ConnectionError(str(error)) from error

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement by a connection of its own and return its rows."""
        with self._connection() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        import psycopg

        url = make_url(self._url).set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(url, autocommit=True, connect_timeout=2)
        try:
            yield connection
        finally:
            connection.close()

    def create_database(self, name: str = "") -> str:
        """Make an empty database and return its SQLAlchemy URL."""
        name = name or f"bench_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}"')
        return make_url(self._url).set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database` made, whoever still uses it."""
        self.execute(f'DROP DATABASE IF EXISTS "{make_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        """End it in its own way, so that it gives its shared memory back, and throw its data away."""
        if self._owner == os.getpid() and self.running:
            self.stop(timeout=10)
        super().close()
