"""The place for schedules, which are to come; until then, what there is for later and for again."""

from __future__ import annotations

from flask import Response

from aiki.api.access import needs
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page


@blueprint.get("/schedules")
@needs("look")
def schedules() -> Response:
    """Say so."""
    return page("schedules.html")
