"""Authentication: a key, a signed-in user, or, on a server that only this machine reaches and that has no users or keys,
anybody.

In that last case a web page in the user's browser must not be able to do anything: a page that has its own name resolve to
127.0.0.1 is recognised by its `Host`, one that posts across sites by `Origin` and `Sec-Fetch-Site`. A signed-in user proves
with each change that the form is Aiki's own, by a token that belongs to the session.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from urllib.parse import urlsplit

from flask import Response, current_app, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from aiki.api.access import (
    ENVIRONMENT,
    LOCAL,
    NAMESPACE_COOKIE,
    NAMESPACE_HEADER,
    NAMESPACE_QUERY,
    OPEN,
    Principal,
    Role,
    principal,
)
from aiki.api.backend import Backend
from aiki.api.limiting import Limiter
from aiki.api.mounting import place
from aiki.api.problems import Refused, invalid
from aiki.errors import ConfigurationError
from aiki.settings import Settings, check_name
from aiki.storage.keys import KeyView
from aiki.storage.people import Session, network_of, session_id

T = TypeVar("T")

EXTENSION: Final = "aiki_guard"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER: Final = "X-CSRF-Token"
CSRF_FIELD: Final = "csrf_token"
KNOWN_FOR: Final = 1.0
"""Seconds for which a key or a session is taken for granted: so long a revoked one may still open."""
MAX_KNOWN: Final = 10_000
WRONG_KEYS: Final = 20
"""How many wrong API keys are looked at that come from one address at once; beyond that one a second."""
KEY_REMEMBERED: Final = 3600.0
"""Seconds for which it is remembered that a key was right."""
_HOST: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip")
"""Headers by which a proxy shows."""
_FORMS: Final = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})

SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of HTML pages: no script or style but from the server's own files."""


