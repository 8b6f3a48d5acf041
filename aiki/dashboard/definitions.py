"""The pages of definitions: the names there are, their versions and options, who has them, and what their runs did."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from flask import Response, request, url_for

from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import store
from aiki.clock import SECOND
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import page
from aiki.model import DefinitionInfo
from aiki.storage.roster import ALIVE, WorkerRow
from aiki.storage.tallying import COLUMNS

ON_A_PAGE: Final = 100
DAY: Final = 86400 * SECOND
COUNTED: Final = ("started", "completed", "failed", "dead", "cancelled")


@dataclass(slots=True)
class Name:
    """A name with its versions, and what its runs did within a day."""

    name: str
    versions: list[DefinitionInfo]
    workers: list[WorkerRow]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))

    @property
    def missing(self) -> list[str]:
        """Versions that no worker has."""
        had = {version for worker in self.workers for name, version in worker.definitions if name == self.name}
        return [item.version for item in self.versions if item.version not in had]


@blueprint.get("/definitions")
@needs("look")
def definitions() -> Response:
    """All names, `?q=` those with a text in them, from `?after=` on."""
    text, after = request.args.get("q", "").strip(), request.args.get("after", "")
    known = sorted(store().definitions(), key=lambda item: (item.name, item.version))
    found = [item for item in known if text.lower() in item.name.lower() and item.name > after]
    grouped = [(name, list(versions)) for name, versions in groupby(found, key=lambda item: item.name)]
    following = ""
    if len(grouped) > ON_A_PAGE:
        following = url_for("dashboard.definitions", q=text or None, after=grouped[ON_A_PAGE - 1][0])
    return page("definitions.html", names=_names(grouped[:ON_A_PAGE]), q=text, following=following)


@blueprint.get("/definitions/<name>")
@needs("look")
def definition(name: str) -> Response:
    """One name."""
    versions = [item for item in store().definitions() if item.name == name]
    if not versions:
        raise Refused(404, "not_found", "There is no such definition here.")
    found, at = _names([(name, sorted(versions, key=lambda item: item.version))])[0], store()
    until = at.clock()
    return page(
        "definition.html",
        found=found,
        options={item.version: json.dumps(item.options, indent=2, sort_keys=True) for item in found.versions},
        steps=at.throughput(until - DAY, until, 1800 * SECOND, name=name),
        took=at.latencies(until - DAY, until, name=name),
        active="dashboard.definitions",
    )


def _names(grouped: list[tuple[str, list[DefinitionInfo]]]) -> list[Name]:
    at = store()
    workers = at.workers(ALIVE)
    out: dict[str, Name] = {}
    for name, versions in grouped:
        having = [worker for worker in workers if any(known == name for known, _ in worker.definitions)]
        out[name] = Name(name, versions, having)
    rows: list[tuple[str, str, list[Any]]] = list(at.totals(at.clock() - DAY).rows) if out else []
    for name, _queue, numbers in rows:
        if name in out:
            for column in COUNTED:
                out[name].counts[column] += numbers[COLUMNS.index(column)]
    return list(out.values())
