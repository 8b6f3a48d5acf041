"""The server's process: gunicorn, a master and workers with threads.

The master looks at the settings and the database's schema before it listens, and opens nothing that a fork would share.
Each worker makes its own app and client after the fork. On TERM a worker takes no more requests, answers those it holds
(waiting ones at once, with the run as it is) and publishes what it has recorded; if it is killed instead, the orchestrator
publishes it.
"""

# mypy: disable-error-code="no-untyped-call"
# (gunicorn is not typed, and its classes are made to be derived from)

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers import base

from aiki import vitals
from aiki.api import connections, instruments, mounting, proxies
from aiki.api.app import ApiOptions, backend_of, create_app
from aiki.api.listening import HandedOver, HandsOver
from aiki.errors import ConfigurationError
from aiki.settings import Settings
from aiki.storage import open_store
from aiki.vitals import Vitals, memory_file

log = logging.getLogger(__name__)

DEFAULT_BIND: Final = "127.0.0.1:8470"
MAX_REQUEST: Final = 90.0
"""Seconds after which a request that is still being read, held or answered is cut off: a slow client must not keep a thread."""
LEAST_SECRET: Final = 16
"""Characters of an API key or a token that comes from the environment."""
GRACE: Final = 15
"""Seconds that requests have to be answered when the server stops."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """How to serve.

    :ivar bind: `host:port`; port 0 is any that is free.
    :ivar workers: processes; `threads`: requests that each answers at a time; `streams`: event streams that each holds open.
    :ivar rate_limit: requests a second that each process takes of one principal.
    :ivar access_log: log one line a request.
    """

    bind: str = DEFAULT_BIND
    workers: int = 2
    threads: int = 16
    streams: int = 500
    rate_limit: float = 1000.0
    log_level: str = "info"
    access_log: bool = False


def main(
    settings: Settings,
    options: ServerOptions,
    listening: Callable[[str], None] | None = None,
    pages: Callable[[Flask], None] | None = None,
) -> int:
    """Serve until TERM or INT; the exit code. Logging is the caller's to set up.

    :param listening: told the server's URL once it listens, in the master process.
    :param pages: adds the pages for people to the app; they stand in a layer above.
    :returns: 0 stopped as asked, 1 the schema is not current or the address is taken.
    :raises ConfigurationError: the address is wrong, or open to others without an API key.
    :raises StorageUnavailable: the database is away.
    """
    host, port, loopback = resolve(options.bind)
    if not settings.api_key.isascii() or not settings.api_key.isprintable() or " " in settings.api_key:
        raise ConfigurationError("the API key must be printable ASCII without spaces, since it travels in an HTTP header")
    for name in ("api_key", "metrics_token"):
        secret = getattr(settings, name)
        if secret and len(secret) < LEAST_SECRET:
            raise ConfigurationError(
                f"AIKI_{name.upper()} has {len(secret)} characters; use {LEAST_SECRET} or more that nobody guesses, such "
                "as those of `openssl rand -hex 24`"
            )
    try:
        # Closed again: no connection may live across the forks.
        store = open_store(settings)
        people = store.has_people()
        store.close()
    except ConfigurationError as error:
        print(f"aiki-server: {error}", file=sys.stderr)
        return 1
    closed = bool(settings.api_key) or people
    if not closed and (not loopback or settings.trusted_proxies):
        how = "can be reached from other machines" if not loopback else "is reached through a proxy (AIKI_TRUSTED_PROXIES)"
        raise ConfigurationError(
            f"--bind {options.bind}: this address {how}, and there is neither an API key nor a user, so anybody could run "
            "anything; set AIKI_API_KEY (or --api-key), add a user (aiki users add NAME --role admin), or bind to 127.0.0.1"
        )
    _check_files(settings)
    mounting.path_of(settings)
    proxies.networks(settings.trusted_proxies)
    shared = instruments.share()
    try:
        _Application(settings, options, (host, port, loopback), people, listening, pages).run()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    finally:
        instruments.unshare(shared)
    return 0


def _check_files(settings: Settings) -> None:
    """See that the server's certificate can be used; raises `ConfigurationError`. Gunicorn would find out for each request."""
    if settings.tls_cert:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(settings.tls_cert, settings.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"tls_cert={settings.tls_cert!r}, tls_key={settings.tls_key!r}: {error}") from None


def resolve(bind: str) -> tuple[str, int, bool]:
    """The IP address and the port of `host:port`, and whether only this machine reaches it; raises `ConfigurationError`."""
    host, colon, port = bind.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65535 or not host:
        raise ConfigurationError(f"--bind {bind}: it must be host:port, such as {DEFAULT_BIND} or 0.0.0.0:8470")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"--bind {bind}: {host} is no address of this machine: {error}") from None
    addresses = sorted({str(item[4][0]) for item in found}, key=lambda text: (":" in text, text))
    # The address that was looked at is the one that is bound: a name may mean another the next time.
    return addresses[0], int(port), all(ipaddress.ip_address(text.split("%")[0]).is_loopback for text in addresses)


