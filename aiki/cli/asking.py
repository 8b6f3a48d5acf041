"""How commands ask the API: a server over HTTP, or, without one, the same API in this process over database and broker.

So each verb exists once, with its checks and its audit record, whichever way it is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

from aiki.cli import common
from aiki.cli.access import actor
from aiki.client import wire
from aiki.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class Api(Protocol):
    """An API to send requests to."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer at a path below `/api/v1`; raises the error of a problem."""

    def now(self) -> int:
        """The time there, microseconds since the Unix epoch."""

    def close(self) -> None:
        """Let go of connections."""


class Inside:
    """The API in this process. With the database's URL everything is allowed; the actor is the system's user."""

    def __init__(self, settings: Settings) -> None:
        # Imported here: a command that asks a server needs neither.
        from aiki.api.access import Principal, Role
        from aiki.api.app import ApiOptions, backend_of, create_app
        from aiki.client.embedded import EmbeddedClient

        name = actor()
        client = EmbeddedClient(settings, name)
        _ = client.store  # so that a database that is away is told of by its own error, with its address
        options = ApiOptions(rate_limit=0, principal=Principal(name, Role.ADMIN, "local"))
        app = create_app(dataclasses.replace(settings, trusted_proxies=""), client, options)
        self._backend = backend_of(app)
        self._asker = app.test_client()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """See `Api.ask`."""
        response = self._asker.open("/api/v1" + path, method=method, json=body)
        data = response.get_json(force=True, silent=True)
        if response.status_code >= 400:
            raise wire.problem_from_json(response.status_code, data)
        return data

    def now(self) -> int:
        """See `Api.now`."""
        return self._backend.now()

    def close(self) -> None:
        """See `Api.close`."""
        self._backend.close()


@contextmanager
def opened(**given: str | None) -> Iterator[Api]:
    """The API that the options and the environment name; closed afterwards."""
    settings = common.settings_of(**given)
    api: Api
    if settings.server_url:
        from aiki.client.remote import RemoteClient

        api = RemoteClient(settings, "aiki")
    else:
        settings.need("database_url", what="this command")
        api = Inside(settings)
    try:
        yield api
    finally:
        api.close()


def options(function: F) -> F:
    """`--server`, `--database`, `--broker`, `--namespace`, `-o`."""
    for option in (
        common.output_option,
        common.namespace_option,
        common.broker_option,
        common.database_option,
        common.server_option,
    ):
        function = option(function)
    return function


def path(*parts: str, **asked: Any) -> str:
    """A path of these parts, and a query of what is not None; a list is given once for each item."""
    pairs: Mapping[str, Any] = {name: value for name, value in asked.items() if value is not None}
    query = urlencode(pairs, doseq=True)
    return "/" + "/".join(quote(part, safe="") for part in parts) + (f"?{query}" if query else "")
