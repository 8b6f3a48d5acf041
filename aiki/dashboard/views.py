"""How pages are answered: whole, or the one part of them that is kept live."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from flask import Response, g, make_response, redirect, render_template, request

from aiki.api.problems import Refused


def page(template: str, *, parts: Mapping[str, str] | None = None, status: int = 200, **values: Any) -> Response:
    """A page, or, where `?part=` asks for one of its live parts, that part alone with an ETag.

    :param parts: templates by the names of parts; each makes one element that has the part's name as its id.
    """
    part = request.args.get("part")
    if part is None:
        return make_response(render_template(template, **values), status)
    if not parts or part not in parts:
        raise Refused(404, "not_found", f"this page has no part {part[:40]!r}")
    g.partial = True
    text = render_template(parts[part], **values)
    response = make_response(text, status)
    # The tag is on what is told, not on when: times in parts are absolute, and the script makes them relative.
    response.set_etag(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24])
    response.headers["Cache-Control"] = "no-cache, private"
    response.make_conditional(request)
    return response


def done(address: str, did: str) -> Response:
    """Send the browser on after something was done; `did` names what, for the line that says so."""
    joint = "&" if urlsplit(address).query else "?"
    return make_response(redirect(f"{address}{joint}did={did}", 303))


def here(address: str | None, default: str) -> str:
    """An address of this server that a form named, or the default: never another server's."""
    if not address or not address.startswith("/") or address.startswith(("//", "/\\")):
        return default
    return address if all(" " <= char < "\x7f" and char != "\\" for char in address) else default
