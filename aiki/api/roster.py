"""The endpoints of definitions and of the server's health."""

from __future__ import annotations

import logging
from typing import Final

from flask import Blueprint, Response

from aiki.api import answers, schemas
from aiki.api.access import needs
from aiki.api.openapi import describe
from aiki.api.problems import answer
from aiki.api.requests import backend, body, client, query, store
from aiki.client import wire
from aiki.errors import ConfigurationError, StorageUnavailable

log = logging.getLogger(__name__)

blueprint = Blueprint("roster", __name__)
health = Blueprint("health", __name__)

_DEFINITIONS: Final = schemas.DefinitionsSchema()
_NO_QUERY: Final = schemas.EmptySchema()


@blueprint.post("/definitions")
@needs("definitions.register")
@describe(
    body=_DEFINITIONS,
    answer=answers.Registered,
    example={"definitions": [{"name": "shop.charge", "options": {"queue": "payments", "time_limit": 30}}]},
)
def register() -> Response:
    """Make names known; repeating it changes nothing."""
    data = body(_DEFINITIONS)
    definitions = [wire.definition_from_json(item) for item in data["definitions"]]
    backend().register(client(), definitions)
    return answer({"registered": len(definitions)})


@blueprint.get("/definitions")
@needs("look")
@describe(query=_NO_QUERY, answer=answers.Definitions, conditional=True)
def definitions() -> Response:
    """All definitions."""
    query(_NO_QUERY)
    return answer({"definitions": [wire.definition_to_json(item) for item in store().definitions()]})


@health.get("/healthz")
@describe(answer=answers.Health)
def healthz() -> Response:
    """The process answers."""
    return answer({"status": "ok"})


@health.get("/readyz")
@describe(answers={200: answers.Health, 503: answers.Health})
def readyz() -> Response:
    """The database answers and its schema is current. The broker is only told of: runs are accepted without it."""
    try:
        backend().store.check_schema()
    except (StorageUnavailable, ConfigurationError) as error:
        log.warning("not ready: %s", error)
        response = answer({"status": "unavailable", "database": "down"}, 503)
        response.headers["Retry-After"] = "1"
        return response
    return answer({"status": "ok", "database": "ok", "broker": backend().broker_state()})
