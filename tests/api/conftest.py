"""An app over SQLite, asked without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from aiki.api import ApiOptions, create_app
from aiki.api.app import backend_of
from aiki.settings import Settings
from aiki.storage import Store
from tests.api.live import LiveServer
from tests.ready_made import sqlite_database
from tests.scale import FULL


class Api:
    """Asks an app; paths below /api/v1 begin with `/`, others are given to `http`."""

    def __init__(self, http: FlaskClient, store: Store) -> None:
        self.http = http
        self.store = store

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.http.get("/api/v1" + path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> TestResponse:
        if body is not None:
            options["json"] = body
        return self.http.post("/api/v1" + path, **options)

    def register(self, name: str = "shop.charge", **options: Any) -> None:
        answer = self.post("/definitions", {"definitions": [{"name": name, "options": options}]})
        assert answer.status_code == 200, answer.text

    def new_run(self, **fields: Any) -> str:
        answer = self.post("/runs", {"name": "shop.charge", **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json["id"])  # type: ignore[index]


def problem(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The problem details of an answer that is one."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    body: dict[str, Any] = answer.get_json(force=True)
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:aiki:{code}")
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


ON_MYSQL9 = frozenset(
    {"test_batches", "test_dead", "test_queues", "test_runs", "test_searching", "test_workers", "test_workflows"}
)
"""The files whose tests ask most of the database: they run on MySQL 9 too, the others only where everything is asked for."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "api_database" in metafunc.fixturenames:
        chosen = FULL or metafunc.module.__name__.rpartition(".")[2] in ON_MYSQL9
        metafunc.parametrize("api_database", ["sqlite", *(["mysql9"] if chosen else [])], indirect=True)


@pytest.fixture
def api_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The embedded default, and MySQL 9."""
    if request.param == "sqlite":
        return sqlite_database(tmp_path / "aiki.db")
    return str(request.getfixturevalue("mysql9_tables"))


@pytest.fixture
def settings(tmp_path: Path, api_database: str) -> Settings:
    return Settings.load(
        {},
        database_url=api_database,
        broker_url=f"sqlite:///{tmp_path / 'broker.db'}",
        max_payload=200_000,
    )


@pytest.fixture
def make_api(settings: Settings) -> Iterator[Callable[..., Api]]:
    """Makes apps on the test's database, with settings and options of their own."""
    backends = []

    def make(options: ApiOptions | None = None, **changed: Any) -> Api:
        app = create_app(replace(settings, **changed), options=options)
        backend = backend_of(app)
        backends.append(backend)
        return Api(app.test_client(), backend.store)

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """An app that knows `shop.charge`."""
    made = make_api()
    made.register()
    return made


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Starts servers as processes; all are gone afterwards."""
    made: list[LiveServer] = []

    def start(*arguments: str, **variables: str) -> LiveServer:
        server = LiveServer(tmp_path / f"server-{len(made)}", *arguments, **variables)
        made.append(server)
        return server

    yield start
    for server in made:
        server.close()
