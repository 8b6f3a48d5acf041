"""Reading requests: JSON bodies, queries, and the backend that answers them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from flask import Response, current_app, g, request
from marshmallow import Schema
from werkzeug.exceptions import RequestEntityTooLarge

from aiki.api import field_checks, masking
from aiki.api.access import NAMESPACE_HEADER, NAMESPACE_QUERY, principal
from aiki.api.backend import Backend
from aiki.api.problems import Refused, invalid
from aiki.client.embedded import EmbeddedClient
from aiki.storage import Store
from aiki.storage.auditing import Origin

DRAIN_BYTES: Final = 256 << 20
DRAIN_SECONDS: Final = 10.0


def backend() -> Backend:
    """The backend of the app that serves this request."""
    found = current_app.extensions["aiki"]
    assert isinstance(found, Backend)
    return found


def client() -> EmbeddedClient:
    """The client of this request's namespace, acting for the principal, whom audit records name."""
    found = g.get("client")
    if not isinstance(found, EmbeddedClient):
        origin = Origin(g.get("request_id", ""), request.remote_addr or "")
        found = g.client = backend().client.acting(principal().name, namespace(), origin)
        found.store.hides = None if masking.sees_all() else masking.mask().is_secret
    return found


def namespace() -> str:
    """This request's namespace, which the principal may see. Raises `Refused` (404) if it may not."""
    if "namespace" not in g:  # this is the page that says so
        raise Refused(404, "not_found", "there is no such namespace, or it is not yours to see")
    return str(g.namespace)


def store() -> Store:
    """The store of this request's namespace."""
    return client().store


def body(schema: Schema, *, optional: bool = False) -> dict[str, Any]:
    """The JSON body, checked. `optional`: no body at all is an empty object."""
    raw = read_body()
    if not raw and optional:
        return field_checks.load(schema, {})
    if not request.is_json:
        raise Refused(
            415, "unsupported_media_type", "the body must be JSON, sent with the header Content-Type: application/json"
        )
    return field_checks.load(schema, _parse(raw))


def read_body(*, keep: bool = False) -> bytes:
    """The body's bytes. `keep`: it is going to be read again. Raises `Refused` (413)."""
    try:
        return request.get_data(cache=keep)
    except RequestEntityTooLarge:
        _drain()
        limit = request.max_content_length or 0
        raise Refused(413, "payload_too_large", f"the body is over {limit:,} bytes; send fewer runs at a time") from None


def _drain() -> None:
    """Read on for a while: many clients look at the answer only once they have sent everything."""
    stream = request.environ["wsgi.input"]
    until, size = time.monotonic() + DRAIN_SECONDS, 0
    try:
        while size < DRAIN_BYTES and time.monotonic() < until and (chunk := stream.read(1 << 16)):
            size += len(chunk)
    except OSError:
        pass  # the client has gone, or sent less than it said


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise invalid("the body is nested too deeply") from None
    except ValueError as error:  # integers of thousands of digits; what `_no_constant` refuses
        raise invalid(f"the body is not JSON that can be read here: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is not JSON; write it as {{"$aiki": "float", "v": "{name.lower()}"}} among the arguments')


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is larger than a float can be (about 1.8e308)")
    return value


def query(schema: Schema, repeatable: tuple[str, ...] = ()) -> dict[str, Any]:
    """The query, checked; of fields that are not repeatable there may be one each."""
    data: dict[str, Any] = {}
    for name, values in request.args.lists():
        if name == NAMESPACE_QUERY:
            continue
        if name in repeatable:
            data[name] = values
        elif len(values) > 1:
            raise invalid(f"{name[:60]}: it is given {len(values)} times", {name[:60]: [f"it is given {len(values)} times"]})
        else:
            data[name] = values[0]
    return field_checks.load(schema, data)


def given(data: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is there and not null, or None."""
    return next((data[name] for name in names if data.get(name) is not None), None)


def make_conditional(response: Response) -> None:
    """Give the answer an `ETag` where the endpoint declares one; 304 if the client has it already (`If-None-Match`)."""
    view = current_app.view_functions.get(request.endpoint or "")
    if response.status_code != 200 or not getattr(getattr(view, "declared", None), "conditional", False):
        return
    response.vary.update(("Authorization", "Cookie", NAMESPACE_HEADER))
    if response.get_etag()[0] is None:
        response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32], weak=True)
    response.make_conditional(request)
