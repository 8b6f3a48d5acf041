"""What belongs to no noun: how the pages look."""

from __future__ import annotations

from flask import Response, make_response, redirect, request

from aiki.api.access import needs
from aiki.api.mounting import cookie_path
from aiki.dashboard.blueprint import THEME_COOKIE, THEMES, blueprint
from aiki.dashboard.views import here


@blueprint.post("/theme")
@needs("look")
def set_theme() -> Response:
    """Remember light, dark or as the system has it."""
    chosen = request.form.get("theme", "auto")
    response = make_response(redirect(here(request.form.get("next")), 303))
    response.set_cookie(
        THEME_COOKIE, chosen if chosen in THEMES else "auto", max_age=31_536_000, samesite="Lax", path=cookie_path()
    )
    return response
