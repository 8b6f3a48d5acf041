"""The page of settings: what the server goes by, without secrets; versions; and the checks of `aiki doctor`."""

from __future__ import annotations

import platform
import sys
from dataclasses import fields, replace
from typing import NamedTuple

from flask import Response, request

import aiki
from aiki.api.access import needs
from aiki.api.requests import backend, store
from aiki.checks import checks
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page
from aiki.settings import SECRETS, Settings, hidden


class Line(NamedTuple):
    """A setting as it is shown; `usual`: it is the default."""

    name: str
    value: str
    usual: bool


@blueprint.get("/settings")
@needs("settings.look")
def settings() -> Response:
    """Settings and versions; `?check=1` looks at database, broker, queues and who is there, which takes a moment."""
    found = backend().settings
    versions = sorted({row.version for row in store().workers("alive") if row.version})
    return page(
        "settings.html",
        lines=_lines(found),
        versions={
            "Aiki": aiki.__version__,
            "Aiki of workers": ", ".join(versions) or "no worker is alive",
            "Python": sys.version.split()[0],
            "System": platform.platform(terse=True),
        },
        checks=list(checks(replace(found, namespace=store().namespace))) if request.args.get("check") == "1" else None,
    )


def _lines(found: Settings) -> list[Line]:
    out = []
    for item in fields(found):
        value = getattr(found, item.name)
        text = ("set" if value else "not set") if item.name in SECRETS else hidden(str(value))
        out.append(Line(f"AIKI_{item.name.upper()}", text or "–", value == item.default))
    return out
