"""Forms carry a token that only pages of this server can know.

Where somebody is signed in it is the session's, which the guard has checked before any page is called. Elsewhere it must match
a cookie that other sites cannot set.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from flask import Response, g, request

from aiki.api import guard
from aiki.api.access import Principal
from aiki.api.mounting import cookie_path
from aiki.api.problems import Refused

COOKIE: Final = "aiki_form"
FIELD: Final = guard.CSRF_FIELD


def token() -> str:
    """The token for this answer's forms."""
    if bound := guard.csrf_token():
        return bound
    found = g.get("form_token") or request.cookies.get(COOKIE, "")
    if len(found) < 32:
        found = secrets.token_urlsafe(32)
    g.form_token = found
    return str(found)


def check() -> None:
    """Raise `Refused` if the form that was sent is not from a page of this server."""
    who = g.get("principal")
    if guard.csrf_token() or (isinstance(who, Principal) and who.kind == "key"):
        return  # the guard has looked; a key is sent by no browser of itself
    expected, given = request.cookies.get(COOKIE, ""), request.form.get(FIELD, "")
    if not expected or not hmac.compare_digest(expected.encode(), given.encode()):
        raise Refused(403, "forbidden", "this form is out of date or from elsewhere; go back, reload the page and try again")


def keep(response: Response) -> None:
    """Have the browser remember the token that the answer's forms carry."""
    made = g.get("form_token")
    if made and made != request.cookies.get(COOKIE):
        response.set_cookie(COOKIE, made, httponly=True, samesite="Strict", secure=request.is_secure, path=cookie_path())
