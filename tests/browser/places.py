"""All pages: the addresses to look at, by the endpoint that answers them."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from tests.browser.site import Site
from tests.waiting import wait_until

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
        **{f"run {name}": f"/runs/{run_id}" for name, run_id in site.runs.items() if name != "batch"},
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


def _batches(site: Site) -> dict[str, str]:
    """One that is done and one that is stopped, with something in each."""
    if "batch" not in site.runs:
        ids = [site.runs["failed"], site.runs["completed"]]
        site.runs["batch"] = site.ask("POST", "/batches", {"operation": "retry", "ids": ids, "reason": "<b>again</b>"})["id"]
        wait_until(lambda: site.ask("GET", f"/batches/{site.runs['batch']}")["state"] == "done", 30, "the batch to be done")
    return {"batch": f"/batches/{site.runs['batch']}"}


PLACES: dict[str, Addresses] = {
    "dashboard.runs": lambda site: _of(site, lambda name, _: name.startswith("runs")),
    "dashboard.bulk": lambda site: _of(site, lambda name, _: name.startswith("bulk")),
    "dashboard.run": lambda site: _of(site, lambda name, path: name.startswith("run ") and "/step/" not in path),
    "dashboard.batches": lambda site: {"batches": "/batches"},
    "dashboard.batch": _batches,
    "dashboard.ask_stop_batch": lambda site: {f"stop {name}": f"{path}/stop" for name, path in _batches(site).items()},
    "dashboard.step": lambda site: _of(site, lambda _, path: "/step/" in path),
    "dashboard.ask": _verbs,
    "": lambda site: _of(site, lambda name, _: name == "no page"),
}
"""For each endpoint the addresses at which it is looked at; whoever adds a page adds it here."""
