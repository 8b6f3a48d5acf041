"""How pages are answered: whole, or the one part of them that is kept live."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Container, Mapping
from functools import wraps
from typing import Any, Final, NamedTuple, ParamSpec
from urllib.parse import unquote, urlsplit

from flask import Response, current_app, g, make_response, redirect, render_template, request

from aiki import zones
from aiki.api.access import principal
from aiki.api.problems import Refused
from aiki.api.requests import store
from aiki.dashboard.zone import reader_zone

P = ParamSpec("P")

SHARED: Final = 1.0
"""Seconds for which a live part is the same for all who may see it."""
MAX_SHARED: Final = 500
COLUMNS_COOKIE: Final = "aiki_columns"


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
    return response


def shared(view: Callable[P, Response]) -> Callable[P, Response]:
    """Have a view's live parts made once a second, however many look at them; stands under `@needs`."""

    @wraps(view)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Response:
        if request.args.get("part") is None:
            return view(*args, **kwargs)
        kept: dict[tuple[str, ...], _Kept] = current_app.extensions.setdefault("aiki.dashboard.parts", {})
        shown = request.cookies.get(COLUMNS_COOKIE, ""), zones.name_of(reader_zone())
        key = (store().namespace, principal().role, request.full_path, *shown)
        now = time.monotonic()
        found = kept.get(key)
        if found is None or found.until < now:
            if found is not None:
                kept[key] = found._replace(until=now + SHARED)  # the others are told the old one meanwhile
            response = view(*args, **kwargs)
            etag = response.get_etag()[0]
            if etag is None or response.status_code != 200:
                return response
            if len(kept) >= MAX_SHARED:
                kept.clear()
            found = kept[key] = _Kept(time.monotonic() + SHARED, response.get_data(), etag)
        g.partial = True
        response = make_response(found.data)
        response.set_etag(found.etag)
        response.headers["Cache-Control"] = "no-cache, private"
        return response

    return answer


class _Kept(NamedTuple):
    until: float
    data: bytes
    etag: str


def done(address: str, did: str) -> Response:
    """Send the browser on after something was done; `did` names what, for the line that says so."""
    joint = "&" if urlsplit(address).query else "?"
    return make_response(redirect(f"{address}{joint}did={did}", 303))


def one_of(verb: str, known: Container[str]) -> str:
    """A verb of an address, if it is known; raises `Refused` (404).

    Routes take any verb, so that the permission is checked before an unknown verb is rejected.
    """
    if verb not in known:
        raise Refused(404, "not_found", f"there is nothing like {verb[:40]!r} to be done here")
    return verb


def why() -> str:
    """The reason that a form gave, for the audit record."""
    return request.form.get("reason", "").strip()[:255]


def here(address: str | None) -> str:
    """An address of this server that a form named, or that of the first page: never another server's, nor, under a path, that
    of something beside it."""
    root = request.script_root
    if not address or not address.startswith(f"{root}/") or address.startswith(("//", "/\\")):
        return f"{root}/"
    if not all(" " <= char < "\x7f" and char != "\\" for char in address):
        return f"{root}/"
    # Browsers leave out what stands before two dots, however those are written.
    path = unquote(address.partition("?")[0].partition("#")[0])
    return f"{root}/" if root and any(part in (".", "..") for part in path.split("/")) else address
