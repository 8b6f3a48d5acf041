"""`aiki users`: who may sign in to the dashboard. Works on the database itself, so whoever has that needs no password."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from aiki.cli import common
from aiki.cli.access import actor, namespaces_option, role_option, shown, store_of

if TYPE_CHECKING:
    from aiki.storage.people import UserView


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def users() -> None:
    """Who may sign in: add users, change or disable them. Asks the database, not the server."""


@users.command()
@click.argument("name")
@role_option
@namespaces_option
@common.database_option
def add(name: str, role: str, namespaces: tuple[str, ...], database: str | None) -> None:
    """Add a user. The password is asked for, or read from standard input where that is no terminal."""
    with store_of(database) as store:
        made = store.add_user(name, _password(), role, namespaces or None, actor=actor())
    click.echo(f"user {made.name}: {made.role} of {shown(made.namespaces)}")


@users.command("list")
@common.database_option
@common.output_option
def list_(database: str | None, output: str) -> None:
    """List the users."""
    with store_of(database) as store:
        found = store.users()
    if output != "table":
        common.print_data(output, [_json(user) for user in found])
        return
    header = ("NAME", "ROLE", "NAMESPACES", "STATE", "SIGNED IN", "ADDED", "BY")
    common.print_table(
        header,
        [
            (
                *(user.name, user.role, shown(user.namespaces), "disabled" if user.disabled else "enabled"),
                *(common.when(user.signed_in_at) or "never", common.when(user.created_at), user.created_by),
            )
            for user in found
        ],
    )


@users.command()
@click.argument("name")
@common.database_option
def passwd(name: str, database: str | None) -> None:
    """Give a user a new password, and end its sessions."""
    _change(database, name, password=_password())


@users.command()
@click.argument("name")
@role_option
@namespaces_option
@click.option("--all-namespaces", is_flag=True, help="Of all namespaces.")
@common.database_option
def role(name: str, role: str, namespaces: tuple[str, ...], all_namespaces: bool, database: str | None) -> None:
    """Change what a user may do, and, if any are named, in which namespaces."""
    changes: dict[str, Any] = {"role": role}
    if namespaces or all_namespaces:
        changes["namespaces"] = None if all_namespaces else namespaces
    _change(database, name, **changes)


@users.command()
@click.argument("name")
@click.option("--undo", is_flag=True, help="Enable it again.")
@common.database_option
def disable(name: str, undo: bool, database: str | None) -> None:
    """Have a user be signed out at once and no longer sign in."""
    _change(database, name, disabled=not undo)


@users.command()
@click.argument("name")
@click.option("--even-last", is_flag=True, help="Even if nobody can manage users from the dashboard any more.")
@common.database_option
def remove(name: str, even_last: bool, database: str | None) -> None:
    """Remove a user and end its sessions."""
    with store_of(database) as store:
        store.remove_user(name, actor=actor(), even_last=even_last)
    click.echo(f"user {name.lower()}: removed")


def _change(database: str | None, name: str, **changes: Any) -> None:
    with store_of(database) as store:
        changed = store.change_user(name, **changes, actor=actor())
    state = ", disabled" if changed.disabled else ""
    click.echo(f"user {changed.name}: {changed.role} of {shown(changed.namespaces)}{state}")


def _password() -> str:
    """From a prompt or from standard input: arguments and variables can be read by others."""
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")


def _json(user: UserView) -> dict[str, Any]:
    return {
        "name": user.name,
        "role": user.role,
        "namespaces": None if user.namespaces is None else sorted(user.namespaces),
        "disabled": user.disabled,
        "created_at": common.when(user.created_at),
        "created_by": user.created_by,
        "signed_in_at": common.when(user.signed_in_at),
    }
