"""The API's own documentation: the OpenAPI document, and the same as a page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flask import Blueprint, Response, current_app, render_template
from markupsafe import Markup, escape

from aiki.api import openapi, schemas
from aiki.api.access import needs
from aiki.api.guard import PAGE_POLICY
from aiki.api.mounting import path_of
from aiki.api.openapi import describe
from aiki.api.problems import CODES
from aiki.api.requests import query
from aiki.api.signin import guard_of

blueprint = Blueprint("documents", __name__, template_folder="templates")

MAX_AGE: Final = 300
_NO_QUERY: Final = schemas.EmptySchema()
_HERE: Final = Path(__file__).parent
_KEY: Final = "aiki.openapi"


def _document() -> dict[str, Any]:
    """Made once a process: routes do not change."""
    found = current_app.extensions.get(_KEY)
    if found is None:
        found = current_app.extensions[_KEY] = openapi.document(current_app, path=path_of(guard_of().settings))
    assert isinstance(found, dict)
    return found


@blueprint.get("/openapi.json")
@needs("look")
@describe(query=_NO_QUERY, media={"application/json": "An OpenAPI 3.1 document."}, conditional=True)
def document() -> Response:
    """This description, as an OpenAPI 3.1 document."""
    query(_NO_QUERY)
    return _cacheable(Response(json.dumps(_document(), separators=(",", ":")) + "\n", mimetype="application/json"))


def _cacheable(response: Response) -> Response:
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
    response.headers["Cache-Control"] = f"private, max-age={MAX_AGE}"
    return response


# ---------------------------------------------------------------- the page
@blueprint.get("/docs")
@needs("look")
@describe(query=_NO_QUERY, media={"text/html": "A page for people."}, conditional=True)
def page() -> Response:
    """This description, as a page."""
    query(_NO_QUERY)
    found = _document()
    groups: dict[str, list[dict[str, Any]]] = {}
    shared = found["components"]["parameters"]
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            parameters = [shared.get(_name(item), item) for item in operation.get("parameters", ())]
            told = {**operation, "parameters": parameters, "path": path, "method": method.upper()}
            groups.setdefault(operation["tags"][0], []).append(told)
    named = {"shown": _shown, "linked": _linked, "named": lambda response: _meaning(found, response)}
    text = render_template("api_docs.html", document=found, groups=groups, codes=CODES, **named)
    response = Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    return _cacheable(response)


@blueprint.get("/docs.css")
@needs("look")
@describe(query=_NO_QUERY, media={"text/css": "How the page looks."}, conditional=True)
def style() -> Response:
    """The style of that page."""
    query(_NO_QUERY)
    return _cacheable(Response((_HERE / "static" / "docs.css").read_text(), mimetype="text/css"))


def _shown(shape: Mapping[str, Any]) -> str:
    """A schema, described in a few words."""
    if "$ref" in shape:
        return _name(shape)
    if "enum" in shape:
        return ", ".join(str(item) for item in shape["enum"])
    if "anyOf" in shape:
        return " or ".join(_shown(item) for item in shape["anyOf"])
    kinds = shape.get("type", "anything")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    if "items" in shape:
        text += f" of {_shown(shape['items'])}"
    if "format" in shape:
        text += f" ({shape['format']})"
    for word, name in (("least", "minimum"), ("most", "maximum"), ("characters", "maxLength")):
        if name in shape:
            text += f", at most {shape[name]} {word}" if name == "maxLength" else f", at {word} {shape[name]:.15g}"
    return text


def _linked(shape: Mapping[str, Any]) -> Markup:
    """The same, with a link to the schema that it names."""
    inner = shape.get("items", shape)
    name = _name(inner)
    if not name:
        return escape(_shown(shape))
    many = "list of " if "items" in shape else ""
    return Markup('{}<a href="#schema-{}">{}</a>').format(many, name, name)


def _meaning(document: Mapping[str, Any], response: Mapping[str, Any]) -> str:
    """The response behind a reference."""
    name = _name(response)
    return str(document["components"]["responses"].get(name, {}).get("description", ""))


def _name(node: Mapping[str, Any]) -> str:
    """The name in a reference; empty if it is none."""
    return str(node.get("$ref", "")).rpartition("/")[2]
