"""`aiki db`: the database's tables."""

from __future__ import annotations

import sys

import click

from aiki.cli import common


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def db() -> None:
    """Make or upgrade the database's tables."""


@db.command()
@common.database_option
@click.option("--finish", is_flag=True, help="Drop what lets processes of the last release go on; when all are replaced.")
def upgrade(database: str | None, finish: bool) -> None:
    """Bring the tables to what this version of Aiki needs.

    Harmless to repeat, also after an interruption; several may try at once. On MySQL the database itself (CREATE DATABASE) must
    exist, and processes of the last release may go on meanwhile and afterwards, until --finish.
    """
    from aiki.storage import schema

    settings = common.settings_of(database=database)
    settings.need("database_url", what="this command")
    before = schema.status(settings.database_url, password_file=settings.database_password_file)
    if finish:
        dropped = schema.finish(settings.database_url, settings.database_password_file)
        click.echo(f"{before.url}: {len(dropped)} views of tables' former names dropped")
    elif before.version != before.needed:
        schema.upgrade(settings.database_url, settings.database_password_file)
        click.echo(f"{before.url}: upgraded from {before.version or 'nothing'} to {before.needed}")
    else:
        click.echo(f"{before.url}: schema {before.version}, nothing to do")


@db.command()
@common.database_option
@common.output_option
def status(database: str | None, output: str) -> None:
    """Tell the schema that is there and the one that is needed; exit code 1 if they differ."""
    from aiki.storage import schema

    settings = common.settings_of(database=database)
    settings.need("database_url", what="this command")
    found = schema.status(settings.database_url, password_file=settings.database_password_file)
    if output != "table":
        common.print_data(
            output, {"database": found.url, "version": found.version, "needed": found.needed, "current": found.current}
        )
    elif found.current:
        click.echo(f"{found.url}: schema {found.version}, up to date")
    else:
        click.echo(f"{found.url}: schema {found.version or 'missing'}, {found.needed} is needed; run: aiki db upgrade")
    sys.exit(0 if found.current else 1)
