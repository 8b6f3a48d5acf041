"""The projects in `examples/` on MariaDB and RabbitMQ: a request's transaction, and the connections of their workers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.cli.process import Process
from tests.examples.project import Project
from tests.waiting import wait_until

APPS_WITH_A_QUERY = """
from django.apps import AppConfig


class OrdersConfig(AppConfig):
    name = "orders"

    def ready(self):
        from django.db import connection

        connection.ensure_connection()  # as it happens to many: before the worker forks
"""


class Account:
    """A user of the database for the workers alone, so that their connections can be told from others."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        self.name = "worker" + os.urandom(4).hex()
        self.url = sa.make_url(url).set(username=self.name, password="pw")
        self._do(f"CREATE USER '{self.name}'@'%' IDENTIFIED BY 'pw'")
        self._do(f"CREATE USER '{self.name}'@'localhost' IDENTIFIED BY 'pw'")
        for host in ("%", "localhost"):
            self._do(f"GRANT ALL ON `{self.url.database}`.* TO '{self.name}'@'{host}'")

    def _do(self, statement: str) -> list[int]:
        with self._engine.connect() as connection:
            result = connection.execute(sa.text(statement))
            return sorted(row[0] for row in result) if result.returns_rows else []

    def connections(self) -> list[int]:
        """Ids of their connections."""
        return self._do(f"SELECT id FROM information_schema.processlist WHERE user = '{self.name}'")

    def kill_all(self) -> None:
        """Have the server close them, as it does after `wait_timeout`."""
        for number in self.connections():
            with suppress(sa.exc.OperationalError):  # it has ended by itself meanwhile
                self._do(f"KILL {number}")
        self.wait_until_none()

    def wait_until_none(self) -> None:
        wait_until(lambda: not self.connections(), 60, "the workers to have no connections")

    def close(self) -> None:
        for host in ("%", "localhost"):
            self._do(f"DROP USER '{self.name}'@'{host}'")
        self._engine.dispose()


@pytest.fixture
def account(mysql_database: str) -> Iterator[Account]:
    made = Account(mysql_database)
    yield made
    made.close()


def ended_runs(project: Project) -> list[str]:
    """Ids of all runs, once each has completed, in its first attempt."""

    def ended() -> list[str] | None:
        found = json.loads(project.run("aiki", "runs", "list", "-o", "json"))["runs"]
        assert {run["state"] for run in found} <= {"queued", "running", "waiting", "completed"}, found
        assert {run["attempt"] for run in found} <= {0, 1}, found
        return [run["id"] for run in found] if {run["state"] for run in found} == {"completed"} else None

    return wait_until(ended, 60, "all runs to be completed")


def start_worker(project: Project, app: str, **env: str) -> Process:
    worker = project.start("aiki-worker", "-A", app, "-c", "1", **env)
    worker.wait_for_line("the orchestrator knows this worker", 60)
    return worker


