"""The API held to its own description: schemathesis makes requests, right ones and wrong ones, and looks at the answers.

Every endpoint that is declared is asked by itself; nothing is to be written here for a new one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from aiki.api import ApiOptions, create_app, openapi
from aiki.api.app import backend_of
from aiki.settings import Settings
from aiki.storage import upgrade
from tests.api.live import LiveServer
from tests.ready_made import sqlite_database
from tests.scale import scaled

EXAMPLES = scaled(8, 300)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
WRONG = [*CHECKS, negative_data_rejection]
DEFINITIONS = {"definitions": [{"name": "shop.charge"}, {"name": "shop.checkout", "kind": "workflow"}]}
RUNS = [{"name": "shop.charge", "args": [1]}, {"name": "shop.checkout"}, {"name": "shop.charge", "countdown": 3600}]
KEY = "the-right-key-of-tests"
KEYED = {"Authorization": f"Bearer {KEY}"}
STREAMS = ("streams_stream", "streams_run_stream")  # they do not end; tests/api/test_streams.py has them


def _document(app: Flask) -> dict[str, Any]:
    document = openapi.document(app, strict=True)
    for path, operations in list(document["paths"].items()):
        for method, operation in list(operations.items()):
            if operation["operationId"] in STREAMS:
                del operations[method]
        if not operations:
            del document["paths"][path]
    return document


def _operations() -> list[tuple[str, str]]:
    nowhere = Settings.load({}, database_url="sqlite:////nowhere/aiki.db", broker_url="sqlite:////nowhere/broker.db")
    paths = _document(create_app(nowhere))["paths"]
    return [(path, method) for path, operations in paths.items() for method in operations]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    folder = tmp_path_factory.mktemp("schemathesis")
    own = Settings.load(
        {},
        database_url=sqlite_database(folder / "aiki.db"),
        broker_url=f"sqlite:///{folder / 'broker.db'}",
        max_payload=200_000,
        api_key=KEY,  # without one it would ask for one as soon as a user or a key is made
    )
    app = create_app(own, options=ApiOptions(rate_limit=0))
    yield app
    backend_of(app).close()


@pytest.fixture(scope="module")
def schema(app: Flask) -> Any:
    found = schemathesis.openapi.from_dict(_document(app))
    found.app = app
    return found


@pytest.fixture(scope="module")
def run_ids(app: Flask) -> list[str]:
    http = _client(app)
    assert http.post("/api/v1/definitions", json=DEFINITIONS).status_code == 200
    return [http.post("/api/v1/runs", json=run).json["id"] for run in RUNS]  # type: ignore[index]


def _client(app: Flask) -> Any:
    http = app.test_client()
    http.environ_base["HTTP_AUTHORIZATION"] = KEYED["Authorization"]
    return http


def _settings(examples: int) -> Any:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def _try(schema: Any, path: str, method: str, run_ids: list[str], examples: int, url: str | None = None) -> None:
    operation = schema[path][method]

    def attempt(mode: GenerationMode, checks: list[Any]) -> None:
        @_settings(examples)
        @given(case=operation.as_strategy(generation_mode=mode), run_id=st.sampled_from(run_ids))
        def held(case: Any, run_id: str) -> None:
            if _number(case.query.get("wait")) > 0:
                case.query["wait"] = "0.01"
            if "run_id" in case.path_parameters and not (mode.is_negative and len(case.path_parameters["run_id"]) % 2):
                case.path_parameters["run_id"] = run_id
                chosen = CHECKS  # the wrong part may have been what was replaced
            else:
                chosen = checks
            case.call_and_validate(base_url=url, checks=chosen, headers=KEYED)

        with contextlib.suppress(Unsatisfiable):  # nothing wrong can be said to it
            held()

    attempt(GenerationMode.POSITIVE, CHECKS)
    if operation.body or operation.query or operation.path_parameters or operation.headers:
        # A server cuts off what is very long before the app sees it.
        attempt(GenerationMode.NEGATIVE, WRONG if url is None else CHECKS)


@pytest.mark.parametrize(("path", "method"), _operations())
def test_every_endpoint_answers_as_described(schema: Any, run_ids: list[str], path: str, method: str) -> None:
    _try(schema, path, method, run_ids, EXAMPLES)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return 0.0


def test_a_real_server_on_mariadb_answers_as_described(live: Callable[..., LiveServer], mysql_database: str) -> None:
    upgrade(mysql_database)
    server = live(AIKI_DATABASE_URL=mysql_database, AIKI_RATE_LIMIT="0", AIKI_API_KEY=KEY).wait_ready()
    assert server.ask("POST", "/api/v1/definitions", DEFINITIONS, KEYED)[0] == 200
    run_ids = [server.ask("POST", "/api/v1/runs", run, KEYED)[2]["id"] for run in RUNS]
    nowhere = Settings.load({}, database_url="sqlite:////nowhere/aiki.db", broker_url="sqlite:////nowhere/broker.db")
    schema = schemathesis.openapi.from_dict(_document(create_app(nowhere)))
    for path, method in _operations():
        _try(schema, path, method, run_ids, scaled(3, 50), url=server.url)
    assert "Traceback" not in server.text()
    assert server.ask("GET", f"/api/v1/runs/{run_ids[0]}", headers=KEYED)[2]["name"] == "shop.charge"


# ---------------------------------------------------------------- what is wrong in every endpoint alike
HOSTILE = [
    "'; DROP TABLE aiki_runs; --",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}",
    "\x00",
    "\ud800",
]


def _paths(run_id: str, with_body: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
    nowhere = Settings.load({}, database_url="sqlite:////nowhere/aiki.db", broker_url="sqlite:////nowhere/broker.db")
    for path, operations in _document(create_app(nowhere))["paths"].items():
        for method, operation in operations.items():
            if not with_body or "requestBody" in operation:
                yield path.replace("{run_id}", run_id).replace("{", "").replace("}", ""), method, operation


def test_bodies_that_are_no_bodies(app: Flask, run_ids: list[str]) -> None:
    http = _client(app)
    before = http.get("/api/v1/runs").data
    wrong: list[tuple[bytes, str, set[int]]] = [
        (b'{"name": "shop.charge"}', "text/plain", {415}),
        (b'{"name": "shop.charge"}', "application/xml", {415}),
        (b"name=shop.charge", "application/x-www-form-urlencoded", {415}),
        (b'{"name": "shop.charge"', "application/json", {400}),
        (b'{"name": NaN}', "application/json", {400}),
        (b"[" * 50_000, "application/json", {400}),
        (b"\xff\xfe", "application/json", {400}),
        (b"[]", "application/json", {400}),
        (b'{"<script>": 1}', "application/json", {400}),
        (b'{"name": "' + b"x" * (app.config["MAX_CONTENT_LENGTH"] + 1) + b'"}', "application/json", {413}),
    ]
    for path, method, _ in _paths(run_ids[0], with_body=True):
        for body, kind, statuses in wrong:
            answer = http.open(path, method=method.upper(), data=body, content_type=kind)
            place = f"{method} {path} {body[:30]!r} {kind}"
            assert answer.status_code in statuses, f"{place}: {answer.text[:300]}"
            assert answer.mimetype == "application/problem+json", place
            assert b"<" not in answer.data, place
    assert http.get("/api/v1/runs").data == before


def test_hostile_text_in_every_field(app: Flask, run_ids: list[str]) -> None:
    http = _client(app)
    document = _document(app)
    for path, method, operation in _paths(run_ids[0], with_body=False):
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                for text in HOSTILE[:-1]:
                    answer = http.open(path, method=method.upper(), query_string={parameter["name"]: text})
                    _harmless(answer, f"{method} {path} {parameter['name']}={text}")
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        fields = document["components"]["schemas"].get(body.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
        for name in fields:
            for text in HOSTILE:
                sent = json.dumps({"name": "shop.charge", name: text}).encode()
                answer = http.open(path, method=method.upper(), data=sent, content_type="application/json")
                _harmless(answer, f"{method} {path} {name}={text}")
    for text in HOSTILE[:-1]:
        for path in ("/api/v1/{}", "/api/v1/runs/{}", "/api/v1/runs/{}/detail", "/{}"):
            _harmless(http.get(path.format(text)), path)
        _harmless(http.get("/api/v1/runs", headers={"X-Request-ID": text.replace("\x00", "?")}), "X-Request-ID")
    assert http.get(f"/api/v1/runs/{run_ids[0]}").status_code == 200


def _harmless(answer: Any, place: str) -> None:
    assert answer.status_code < 500, f"{place}: {answer.text[:300]}"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if answer.headers.get("Content-Disposition", "").startswith("attachment"):
        return
    assert answer.mimetype in ("application/json", "application/problem+json"), f"{place}: {answer.mimetype}"
    assert b"<" not in answer.data, f"{place}: {answer.text[:300]}"
    assert "<" not in str(answer.headers)


def test_every_endpoint_refuses_bad_tokens(tmp_path: Any) -> None:
    own = Settings.load(
        {}, database_url=sqlite_database(tmp_path / "a.db"), broker_url=f"sqlite:///{tmp_path / 'b.db'}", api_key=KEY
    )
    app = create_app(own)
    http = app.test_client()
    for number, (path, method, operation) in enumerate(_paths("0190a0b0-0000-7000-8000-000000000000", with_body=False)):
        # Each from elsewhere: so many wrong keys from one address would be refused unseen.
        http.environ_base["REMOTE_ADDR"] = f"192.0.2.{number}"
        for token in ("", "Bearer wrong", "Bearer", "Basic cmlnaHQ=", "Bearer right2", "bearer\tright x", "Bearer ä"):
            answer = http.open(path, method=method.upper(), headers={"Authorization": token} if token else {}, json={})
            if operation.get("security") == []:
                assert answer.status_code in (200, 503), path
            else:
                assert (answer.status_code, answer.mimetype) == (401, "application/problem+json"), f"{path} {token}"
                assert answer.headers["WWW-Authenticate"] == "Bearer"
    backend_of(app).close()


@pytest.mark.parametrize(("path", "method"), _operations())
def test_other_methods(app: Flask, run_ids: list[str], path: str, method: str) -> None:
    http, at = _client(app), path.replace("{run_id}", run_ids[0]).replace("{", "").replace("}", "")
    refused = http.open(at, method="TRACE")
    assert (refused.status_code, refused.mimetype) == (405, "application/problem+json")
    assert method.upper() in refused.headers["Allow"]
    told = http.open(at, method="OPTIONS")
    assert told.status_code in (200, 204)
    assert method.upper() in told.headers["Allow"]
    if method == "get":
        got, headed = http.get(at), http.head(at)
        assert (headed.status_code, headed.data) == (got.status_code, b"")
