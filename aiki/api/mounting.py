"""The path under which people reach the server where a proxy has it beside others: that of `AIKI_PUBLIC_URL`.

The proxy may hand requests on with the path or without it: what begins with it is taken without it, and all else as it is. So
that both can be told apart, the path must not be that of a page of ours. Links, redirects, forms and cookies carry it, since
they are made from the request's `SCRIPT_NAME`; no header that a client could send says what it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from flask import request

from aiki.errors import ConfigurationError
from aiki.settings import Settings, public_path

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OWN: Final = frozenset(
    {"audit", "batches", "dead", "definitions", "find", "healthz", "keys", "metrics", "names", "namespace", "queues", "readyz"}
    | {"runs", "schedules", "settings", "sign-in", "sign-out", "static", "theme", "time-zone", "users", "webhooks", "workers"}
)
"""First segments of the dashboard's addresses, beside those of the API."""
API: Final = ("api", "v1")


def path_of(settings: Settings) -> str:
    """The path, such as `/aiki`; empty where the server has its name for itself.

    :raises ConfigurationError: it is that of a page, so that nobody could tell which of the two a request means.
    """
    path = public_path(settings.public_url)
    first, *rest = path.strip("/").split("/")
    if first in OWN or (first, *rest[:1]) in (API[:1], API):
        raise ConfigurationError(
            f"public_url={settings.public_url!r}: /{first} is the address of something of this server itself; put it under "
            "another path, such as /aiki"
        )
    return path


class Mounted:
    """WSGI: an app that is reached under a path, whether or not the proxy has cut it off."""

    def __init__(self, app: WSGIApplication, path: str) -> None:
        self._app = app
        self._path = path

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See WSGI."""
        asked = environ.get("PATH_INFO", "")
        if asked == self._path or asked.startswith(self._path + "/"):
            environ["PATH_INFO"] = asked[len(self._path) :] or "/"
        environ["SCRIPT_NAME"] = self._path
        return self._app(environ, start_response)


def cookie_path() -> str:
    """To which addresses a cookie of this request's server belongs."""
    return request.script_root or "/"


def place() -> str:
    """The address of this request as the browser knows it, without the server's name."""
    return request.script_root + request.full_path.rstrip("?")
