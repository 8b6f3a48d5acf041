"""A database for all tests, which is Aiki's, too; each test begins with empty tables. No worker runs."""

import os
import tempfile
from collections.abc import Iterator

DIRECTORY = tempfile.TemporaryDirectory(prefix="tickets-")
for name in [name for name in os.environ if name.startswith("AIKI_")]:
    del os.environ[name]
os.environ["AIKI_DATABASE_URL"] = f"sqlite:///{DIRECTORY.name}/aiki.db"
os.environ["AIKI_BROKER_URL"] = f"sqlite:///{DIRECTORY.name}/broker.db"

import flask_migrate  # noqa: E402  the settings are read when the application is made
import pytest  # noqa: E402
from flask import Flask  # noqa: E402
from flask.testing import FlaskClient  # noqa: E402

from tickets import create_app, db  # noqa: E402
from tickets.background import app as aiki  # noqa: E402
from tickets.models import Concert  # noqa: E402


@pytest.fixture(scope="session")
def flask_app() -> Iterator[Flask]:
    made = create_app()
    next(aiki.runs(limit=1), None)  # makes Aiki's tables: SQLite files are upgraded when they are opened
    with made.app_context():
        flask_migrate.upgrade(os.path.join(made.root_path, "..", "migrations"))
    yield made
    aiki.close()
    with made.app_context():
        db.engine.dispose()
    DIRECTORY.cleanup()


@pytest.fixture(autouse=True)
def concert(flask_app: Flask) -> None:
    """What tests find: one concert with one seat."""
    with flask_app.app_context():
        for table in reversed(db.metadata.sorted_tables):
            db.session.execute(table.delete())
        db.session.add(Concert(title="Winterreise", seats=1))
        db.session.commit()


@pytest.fixture
def context(flask_app: Flask) -> Iterator[None]:
    """For tests that call tasks: what the worker's hook gives them. Requests make a context of their own."""
    with flask_app.app_context():
        yield


@pytest.fixture
def client(flask_app: Flask) -> FlaskClient:
    return flask_app.test_client()
