"""The blueprint of all pages: what their answers carry, and what every template knows."""

from __future__ import annotations

import gzip
from datetime import UTC
from typing import Any, Final

from flask import Blueprint, Flask, Response, current_app, g, request

from aiki import words, zones
from aiki.api import guard, masking, mounting
from aiki.api.access import Principal
from aiki.api.people import known_namespaces
from aiki.api.problems import Refused
from aiki.api.requests import backend, store
from aiki.dashboard import assets, charts, csrf, formatting, nav, zone
from aiki.errors import Unavailable

blueprint = Blueprint("dashboard", __name__, template_folder="templates")

CSP: Final = guard.PAGE_POLICY
THEMES: Final = ("auto", "light", "dark")
THEME_COOKIE: Final = "aiki_theme"
WORTH_PACKING: Final = 500


def install_filters(app: Flask) -> None:
    """Make the ways of showing things known to the templates."""
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(formatting.FILTERS)
    app.jinja_env.filters.update({"exact": zone.exact, "minute": zone.minute, "zoned": zone.zoned})
    app.jinja_env.filters["unsecret"] = masking.visible_text
    app.jinja_env.filters["unsecret_filter"] = masking.visible_filter


def theme() -> str:
    """What the reader chose: auto, light or dark."""
    chosen = request.cookies.get(THEME_COOKIE, "auto")
    return chosen if chosen in THEMES else "auto"


@blueprint.app_context_processor
def _known() -> dict[str, Any]:
    who = g.get("principal")
    return {
        "nav": nav.entries(who if isinstance(who, Principal) else None),
        "who": who,
        "may": lambda action: isinstance(who, Principal) and who.may(action),
        "namespace": _namespace(),
        "namespaces": _namespaces,
        "theme": theme(),
        "zone": zones.name_of(zone.reader_zone()),
        "pages_known": current_app.view_functions,
        "asset": assets.url_of,
        "home": f"{request.script_root}/",
        "place": mounting.place,
        "csrf_token": csrf.token,
        "now": backend().now(),
        "partial": g.get("partial", False),
        "spark": charts.sparkline,
        "bars": charts.bars,
    }


def _namespace() -> str:
    try:
        return store().namespace
    except (Unavailable, Refused):
        return ""


def _namespaces() -> list[str]:
    try:
        return known_namespaces()
    except (Unavailable, Refused):
        return []


@blueprint.before_request
def _before() -> None:
    if request.method == "POST":
        csrf.check()
    else:
        words.ZONE.set(zone.reader_zone())


@blueprint.teardown_request
def _after_all(_error: BaseException | None) -> None:
    words.ZONE.set(UTC)


@blueprint.after_request
def _after(response: Response) -> Response:
    protected(response)
    csrf.keep(response)
    if g.get("partial"):
        response.make_conditional(request)
    return packed(response)


def protected(response: Response) -> None:
    """Give a page's answer the headers that all pages have."""
    response.headers["Content-Security-Policy"] = CSP
    # With no-referrer browsers send forms with `Origin: null`, which the guard takes for another site's.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Vary"] = "Cookie, Accept-Encoding"


def packed(response: Response) -> Response:
    """Compress an answer for those who take it."""
    if (
        response.status_code in (200, 400, 403, 404, 422)
        and not response.direct_passthrough
        and not response.is_streamed
        and "Content-Encoding" not in response.headers
        and request.accept_encodings.quality("gzip") > 0
        and len(response.get_data()) >= WORTH_PACKING
    ):
        response.set_data(gzip.compress(response.get_data(), 5, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
    return response
