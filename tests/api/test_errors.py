"""Errors are problem details, whatever goes wrong; nothing but what is meant to be seen is told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiki.api import ApiOptions, create_app
from aiki.api.app import backend_of
from aiki.errors import StorageUnavailable
from aiki.storage import RowTooLarge, Store
from tests.api.conftest import Api, problem

JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "line 1"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"name": NaN}', "NaN"),
        (b'{"name": "x", "args": [1e999]}', "larger than a float"),
        (b'{"name": "x", "countdown": 1' + b"0" * 400 + b"}", "is not a number from 0"),
        (b"[" * 100_000, "deep"),
        (b'{"name": ' + b"9" * 5000 + b"}", "digits"),
        (b"[]", "not a list"),
        (b'"x"', "object"),
        (b"null", "object"),
        (b"", "JSON"),
    ],
)
def test_bodies_that_are_not_json_are_400(api: Api, body: bytes, said: str) -> None:
    told = problem(api.post("/runs", data=body, content_type=JSON), 400, "invalid")
    assert said in told["detail"]


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"name": 5}, "name", "5"),
        ({"name": "a\nb"}, "name", "printable"),
        ({"name": "x" * 201}, "name", "200"),
        ({"name": "\ud800"}, "name", "printable"),
        ({"args": {}}, "args", "list"),
        ({"args": None}, "args", "null"),
        ({"kwargs": []}, "kwargs", "object"),
        ({"queue": "a b"}, "queue", "a b"),
        ({"queue": ["x"]}, "queue", "text"),
        ({"countdown": -1}, "countdown", "-1"),
        ({"countdown": True}, "countdown", "True"),
        ({"countdown": "5"}, "countdown", "'5'"),
        ({"countdown": 1e300}, "countdown", "1e+300"),
        ({"countdown": 1, "eta": "2099-01-01T00:00:00Z"}, "eta", "countdown"),
        ({"eta": "2099-01-01T00:00:00"}, "eta", "zone"),
        ({"eta": "soon"}, "eta", "soon"),
        ({"expires": 0}, "expires", "0"),
        ({"expires": [1]}, "expires", "[1]"),
        ({"time_limit": 1, "soft_time_limit": 2}, "soft_time_limit", "below"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts", "0"),
        ({"retry": {"max_retires": 0}}, "retry.max_retires", "max_attempts"),
        ({"retry": {"delay": 1e9}}, "retry", "delay"),
        ({"retry": 5}, "retry", "object"),
        ({"options": {"time_limit": 0}}, "options.time_limit", "0"),
        ({"max_crashes": 1.5}, "max_crashes", "1.5"),
        ({"reference_id": ""}, "reference_id", "255"),
        ({"reference_id": "a\u0000"}, "reference_id", "printable"),
        ({"on_conflict": "ignore"}, "on_conflict", "ignore"),
        ({"on_conflict": []}, "on_conflict", "error"),
        ({"id": "order-1"}, "id", "order-1"),
        ({"input": {"encoding": "json", "text": "ü"}}, "input", "ASCII"),
        ({"input": {"encoding": "JSON!", "text": ""}}, "input", "JSON!"),
        ({"input": {"encoding": "json", "text": "[[],{}]"}, "args": []}, "args", "input"),
        ({"kind": "job"}, "kind", "job"),
        ({"priority": 1}, "priority", "no such field"),
    ],
)
def test_wrong_fields_are_named_with_their_values(api: Api, fields: dict[str, Any], field: str, said: str) -> None:
    told = problem(api.post("/runs", {"name": "shop.charge", **fields}), 400, "invalid")
    assert said in " ".join(told["errors"][field])
    assert field in told["detail"]
    assert len(told["detail"]) < 1000


def test_everything_wrong_is_told_at_once(api: Api) -> None:
    told = problem(api.post("/runs", {"countdown": -1, "queue": ""}), 400, "invalid")
    assert set(told["errors"]) == {"name", "countdown", "queue"}


def test_other_media_types_are_415(api: Api) -> None:
    for options in ({"data": b"name=x"}, {"data": b"{}", "content_type": "text/plain"}):
        problem(api.post("/runs", **options), 415, "unsupported_media_type")


def test_unknown_addresses_and_methods(api: Api) -> None:
    problem(api.http.get("/"), 404, "not_found")
    problem(api.get("//runs"), 404, "not_found")
    problem(api.get("/nothing/<b>"), 404, "not_found")
    answer = api.http.delete("/api/v1/runs")
    problem(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


def test_bodies_over_the_limit_are_413(make_api: Callable[..., Api]) -> None:
    api = make_api(ApiOptions(max_body=1000))
    told = problem(api.post("/runs", {"name": "x" * 1000}), 413, "payload_too_large")
    assert "1,000 bytes" in told["detail"]


def test_every_answer_is_safe_to_show_and_can_be_traced(api: Api) -> None:
    for answer in (api.get("/runs"), api.http.get("/healthz"), api.get("/nothing")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
        assert answer.headers["Aiki-Time"].isdigit()
    assert api.get("/runs", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    assert api.get("/runs", headers={"X-Request-ID": "<b>"}).headers["X-Request-ID"] != "<b>"


def test_an_unexpected_error_is_500_and_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(Store, "get_run", broken)
    answer = api.get("/runs/00000000-0000-0000-0000-000000000000", headers={"X-Request-ID": "trace-me"})
    problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert "ZeroDivision" not in answer.text
    (record,) = [item for item in caplog.records if item.levelno >= logging.ERROR]
    assert "trace-me" in record.getMessage()


def test_storage_away_is_503_with_retry_after(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise StorageUnavailable("the database at mysql://inside:3306 cannot be used", retry_after=2.5)

    for verb in ("get_run", "create_runs", "search", "definitions", "check_schema"):
        monkeypatch.setattr(Store, verb, away)
    for answer in (api.get("/runs"), api.post("/runs", {"name": "shop.charge"}), api.get("/definitions")):
        told = problem(answer, 503, "unavailable")
        assert answer.headers["Retry-After"] == "3"
        assert told["retry_after"] == 2.5
        assert "inside" not in answer.text
    ready = api.http.get("/readyz")
    assert (ready.status_code, ready.json["database"], ready.headers["Retry-After"]) == (503, "down", "1")
    assert api.http.get("/healthz").status_code == 200


def test_a_row_that_the_database_refuses_is_413(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RowTooLarge("7")

    monkeypatch.setattr(Store, "register_definitions", refuse)
    problem(api.post("/definitions", {"definitions": [{"name": "x"}]}), 413, "payload_too_large")


def test_a_schema_that_is_not_current_makes_it_unready(make_api: Callable[..., Api]) -> None:
    api = make_api()
    with api.store.db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE aiki_alembic_version SET version_num = '9999'"))
    assert api.http.get("/readyz").status_code == 503
    other = make_api_app(api)
    assert other.get("/api/v1/runs").status_code == 503


def make_api_app(api: Api) -> Any:
    """Another app over the same database, whose client is not open yet."""
    return create_app(backend_of(api.http.application).settings).test_client()


def test_payloads_and_keys_are_not_logged(make_api: Callable[..., Api], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    api = make_api(ApiOptions(access_log=True), api_key="key-secret")
    headers = {"Authorization": "Bearer key-secret"}
    api.http.post("/api/v1/definitions", json={"definitions": [{"name": "shop.charge"}]}, headers=headers)
    api.http.post("/api/v1/runs?a=query-secret", json={"name": "shop.charge", "args": ["arg-secret"]}, headers=headers)
    api.http.get("/api/v1/runs/%0Aforged", headers=headers)
    lines = [record.getMessage() for record in caplog.records if record.name == "aiki.api.access"]
    assert len(lines) == 3
    assert " POST /api/v1/runs 201 " in lines[1]
    assert "/runs/%0Aforged 404" in lines[2]
    assert "secret" not in caplog.text


# ---------------------------------------------------------------- fuzz
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["$aiki", "tuple", "json"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(["$aiki", "v", "t"]), inner, max_size=4)
    ),
    max_leaves=12,
)
_names = st.sampled_from(
    [
        "id",
        "name",
        "args",
        "kwargs",
        "input",
        "queue",
        "version",
        "kind",
        "countdown",
        "eta",
        "due_at",
        "expires",
        "expires_in",
        "expires_at",
        "options",
        "retry",
        "time_limit",
        "soft_time_limit",
        "max_crashes",
        "reference_id",
        "on_conflict",
        "runs",
        "batch",
        "definitions",
        "reason",
    ]
)
_tagged = st.fixed_dictionaries(
    {
        "$aiki": st.sampled_from(
            [
                "int",
                "float",
                "tuple",
                "set",
                "frozenset",
                "dict",
                "bytes",
                "bytearray",
                "uuid",
                "decimal",
                "datetime",
                "date",
                "time",
                "timedelta",
                "complex",
                "enum",
            ]
        ),
        "v": _values,
    }
)
_bodies = st.one_of(
    _values,
    st.dictionaries(_names, _values, max_size=6),
    st.dictionaries(_names, _values, max_size=3).map(lambda body: {**body, "name": "shop.charge"}),
    st.lists(_tagged | _values, max_size=3).map(lambda args: {"name": "shop.charge", "args": args}),
    st.builds(
        lambda item: {"runs": [item]}, st.dictionaries(_names, _values, max_size=5).map(lambda b: {**b, "name": "shop.charge"})
    ),
    st.builds(lambda item: {"definitions": [item]}, st.dictionaries(_names, _values, max_size=5)),
)
_fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_fuzz
@given(body=_bodies, path=st.sampled_from(["/runs", "/runs/batch", "/definitions"]))
def test_no_body_is_a_500(api: Api, body: Any, path: str) -> None:
    answer = api.post(path, data=json.dumps(body).encode(), content_type=JSON)
    assert answer.status_code in (200, 201, 400, 409, 413, 422), (answer.status_code, body)
    if answer.status_code >= 400:
        problem(answer, answer.status_code, answer.get_json(force=True)["code"])


@_fuzz
@given(raw=st.binary(max_size=200), path=st.sampled_from(["/runs", "/runs/batch", "/definitions", "/runs/x/cancel"]))
def test_no_bytes_are_a_500(api: Api, raw: bytes, path: str) -> None:
    assert api.post(path, data=raw, content_type=JSON).status_code in (400, 404, 422)


@_fuzz
@given(
    query=st.dictionaries(
        st.sampled_from(
            ["state", "name", "queue", "reference_id", "created_after", "created_before", "limit", "after", "wait"]
        ),
        st.text(max_size=30),
    )
)
def test_no_query_is_a_500(api: Api, query: dict[str, str]) -> None:
    encoded = {name: value.encode("utf-8", "replace") for name, value in query.items()}
    for path in ("/runs", "/runs/00000000-0000-0000-0000-000000000000", "/workers"):
        answer = api.http.get("/api/v1" + path, query_string=encoded)
        assert answer.status_code in (200, 400, 404)
