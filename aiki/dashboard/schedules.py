"""The page for schedules, which do not exist yet: it says what to use for delayed and repeated runs."""

from __future__ import annotations

from flask import Response

from aiki.api.access import needs
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page


@blueprint.get("/schedules")
@needs("look")
def schedules() -> Response:
    """The page."""
    return page("schedules.html")
