"""The socket under py-amqp: buffered both ways, never blocking without a deadline.

py-amqp reads each frame with three `recv` calls and two changes of the socket's time-out, writes each frame at once, and
waits for answers without a limit. `Wire` takes the place of its transport: it reads what there is in one call and cuts
frames from memory, collects what is written until somebody waits or there is much of it, and gives up at a deadline. It
never waits for the broker to read without reading itself, so that neither side can hold up the other. Measured: a third
of py-amqp's CPU a message published, a tenth a message consumed.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from struct import unpack_from
from time import monotonic
from typing import Any, Final

from amqp.exceptions import UnexpectedFrame
from amqp.transport import AMQP_PROTOCOL_HEADER, to_host_port
from kombu.transport import pyamqp

from aiki.broker import forks

_READ = 65536
_READ_AT_ONCE = 1 << 20
_WRITE_AT_ONCE = 1 << 17
METHOD: Final = 1
"""The type of frames that hold a method; what a message consists of comes in frames of other types."""
_FRAME_TYPES = frozenset({METHOD, 2, 3, 8})
WRITE_TIMEOUT: Final = 5.0
"""Seconds in which the broker must take at least some of what is sent to it."""


class Wire:
    """One TCP or TLS connection that carries AMQP frames; the interface of `amqp.transport`.

    :ivar deadline: monotonic time at which `read_frame` gives up. Whoever waits for an answer sets it.
    :ivar last_read: when the broker was last heard.
    :ivar last_write: when it last took something from us.
    :ivar abandoned: this is the copy in a forked child.
    """

    def __init__(self, host: str, deadline: float, tls: ssl.SSLContext | None, write_timeout: float = WRITE_TIMEOUT) -> None:
        self.host, self.port = to_host_port(host)
        self.deadline = deadline
        self.write_timeout = write_timeout
        self.connected = False
        self.abandoned = False
        self.sock: Any = None
        self.last_read = self.last_write = monotonic()
        self._tls = tls
        self._poll = select.poll()
        self._wake: int | None = None
        self._in = b""
        self._at = 0
        self._out = bytearray()
        self._stalled: float | None = None

    # ------------------------------------------------------------ opening and closing
    def connect(self) -> None:
        """Connect, shake hands (TLS) and send the protocol header, all before the deadline; raises OSError."""
        problem: OSError = OSError(errno.EHOSTUNREACH, f"host {self.host} has no address")
        for family, kind, proto, _, address in socket.getaddrinfo(self.host, self.port, 0, socket.SOCK_STREAM):
            with forks.none_meanwhile():
                self.sock = socket.socket(family, kind | socket.SOCK_CLOEXEC, proto)
                forks.register(self)
            try:
                self._open(address)
            except OSError as error:
                self.close()
                problem = error
            else:
                self.connected = True
                self.write(AMQP_PROTOCOL_HEADER)
                return
        raise problem

    def _open(self, address: Any) -> None:
        self.sock.settimeout(max(0.001, self.deadline - monotonic()))
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._shake_hands()
        self.sock.setblocking(False)
        self._poll.register(self.sock.fileno(), select.POLLIN)
        self.last_read = self.last_write = monotonic()

    def _shake_hands(self) -> None:
        self.sock.setblocking(False)
        poll = select.poll()
        while True:
            try:
                self.sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                poll.register(self.sock.fileno(), select.POLLIN)
            except ssl.SSLWantWriteError:
                poll.register(self.sock.fileno(), select.POLLOUT)
            left = self.deadline - monotonic()
            if left <= 0 or not poll.poll(math.ceil(left * 1000)):
                raise TimeoutError("no end of the TLS handshake")

    def close(self) -> None:
        """Close the socket; what was not written is lost."""
        self.connected = False
        sock, self.sock = self.sock, None
        if sock is not None:
            self._out.clear()
            sock.close()

    def before_fork(self) -> None:
        """Nothing to prepare: the child uses nothing of it."""

    def after_fork_in_parent(self) -> None:
        """Nothing was touched."""

    def after_fork_in_child(self) -> None:
        """Close the duplicate of the parent's socket without a word on it (TLS would say goodbye)."""
        self.abandoned = True
        self.connected = False
        sock, self.sock = self.sock, None
        self._out = bytearray()
        if sock is not None:
            os.close(socket.socket.detach(sock))

    # ------------------------------------------------------------ reading
    def pull(self) -> bool:
        """Read what has come, without waiting; whether it was anything. Raises OSError when the broker has hung up."""
        chunks: list[bytes] = []
        size = 0
        try:
            while size < _READ_AT_ONCE:
                chunk = self.sock.recv(_READ)
                if not chunk:
                    if chunks:
                        break
                    raise ConnectionResetError(errno.ECONNRESET, "the broker closed the connection")
                chunks.append(chunk)
                size += len(chunk)
                if len(chunk) < _READ and self._tls is None:
                    break
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        if not chunks:
            return False
        if self._at < len(self._in):
            chunks.insert(0, self._in[self._at :])
        self._in = b"".join(chunks) if len(chunks) > 1 else chunks[0]
        self._at = 0
        self.last_read = monotonic()
        return True

    def next_frame(self) -> tuple[int, int, bytes] | None:
        """The next whole frame (type, channel, payload) of those read, or None."""
        data, at = self._in, self._at
        if len(data) - at < 8:
            return None
        kind, channel, size = unpack_from(">BHI", data, at)
        if kind not in _FRAME_TYPES:
            raise UnexpectedFrame(f"the other side does not speak AMQP 0-9-1: it sent {data[at : at + 16]!r}")
        end = at + 7 + size
        if len(data) <= end:
            return None
        if data[end] != 0xCE:
            raise UnexpectedFrame(f"a frame ends with {data[end]:#04x} in place of 0xce")
        self._at = end + 1
        return kind, channel, data[at + 7 : end]

    def read_frame(self) -> tuple[int, int, bytes]:
        """Wait for a frame until the deadline; raises TimeoutError."""
        while True:
            frame = self.next_frame()
            if frame is not None:
                return frame
            self.push()
            if not self.pull():
                left = self.deadline - monotonic()
                if left <= 0:
                    raise TimeoutError("no answer")
                self.wait(left)

    # ------------------------------------------------------------ writing
    def write(self, data: Any) -> None:
        """Take data to be written at the next `push`; write at once if there is much, bounded by the write time-out."""
        self._out += data
        if len(self._out) >= _WRITE_AT_ONCE:
            self.push()
            while len(self._out) >= _WRITE_AT_ONCE:
                self.pull()
                self.wait(0.1)
                self.push()

    def push(self) -> bool:
        """Write what the socket takes without waiting; whether all is written.

        Raises TimeoutError when the broker has taken nothing for the write time-out.
        """
        out = self._out
        if not out:
            return True
        try:
            while out:
                sent = self.sock.send(out)
                del out[:sent]
                self._stalled = None
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            now = monotonic()
            if self._stalled is None:
                self._stalled = now
            elif now - self._stalled > self.write_timeout:
                raise TimeoutError(f"the broker has read nothing for {self.write_timeout:g} s") from None
            return False
        self.last_write = monotonic()
        return True

    # ------------------------------------------------------------ waiting
    def wait(self, timeout: float, wake: int | None = None) -> bool:
        """Wait until there is something to read, room to write what is pending, or `wake` is readable; whether `wake` is."""
        if self._tls is not None and self.sock.pending():
            timeout = 0.0
        if wake != self._wake:
            if self._wake is not None:
                self._poll.unregister(self._wake)
            if wake is not None:
                self._poll.register(wake, select.POLLIN)
            self._wake = wake
        own = self.sock.fileno()
        self._poll.modify(own, select.POLLIN | (select.POLLOUT if self._out else 0))
        return any(fd != own for fd, _ in self._poll.poll(max(0, math.ceil(timeout * 1000))))

    @contextmanager
    def having_timeout(self, timeout: float | None) -> Iterator[Any]:  # noqa: ARG002
        """Part of py-amqp's interface; the deadline takes its place."""
        yield self.sock


