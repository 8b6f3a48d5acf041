"""`aiki batches`, and what is done to all runs that match: counted, confirmed, followed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from aiki import ids
from aiki.cli import asking, bar, common
from aiki.cli.asking import Api
from aiki.errors import RunConflict

F = TypeVar("F", bound=Callable[..., Any])

OPEN: Final = ("collecting", "running")
INTERRUPTED: Final = 130
_EVERY: Final = 0.3


def wait_option(function: F) -> F:
    """`--no-wait`."""
    return click.option("--wait/--no-wait", default=True, show_default=True, help="Follow it until it is done.")(function)


@click.group(cls=common.Listing, context_settings={"help_option_names": ["-h", "--help"]})
def batches() -> None:
    """What is done to many runs at once: list, watch, stop. Without a command, lists.

    Begun by `aiki runs retry --all FILTER` and its like, by `aiki dead retry` and by `aiki queues purge`.
    """


@batches.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="BATCH", help="Go on behind this one, the last of the page before.")
@asking.options
def list_(limit: int, after: str | None, output: str, **given: str | None) -> None:
    """List batches, newest first."""
    with asking.opened(**given) as api:
        page = api.ask("GET", asking.path("batches", limit=limit, after=after))
        now = api.now()
    if output != "table":
        common.print_data(output, page, "batches")
        return
    header = ("BATCH", "OPERATION", "STATE", "MATCHED", "DONE", "SKIPPED", "FAILED", "BEGUN", "BY", "WHICH")
    common.print_table(header, [_line(batch, now) for batch in page["batches"]])
    if page["next"]:
        click.echo(f"more: --after {page['next']}", err=True)


def _line(batch: dict[str, Any], now: int) -> tuple[Any, ...]:
    target = batch["target"]
    which = target.get("q") or target.get("fingerprint") or f"{target.get('ids') or 0:,} runs by id"
    counts = (f"{batch[name]:,}" for name in ("matched", "done", "skipped", "failed"))
    begun = common.since(batch["created_at"], now)
    return batch["id"], batch["operation"], batch["state"], *counts, begun, batch["actor"], which[:80]


@batches.command()
@click.argument("batch_id", metavar="BATCH")
@asking.options
def watch(batch_id: str, output: str, **given: str | None) -> None:
    """Follow a batch until it is done. Exit code 1 if it was stopped, or something failed."""
    with asking.opened(**given) as api:
        follow(api, api.ask("GET", asking.path("batches", batch_id)), output)


@batches.command()
@click.argument("batch_id", metavar="BATCH")
@click.option("--reason", default="", help="Recorded in the audit log.")
@asking.options
def stop(batch_id: str, reason: str, output: str, **given: str | None) -> None:
    """Have a batch do nothing more. What it has done stays done."""
    with asking.opened(**given) as api:
        told = api.ask("POST", asking.path("batches", batch_id, "stop"), {"reason": reason})
    _tell(told, output)


# ---------------------------------------------------------------- for other commands
def begin(
    api: Api,
    operation: str,
    target: dict[str, Any],
    output: str,
    *,
    reason: str = "",
    yes: bool = False,
    wait: bool = True,
) -> None:
    """Count, have it confirmed, begin, follow. `yes`: whatever the number is."""
    found = api.ask("POST", "/batches/preview", {**target, "operation": operation})
    number = f"{found['matched']:,}" + ("" if found["exact"] else " or more")
    if not found["matched"]:
        click.echo("no run matches", err=True)
        return
    states = ", ".join(f"{item['count']:,} {item['value']}" for item in found["states"])
    click.echo(
        f"{operation}: {number} runs ({states}{' among the newest' if found['looked'] < found['matched'] else ''})", err=True
    )
    asked = {**target, "id": str(ids.new_id()), "operation": operation, "reason": reason}
    if yes:
        asked["confirm"] = operation
    elif found["confirm"]:
        word = str(found["matched"]) if found["exact"] else operation
        given = typed(f"this will {operation} {number} runs; type {word} to go on", "--yes").replace(",", "")
        if given not in (word, operation):
            raise RunConflict(f"{given[:40]!r} is not {word}: nothing was done")
        asked["confirm"] = operation
    follow(api, api.ask("POST", "/batches", asked), output, wait=wait)


def typed(question: str, option: str) -> str:
    """The user's answer; without a terminal an error that names the option."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question}; without a terminal say {option}")
    return str(click.prompt(question, err=True)).strip()


def follow(api: Api, batch: dict[str, Any], output: str, *, wait: bool = True) -> None:
    """Show the progress of a batch until it ends. After Ctrl-C the batch goes on, and the command that stops it is printed."""
    if wait:
        try:
            batch = _followed(api, batch)
        except KeyboardInterrupt:
            again = f"aiki batches watch {batch['id']}; to stop it: aiki batches stop {batch['id']}"
            click.echo(f"\nthe batch goes on without this command. To see it: {again}", err=True)
            sys.exit(INTERRUPTED)
    _tell(batch, output)
    if batch["state"] in ("stopped", "failed") or batch["failed"]:
        sys.exit(1)


def _followed(api: Api, batch: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    with bar.progress(batch["operation"]) as show:
        while batch["state"] in OPEN:
            share = batch["processed"] / batch["matched"] if batch["state"] == "running" and batch["matched"] else None
            left = "" if batch["eta"] is None else f", {common.duration(batch['eta'])} left"
            if not batch["processed"] and time.monotonic() - began > 10:
                left = "; is an orchestrator running? (aiki doctor)"
            show(share, f"{batch['processed']:,} of {batch['matched'] or batch['expected']:,}{left}")
            time.sleep(_EVERY)
            batch = api.ask("GET", asking.path("batches", batch["id"]))
    return batch


def _tell(batch: dict[str, Any], output: str) -> None:
    if output != "table":
        common.print_data(output, batch)
        return
    counts = ", ".join(f"{batch[name]:,} {name}" for name in ("done", "skipped", "failed"))
    click.echo(f"{batch['id']}  {batch['operation']} {batch['state']}: {counts} of {batch['matched']:,}")
    for sample in batch["samples"][:10]:
        click.echo(f"  {sample['run']}  {sample['outcome']}: {common.printable(sample['detail'])}")
