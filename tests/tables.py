"""Databases that tests take turns with: to make all tables takes longer than most tests do, most of all on MySQL."""

from __future__ import annotations

from aiki.storage import Store, upgrade
from aiki.storage.tables import metadata
from tests.postgres import DatabaseServer

_KEPT = frozenset({"aiki_installation"})
"""Tables whose rows come with the schema."""


def make_tables(server: DatabaseServer) -> str:
    """The URL of a new database with Aiki's tables."""
    url = server.create_database()
    upgrade(url)
    return url


def emptied(url: str) -> str:
    """The same URL; its tables hold nothing any more."""
    store = Store(url)
    empty(store)
    store.close()
    return url


def empty(store: Store) -> None:
    """Delete all rows."""
    names = [table.name for table in metadata.sorted_tables if table.name not in _KEPT]
    store.db.transaction(lambda connection: [store.db.execute(connection, f"DELETE FROM {name}") for name in names])