# ---------------------------------------------------------------- py-amqp on top of it
class WireChannel(pyamqp.Channel):
    """A channel that stays closed when the broker has closed it: to open it again would mean to wait in mid-dispatch."""

    def _do_revive(self) -> None:
        self.collect()  # type: ignore[no-untyped-call]


class WireConnection(pyamqp.Connection):
    """A py-amqp connection on a `Wire`."""

    Channel = WireChannel

    def __init__(self, *, tls: ssl.SSLContext | None, deadline: float, write_timeout: float, **options: Any) -> None:
        self._wire_options = (deadline, tls, write_timeout)
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def Transport(self, host: str, *_: Any, **__: Any) -> Wire:
        """The wire to `host`."""
        return Wire(host, *self._wire_options)

    def connect(self, callback: Any = None) -> Any:
        """Connect; whatever goes wrong, no open socket is left."""
        try:
            return super().connect(callback)  # type: ignore[no-untyped-call]
        except BaseException:
            self.collect()  # type: ignore[no-untyped-call]
            raise

    def blocking_read(self, timeout: float | None = None) -> Any:  # noqa: ARG002  (the wire's deadline is absolute)
        """Read one frame and dispatch it; what it completes is the return value."""
        return self.on_inbound_frame(self.transport.read_frame())


class WireTransport(pyamqp.Transport):
    """Kombu's transport for it."""

    Connection = WireConnection  # type: ignore[assignment]
