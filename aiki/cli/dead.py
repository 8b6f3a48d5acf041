"""`aiki dead`: failures by their error, and dead letters."""

from __future__ import annotations

from typing import Any

import click

from aiki.cli import asking, bar, batches, common
from aiki.errors import AikiError

_reason = click.option("--reason", default="", help="Recorded in the audit log.")
_yes = click.option("-y", "--yes", is_flag=True, help="However many there are, do not ask.")


@click.group(cls=common.Listing, context_settings={"help_option_names": ["-h", "--help"]})
def dead() -> None:
    """Failed and dead runs by their error, and dead letters: messages that nobody could read. Without a command, lists."""


@dead.command("list")
@asking.options
def list_(output: str, **given: str | None) -> None:
    """List failures by their error, the most frequent first."""
    with asking.opened(**given) as api:
        groups = api.ask("GET", "/dead/failures")["groups"]
        now = api.now()
    if output != "table":
        common.print_data(output, groups)
        return
    header = ("FINGERPRINT", "COUNT", "FIRST", "LAST", "NAMES", "ERROR")
    common.print_table(header, [_line(group, now) for group in groups])


def _line(group: dict[str, Any], now: int) -> tuple[Any, ...]:
    names = ",".join(item["name"] for item in group["names"][:3]) + (",…" if len(group["names"]) > 3 else "")
    first, last = (common.since(group[name], now) for name in ("first_at", "last_at"))
    return group["fingerprint"], f"{group['count']:,}", first, last, names, f"{group['error_type']}: {group['message']}"[:100]


@dead.command()
@click.argument("fingerprint")
@_yes
@_reason
@batches.wait_option
@asking.options
def retry(fingerprint: str, yes: bool, reason: str, wait: bool, output: str, **given: str | None) -> None:
    """Retry all runs that failed of one error."""
    with asking.opened(**given) as api:
        batches.begin(api, "retry", {"fingerprint": fingerprint}, output, reason=reason, yes=yes, wait=wait)


@dead.command()
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="How many.")
@click.option("--after", metavar="LETTER", help="Go on behind this one, the last of the page before.")
@asking.options
def letters(limit: int, after: str | None, output: str, **given: str | None) -> None:
    """List dead letters."""
    with asking.opened(**given) as api:
        page = api.ask("GET", asking.path("dead", "letters", limit=limit, after=after))
        now = api.now()
    if output != "table":
        common.print_data(output, page, "letters")
        return
    rows = [
        (item["id"], item["source"], common.since(item["created_at"], now), f"{item['size']:,}", item["reason"])
        for item in page["letters"]
    ]
    common.print_table(("LETTER", "FROM", "WHEN", "BYTES", "WHY"), rows)
    if page["next"]:
        click.echo(f"more: --after {page['next']}", err=True)


@dead.command()
@click.argument("letter_id", metavar="LETTER")
@asking.options
def show(letter_id: str, output: str, **given: str | None) -> None:
    """Show a dead letter with its headers and what is in it."""
    with asking.opened(**given) as api:
        letter = api.ask("GET", asking.path("dead", "letters", letter_id))
    if output != "table":
        common.print_data(output, letter)
        return
    for name, value in letter.items():
        click.echo(f"{name + ':':<14}{common.printable(value)}")


@dead.command()
@click.argument("letter_ids", metavar="LETTER...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that there are.")
@_reason
@asking.options
def requeue(letter_ids: tuple[str, ...], all_: bool, reason: str, output: str, **given: str | None) -> None:
    """Publish dead letters again, to the queues where they were."""
    _letters("requeue", letter_ids, all_, reason, output, given)


@dead.command()
@click.argument("letter_ids", metavar="LETTER...", nargs=-1)
@click.option("--all", "all_", is_flag=True, help="All that there are.")
@_yes
@_reason
@asking.options
def discard(letter_ids: tuple[str, ...], all_: bool, yes: bool, reason: str, output: str, **given: str | None) -> None:
    """Delete dead letters."""
    if all_ and not yes and batches.typed("this deletes all dead letters; type discard to go on", "--yes") != "discard":
        raise AikiError("nothing was done")
    _letters("discard", letter_ids, all_, reason, output, given)


def _letters(
    verb: str, letter_ids: tuple[str, ...], all_: bool, reason: str, output: str, given: dict[str, str | None]
) -> None:
    if bool(letter_ids) == all_:
        raise click.UsageError("give the ids of letters, or --all")
    with asking.opened(**given) as api:
        listed = _all(api) if all_ else list(letter_ids)
        count = 0
        with bar.progress(verb) as tell:
            for start in range(0, len(listed), 200):
                tell(start / len(listed), f"{start:,} of {len(listed):,}")
                body = {"letters": listed[start : start + 200], "reason": reason}
                count += api.ask("POST", asking.path("dead", "letters", verb), body)["letters"]
    if output != "table":
        common.print_data(output, {"letters": count})
        return
    click.echo(f"{count:,} letters: {verb} done")


def _all(api: asking.Api) -> list[str]:
    found: list[str] = []
    after = None
    while True:
        page = api.ask("GET", asking.path("dead", "letters", limit=200, after=after))
        found += [item["id"] for item in page["letters"]]
        after = page["next"]
        if after is None:
            return found
