"""`aiki keys`: what programs ask the server with. Works on the database itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from aiki import spans
from aiki.cli import common
from aiki.cli.access import actor, namespaces_option, role_option, shown, store_of

if TYPE_CHECKING:
    from aiki.storage.keys import KeyView


LONGEST: Final = 2000 * 365 * spans.UNITS["d"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def keys() -> None:
    """What programs ask the server with: add API keys, revoke them. Asks the database, not the server."""


@keys.command()
@click.argument("name")
@role_option
@namespaces_option
@click.option("--expires", metavar="SPAN", help="When it ends by itself: 90d, 12h, 30m. By default never.")
@common.database_option
@common.output_option
def add(name: str, role: str, namespaces: tuple[str, ...], expires: str | None, database: str | None, output: str) -> None:
    """Add an API key and print it. It is shown this once: only a hash of it is kept."""
    span = None if expires is None else _span(expires)
    with store_of(database) as store:
        until = None if span is None else store.clock() + span
        secret, key = store.add_key(name, role, namespaces or None, expires_at=until, actor=actor())
    if output != "table":
        common.print_data(output, {**_json(key), "secret": secret})
        return
    click.echo(secret)
    click.echo(f"key {key.id} ({key.name}): {key.role} of {shown(key.namespaces)}; keep it, it is not shown again", err=True)


@keys.command("list")
@common.database_option
@common.output_option
def list_(database: str | None, output: str) -> None:
    """List the API keys, newest first."""
    with store_of(database) as store:
        found, now = store.api_keys(), store.clock()
    if output != "table":
        common.print_data(output, [_json(key) for key in found])
        return
    header = ("ID", "NAME", "ROLE", "NAMESPACES", "STATE", "USED", "EXPIRES", "BY")
    rows = [
        (
            *(key.id, key.name, key.role, shown(key.namespaces), _state(key, now)),
            *(common.ago(key.used_at, now) or "never", common.when(key.expires_at) or "never", key.created_by),
        )
        for key in found
    ]
    common.print_table(header, rows)


@keys.command()
@click.argument("key_id", metavar="ID")
@common.database_option
def revoke(key_id: str, database: str | None) -> None:
    """Have an API key open nothing any more, on every server within a second or so."""
    with store_of(database) as store:
        key = store.revoke_key(key_id, actor=actor())
    click.echo(f"key {key.id} ({key.name}): revoked")


def _span(text: str) -> int:
    """Microseconds."""
    try:
        span = spans.parse(text)
    except ValueError:
        span = 0
    if not 0 < span <= LONGEST:
        raise click.BadParameter(f"{text!r}: it must be a span of at most 2000 years, such as 90d", param_hint="--expires")
    return span


def _state(key: KeyView, now: int) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "valid"


def _json(key: KeyView) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "namespaces": None if key.namespaces is None else sorted(key.namespaces),
        "created_by": key.created_by,
        **{name: common.when(getattr(key, name)) for name in ("created_at", "expires_at", "used_at", "revoked_at")},
    }
