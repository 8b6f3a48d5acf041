"""Who may ask: the API key, and without one the protection of a server that only listens on loopback.

Without a key whoever can connect may do everything, so a web page in the user's browser must not be able to: a page that has
its own name resolve to 127.0.0.1 is told by its `Host`, one that posts across sites by `Origin` and `Sec-Fetch-Site`.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from aiki.api.problems import Refused

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Answered without a key: they tell that the server is there, and nothing else."""
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def check(method: str, path: str, headers: Mapping[str, str], api_key: str) -> None:
    """Let the request pass, or raise `Refused`."""
    if not api_key:
        _check_local(method, headers)
    elif path not in OPEN_PATHS:
        _check_key(headers.get("Authorization", ""), api_key)


def _check_key(given: str, api_key: str) -> None:
    scheme, _, key = given.partition(" ")
    # Both are compared as bytes, in a time that does not depend on where they differ.
    same = hmac.compare_digest(key.strip().encode("utf-8", "replace"), api_key.encode("utf-8", "replace"))
    if scheme.lower() != "bearer" or not same:
        what = "the API key is wrong" if given else "an API key is needed"
        raise Refused(401, "unauthorized", f"{what}; send it as: Authorization: Bearer <AIKI_API_KEY>")


def _check_local(method: str, headers: Mapping[str, str]) -> None:
    host = headers.get("Host", "")
    if not is_loopback_name(host):
        raise Refused(
            403, "forbidden", "a server without an API key answers only to loopback names, such as 127.0.0.1; set AIKI_API_KEY"
        )
    if method in _SAFE_METHODS:
        return
    origin = headers.get("Origin")
    foreign = origin is not None and urlsplit_netloc(origin) != host.lower()
    if foreign or headers.get("Sec-Fetch-Site", "none").lower() not in ("none", "same-origin"):
        raise Refused(403, "forbidden", "requests from pages of other origins are refused")


def urlsplit_netloc(origin: str) -> str:
    """The host and port of an origin; empty if there is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_loopback_name(host: str) -> bool:
    """Whether a `Host` header (with or without a port) names this machine's loopback."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
