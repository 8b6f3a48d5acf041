"""What goes wrong on a page, told on a page."""

from __future__ import annotations

import logging
import math

from flask import Flask, Response, g, make_response, render_template, request
from werkzeug.exceptions import HTTPException

from aiki.api.problems import Refused
from aiki.client import wire
from aiki.dashboard.blueprint import blueprint, packed, protected
from aiki.errors import AikiError, RunNotFound, Unavailable

log = logging.getLogger(__name__)

_TITLES = {
    400: "This cannot be understood",
    401: "Sign in first",
    403: "Not allowed",
    404: "Not found",
    409: "That does not go now",
    429: "Too fast",
    503: "The database does not answer",
}


def told(status: int, detail: str, *, retry_after: float = 0) -> Response:
    """A page that says what went wrong, with the request's id."""
    title = _TITLES.get(status, "Something went wrong")
    response = make_response(
        render_template("error.html", status=status, title=title, detail=detail, request_id=g.get("request_id", "")), status
    )
    if retry_after:
        response.headers["Retry-After"] = str(round(retry_after))
    return response


@blueprint.errorhandler(Refused)
def _refused(error: Refused) -> Response:
    return told(error.status, error.detail, retry_after=math.ceil(error.more.get("retry_after", 0)))


@blueprint.errorhandler(AikiError)
def _ours(error: AikiError) -> Response:
    if isinstance(error, Unavailable):
        log.warning("request %s: %s", g.get("request_id", "-"), error)
        return told(503, "The database cannot be used at present. Reload this page in a moment.", retry_after=5)
    if isinstance(error, RunNotFound):
        return told(404, "There is no such run here. It may be of another namespace, or past its retention.")
    problem = wire.problem_to_json(error)
    return told(problem["status"], str(error))


@blueprint.errorhandler(HTTPException)
def _http(error: HTTPException) -> Response:
    return told(error.code or 500, error.description or error.name)


def install(app: Flask) -> None:
    """Tell people, as opposed to programs, on a page that an address does not exist."""
    before = app.error_handler_spec[None].get(404, {}) or app.error_handler_spec[None][None]
    handler = before[HTTPException]

    def not_found(error: HTTPException) -> Response:
        best = request.accept_mimetypes.best_match(["application/json", "text/html"])
        if request.path.startswith("/api/") or best != "text/html":
            return handler(error)  # type: ignore[return-value]
        response = told(404, "There is no page at this address.")
        protected(response)
        return packed(response)

    app.register_error_handler(404, not_found)
