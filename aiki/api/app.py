"""The Flask app: endpoints, authentication, errors, and the headers that every answer has."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from flask import Flask, Response, g, request
from flask.typing import ResponseReturnValue

from aiki import logs
from aiki.api import (
    batches,
    dead,
    documents,
    export,
    guard,
    idempotency,
    masking,
    metrics,
    mounting,
    parts,
    people,
    problems,
    proxies,
    queues,
    roster,
    run_logs,
    runs,
    statistics,
    streams,
    webhooks,
    workers,
)
from aiki.api.access import OPEN, Principal, check, principal
from aiki.api.backend import Backend
from aiki.api.limiting import Limiter
from aiki.api.problems import Refused
from aiki.api.requests import make_conditional, store
from aiki.client import wire
from aiki.client.embedded import EmbeddedClient
from aiki.errors import Unavailable
from aiki.lifecycle.effects import REFUSED
from aiki.settings import Settings

access_log = logging.getLogger("aiki.api.access")

API: Final = "/api/v1"
EXTENSION: Final = "aiki"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """How a server process behaves.

    :ivar max_held: requests that may wait for a run's end at a time; half of the threads leaves room for the others.
    :ivar max_streams: event streams that may be open at a time; they hold a socket each, but no thread.
    :ivar rate_limit: requests a second that each principal may make of this process, and twice as many at once; 0 is no limit.
    :ivar max_body: largest body, in bytes; 0 is enough for one run of the largest payload and its escapes, and at least 32 MiB.
    :ivar access_log: log one line a request (without query or payload).
    :ivar local: it listens on loopback only: whoever can connect may do everything, as long as there are no users and no keys.
    :ivar people: there were users or keys when the server started.
    :ivar principal: who asks, whatever requests say: for an app that is asked without a socket.
    """

    max_held: int = 8
    max_streams: int = 500
    rate_limit: float = 1000.0
    max_body: int = 0
    access_log: bool = False
    local: bool = True
    people: bool = False
    principal: Principal | None = None


class _App(Flask):
    """Flask, but unexpected errors are logged under the request's id. No payload gets there: SQL parameters are hidden."""

    def log_exception(self, exc_info: Any) -> None:
        self.logger.error("request %s: %s %s failed", g.get("request_id", "-"), request.method, _path(), exc_info=exc_info)


def create_app(settings: Settings, client: EmbeddedClient | None = None, options: ApiOptions | None = None) -> Flask:
    """The app over a client, by default one of its own. To be made in the process that serves it."""
    options = options or ApiOptions()
    app = _plain_app(settings, options)
    backend = app.extensions[EXTENSION] = Backend(settings, client, options.max_held, options.max_streams)
    app.extensions[masking.EXTENSION] = masking.Mask(settings.mask.split(","))
    gatekeeper = app.extensions[guard.EXTENSION] = guard.Guard(
        settings, backend, local=options.local, people=options.people, certain=options.principal
    )
    measured = app.extensions["aiki.metrics"] = metrics.Metrics(settings, backend)

    @contextmanager
    def _holding() -> Iterator[None]:
        g.held = True
        with measured.instruments.holding():
            yield

    backend.holding = _holding
    backend.hub.counted = measured.instruments.streams

    limiter = Limiter(options.rate_limit)

    @app.before_request
    def _before() -> ResponseReturnValue | None:
        _begin_request()
        scraper = measured.visitor(request.path, request.headers.get("Authorization", ""))
        if scraper is not None:
            g.principal, g.namespace = scraper, settings.namespace
            return None
        told = gatekeeper.check()
        return told if told is not None else _admit(app, limiter)

    @app.after_request
    def _after(response: Response) -> Response:
        idempotency.finish(response)
        make_conditional(response)
        _add_headers(response, backend)
        if "refused" in g and request.method not in guard.SAFE_METHODS:
            _audit_refused(str(g.refused))
        took = (time.monotonic() - g.get("began", time.monotonic())) * 1000
        if not (g.get("held") or response.is_streamed):
            measured.instruments.answered(request.endpoint, request.method, response.status_code, took / 1000)
        if options.access_log:
            _log_access(response, took)
        return response

    @app.teardown_request
    def _after_all(_error: BaseException | None) -> None:
        logs.set_about()

    _put_behind(app, settings)
    problems.install(app)
    for blueprint in _BLUEPRINTS:
        app.register_blueprint(blueprint, url_prefix=API)
    app.register_blueprint(roster.health)
    app.register_blueprint(metrics.blueprint)
    return app