class _Known:
    """Cached look-ups of the last moments."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._found: dict[bytes, tuple[float, object]] = {}
        self._lock = threading.Lock()

    def get(self, key: bytes, look_up: Callable[[], T | None]) -> T | None:
        """The cached entry of `key`, or the result of `look_up`. An empty result is not cached."""
        now = self._clock()
        kept = self._found.get(key)
        if kept is not None and now < kept[0]:
            return kept[1]  # type: ignore[return-value]
        found = look_up()
        with self._lock:
            if len(self._found) >= MAX_KNOWN:
                self._found.clear()
            if found is None:
                self._found.pop(key, None)
            else:
                self._found[key] = (now + self._seconds, found)
        return found

    def forget(self) -> None:
        """Look everything up anew."""
        with self._lock:
            self._found.clear()


class Guard:
    """Recognises who asks. One an app.

    :param local: the server listens on loopback only.
    :param people: there are users or keys, as far as is known.
    :param certain: the principal of every request, for tests and the command line; None: the request decides.
    """

    def __init__(
        self, settings: Settings, backend: Backend, *, local: bool, people: bool, certain: Principal | None = None
    ) -> None:
        self.settings = settings
        self._certain = certain
        self._backend = backend
        self._local = local and not settings.api_key and not settings.trusted_proxies
        self._loopback = local and not settings.trusted_proxies
        self._names = _names(settings) if self._loopback or settings.public_url or settings.allowed_hosts else None
        self._tries = Limiter(1.0, burst=WRONG_KEYS)
        self._right = _Known(KEY_REMEMBERED)
        self._people = people
        self._known = _Known(KNOWN_FOR)
        self._people_until = 0.0

    def check(self) -> ResponseReturnValue | None:
        """Set `g.principal` and `g.namespace`, or answer in the endpoint's stead; raises `Refused`."""
        self._check_host()
        if request.endpoint in OPEN:
            if self._local and not self._people:
                check_local(request.method, request.headers)
            elif request.method not in SAFE_METHODS:
                check_origin(request.headers)
            return None
        found = self._certain or self._recognised()
        if found is None:
            return self._nobody()
        g.principal = found
        g.namespace = self._namespace(found)
        return None

    def _check_host(self) -> None:
        """Refuse a name that is none of this server's: a page elsewhere has made its own mean this machine."""
        host = request.headers.get("Host", "")
        if self._certain is not None or self._names is None or _name_of(host) in self._names or is_loopback_name(host):
            return
        if _is_address(_name_of(host)):
            return  # whoever has an address needs no name, and no page can make an address mean another one
        raise Refused(
            403,
            "forbidden",
            "the server is not known under the name of this request's Host header; AIKI_PUBLIC_URL says under which it is, and "
            "AIKI_ALLOWED_HOSTS, by commas, under which others",
        )

    def forget(self) -> None:
        """Look everybody up anew: a key or a session has just ended here."""
        self._known.forget()
        self._people_until = 0.0

    def still(self) -> Callable[[], bool]:
        """Whether the principal of this request may go on; to be called later, from any thread. May raise
        `StorageUnavailable`."""
        who, namespace = principal(), str(g.namespace)
        secret = request.headers.get("Authorization", "").partition(" ")[2].strip()
        token = request.cookies.get(cookie_name(), "")

        def asked() -> bool:
            if who.kind == "local":
                return not self._has_people()
            if who == ENVIRONMENT:
                return True
            found: KeyView | Session | None = self._session(token) if who.kind == "user" else self._key(secret)
            if found is None:
                return False
            return Principal(who.name, Role(found.role), who.kind, found.namespaces).sees(namespace)

        return asked

    # ------------------------------------------------------------ who
    def _recognised(self) -> Principal | None:
        given = request.headers.get("Authorization", "")
        token = request.cookies.get(cookie_name(), "")
        # Who brings a session has signed in: then there may be people that this process has not heard of.
        if self._local and not self._has_people(anew=bool(token)):
            check_local(request.method, request.headers)
            check_site(request.path, request.headers)
            return LOCAL
        if given:
            return self._by_key(given)
        session = self._session(token) if token else None
        if session is None:
            return None
        check_site(request.path, request.headers)
        if request.method not in SAFE_METHODS:
            check_origin(request.headers)
            _check_csrf(session)
        g.session = session
        return Principal(session.user, Role(session.role), "user", session.namespaces)

    def _by_key(self, given: str) -> Principal:
        scheme, _, secret = given.partition(" ")
        secret = secret.strip()
        source = network_of(request.remote_addr or "")
        known = session_id(source + "\n" + secret)
        # A key that was right a while ago, from there, is looked at however many wrong ones come from there.
        if self._right.get(known, lambda: None) is None and self._tries.wait(source, count=False) > 0:
            raise Refused(429, "too_many_requests", "too many wrong API keys from this address", retry_after=1)
        found = self._key_in(scheme, secret)
        if found is not None:
            self._right.get(known, lambda: True)
            return found
        self._tries.wait(source)
        raise Refused(401, "unauthorized", "the API key is wrong; send it as: Authorization: Bearer <AIKI_API_KEY>")

    def _key_in(self, scheme: str, secret: str) -> Principal | None:
        if scheme.lower() == "bearer" and secret:
            # Both are compared as bytes, in a time that does not depend on where they differ.
            ours = self.settings.api_key.encode("utf-8", "replace")
            if ours and hmac.compare_digest(secret.encode("utf-8", "replace"), ours):
                return ENVIRONMENT
            key = self._key(secret)
            if key is not None:
                return Principal(f"key:{key.name} ({key.id})", Role(key.role), "key", key.namespaces)
        return None

    def _key(self, secret: str) -> KeyView | None:
        return self._known.get(b"key" + session_id(secret), lambda: self._backend.store.key_of(secret))

    def _session(self, token: str) -> Session | None:
        idle = self.settings.session_idle
        return self._known.get(b"session" + session_id(token), lambda: self._backend.store.session(token, idle))

    def _has_people(self, *, anew: bool = False) -> bool:
        now = time.monotonic()
        if now >= self._people_until or (anew and not self._people):
            self._people = self._backend.store.has_people()
            self._people_until = now + KNOWN_FOR
        return self._people

    def _nobody(self) -> ResponseReturnValue:
        page = not request.path.startswith("/api/") and "signin.page" in current_app.view_functions
        if page and request.headers.get("HX-Request") == "true":
            # A part of a page: the whole of it is to be left.
            shown = _place(request.headers.get("HX-Current-URL", "/"))
            return Response(status=401, headers={"HX-Redirect": url_for("signin.page", next=shown)})
        if page and request.accept_mimetypes.accept_html and request.endpoint is not None:
            return redirect(url_for("signin.page", next=place() if request.method in SAFE_METHODS else None), 303)
        raise Refused(401, "unauthorized", "sign in, or send an API key: Authorization: Bearer <AIKI_API_KEY>")

    # ------------------------------------------------------------ namespaces
    def _namespace(self, who: Principal) -> str:
        asked = request.headers.get(NAMESPACE_HEADER) or request.args.get(NAMESPACE_QUERY)
        if asked is not None:
            try:
                check_name("namespace", asked)
            except ConfigurationError as error:
                raise invalid(str(error), {"namespace": [str(error)]}) from None
            if not who.sees(asked):
                raise Refused(404, "not_found", "there is no such namespace, or it is not yours to see")
            return asked
        chosen = "" if who.kind == "key" else request.cookies.get(NAMESPACE_COOKIE, "")
        if chosen and _is_name(chosen) and who.sees(chosen):
            return chosen
        if who.sees(self.settings.namespace):
            return self.settings.namespace
        theirs = sorted(who.namespaces or ())
        if len(theirs) > 1 and who.kind == "key":
            raise invalid(f"the key is for several namespaces; name one: {NAMESPACE_HEADER}: {theirs[0]}")
        return theirs[0]


