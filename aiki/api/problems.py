"""Errors as RFC 9457 problem details, whatever went wrong and wherever."""

from __future__ import annotations

import json
import logging
import math
from typing import Any, Final, NamedTuple

from flask import Flask, Response, g
from werkzeug.exceptions import HTTPException, InternalServerError

from aiki.client import wire
from aiki.errors import AikiError, PayloadTooLarge, Unavailable
from aiki.storage import RowTooLarge

log = logging.getLogger(__name__)

_NO_MARKUP: Final = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}
PROBLEM: Final = "application/problem+json"


class Code(NamedTuple):
    """An error's usual HTTP status, and what it means."""

    status: int
    meaning: str


CODES: Final[dict[str, Code]] = {
    "invalid": Code(
        400, "a field, a value or the body cannot be understood (422: it can, but not be done); `errors` tells by field"
    ),
    "unauthorized": Code(401, "sign in, or send an API key"),
    "forbidden": Code(403, "the role, the namespace or the page that asks does not allow it"),
    "not_found": Code(404, "there is no such thing, or it is another namespace's"),
    "method_not_allowed": Code(405, "the address does not take this method; `Allow` says which it takes"),
    "timeout": Code(408, "the request came too slowly"),
    "conflict": Code(409, "what is there is in the way: its state, or another thing of that id"),
    "reference_conflict": Code(409, "the reference id belongs to another run, `run_id`, with other arguments"),
    "idempotency_conflict": Code(409, "a request with this Idempotency-Key is being done; ask again after `Retry-After`"),
    "length_required": Code(411, "the request must say how long its body is"),
    "precondition_failed": Code(412, "it has changed since you read it: `If-Match` names another `ETag`"),
    "payload_too_large": Code(413, "the body, or the arguments in it, are larger than the server takes"),
    "uri_too_long": Code(414, "the address is too long"),
    "unsupported_media_type": Code(415, "the body must be JSON, sent with Content-Type: application/json"),
    "unknown_task": Code(422, "no definition has this name or version; `closest` and `versions` tell what there is"),
    "idempotency_mismatch": Code(422, "this Idempotency-Key was used for another request"),
    "too_many_requests": Code(429, "more than the server takes; ask again after `Retry-After`"),
    "headers_too_large": Code(431, "the headers are too large"),
    "internal": Code(500, "a mistake of the server's; its log tells more under the request id"),
    "unavailable": Code(503, "the database cannot be used at present; ask again after `Retry-After`"),
}
"""All codes that problems have. A new one is added here, and so is documented."""

_KNOWN: Final[dict[int, tuple[str, str]]] = {
    400: ("invalid", "The request cannot be understood."),
    404: ("not_found", "There is nothing at this address; the API begins with /api/v1."),
    405: ("method_not_allowed", "This address does not take this method; see the Allow header."),
    408: ("timeout", "The request came too slowly."),
    411: ("length_required", "The request must say how long its body is."),
    413: ("payload_too_large", "The body is larger than the server takes."),
    414: ("uri_too_long", "The address is too long."),
    415: ("unsupported_media_type", "The body must be JSON, sent with Content-Type: application/json."),
    500: ("internal", "Something went wrong in the server; its log tells more under the request id."),
}


class Refused(Exception):
    """A refused request, with all fields of the answer."""

    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.more = more
        super().__init__(detail)


def invalid(detail: str, errors: dict[str, list[str]] | None = None) -> Refused:
    """400: the request is wrong. `errors` holds messages by field."""
    return Refused(400, "invalid", detail, **({"errors": errors} if errors else {}))


def answer(data: Any, status: int = 200, mimetype: str = "application/json") -> Response:
    """A JSON answer in ASCII, in which nothing is markup even for a client that takes it for a page."""
    text = json.dumps(data, separators=(",", ":")).translate(_NO_MARKUP)
    return Response(text + "\n", status, mimetype=mimetype)


def problem(status: int, code: str, detail: str, **more: Any) -> Response:
    """Problem details as an answer."""
    body = {"type": f"urn:aiki:{code}", "title": code.replace("_", " "), "status": status, "detail": detail, "code": code}
    return answer({**body, **more, "request_id": g.get("request_id", "")}, status, PROBLEM)


def install(app: Flask) -> None:
    """Answer all errors of an app as problems."""
    app.register_error_handler(Refused, _refused)
    app.register_error_handler(AikiError, _ours)
    app.register_error_handler(RowTooLarge, _too_large)
    app.register_error_handler(HTTPException, _http)


def _refused(error: Refused) -> Response:
    response = problem(error.status, error.code, error.detail, **error.more)
    if "retry_after" in error.more:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.more["retry_after"])))
    return response


def _too_large(_error: RowTooLarge) -> Response:
    return _ours(PayloadTooLarge("the database refuses a row of that size; raise its max_allowed_packet"))


def _ours(error: AikiError) -> Response:
    told = wire.problem_to_json(error)
    if isinstance(error, Unavailable):
        # Why is for the operator: it names hosts.
        log.warning("request %s: %s", g.get("request_id", "-"), error)
        told["detail"] = "the database cannot be used at present; nothing is known to have been done, and asking again is safe"
    elif told["status"] >= 500:
        log.error("request %s: %s", g.get("request_id", "-"), error)
        told["detail"] = _KNOWN[500][1]
    response = answer({**told, "request_id": g.get("request_id", "")}, told["status"], PROBLEM)
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    return response


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, InternalServerError):
        status = 500
    code, detail = _KNOWN.get(status, ("invalid" if status < 500 else "internal", error.name))
    response = problem(status, code, detail)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response
