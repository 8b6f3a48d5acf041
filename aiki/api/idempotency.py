"""`Idempotency-Key`: a POST that is sent twice under one key is done once, and its answer given again.

The claim is made before the endpoint is called and the answer kept afterwards, for all POSTs of the API alike. Endpoints that
make something take its id from `derived_id`, so that a request that died half-way finds what it made.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import Final

from flask import Response, current_app, g, request

from aiki import ids
from aiki.api.access import principal
from aiki.api.problems import Refused, invalid
from aiki.api.requests import read_body, store
from aiki.errors import Unavailable
from aiki.storage.idempotency import CLAIM, Claim

log = logging.getLogger(__name__)

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
_KEY: Final = re.compile(r"[!-~]{1,200}")
_KEPT_HEADERS: Final = ("Content-Type", "Location", "ETag")
_SECRET: Final = 0
MAX_KEPT: Final = 1 << 20
"""Bytes of an answer that is kept; of a longer one only that it was given."""


def begin() -> Response | None:
    """Claim the request's key, if it has one; the answer, if it was given before.

    :raises Refused: the key is malformed, was used for another request, or its request is being done.
    """
    given = request.headers.get(HEADER)
    if given is None or request.method != "POST":
        return None
    if not _KEY.fullmatch(given):
        raise invalid(f"{HEADER}: it must be 1 to 200 printable ASCII characters without spaces")
    who = principal()
    key = _hash(who.kind, who.name, given)
    what = _hash(request.method, request.full_path, request.mimetype, hashlib.sha256(read_body(keep=True)).hexdigest())
    claim = store().claim_key(key, what)
    if not claim.same:
        raise Refused(422, "idempotency_mismatch", f"{HEADER}: this key was used for another request; take a new one")
    if claim.mine:
        g.idempotency = key, claim
        at = store()
        at.origin = at.origin._replace(key=_hash(key.hex(), str(claim.created_at)))
        return None
    if claim.status is None:
        raise Refused(
            409, "idempotency_conflict", "a request with this key is being done; ask again in a moment", retry_after=1
        )
    if claim.status == _SECRET:
        detail = "a request with this key was done; its answer holds a secret, which is told once and kept nowhere"
        raise Refused(409, "conflict", detail)
    response = Response(claim.body, claim.status, json.loads(claim.headers or "{}"))
    response.headers[REPLAYED] = "true"
    return response


def finish(response: Response) -> None:
    """Keep the answer of the request that claimed a key, or let go of the key."""
    key: bytes
    key, _ = g.pop("idempotency", (b"", None))
    if not key:
        return
    try:
        if response.status_code < 300:
            headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
            body = response.get_data()
            if _tells_a_secret():
                store().record_answer(key, _SECRET, "{}", b"")
                return
            store().record_answer(key, response.status_code, json.dumps(headers), body if len(body) <= MAX_KEPT else b"{}\n")
        else:
            store().release_key(key, unknown=response.status_code >= 500)
    except Unavailable as error:
        log.warning("request %s: its %s is free in %d s: %s", g.get("request_id", "-"), HEADER, CLAIM, error)


def _tells_a_secret() -> bool:
    view = current_app.view_functions.get(request.endpoint or "")
    return bool(getattr(getattr(view, "declared", None), "secret", False))


def derived_id(number: int = 0) -> str | None:
    """The id of the `number`th thing that this request makes; None if it has no key, and any id will do."""
    found = g.get("idempotency")
    if found is None:
        return None
    key, claim = found
    return ids.id_at(claim.created_at // 1000, number, hashlib.sha256(key + number.to_bytes(4, "big")).digest())


def repeated() -> bool:
    """Whether this request may have been done before, under its key."""
    found: tuple[bytes, Claim] | None = g.get("idempotency")
    return found is not None and found[1].again


def reference() -> str | None:
    """The name of the effect of this request, so that a repeated request counts once; None if it has no key."""
    found = g.get("idempotency")
    return None if found is None else f"idempotency:{found[0].hex()}"


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
