"""Signing in and out: from a name and a password to a cookie, and back."""

from __future__ import annotations

import math

from flask import Response, current_app, g, request

from aiki.api import guard
from aiki.api.access import NAMESPACE_COOKIE, principal
from aiki.api.mounting import cookie_path
from aiki.api.problems import Refused
from aiki.api.proxies import FORWARDED
from aiki.api.requests import backend
from aiki.errors import NotThere
from aiki.settings import Settings
from aiki.storage import Store
from aiki.storage.auditing import Origin
from aiki.storage.people import Session, TooManyTries


def sign_in(name: str, password: str) -> str | None:
    """The new session's token, to be given to `remember`; None: the name or the password is wrong.

    :raises Refused: too many tries (429), or the password came over a connection that anybody can listen to (400).
    """
    if not request.is_secure and not _is_from_here():
        raise Refused(
            400, "invalid", "signing in needs https: give the server a certificate (AIKI_TLS_CERT), or put it behind a proxy "
            "that has one and name that in AIKI_TRUSTED_PROXIES"
        )  # fmt: skip
    source = request.remote_addr or ""
    try:
        found = _store(source).sign_in(name, password, source, _settings().session_lifetime)
    except TooManyTries as error:
        raise Refused(429, "too_many_requests", str(error), retry_after=math.ceil(error.seconds)) from None
    except NotThere:
        return None
    return None if found is None else found[0]


def _is_from_here() -> bool:
    """Whether the request comes from this machine: by its address and its `Host`, and not through a proxy, which passes on any
    `Host`."""
    through = request.environ.get(FORWARDED) or any(name in request.headers for name in guard.FORWARDED)
    return guard.is_loopback_name(request.host) and guard.is_loopback_name(request.remote_addr or "") and not through


def sign_out() -> None:
    """End this request's session, if it has one."""
    session = g.get("session")
    if isinstance(session, Session):
        _store(request.remote_addr or "").sign_out(session)
        guard_of().forget()


def remember(response: Response, token: str) -> None:
    """Have the browser keep a session's token, where no script can read it and no other site send it along with a form."""
    age = int(_settings().session_lifetime)
    response.set_cookie(
        guard.cookie_name(), token, max_age=age, httponly=True, samesite="Lax", secure=request.is_secure, path=cookie_path()
    )


def forget(response: Response) -> None:
    """Have the browser forget who was signed in."""
    for name in (guard.cookie_name(), NAMESPACE_COOKIE):
        response.delete_cookie(name, httponly=True, samesite="Lax", secure=request.is_secure, path=cookie_path())


def choose_namespace(response: Response, name: str) -> None:
    """Have the browser's requests be about this namespace from now on; raises `Refused` (404) for one that is not theirs."""
    if not principal().sees(name):
        raise Refused(404, "not_found", "there is no such namespace, or it is not yours to see")
    response.set_cookie(NAMESPACE_COOKIE, name, httponly=True, samesite="Lax", secure=request.is_secure, path=cookie_path())


def guard_of() -> guard.Guard:
    """The guard of the app that serves this request."""
    found = current_app.extensions[guard.EXTENSION]
    assert isinstance(found, guard.Guard)
    return found


def _store(source: str) -> Store:
    """Of the server's own namespace: signing in is about none."""
    return backend().store.of(_settings().namespace, Origin(g.get("request_id", ""), source))


def _settings() -> Settings:
    return guard_of().settings
