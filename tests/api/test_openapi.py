"""The OpenAPI document: complete, right, and cacheable."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from aiki.api import openapi
from aiki.api.access import ACTIONS
from aiki.api.problems import CODES
from tests.api.conftest import Api

ROOT = Path(__file__).parents[2]


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    return openapi.document(api.http.application)


def test_every_endpoint_is_declared(api: Api) -> None:
    assert openapi.undeclared(api.http.application) == []


def test_every_field_of_every_request_has_a_type(document: dict[str, Any]) -> None:
    free = {("EventRequest", "data")}  # anything that JSON can say
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Request"):
            assert schema["additionalProperties"] is False, name
            for key, shape in schema.get("properties", {}).items():
                assert shape or (name, key) in free, f"{name}.{key} needs a shape: see schemas.shaped"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                if "$ref" not in parameter:
                    assert parameter["schema"], f"{method} {path}: {parameter['name']} needs a shape: see schemas.shaped"


def test_every_operation_says_what_it_is(document: dict[str, Any]) -> None:
    names = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation["summary"], place
            assert operation["operationId"] not in names, place
            names.add(operation["operationId"])
            assert any(status.startswith("2") for status in operation["responses"]), place
            assert operation.get("x-action") in ACTIONS or operation["security"] == [], place


def test_it_is_openapi_3_1_and_its_examples_fit(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()  # type: ignore[arg-type]
    for operations in document["paths"].values():
        for operation in operations.values():
            media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in media:
                jsonschema_rs.validate({**media["schema"], "components": document["components"]}, media["example"])


def test_every_code_that_the_source_tells_is_documented() -> None:
    told = set()
    for path in [*(ROOT / "aiki/api").rglob("*.py"), *(ROOT / "aiki/dashboard").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="Refused" | "problem"), args=[_, ast.Constant(value=code), *_]):
                    told.add(code)
    assert told <= set(CODES), "add these to problems.CODES"


def test_it_is_served_and_cached(api: Api) -> None:
    answer = api.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json["openapi"] == "3.1.0"  # type: ignore[index]
    assert "max-age" in answer.headers["Cache-Control"]
    again = api.get("/openapi.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_there_is_a_page_for_people(api: Api, document: dict[str, Any]) -> None:
    answer = api.get("/docs")
    assert (answer.status_code, answer.mimetype) == (200, "text/html")
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert path in answer.text
            assert f'id="{operation["operationId"]}"' in answer.text
    for code in CODES:
        assert f"<code>{code}</code>" in answer.text
    assert "<script" not in answer.text
    assert " style=" not in answer.text
    assert api.get("/docs.css").mimetype == "text/css"


def test_reads_have_etags(api: Api) -> None:
    run_id = api.new_run()
    for path in (f"/runs/{run_id}", f"/runs/{run_id}/detail", f"/runs/{run_id}/history", "/runs", "/definitions"):
        first = api.get(path)
        assert first.headers["ETag"].startswith("W/"), path
        assert "Authorization" in first.headers["Vary"], path
        again = api.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b""), path
    seen = api.get(f"/runs/{run_id}").headers["ETag"]
    assert api.post(f"/runs/{run_id}/cancel").status_code == 200
    assert api.get(f"/runs/{run_id}", headers={"If-None-Match": seen}).status_code == 200
