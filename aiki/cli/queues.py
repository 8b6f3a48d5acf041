"""`aiki queues`: how full they are, who takes from them; pause, resume, purge."""

from __future__ import annotations

from typing import Any

import click

from aiki.cli import asking, batches, common

_reason = click.option("--reason", default="", help="Recorded in the audit log.")


@click.group(cls=common.Listing, context_settings={"help_option_names": ["-h", "--help"]})
def queues() -> None:
    """List the queues; pause, resume or empty one. Without a command, lists."""


@queues.command("list")
@asking.options
def list_(output: str, **given: str | None) -> None:
    """List the queues: runs by the database, messages by the broker, and who takes from them."""
    with asking.opened(**given) as api:
        found = api.ask("GET", "/queues")["queues"]
        now = api.now()
    if output != "table":
        common.print_data(output, found)
        return
    header = ("QUEUE", "QUEUED", "RUNNING", "SCHEDULED", "OLDEST", "MESSAGES", "WORKERS", "PAUSED")
    common.print_table(header, [_line(queue, now) for queue in found])


def _line(queue: dict[str, Any], now: int) -> tuple[Any, ...]:
    runs, broker, paused = queue["runs"], queue["broker"], queue["paused"]
    more = "" if runs["exact"] else "+"
    return (
        queue["name"],
        *(f"{runs[name]:,}{more}" for name in ("queued", "running", "scheduled")),
        common.since(queue["oldest_at"], now),
        "?" if broker is None else f"{broker['ready']:,}",
        len(queue["workers"]),
        paused and paused["text"],
    )


@queues.command()
@click.argument("queue")
@_reason
@asking.options
def pause(queue: str, reason: str, output: str, **given: str | None) -> None:
    """Have no run of a queue begun until it is resumed. What runs is finished."""
    with asking.opened(**given) as api:
        told = api.ask("POST", asking.path("queues", queue, "pause"), {"reason": reason})
    _tell(told, output)


@queues.command()
@click.argument("queue")
@_reason
@asking.options
def resume(queue: str, reason: str, output: str, **given: str | None) -> None:
    """Have the runs of a paused queue begun again."""
    with asking.opened(**given) as api:
        told = api.ask("POST", asking.path("queues", queue, "resume"), {"reason": reason})
    _tell(told, output)


def _tell(queue: dict[str, Any], output: str) -> None:
    if output != "table":
        common.print_data(output, queue)
        return
    paused = queue["paused"]
    click.echo(f"{queue['name']}  {common.printable(paused['text']) if paused else 'not paused'}")


@queues.command()
@click.argument("queue")
@click.option("--confirm", metavar="QUEUE", help="The queue's name again; by default it is asked for.")
@_reason
@batches.wait_option
@asking.options
def purge(queue: str, confirm: str | None, reason: str, wait: bool, output: str, **given: str | None) -> None:
    """Cancel all queued runs of a queue. What is scheduled for later, waits or runs is left alone."""
    if confirm is None:
        confirm = batches.typed(f"this cancels all queued runs of queue {queue}; type its name to go on", "--confirm " + queue)
    with asking.opened(**given) as api:
        made = api.ask("POST", asking.path("queues", queue, "purge"), {"confirm": confirm, "reason": reason})
        batches.follow(api, made, output, wait=wait)