def csrf_token() -> str:
    """The token that a form of a page, or a request of its script, must send as `csrf_token` or `X-CSRF-Token`."""
    session = g.get("session")
    return session.csrf if isinstance(session, Session) else ""


def _check_csrf(session: Session) -> None:
    given = request.headers.get(CSRF_HEADER, "")
    if not given and request.mimetype in _FORMS:
        try:
            given = request.form.get(CSRF_FIELD, "")
        except RequestEntityTooLarge:
            raise Refused(413, "payload_too_large", "the form is larger than the server takes") from None
    if not hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode()):
        raise Refused(
            403,
            "forbidden",
            f"the request does not come from a page of this session; reload it, or send {CSRF_HEADER} (see /api/v1/me)",
        )


def check_origin(headers: Headers) -> None:
    """Refuse what a page of another origin sends."""
    origin = headers.get("Origin")
    foreign = origin is not None and urlsplit_netloc(origin) != headers.get("Host", "").lower()
    if foreign or headers.get("Sec-Fetch-Site", "none").lower() not in ("none", "same-origin"):
        raise Refused(403, "forbidden", "requests from pages of other origins are refused")


def check_local(method: str, headers: Headers) -> None:
    """Let a request pass to a server that only this machine is to reach, or raise `Refused`."""
    if not is_loopback_name(headers.get("Host", "")) or any(name in headers for name in FORWARDED):
        raise Refused(
            403,
            "forbidden",
            "a server without an API key answers only to loopback names, such as 127.0.0.1, and not through a proxy; set "
            "AIKI_API_KEY, or add a user: aiki users add",
        )
    if method not in SAFE_METHODS:
        check_origin(headers)


def check_site(path: str, headers: Headers) -> None:
    """Refuse what a page of another site fetches: it could not read it, but it would be done. A link to a page is followed."""
    if headers.get("Sec-Fetch-Site", "none").lower() in ("none", "same-origin"):
        return
    is_link = headers.get("Sec-Fetch-Mode") == "navigate" and headers.get("Sec-Fetch-Dest", "document") == "document"
    if not is_link or path.startswith("/api/"):
        raise Refused(403, "forbidden", "requests from pages of other origins are refused")


def cookie_name() -> str:
    """The session's cookie; over TLS one that no plain connection and, where the server has its name for itself, no other host
    can set: browsers take `__Host-` for the path `/` alone, and under a path it would be sent to what is beside it."""
    if not request.is_secure:
        return "aiki_session"
    return "__Secure-aiki" if request.script_root else "__Host-aiki"


def urlsplit_netloc(origin: str) -> str:
    """The host and port of an origin; empty if there is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _place(address: str) -> str:
    """The path and the query of an address; `/` of what is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    return parts.path + (f"?{parts.query}" if parts.query else "")


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


def _names(settings: Settings) -> frozenset[str]:
    """The host names of the server, as settings give them."""
    given = [urlsplit_netloc(settings.public_url), *settings.allowed_hosts.lower().split(",")]
    return frozenset(_name_of(name.strip()) for name in given if name.strip())


def _name_of(host: str) -> str:
    """A `Host` header's name or address, without the port; empty if it is no host."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found[1].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    try:
        return bool(check_name("namespace", text))
    except ConfigurationError:
        return False
