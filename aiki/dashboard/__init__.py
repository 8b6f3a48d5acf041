"""The pages that people see: Flask and Jinja over the API's client and store, of use without JavaScript.

`blueprint.py` is what all pages share (errors, headers, compression), `views.py` how they are answered, `formatting.py` and
`templates/macros.html` how things are shown, `nav.py` what there is. Each noun has its file with its pages. Pages call
the verbs of `aiki.api.requests.client()` and `store()`, never HTTP; each carries `@needs(...)`.
"""

from __future__ import annotations

from flask import Flask

from aiki.dashboard import (
    assets,
    audit,
    batches,
    bulk,
    dead,
    definitions,
    errors,
    home,
    keys,
    overview,
    queues,
    run,
    runs,
    schedules,
    settings,
    signin,
    steering,
    time_zone,
    users,
    webhooks,
    workers,
)
from aiki.dashboard.blueprint import blueprint, install_filters

__all__ = ["install"]

PAGES = (
    home,
    runs,
    bulk,
    batches,
    run,
    steering,
    overview,
    queues,
    workers,
    schedules,
    dead,
    definitions,
    audit,
    keys,
    users,
    webhooks,
    settings,
    time_zone,
)
"""The modules whose pages are registered when they are imported."""


def install(app: Flask) -> None:
    """Add the dashboard to an app of `aiki.api.create_app`."""
    install_filters(app)
    app.register_blueprint(assets.blueprint)
    app.register_blueprint(blueprint)
    app.register_blueprint(signin.blueprint)
    errors.install(app)
