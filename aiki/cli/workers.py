"""`aiki workers`: who works here, at what; have one drain or stop."""

from __future__ import annotations

from typing import Any

import click

from aiki.cli import asking, common
from aiki.errors import ConfigurationError


@click.group(cls=common.Listing, context_settings={"help_option_names": ["-h", "--help"]})
def workers() -> None:
    """List the workers, what they execute; have one drain or stop. Without a command, lists."""


@workers.command("list")
@click.option("-a", "--all", "all_", is_flag=True, help="Also those that stopped or were lost.")
@asking.options
def list_(all_: bool, output: str, **given: str | None) -> None:
    """List the workers, their queues and what they execute."""
    with asking.opened(**given) as api:
        found = api.ask("GET", asking.path("workers", state=None if all_ else "alive"))["workers"]
        now = api.now()
    if output != "table":
        common.print_data(output, found)
        return
    header = ("WORKER", "NAME", "HOST", "PID", "STATE", "QUEUES", "HEARD", "BUSY")
    common.print_table(header, [_line(worker, now) for worker in found])


def _line(worker: dict[str, Any], now: int) -> tuple[Any, ...]:
    names = [str(child["name"]) for child in worker["children"] if child["run"]]
    busy = f"{len(names)}/{worker['concurrency']}" + (f" {', '.join(names)}" if names else "")
    state = worker["state"] + (" (draining)" if worker["draining"] and worker["state"] == "alive" else "")
    queues = ",".join(f"{name} (paused)" if name in worker["paused"] else name for name in worker["queues"])
    heard = common.since(worker["heard_at"], now)
    return worker["id"][:12], worker["name"], worker["host"], worker["pid"], state, queues, heard, busy


@workers.command()
@click.argument("worker_id", metavar="WORKER")
@click.option("--reason", default="", help="Recorded in the audit log.")
@asking.options
def drain(worker_id: str, reason: str, output: str, **given: str | None) -> None:
    """Have a worker take nothing more, end what it executes, and stop. WORKER: its id, or how it begins."""
    _want(worker_id, "drain", {"reason": reason}, output, given)


@workers.command()
@click.argument("worker_id", metavar="WORKER")
@click.option("--at-once", is_flag=True, help="Kill what runs; it is given back uncharged.")
@click.option("--reason", default="", help="Recorded in the audit log.")
@asking.options
def stop(worker_id: str, at_once: bool, reason: str, output: str, **given: str | None) -> None:
    """Stop a worker as TERM does. WORKER: its id, or how it begins."""
    _want(worker_id, "stop", {"reason": reason, "at_once": at_once}, output, given)


def _want(worker_id: str, verb: str, body: dict[str, Any], output: str, given: dict[str, str | None]) -> None:
    with asking.opened(**given) as api:
        alive = api.ask("GET", asking.path("workers", state="alive"))["workers"]
        start = worker_id.replace("-", "").lower()
        matching = [worker["id"] for worker in alive if worker["id"].replace("-", "").startswith(start)]
        if len(matching) > 1:
            raise ConfigurationError(f"{len(matching)} workers begin with {worker_id!r}; give more of the id")
        told = api.ask("POST", asking.path("workers", matching[0] if matching else worker_id, verb), body)
    if output != "table":
        common.print_data(output, told)
        return
    click.echo(f"{told['id'][:12]}  {told['name']}: {verb} asked; it hears it with its next beat")
