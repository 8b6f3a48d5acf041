"""The dashboard over SQLite, asked without a socket."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from aiki import dashboard
from aiki.api import create_app
from aiki.api.app import backend_of
from aiki.settings import Settings
from aiki.storage import Store
from tests.ready_made import sqlite_database


class Pages:
    """Asks an app as a browser does: with its cookies, and the token of the form that was last seen."""

    def __init__(self, http: FlaskClient, store: Store) -> None:
        self.http = http
        self.store = store
        self.api = "/api/v1"

    def get(self, path: str, status: int = 200, **options: Any) -> TestResponse:
        answer = self.http.get(path, **{"headers": {"Accept": "text/html"}, **options})
        assert answer.status_code == status, answer.text
        return answer

    def token(self) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get("/runs").text)
        assert found
        return found[1]

    def post(self, path: str, fields: dict[str, Any] | None = None, status: int = 303) -> TestResponse:
        answer = self.http.post(path, data={"csrf_token": self.token(), **(fields or {})})
        assert answer.status_code == status, answer.text
        return answer

    def new_run(self, name: str = "shop.charge", **fields: Any) -> str:
        kind = fields.pop("kind", "task")
        definitions = {"definitions": [{"name": name, "kind": kind}]}
        assert self.http.post(f"{self.api}/definitions", json=definitions).status_code == 200
        answer = self.http.post(f"{self.api}/runs", json={"name": name, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.get_json()["id"])


@pytest.fixture(params=["sqlite", "mysql9"])
def pages_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The embedded default, and MySQL 9."""
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "aiki.db")
    return str(request.getfixturevalue("mysql9_tables"))


@pytest.fixture
def make_pages(tmp_path: Path, pages_database: str) -> Iterator[Callable[..., Pages]]:
    """Makes dashboards on the test's database."""
    backends = []

    def make(**changed: Any) -> Pages:
        places = {"database_url": pages_database, "broker_url": f"sqlite:///{tmp_path / 'broker.db'}"}
        app = create_app(Settings.load({}, **places, **changed))
        dashboard.install(app)
        backend = backend_of(app)
        backends.append(backend)
        return Pages(app.test_client(), backend.store)

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
def pages(make_pages: Callable[..., Pages]) -> Pages:
    """A dashboard."""
    return make_pages()
