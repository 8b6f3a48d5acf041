"""Shared by several commands: options, settings, output."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import click

from aiki import filters, logs
from aiki.client import wire
from aiki.clock import iso
from aiki.errors import FilterError
from aiki.model import RunView
from aiki.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

LEVELS = click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False)
FORMATS = click.Choice(["table", "json", "jsonl"])


def database_option(function: F) -> F:
    """`--database`."""
    return click.option(
        "--database",
        metavar="URL",
        help="mysql+pymysql://user:password@host/database, postgresql://… or sqlite:///path [env: AIKI_DATABASE_URL]",
    )(function)


def broker_option(function: F) -> F:
    """`--broker`."""
    return click.option(
        "-b", "--broker", metavar="URL", help="amqp://user:password@host//vhost or sqlite:///path [env: AIKI_BROKER_URL]"
    )(function)


def namespace_option(function: F) -> F:
    """`--namespace`."""
    return click.option("--namespace", metavar="NAME", help="the tenant [env: AIKI_NAMESPACE; default: default]")(function)


def server_option(function: F) -> F:
    """`--server`."""
    return click.option(
        "--server", metavar="URL", help="ask this server, not the database [env: AIKI_SERVER_URL, key in AIKI_API_KEY]"
    )(function)


def output_option(function: F) -> F:
    """`-o`."""
    return click.option("-o", "--output", type=FORMATS, default="table", show_default=True, envvar="AIKI_OUTPUT")(function)


def log_level_option(function: F) -> F:
    """`-l`."""
    return click.option(
        "-l",
        "--log-level",
        "--loglevel",
        type=LEVELS,
        default="info",
        show_default=True,
        envvar="AIKI_LOG_LEVEL",
        show_envvar=True,
    )(function)


def settings_of(
    *, database: str | None = None, broker: str | None = None, namespace: str | None = None, server: str | None = None
) -> Settings:
    """Settings from the options given, then the environment, then the defaults.

    A database named with `--database` is meant to be asked itself, whatever server the environment names.
    """
    if database is not None and server is None:
        server = ""  # not None: so the environment is not asked
    return Settings.load(database_url=database, broker_url=broker, namespace=namespace, server_url=server)


def set_up_logging(level: str) -> None:
    """Log to standard error, in the format of `AIKI_LOG_FORMAT`."""
    logs.set_up(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each of its parts


# ---------------------------------------------------------------- output
def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_data(output: str, data: Any, items: str = "") -> None:
    """JSON as `-o` asks for it: with `jsonl` each item of a list has its own line. `items`: the field that holds the list."""
    if output == "json":
        print_json(data)
        return
    listed = data[items] if items else data
    for item in listed if isinstance(listed, list) else [listed]:
        click.echo(json.dumps(item, ensure_ascii=False, separators=(",", ":")))


def since(moment: str | None, now: int) -> str | None:
    """How long ago a time of the API's was."""
    return None if moment is None else ago(wire.time_from_json(moment), now)


def filter_of(words: Sequence[str]) -> str:
    """The text of a filter, seen to be one; what is wrong in it is pointed at."""
    text = " ".join(words)
    try:
        filters.parse(text)
    except FilterError as error:
        close = f"\nperhaps: {', '.join(error.suggestions)}" if error.suggestions else ""
        marked = pointed_at(text, error.position, error.length)
        raise click.UsageError(f"the filter cannot be read: {error}\n{marked}{close}") from None
    return text


def pointed_at(text: str, position: int, length: int) -> str:
    """A part of the text and, below it, marks where the place is."""
    begin = max(0, position - 60)
    shown = printable(text[begin : position + 40])
    return f"  {shown}\n  {' ' * (position - begin)}{'^' * max(1, min(length, len(shown) - position + begin))}"


class Listing(click.Group):
    """A group that lists if no command is named: `aiki queues -o json` is `aiki queues list -o json`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See the class."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns as wide as they need to be; the last is left as it is."""
    for line in table_lines(header, rows):
        click.echo(line)


def table_lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """The lines that `print_table` prints."""
    lines = [[str(cell) for cell in header], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def printable(value: Any) -> str:
    """A cell: nothing for None, and no control characters, so that no run can write to the operator's terminal."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\ufffd" for c in text)


def when(micros: int | None) -> str | None:
    """Microseconds since the Unix epoch as ISO 8601, UTC, to the millisecond."""
    return None if micros is None else iso(micros, "milliseconds")


def ago(micros: int | None, now: int) -> str | None:
    """How long ago, in a few characters; `in 5m` for what is to come."""
    if micros is None:
        return None
    seconds = (now - micros) / 1e6
    text = duration(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"


def duration(seconds: float) -> str:
    """A span in a few characters: `450ms`, `3.2s`, `5m`, `4h`, `12d`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    for unit, size, limit in (("m", 60, 3600), ("h", 3600, 86400)):
        if seconds < 2 * limit:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def run_json(run: RunView) -> dict[str, Any]:
    """A run as JSON data: the fields of `RunView`, times as ISO 8601."""
    data = asdict(run)
    return {key: when(value) if key.endswith("_at") else value for key, value in data.items()}