class _Application(BaseApplication):
    """Gunicorn, set up from our options alone: no configuration file, no environment of gunicorn's, no pid file."""

    def __init__(
        self,
        settings: Settings,
        options: ServerOptions,
        address: tuple[str, int, bool],
        people: bool,
        listening: Callable[[str], None] | None,
        pages: Callable[[Flask], None] | None,
    ) -> None:
        self._settings = settings
        self._options = options
        host, port, self._loopback = address
        self._people = people
        self.trusted = proxies.networks(settings.trusted_proxies)
        """Proxies, whose connections are those of many."""
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._listening = listening
        self._pages = pages
        self._page: Vitals | None = None
        super().__init__()

    def load_config(self) -> None:
        """See gunicorn."""
        assert self.cfg is not None, "gunicorn makes it first"
        for name, value in self._config().items():
            if name in self.cfg.settings:  # some are younger than the oldest gunicorn that will do
                self.cfg.set(name, value)

    def _config(self) -> dict[str, Any]:
        return {
            "bind": self._address,
            "workers": self._options.workers,
            "threads": self._options.threads,
            "worker_class": Worker,
            "logger_class": _Log,
            "loglevel": self._options.log_level,
            "keepalive": 30,
            "timeout": 60,
            "graceful_timeout": GRACE,
            "control_socket_disable": True,
            "pidfile": None,
            "proc_name": "aiki-server",
            "when_ready": self._ready,
            "worker_exit": _worker_exit,
            "child_exit": _child_exit,
            "certfile": self._settings.tls_cert or None,
            "keyfile": self._settings.tls_key or None,
            "secure_scheme_headers": {},  # `aiki.api.proxies` knows whom to believe
            "forwarder_headers": "",  # nobody says by a header under which path the server is
        }

    def _ready(self, arbiter: Any) -> None:
        host, port = arbiter.LISTENERS[0].sock.getsockname()[:2]
        scheme = "https" if self._settings.tls_cert else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        log.info("listening on %s", url)
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (what is asked, not what is bound)
        self._page = Vitals("server", name=f"{host}:{port}", host=reached, port=port, tls=bool(self._settings.tls_cert))
        self._page.now(vitals.STARTED)
        if self._listening is not None:
            self._listening(url)

    def load(self) -> Flask:
        """The app, in the worker."""
        held = max(1, self._options.threads // 2)
        options = ApiOptions(
            max_held=held,
            max_streams=self._options.streams,
            rate_limit=self._options.rate_limit,
            access_log=self._options.access_log,
            local=self._loopback,
            people=self._people,
        )
        app = create_app(self._settings, options=options)
        if self._pages is not None:
            self._pages(app)
        app.wsgi_app = HandsOver(app.wsgi_app, lambda: backend_of(app).hub.sender)  # type: ignore[method-assign]
        return app


def _worker_exit(_arbiter: Any, worker: Any) -> None:
    app = getattr(worker, "wsgi", None)
    if isinstance(app, Flask):
        backend_of(app).close()


def _child_exit(_arbiter: Any, worker: Any) -> None:
    instruments.left(worker.pid)


class _Beats:
    """Where a worker leaves its signs of life for gunicorn's master: in memory, since there may be no directory to write to."""

    def __init__(self, _cfg: Any) -> None:
        self._file = memory_file("aiki-server-beat")

    def notify(self) -> None:
        """A sign of life."""
        now = time.monotonic()
        os.utime(self._file, (now, now))

    def last_update(self) -> float:
        """When the last one was, monotonic seconds."""
        return os.fstat(self._file).st_mtime

    def fileno(self) -> int:
        """The descriptor."""
        return self._file

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)


setattr(base, "WorkerTmp", _Beats)  # noqa: B010  (it is not typed) gunicorn has no setting for this but a directory


class Worker(connections.Connections):
    """Gunicorn's worker with threads, which cuts off requests that take too long and lets waiting ones go when it stops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._busy: dict[Any, float] = {}
        self._trusted = self.app.trusted

    def exempt(self, address: str) -> bool:
        """See `Connections.exempt`."""
        return proxies.is_in(address, self._trusted)

    def handle(self, conn: Any) -> Any:
        """One request, in a thread."""
        self._busy[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            self._busy.pop(conn, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Call the app; its socket may be handed over to the sender of event streams."""
        try:
            return super().handle_request(req, conn)
        except HandedOver:
            conn.handed_over = True
            return False

    def notify(self) -> None:
        """Called about every second by the main thread."""
        super().notify()
        before = time.monotonic() - MAX_REQUEST
        for conn, since in list(self._busy.items()):
            if since < before and self._busy.pop(conn, None) is not None:
                with contextlib.suppress(OSError):  # it has ended this moment
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """TERM."""
        self._release()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """QUIT, INT."""
        self._release()
        super().handle_quit(sig, frame)

    def _release(self) -> None:
        app = getattr(self, "wsgi", None)
        if isinstance(app, Flask):
            # By a thread: a signal handler must not take a lock that what it interrupted may hold.
            threading.Thread(target=backend_of(app).release, daemon=True).start()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """An error before the app is reached, as a problem like any other."""
        status, code, detail = 500, "internal", "something went wrong in the server"
        if isinstance(exc, LimitRequestLine):
            status, code, detail = 414, "uri_too_long", "the address is too long"
        elif isinstance(exc, LimitRequestHeaders):
            status, code, detail = 431, "headers_too_large", "the headers are too large"
        elif isinstance(exc, ParseException):
            status, code, detail = 400, "invalid", "this is not HTTP that can be understood"
        if status == 500:
            log.error("a request from %s failed (%s)", (addr or ("?",))[0], getattr(req, "method", "-"), exc_info=exc)
        connections.answer(client, status, code, detail)


class _Log(Logger):
    """Gunicorn's log lines, through the process's own logging."""

    def setup(self, cfg: Any) -> None:
        """See gunicorn."""
        super().setup(cfg)
        for handler in list(self.error_log.handlers):
            self.error_log.removeHandler(handler)
        self.error_log.propagate = True
        if self.loglevel == logging.INFO:
            self.error_log.setLevel(logging.WARNING)  # which process came and went is for `debug`
