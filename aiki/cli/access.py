"""Shared by `aiki users` and `aiki keys`: options, the store, and the name of the actor."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aiki.cli import common

if TYPE_CHECKING:
    from aiki.storage import Store

F = TypeVar("F", bound=Callable[..., Any])


def role_option(function: F) -> F:
    """`--role`."""
    return click.option(
        "--role",
        type=click.Choice(["viewer", "operator", "admin"]),
        default="viewer",
        show_default=True,
        help="viewer: look; operator: act on runs, queues and workers too; admin: everything, secrets and users included.",
    )(function)


def namespaces_option(function: F) -> F:
    """`--namespace`, repeatable."""
    return click.option(
        "--namespace", "namespaces", multiple=True, metavar="NAME", help="Only this one; may be repeated. By default all."
    )(function)


@contextmanager
def store_of(database: str | None) -> Iterator[Store]:
    """The store of the database that is named, or of the settings; closed afterwards."""
    from aiki.storage import open_store

    store = open_store(common.settings_of(database=database))
    try:
        yield store
    finally:
        store.close()


def actor() -> str:
    """Who is at the keyboard, for audit records."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return "cli"


def shown(namespaces: Collection[str] | None) -> str:
    """Namespaces in words."""
    return "all namespaces" if namespaces is None else ", ".join(sorted(namespaces))