def test_django(tmp_path: Path, mysql_database: str, amqp_url: str, account: Account) -> None:
    url = sa.make_url(mysql_database)
    env = {
        "DB_NAME": str(url.database),
        "DB_HOST": url.host or "127.0.0.1",
        "DB_PORT": str(url.port),
        "DB_USER": url.username or "",
        "DB_PASSWORD": url.password or "",
        "AIKI_DATABASE_URL": mysql_database,
        "AIKI_BROKER_URL": amqp_url,
        "AIKI_PREFIX": "dj" + os.urandom(4).hex(),
    }
    theirs = {"DB_USER": account.name, "DB_PASSWORD": "pw", "AIKI_DATABASE_URL": ""}
    with Project("django_shop", tmp_path, **env) as project:
        (project.folder / "orders" / "apps.py").write_text(APPS_WITH_A_QUERY)
        project.run("aiki", "db", "upgrade")
        project.run("python", "manage.py", "migrate")
        project.run("python", "manage.py", "loaddata", "books")
        project.start("aiki", "orchestrator")
        worker = start_worker(project, "bookshop.worker", **theirs, CONN_MAX_AGE="3600")
        assert "left connections open" not in worker.text
        account.wait_until_none()  # what was opened before the fork is closed
        project.start("python", "manage.py", "runserver", "--noreload", str(project.port))
        project.wait_for_site()

        def order(state: str, book: str = "Emma") -> None:
            """Place an order, and wait for what becomes of it."""
            status, answer = project.get("/orders/", book=book, email="ann@example.org")
            assert status == 201, answer
            number = json.loads(answer)["order"]

            def reached() -> bool:
                shown = json.loads(project.get(f"/orders/{number}/")[1])
                return shown["state"] == state and shown["thanked"] == (state == "paid")

            wait_until(reached, 60, f"order {number} to be {state}")

        # A plain step and an asynchronous task: each has a connection, which the next run uses as well.
        order("paid")
        first = account.connections()
        assert 1 <= len(first) <= 2
        for _ in range(3):
            order("sold out", "Persuasion")
        assert set(account.connections()) <= set(first)
        # What the server has closed between two runs fails none of them.
        account.kill_all()
        order("paid")
        assert not set(account.connections()) & set(first)

        # A rollback enqueues nothing.
        before = ended_runs(project)
        assert project.get("/orders/", book="Emma", email="nobody")[0] == 400
        assert ended_runs(project) == before

        # Without persistent connections none is left between runs, the asynchronous code's neither.
        worker.signal(15)
        assert worker.wait() == 0
        account.wait_until_none()
        start_worker(project, "bookshop.worker", **theirs, CONN_MAX_AGE="0")
        project.run("python", "manage.py", "shell", "-c", "from orders.models import *; Book.objects.update(stock=5)")
        order("paid")
        account.wait_until_none()


def test_flask(tmp_path: Path, mysql_database: str, amqp_url: str, account: Account) -> None:
    prefix = "fl" + os.urandom(4).hex()
    env = {"AIKI_DATABASE_URL": mysql_database, "AIKI_BROKER_URL": amqp_url, "AIKI_PREFIX": prefix}
    with Project("flask_shop", tmp_path, **env) as project:
        worker_file = project.folder / "tickets" / "worker.py"
        opened = "with flask_app.app_context():\n    db.session.execute(db.text('SELECT 1'))  # before the worker forks\n"
        worker_file.write_text(worker_file.read_text() + "\n\n" + opened)
        project.run("aiki", "db", "upgrade")
        project.run("flask", "--app", "tickets", "db", "upgrade")
        project.run("flask", "--app", "tickets", "add-concert", "Winterreise", "2")
        project.start("aiki", "orchestrator")
        url = account.url.render_as_string(hide_password=False)
        worker = start_worker(project, "tickets.worker", AIKI_DATABASE_URL=url)
        assert "left connections open" not in worker.text
        account.wait_until_none()  # what was opened before the fork is closed
        project.start("flask", "--app", "tickets", "run", "--port", str(project.port))
        project.wait_for_site()

        def ask(state: str) -> None:
            """Ask for a seat, and wait for what becomes of it."""
            status, answer = project.get("/bookings/", concert="Winterreise", email="ann@example.org")
            assert status == 201, answer
            number = json.loads(answer)["booking"]

            def reached() -> bool:
                return bool(json.loads(project.get(f"/bookings/{number}/")[1])["state"] == state)

            wait_until(reached, 60, f"booking {number} to be {state}")

        ask("sent")
        first = account.connections()
        assert len(first) == 1, "one child has one connection, which steps give back"
        ask("sent")
        for _ in range(3):
            ask("sold out")
        assert account.connections() == first
        account.kill_all()
        ask("sold out")
        assert len(account.connections()) == 1

        before = ended_runs(project)
        assert project.get("/bookings/", concert="Winterreise", email="nobody")[0] == 400
        assert ended_runs(project) == before
