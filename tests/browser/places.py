"""All pages: the addresses to look at, by the endpoint that answers them."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from tests.browser.site import Site
from tests.waiting import wait_until

Addresses = Callable[[Site], dict[str, str]]

NO_PAGES = {
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


def _worker(site: Site) -> str:
    return str(site.ask("GET", "/workers")["workers"][0]["id"])


def _failure(site: Site) -> str:
    return str(site.ask("GET", "/dead/failures")["groups"][0]["fingerprint"])


def _overview(site: Site) -> dict[str, str]:
    return {"overview": "/", "overview week": "/?range=7d", "overview wrong": "/?range=x"}


def _queues(site: Site) -> dict[str, str]:
    site.ask("POST", "/queues/bulk/pause", {"reason": "until <b>the bank</b> is back"})
    return {"queue": "/queues/default", "queue without worker": "/queues/nobody", "queue paused": "/queues/bulk"}


def _webhook(site: Site) -> str:
    if not site.ask("GET", "/webhooks")["webhooks"]:
        site.ask("POST", "/webhooks", {"url": "https://hooks.example.com/" + "a" * 100})
    return str(site.ask("GET", "/webhooks")["webhooks"][0]["id"])


def _audit(site: Site) -> dict[str, str]:
    return {"audit": "/audit", "audit none": "/audit?actor=nobody", "audit wrong": "/audit?since=x"}


PLACES: dict[str, Addresses] = {
    "dashboard.overview": _overview,
    "dashboard.queues": lambda site: {"queues": "/queues"},
    "dashboard.queue": _queues,
    "dashboard.ask_queue": lambda site: {"ask pause queue": "/queues/default/pause", "ask resume queue": "/queues/bulk/resume"},
    "dashboard.ask_purge": lambda site: {"ask purge": "/queues/default/purge"},
    "dashboard.workers": lambda site: {"workers": "/workers", "workers all": "/workers?all=1"},
    "dashboard.worker": lambda site: {"worker": f"/workers/{_worker(site)}"},
    "dashboard.ask_worker": lambda site: {
        f"ask worker {verb}": f"/workers/{_worker(site)}/{verb}" for verb in ("drain", "kill")
    },
    "dashboard.schedules": lambda site: {"schedules": "/schedules"},
    "dashboard.dead_letters": lambda site: {"dead": "/dead"},
    "dashboard.failure": lambda site: {"failure": f"/dead/failures/{_failure(site)}"},
    "dashboard.ask_retry_group": lambda site: {"ask retry group": f"/dead/failures/{_failure(site)}/retry"},
    "dashboard.ask_retry_dead": lambda site: {"ask retry dead": "/dead/retry"},
    "dashboard.letters": lambda site: {"letters": "/dead/letters"},
    "dashboard.letter": lambda site: {"letter unknown": f"/dead/letters/{'0' * 32}"},
    "dashboard.ask_letters": lambda site: {"ask letters": "/dead/letters/do/requeue"},
    "dashboard.definitions": lambda site: {"definitions": "/definitions", "definitions none": "/definitions?q=nothing"},
    "dashboard.definition": lambda site: {"definition": "/definitions/shop.charge"},
    "dashboard.audit": _audit,
    # A key or a user closes the server to whoever has none: here there are none, tests/dashboard has them.
    "dashboard.keys": lambda site: {"keys": "/keys"},
    "dashboard.ask_revoke_key": lambda site: {"ask revoke key": "/keys/nothing/revoke"},
    "dashboard.users": lambda site: {"users": "/users"},
    "dashboard.ask_change_user": lambda site: {"ask change user": "/users/nobody/change"},
    "dashboard.ask_remove_user": lambda site: {"ask remove user": "/users/nobody/remove"},
    "dashboard.webhooks": lambda site: {"webhooks": "/webhooks"},
    "dashboard.webhook": lambda site: {"webhook": f"/webhooks/{_webhook(site)}"},
    "dashboard.ask_webhook": lambda site: {"ask delete webhook": f"/webhooks/{_webhook(site)}/delete"},
    "dashboard.time_zone": lambda site: {"time zone": "/time-zone", "time zone of": "/time-zone?next=/runs"},
    "dashboard.settings": lambda site: {"settings": "/settings", "settings checked": "/settings?check=1"},
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