def _plain_app(settings: Settings, options: ApiOptions) -> Flask:
    app = _App("aiki.api", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = options.max_body or max(32 << 20, 2 * settings.max_payload + (1 << 20))
    app.config["AIKI_MAX_PAYLOAD"] = settings.payload_limit
    return app


_BLUEPRINTS: Final = (
    runs.blueprint,
    run_logs.blueprint,
    roster.blueprint,
    queues.blueprint,
    workers.blueprint,
    parts.blueprint,
    batches.blueprint,
    dead.blueprint,
    export.blueprint,
    streams.blueprint,
    statistics.blueprint,
    documents.blueprint,
    people.blueprint,
    webhooks.blueprint,
)


def _put_behind(app: Flask, settings: Settings) -> None:
    """Have the app stand under the path of its public URL, and behind the proxies that it may trust."""
    if path := mounting.path_of(settings):
        app.wsgi_app = mounting.Mounted(app.wsgi_app, path)  # type: ignore[method-assign]
    if settings.trusted_proxies:
        trusted = proxies.networks(settings.trusted_proxies)
        app.wsgi_app = proxies.TrustedProxies(app.wsgi_app, trusted)  # type: ignore[method-assign]


def _begin_request() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    logs.set_about(request_id=g.request_id)
    g.began = time.monotonic()


def _add_headers(response: Response, backend: Backend) -> None:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    if backend.opened:  # before that, only this machine's time is known, which need not be the database's
        response.headers[wire.TIME_HEADER] = str(backend.now())
    for name, value in guard.SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure and not guard.is_loopback_name(request.host):
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"


def _log_access(response: Response, took: float) -> None:
    """:param took: milliseconds."""
    size = response.content_length or 0
    who = request.remote_addr or "-"
    extra = {"method": request.method, "path": _path(), "status": response.status_code, "ms": round(took, 1)}
    line = "%s %s %s %d %d bytes %.0f ms %s"
    shown = (who, request.method, _path(), response.status_code, size, took, g.request_id)
    access_log.info(line, *shown, extra=extra)


def _admit(app: Flask, limiter: Limiter) -> Response | None:
    """Apply the rate limit, and answer a repeated request with the answer that was given before, if there is one."""
    if request.endpoint in OPEN:
        return None
    who = principal()
    pause = limiter.wait((who.kind, who.name))
    if pause > 0:
        detail = "you ask more than AIKI_RATE_LIMIT allows; ask more slowly, or for more at once"
        raise Refused(429, "too_many_requests", detail, retry_after=round(pause, 3))
    if not request.path.startswith(API):
        return None
    action = getattr(app.view_functions.get(request.endpoint or ""), "action", None)
    if action is not None:
        check(action)  # first of all: who may not do it any more is not told what came of it either
    return idempotency.begin()


def backend_of(app: Flask) -> Backend:
    """The backend of an app."""
    backend = app.extensions[EXTENSION]
    assert isinstance(backend, Backend)
    return backend


def _audit_refused(action: str) -> None:
    """Record that a known principal tried what its role does not allow."""
    try:
        store().audit(principal().name, action, request.path[:255], outcome=REFUSED)
    except Unavailable as error:
        access_log.warning("request %s: the refusal could not be recorded: %s", g.get("request_id", "-"), error)


def _path() -> str:
    """The path as it may stand in a log line: nothing in it ends the line."""
    return quote(request.path)[:300]
