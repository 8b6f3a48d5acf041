"""Proxies in front of the server: their headers about the client are believed if the proxy is trusted, and only then.

Anybody can send `X-Forwarded-For`. It is read from the right, where the nearest proxy writes, as far as addresses are trusted:
the first that is not is the client.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from aiki.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SENT: Final = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED", "HTTP_X_REAL_IP")


def networks(text: str) -> list[Network]:
    """Addresses and networks, by commas; raises `ConfigurationError`."""
    try:
        return [ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigurationError(f"trusted_proxies={text!r}: {error}; use addresses or networks such as 10.0.0.0/8") from None


FORWARDED: Final = "aiki.forwarded"
"""In the environment of a request: it came through a proxy."""


class TrustedProxies:
    """WSGI: the client's address, scheme and host, as trusted proxies give them."""

    def __init__(self, app: WSGIApplication, trusted: Iterable[Network]) -> None:
        self._app = app
        self._trusted = list(trusted)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See WSGI."""
        if self._trusts(environ.get("REMOTE_ADDR", "")):
            environ[FORWARDED] = any(name in environ for name in _SENT)
            self._believe(environ)
        for name in _SENT:
            environ.pop(name, None)
        return self._app(environ, start_response)

    def _believe(self, environ: WSGIEnvironment) -> None:
        for address in reversed([part.strip() for part in environ.get("HTTP_X_FORWARDED_FOR", "").split(",")]):
            if not _is_address(address):
                break
            environ["REMOTE_ADDR"] = address
            if not self._trusts(address):
                break
        scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
        if scheme in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme
        host = environ.get("HTTP_X_FORWARDED_HOST", "").rpartition(",")[2].strip()
        if host:
            environ["HTTP_HOST"] = host

    def _trusts(self, address: str) -> bool:
        return is_in(address, self._trusted)


def is_in(address: str, among: Iterable[Network]) -> bool:
    """Whether an address is one of these networks'; text that is none is in no network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in among)


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False
