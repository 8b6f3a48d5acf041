"""Clients: how the SDK asks, over HTTP (`remote.py`) or in this process with database and broker (`embedded.py`)."""

from __future__ import annotations

from aiki.client.base import Client
from aiki.errors import ConfigurationError
from aiki.settings import Settings

__all__ = ["Client", "open_client"]


def open_client(settings: Settings, name: str = "aiki") -> Client:
    """The client that the settings ask for: remote if there is a server's URL, else embedded. Connects to nothing yet.

    :param name: who asks, for audit records.
    :raises ConfigurationError: some URL is set, but none by which runs can be recorded.
    """
    # Imported here: a program that speaks HTTP needs no database driver, and the other way round.
    if settings.server_url:
        from aiki.client.remote import RemoteClient

        return RemoteClient(settings, name)
    if not settings.database_url:
        raise ConfigurationError(
            "AIKI_BROKER_URL alone is enough to execute tasks, not to enqueue, read or cancel runs: set AIKI_DATABASE_URL too, "
            "to the database of this installation, or AIKI_SERVER_URL (and AIKI_API_KEY) to its server"
        )
    from aiki.client.embedded import EmbeddedClient

    return EmbeddedClient(settings, name)
