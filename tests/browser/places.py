"""All pages: the addresses to look at, by the endpoint that answers them."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from tests.browser.site import Site

Addresses = Callable[[Site], dict[str, str]]

NO_PAGES = {
    "dashboard.home",  # leads on
    "dashboard.find",
    "dashboard.names",  # for the palette
    "dashboard.payload",  # JSON
}
"""Endpoints that answer GET with something else than a page."""


def _runs(site: Site) -> dict[str, str]:
    picked = "&".join(f"run={site.runs[name]}" for name in ("failed", "retried"))
    return {
        "runs": "/runs",
        "runs failed": "/runs?q=status:failed",
        "runs none": "/runs?q=name:nothing",
        "runs wrong": "/runs?q=" + quote("status:faild name:x"),
        "runs all columns": "/runs?q=&cols=run&cols=queue&cols=attempt&cols=worker&cols=reference&cols=created&cols=took",
        "bulk": f"/runs/bulk?verb=retry&{picked}",
        "bulk nothing": "/runs/bulk?verb=retry",
        **{f"run {name}": f"/runs/{run_id}" for name, run_id in site.runs.items()},
        "run steps": f"/runs/{site.runs['done workflow']}?steps=0-99",
        "run step": f"/runs/{site.runs['done workflow']}/step/1",
        "run failed step": f"/runs/{site.runs['failed workflow']}/step/0",
        "run unknown": "/runs/00000000-0000-7000-8000-000000000000",
        "no page": "/nowhere",
    }


def _verbs(site: Site) -> dict[str, str]:
    workflow, task = site.runs["waiting"], site.runs["failed"]
    verbs = dict.fromkeys(("event", "wake", "pause", "cancel", "terminate", "rerun", "resume"), workflow)
    verbs |= {"retry": task, "edit": task}
    return {f"ask {verb}": f"/runs/{run}/do/{verb}" for verb, run in verbs.items()}


def _of(site: Site, wanted: Callable[[str, str], bool]) -> dict[str, str]:
    return {name: path for name, path in _runs(site).items() if wanted(name, path)}


PLACES: dict[str, Addresses] = {
    "dashboard.runs": lambda site: _of(site, lambda name, _: name.startswith("runs")),
    "dashboard.bulk": lambda site: _of(site, lambda name, _: name.startswith("bulk")),
    "dashboard.run": lambda site: _of(site, lambda name, path: name.startswith("run ") and "/step/" not in path),
    "dashboard.step": lambda site: _of(site, lambda _, path: "/step/" in path),
    "dashboard.ask": _verbs,
    "": lambda site: _of(site, lambda name, _: name == "no page"),
}
"""For each endpoint the addresses at which it is looked at; whoever adds a page adds it here."""
