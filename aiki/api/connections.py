"""The connections of a server process: a request gets a thread once it has arrived, so that slow requests hold up no other.

Gunicorn's worker gives each connection a thread at once, which then waits for the request: as many half-sent requests as there
are threads stop the server. Here the main thread reads, without blocking, until the head is complete, and a body of up to
`SMALL` bytes with it. A longer body is read by the thread, at no less than `LEAST_RATE`, and by few threads at a time.

A client with too many connections loses its oldest one that has no request. If the process has as many as it takes, the oldest
of all that have no request is closed.
"""

# mypy: disable-error-code="no-untyped-call"
# (gunicorn is not typed, and its classes are made to be derived from)

from __future__ import annotations

import errno
import json
import re
import socket
import ssl
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Final

from gunicorn import http, sock, util
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from aiki.api.guard import SECURITY_HEADERS
from aiki.storage.people import network_of

ARRIVAL: Final = 10.0
"""Seconds in which a head, and a small body with it, must have arrived; and a longer body, at `LEAST_RATE`, beyond that."""
HEAD: Final = 64 * 1024
"""Bytes of the largest head."""
SMALL: Final = 64 * 1024
"""Bytes of a body that is waited for before the request gets a thread."""
LEAST_RATE: Final = 16 * 1024
"""Bytes a second of a longer body."""
PER_ADDRESS: Final = 256
"""Connections of one address that a process keeps open."""
UNREAD: Final = 20_000
"""Milliseconds for which a client may leave what it was sent unread."""
LINGER: Final = 2.0
"""Seconds that a process which stops gives to requests that have begun to arrive."""

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,19})[ \t]*\r\n", re.IGNORECASE)
_UNKNOWN: Final = re.compile(rb"\r\n(?:transfer-encoding|expect):", re.IGNORECASE)
_RETRY: Final = (BlockingIOError, ssl.SSLWantReadError)


class Arriving(TConn):
    """A connection and what has arrived of its next request.

    :ivar data: what was read; :ivar until: when the request must have arrived (monotonic).
    :ivar large: a thread will have to read some of the body.
    """

    def __init__(self, cfg: Any, raw: Any, client: Any, server: Any, gone: Callable[[Arriving], None]) -> None:
        super().__init__(cfg, raw, client, server)
        self.data = bytearray()
        self.until = 0.0
        self.large = False
        self.handed_over = False
        self._shaken = not cfg.is_ssl
        self._gone = gone

    def begin(self) -> None:
        """Expect a request, of which some may have been read with the one before."""
        self.until = time.monotonic() + ARRIVAL
        self.large = False
        self.data = bytearray()
        if self.parser is not None:
            self.data += self.parser.unreader.take_buffered()

    def read(self) -> bool:
        """Read what there is; whether there will be more. Raises `ssl.SSLWantWriteError`, and OSError where it is broken."""
        try:
            if not self._shaken:
                self.sock.do_handshake()
                self._shaken = True
            while len(self.data) <= HEAD + SMALL:
                got = self.sock.recv(HEAD)
                if not got:
                    return False
                self.data += got
        except _RETRY:
            pass
        return True

    def arrived(self) -> bool:
        """Whether a thread is of use now."""
        end = self.data.find(_END)
        if end < 0:
            return False
        head = bytes(self.data[: end + len(_END)])
        length = max((int(found) for found in _LENGTH.findall(head)), default=0)
        self.large = length > SMALL or _UNKNOWN.search(head) is not None
        return self.large or len(self.data) >= len(head) + length

    def hand_on(self) -> None:
        """Let a thread read it from here on."""
        if self.parser is None:
            self.parser = http.get_parser(self.cfg, self.sock, self.client)
            self.parser.unreader = _Reader(self.sock)
            self.initialized = True
        self.parser.unreader.unread(bytes(self.data))
        self.parser.unreader.begin()
        self.data = bytearray()

    def close(self, graceful: bool = False) -> None:
        """Close it, unless its socket has been handed over."""
        self._gone(self)
        if not self.handed_over:
            super().close(graceful)


