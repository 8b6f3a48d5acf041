"""The page on which the reader says in which time zone times are to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from flask import Response, make_response, redirect, request, url_for

from aiki import zones
from aiki.api.access import needs
from aiki.api.mounting import cookie_path
from aiki.dashboard import zone
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import here, page

_YEAR = 31_536_000


@blueprint.get("/time-zone")
@needs("look")
def time_zone() -> Response:
    """The zones that there are, by their regions."""
    return _form("")


@blueprint.post("/time-zone")
@needs("look")
def set_time_zone() -> Response:
    """Remember one, and go on to where one was."""
    chosen = request.form.get("zone", "")
    if zones.zone_of(chosen) is None:
        return _form(f"No time zone {chosen[:40]!r} is known here.")
    response = make_response(redirect(here(request.form.get("next")), 303))
    response.set_cookie(zone.COOKIE, chosen, max_age=_YEAR, samesite="Lax", path=cookie_path())
    return response


def _form(problem: str) -> Response:
    return page(
        "time_zone.html",
        regions=_regions(),
        problem=problem,
        back=here(request.values.get("next")),
        action=url_for("dashboard.set_time_zone"),
        status=400 if problem else 200,
    )


def _regions() -> Mapping[str, Sequence[str]]:
    """The names by what stands before their slash; those without one are other spellings, but for UTC."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(zones.known()):
        region, slash, _ = name.partition("/")
        if slash and region not in ("posix", "right"):
            found[region].append(name)
    chosen = zones.name_of(zone.reader_zone())
    if chosen != "UTC" and chosen not in found[chosen.partition("/")[0]]:
        found["Others"].append(chosen)
    return {region: names for region, names in found.items() if names}
