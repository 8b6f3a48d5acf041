"""Static files: compressed once, named by their contents, so that browsers keep them for ever."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import NotFound

blueprint = Blueprint("assets", __name__)

FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final = {
    "aiki.css": "text/css; charset=utf-8",
    "aiki.js": "text/javascript; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
FOR_EVER: Final = "public, max-age=31536000, immutable"


class Asset(NamedTuple):
    """A file's bytes, as they are and compressed, and the beginning of their digest."""

    raw: bytes
    packed: bytes
    digest: str


@cache
def _asset(name: str) -> Asset:
    raw = (FOLDER / name).read_bytes()
    return Asset(raw, gzip.compress(raw, 9, mtime=0), hashlib.sha256(raw).hexdigest()[:12])


def url_of(name: str) -> str:
    """The address of a file, which changes with its contents."""
    return url_for("assets.static", name=name, v=_asset(name).digest)


@blueprint.get("/static/<name>")
def static(name: str) -> Response:
    """A file; open to everybody: it holds nothing of anybody."""
    if name not in TYPES:
        raise NotFound
    asset = _asset(name)
    response = Response(asset.raw, content_type=TYPES[name])
    if request.accept_encodings.quality("gzip") > 0:
        response = Response(asset.packed, content_type=TYPES[name])
        response.headers["Content-Encoding"] = "gzip"
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = FOR_EVER if request.args.get("v") == asset.digest else "no-cache"
    response.set_etag(asset.digest)
    response.make_conditional(request)
    return response