class _Reader(SocketUnreader):
    """Reads a body's rest in a thread, which it does not keep for longer than the body takes at `LEAST_RATE`."""

    def begin(self) -> None:
        """A request begins."""
        self._until = time.monotonic() + ARRIVAL

    def chunk(self, size_hint: Any = None) -> bytes:
        """Some bytes, of a body that long if it is known; raises TimeoutError."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "the body arrives too slowly")
        self.sock.settimeout(left)
        try:
            got = bytes(super().chunk(size_hint))
        finally:
            self.sock.settimeout(None)  # what is answered may take its time
        self._until += len(got) / LEAST_RATE
        return got


class Connections(ThreadWorker):
    """Gunicorn's worker with threads, that reads heads itself; see the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.poller: Any
        self.tpool: Any
        self._arriving: dict[Arriving, None] = {}
        """In the order of `until`."""
        self._of: dict[str, dict[Arriving, None]] = {}
        self._large: set[Arriving] = set()
        self._waiting: deque[Arriving] = deque()
        self._stopping = False

    # ------------------------------------------------------------ coming and going
    def accept(self, listener: Any) -> None:
        """Take a connection."""
        try:
            raw, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                return
            raise
        raw.setblocking(False)
        with suppress(OSError):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
        conn = Arriving(self.cfg, raw, client, listener.getsockname(), self._gone)
        self.nr_conns += 1
        if not self._make_room(conn):
            self._drop(conn)
            return
        try:
            if self.cfg.is_ssl:
                conn.sock = sock.ssl_wrap_socket(raw, self.cfg)
                conn.sock.setblocking(False)
        except OSError:  # it has gone
            self._drop(conn)
            return
        self._expect(conn)

    def _make_room(self, conn: Arriving) -> bool:
        address = network_of(str(conn.client[0]))
        if not self.exempt(str(conn.client[0])):
            theirs = self._of.setdefault(address, {})
            theirs[conn] = None
            if len(theirs) > PER_ADDRESS and not self._drop_oldest(theirs):
                return False
        if self.nr_conns >= self.worker_connections:
            self._drop_oldest(self._arriving)
        return True

    def exempt(self, address: str) -> bool:
        """Whether an address may have any number of connections: a proxy's are those of many."""
        del address
        return False

    def _drop_oldest(self, among: dict[Arriving, None]) -> bool:
        """Close the oldest of these that is no request yet, or that waits for another one."""
        for conn in among:
            if conn in self._arriving:
                self._leave(conn)
                self._drop(conn)
                return True
        for conn in among or list(self.keepalived_conns):
            if conn in self.keepalived_conns:
                self.keepalived_conns.remove(conn)
                self._unregister(conn)
                self._drop(conn)
                return True
        return False

    def _drop(self, conn: Arriving) -> None:
        self.nr_conns -= 1
        conn.close()

    def _gone(self, conn: Arriving) -> None:
        address = network_of(str(conn.client[0]))
        theirs = self._of.get(address)
        if theirs is not None:
            theirs.pop(conn, None)
            if not theirs:
                del self._of[address]

    # ------------------------------------------------------------ arriving
    def _expect(self, conn: Arriving) -> None:
        conn.begin()
        conn.sock.setblocking(False)
        self._arriving[conn] = None
        self.poller.register(conn.sock, EVENT_READ, partial(self._read, conn))
        self._read(conn)

    def enqueue_req(self, conn: Arriving) -> None:
        """Some of the next request was read with the last one."""
        self._expect(conn)

    def on_client_socket_readable(self, conn: Arriving, client: Any) -> None:
        """A kept-alive connection has data."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._expect(conn)

    def _read(self, conn: Arriving, _sock: Any = None) -> None:
        try:
            more = conn.read()
        except ssl.SSLWantWriteError:
            self.poller.modify(conn.sock, EVENT_WRITE, partial(self._read, conn))
            return
        except OSError:
            more = False
        if conn.arrived():
            self._leave(conn)
            self._submit(conn)
        elif not more:
            self._leave(conn)
            self._drop(conn)
        elif len(conn.data) > HEAD and _END not in conn.data:
            self._refuse(conn, 431, "headers_too_large", "the headers are too large")
        elif conn.sock in self.poller.get_map() and self.poller.get_key(conn.sock).events != EVENT_READ:
            self.poller.modify(conn.sock, EVENT_READ, partial(self._read, conn))

    def _leave(self, conn: Arriving) -> None:
        self._arriving.pop(conn, None)
        self._unregister(conn)

    def _unregister(self, conn: Arriving) -> None:
        with suppress(OSError, KeyError, ValueError):  # the socket is closed
            self.poller.unregister(conn.sock)

    def _refuse(self, conn: Arriving, status: int, code: str, detail: str) -> None:
        self._leave(conn)
        with suppress(OSError):
            conn.sock.send(problem(status, code, detail))
        self._drop(conn)

    # ------------------------------------------------------------ threads
    def _submit(self, conn: Arriving) -> None:
        if conn.large:
            if len(self._large) >= max(1, self.cfg.threads // 4):
                self._waiting.append(conn)
                return
            self._large.add(conn)
        conn.hand_on()
        future = self.tpool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def finish_request(self, conn: Arriving, fs: Any) -> None:
        """A thread has done with it."""
        if conn in self._large:
            self._large.discard(conn)
            if self._waiting:
                self._submit(self._waiting.popleft())
        super().finish_request(conn, fs)

    def notify(self) -> None:
        """Called about every second by the main thread: cut off what does not arrive."""
        super().notify()
        now = time.monotonic()
        if not self.alive and not self._stopping:
            self._stopping = True
            for conn in self._arriving:
                conn.until = min(conn.until, now + LINGER) if conn.data else now
        for conn in [conn for conn in self._arriving if conn.until <= now]:
            if conn.data:
                self._refuse(conn, 408, "too_slow", f"the request did not arrive within {ARRIVAL:g} s")
            else:
                self._leave(conn)
                self._drop(conn)


def problem(status: int, code: str, detail: str) -> bytes:
    """A whole answer, for what is wrong before the app is reached."""
    title, request_id = code.replace("_", " "), uuid.uuid4().hex
    told = {"type": f"urn:aiki:{code}", "title": title, "status": status, "detail": detail, "code": code}
    body = json.dumps({**told, "request_id": request_id})
    more = {**SECURITY_HEADERS, "X-Request-ID": request_id}
    head = f"HTTP/1.1 {status} {title}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in more.items())
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")


def answer(client: Any, status: int, code: str, detail: str) -> None:
    """Tell a problem on a socket."""
    with suppress(OSError):  # the client has gone
        util.write_nonblock(client, problem(status, code, detail))
