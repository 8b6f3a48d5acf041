"""Those who listen to a stream of events, and the one thread that sends to all of them.

A listener's frames wait in a bounded backlog: one that does not take them is cut off, and begins again with what is then. Under
gunicorn the socket is handed to the sender once the headers are made, and the thread that served the request is free
(`docs/decisions/0016-event-streams.md`); under other servers a thread is held for each listener, so there may be fewer of them.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

BACKLOG: Final = 1 << 20
"""Bytes that may wait for a slow listener."""
HEARTBEAT: Final = 15.0
LIFE: Final = 900.0
"""Seconds after which a stream ends; the browser opens it anew, and so is asked again who it is."""
STUCK: Final = 60.0
"""Seconds after which one that takes nothing is given up."""
STREAM: Final = "aiki.listener"
SOCKET: Final = "gunicorn.socket"
BEAT: Final = b": alive\n\n"
_AGAIN: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TAKEN: Final = 1 << 16


def frame(event: str, data: str, event_id: str = "") -> bytes:
    """One event as bytes. `data` has no line breaks: it is JSON."""
    named = f"id: {event_id}\n" if event_id else ""
    return f"{named}event: {event}\ndata: {data}\n\n".encode()


class Listener:
    """One stream: the events that wait to be sent, and whom to notify of new ones.

    :param allowed: whether the listener may still listen; asked now and then, and may raise `Unavailable`.
    """

    def __init__(self, allowed: Callable[[], bool] = lambda: True) -> None:
        self.allowed = allowed
        self.owner: Hashable = None
        self.asked_at = time.monotonic()
        self._changed = threading.Condition()
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._tell: Callable[[Listener], None] | None = None
        self.closed = False
        self.ended = False
        self.since = time.monotonic()

    def put(self, *frames: bytes) -> None:
        """Have these sent. One that lags too far behind is closed."""
        with self._changed:
            if self.closed or self.ended:
                return
            self._frames.extend(frames)
            self._size += sum(map(len, frames))
            if self._size > BACKLOG:
                self._drop()
            self._changed.notify()
        self._told()

    def end(self) -> None:
        """Send what waits, and nothing more."""
        with self._changed:
            self.ended = True
            self._changed.notify()
        self._told()

    def close(self) -> None:
        """Nothing more is sent."""
        with self._changed:
            self._drop()
            self._changed.notify()
        self._told()

    def _drop(self) -> None:
        self.closed = True
        self._frames.clear()
        self._size = 0

    def _told(self) -> None:
        if self._tell is not None:
            self._tell(self)

    def on_change(self, tell: Callable[[Listener], None]) -> None:
        """Call this whenever there is something to do, from any thread."""
        self._tell = tell

    def take(self, most: int = _TAKEN) -> bytes:
        """The waiting events, up to about this many bytes."""
        with self._changed:
            out = []
            size = 0
            while self._frames and size < most:
                out.append(self._frames.popleft())
                size += len(out[-1])
            self._size -= size
            return b"".join(out)

    @property
    def done(self) -> bool:
        """Whether nothing is left to be sent, now and later."""
        return self.closed or (self.ended and not self._frames)

    def pull(self) -> Iterator[bytes]:
        """The events to be sent, for a thread that sends them itself; a heartbeat after a silence."""
        until = self.since + LIFE
        while not self.closed and time.monotonic() < until:
            with self._changed:
                if not self._frames and not self.ended:
                    self._changed.wait(HEARTBEAT)
            data = self.take()
            if data:
                yield data
            elif self.ended:
                return
            elif not self.closed:
                yield BEAT


class _Sink:
    """A socket that was handed over, and what is left of the last piece."""

    __slots__ = ("heard", "left", "listener", "sock", "writing")

    def __init__(self, sock: socket.socket, head: bytes, listener: Listener) -> None:
        self.sock = sock
        self.left = head
        self.listener = listener
        self.heard = time.monotonic()
        self.writing = False


class Sender:
    """The thread that writes to all sockets that were handed over.

    :param gone: called with each listener that has left.
    """

    def __init__(self, gone: Callable[[Listener], None]) -> None:
        self._gone = gone
        self._lock = threading.Lock()
        self._coming: deque[_Sink] = deque()
        self._dirty: set[Listener] = set()
        self._sinks: dict[Listener, _Sink] = {}
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wake: socket.socket | None = None
        self._closing = False

    def take(self, sock: socket.socket, head: bytes, listener: Listener) -> None:
        """Send to this socket from now on, first of all `head`; it is closed here too."""
        sock.setblocking(False)
        with self._lock:
            self._coming.append(_Sink(sock, head, listener))
            if self._thread is None:
                reading, self._wake = socket.socketpair()
                reading.setblocking(False)
                self._wake.setblocking(False)
                self._selector = selectors.DefaultSelector()
                self._selector.register(reading, selectors.EVENT_READ, None)
                self._thread = threading.Thread(target=self._work, name="aiki-streams", daemon=True)
                self._thread.start()
        listener.on_change(self._changed)
        self._changed(listener)

    def close(self, timeout: float = 2.0) -> None:
        """End all streams, and the thread."""
        self._closing = True
        thread = self._thread
        if thread is not None:
            self._rouse()
            thread.join(timeout)

    # ------------------------------------------------------------ from other threads
    def _changed(self, listener: Listener) -> None:
        with self._lock:
            first = not self._dirty
            self._dirty.add(listener)
        if first:
            self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None:
            with contextlib.suppress(OSError):  # full: it is awake already
                self._wake.send(b"\0")

    # ------------------------------------------------------------ the thread
    def _work(self) -> None:
        assert self._selector is not None
        looked = time.monotonic()
        while not (self._closing and not self._sinks and not self._coming):
            for key, mask in self._selector.select(0.1 if self._closing else 1.0):
                if key.data is None:
                    with contextlib.suppress(*_AGAIN):
                        key.fileobj.recv(4096)  # type: ignore[union-attr]
                    continue
                sink: _Sink = key.data
                if mask & selectors.EVENT_READ and not self._alive(sink):
                    self._drop(sink)
                elif mask & selectors.EVENT_WRITE:
                    self._send(sink)
            self._take_in()
            now = time.monotonic()
            if now - looked >= 1.0 or self._closing:
                looked = now
                self._look(now)
        self._selector.close()

    def _take_in(self) -> None:
        assert self._selector is not None
        with self._lock:
            coming, self._coming = list(self._coming), deque()
            dirty, self._dirty = self._dirty, set()
        for sink in coming:
            self._sinks[sink.listener] = sink
            try:
                self._selector.register(sink.sock, selectors.EVENT_READ, sink)
            except (OSError, ValueError, KeyError):
                self._drop(sink)
        for listener in dirty:
            if listener in self._sinks:
                self._send(self._sinks[listener])

    def _look(self, now: float) -> None:
        for sink in list(self._sinks.values()):
            if now - sink.listener.since > LIFE or self._closing:
                sink.listener.end()
                if self._closing and now - sink.heard > 1.0:
                    self._drop(sink)
                    continue
            elif sink.writing and now - sink.heard > STUCK:
                self._drop(sink)
                continue
            elif now - sink.heard > HEARTBEAT and not sink.writing:
                sink.left = sink.left or BEAT
            self._send(sink)

    def _send(self, sink: _Sink) -> None:
        try:
            while True:
                if not sink.left:
                    sink.left = sink.listener.take()
                if not sink.left:
                    break
                sent = sink.sock.send(sink.left)
                sink.left = sink.left[sent:]
                sink.heard = time.monotonic()
        except _AGAIN:
            if sink.listener.closed:  # it lags too far behind: what it missed cannot be left out in silence
                self._drop(sink)
                return
            self._watch(sink, writing=True)
            return
        except OSError:
            self._drop(sink)
            return
        if sink.listener.done:
            self._drop(sink)
        else:
            self._watch(sink, writing=False)

    def _watch(self, sink: _Sink, *, writing: bool) -> None:
        if sink.writing != writing:
            assert self._selector is not None
            sink.writing = writing
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writing else 0)
            self._selector.modify(sink.sock, events, sink)

    def _alive(self, sink: _Sink) -> bool:
        """Read and drop the client's bytes, to see whether it is there."""
        try:
            return bool(sink.sock.recv(4096))
        except _AGAIN:
            return True
        except OSError:
            return False

    def _drop(self, sink: _Sink) -> None:
        assert self._selector is not None
        self._sinks.pop(sink.listener, None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            self._selector.unregister(sink.sock)
        with contextlib.suppress(OSError):
            sink.sock.shutdown(socket.SHUT_RDWR)
        sink.sock.close()
        sink.listener.close()
        self._gone(sink.listener)


class HandedOver(BaseException):
    """Raised to the server: the socket has been handed over. A `BaseException`, so that no handler answers it."""


class HandsOver:
    """Wraps an app whose streams are to be handed over where the server gives its socket."""

    def __init__(self, app: WSGIApplication, sender: Callable[[], Sender]) -> None:
        self._app = app
        self._sender = sender

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See WSGI."""
        if SOCKET not in environ or environ.get("HTTP_VERSION") == "2":
            return self._app(environ, start_response)
        told: list[Any] = []

        def start(*answer: Any) -> Any:
            told[:] = answer

        body = self._app(environ, start)
        listener = environ.get(STREAM)
        if listener is None or not told[0].startswith("200"):
            start_response(*told)
            return body
        status, headers = told[:2]
        told_headers = [f"{name}: {value}" for name, value in headers if name.lower() != "content-length"]
        lines = [f"HTTP/1.1 {status}", "Connection: close", *told_headers]
        self._sender().take(environ[SOCKET], ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), listener)
        raise HandedOver
