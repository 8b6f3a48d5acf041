"""The API told of by itself: the OpenAPI document, and the same as a page."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from flask import Blueprint, Response, current_app, request

from aiki.api import openapi, schemas
from aiki.api.access import needs
from aiki.api.openapi import describe
from aiki.api.requests import query

blueprint = Blueprint("documents", __name__)

MAX_AGE: Final = 300
_NO_QUERY: Final = schemas.EmptySchema()
_KEY: Final = "aiki.openapi"


def _document() -> dict[str, Any]:
    """Made once a process: routes do not change."""
    found = current_app.extensions.get(_KEY)
    if found is None:
        found = current_app.extensions[_KEY] = openapi.document(current_app)
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
    return response.make_conditional(request)  # type: ignore[return-value]
