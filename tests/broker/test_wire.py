"""The socket under py-amqp, against servers that misbehave; and the numbers of deliveries."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiki.broker import work
from aiki.broker.amqp import AmqpBroker
from aiki.broker.tags import Tags
from aiki.broker.wire import Wire
from aiki.errors import BrokerUnavailable
from tests.broker.kits import publish, take


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on 127.0.0.1 that serves one connection in a thread; gives host:port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def run() -> None:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return
        with connection:
            try:
                serve(connection)
            except OSError:
                pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        thread.join()


def wire_to(address: str, timeout: float = 5.0, write_timeout: float = 1.0) -> Wire:
    wire = Wire(address, time.monotonic() + timeout, None, write_timeout)
    wire.connect()
    return wire


def test_frames_are_cut_from_whatever_arrives() -> None:
    frames = [(1, 0, b""), (3, 7, os.urandom(200_000)), (8, 0, b""), (2, 1, b"\xce" * 9)]
    stream = b"".join(frame(*one) for one in frames)

    def serve(connection: socket.socket) -> None:
        for at in range(0, len(stream) - 40, 8111):
            connection.sendall(stream[at : min(at + 8111, len(stream) - 40)])
        for byte in stream[-40:]:
            connection.sendall(bytes([byte]))
        connection.recv(100)
        connection.recv(100)

    with peer(serve) as address:
        wire = wire_to(address)
        assert [wire.read_frame() for _ in frames] == frames
        wire.close()


def test_part_of_a_frame_does_not_hold_up_a_reader() -> None:
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        connection.sendall(frame(3, 1, b"x" * 50)[:20])
        done.wait(10)
        connection.sendall(frame(3, 1, b"x" * 50)[20:])
        connection.recv(100)

    with peer(serve) as address:
        wire = wire_to(address, timeout=0.3)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            wire.read_frame()
        assert 0.2 < time.monotonic() - begun < 2
        done.set()
        wire.deadline = time.monotonic() + 5
        assert wire.read_frame() == (3, 1, b"x" * 50)
        wire.close()


def test_a_reader_that_does_not_read_is_noticed() -> None:
    done = threading.Event()
    with peer(lambda connection: done.wait(20) and None) as address:
        wire = wire_to(address, write_timeout=0.5)
        begun = time.monotonic()
        with pytest.raises(TimeoutError, match="has read nothing"):  # noqa: PT012
            while time.monotonic() - begun < 10:
                wire.write(b"x" * 100_000)
        assert time.monotonic() - begun < 5
        done.set()
        wire.close()


def test_writing_goes_on_reading_so_that_neither_side_waits_for_the_other() -> None:
    size = 16 << 20

    def serve(connection: socket.socket) -> None:
        connection.recv(8, socket.MSG_WAITALL)
        # Reads nothing before all of its own is written.
        connection.sendall(frame(3, 1, b"y" * size))
        left = size
        while left > 0:
            left -= len(connection.recv(1 << 20))

    with peer(serve) as address:
        wire = wire_to(address, timeout=20, write_timeout=10)
        wire.write(b"x" * size)
        assert wire.read_frame() == (3, 1, b"y" * size)
        while not wire.push():
            wire.wait(1.0)
        wire.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x01\x00\x00"])
def test_another_protocol_is_told(answer: bytes) -> None:
    with peer(lambda connection: connection.sendall(answer)) as address, pytest.raises(BrokerUnavailable, match="AMQP"):
        AmqpBroker(f"amqp://u:p@{address}//").connect("x", timeout=3.0)


def test_connecting_is_bounded_by_the_clock_even_if_something_keeps_coming() -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(8, socket.MSG_WAITALL)
        start = struct.pack(">HHBB", 10, 10, 0, 9) + b"x" * 1000
        for byte in frame(1, 0, start):
            connection.sendall(bytes([byte]))
            threading.Event().wait(0.05)

    with peer(serve) as address:
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"did not answer within 0\.5 s"):
            AmqpBroker(f"amqp://u:p@{address}//").connect("x", timeout=0.5)
        assert time.monotonic() - begun < 3


def test_a_server_that_hangs_up_is_told() -> None:
    with peer(lambda connection: None) as address, pytest.raises(BrokerUnavailable, match=r"closed|reset"):
        AmqpBroker(f"amqp://u:p@{address}//").connect("x", timeout=3.0)


# ---------------------------------------------------------------- TLS
@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    home = tmp_path_factory.mktemp("tls")
    cert, key = home / "cert.pem", home / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls_address(certificate: tuple[Path, Path], amqp_url: str) -> Iterator[str]:
    """host:port that speaks TLS in front of RabbitMQ."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    host, port = amqp_url.rpartition("@")[2].strip("/").split(":")

    def serve(connection: socket.socket) -> None:
        with (
            context.wrap_socket(connection, server_side=True) as inside,
            socket.create_connection((host, int(port))) as outside,
        ):
            inside.settimeout(0.01)
            outside.settimeout(0.01)
            while True:
                for source, target in ((inside, outside), (outside, inside)):
                    try:
                        data = source.recv(65536)
                    except TimeoutError:
                        continue
                    if not data:
                        return
                    target.settimeout(10)
                    target.sendall(data)
                    target.settimeout(0.01)

    with peer(serve) as address:
        yield address


def test_messages_go_over_tls(tls_address: str, certificate: tuple[Path, Path], amqp_url: str) -> None:
    user = amqp_url.partition("//")[2].partition("@")[0]
    prefix = f"tls{os.urandom(4).hex()}"
    broker = AmqpBroker(f"amqps://{user}@{tls_address}//?ssl_ca_certs={certificate[0]}", prefix=prefix)
    session = broker.connect("tls")
    address = work("ns", "a")
    body = os.urandom(1 << 20)
    publish(session, address, body, *[b"small"] * 200)
    session.subscribe(address, 500)
    got = take(session, 201)
    assert got[0].body == body
    session.ack(got)
    session.close()


def test_an_unknown_certificate_is_refused(tls_address: str) -> None:
    with pytest.raises(BrokerUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        AmqpBroker(f"amqps://u:p@{tls_address}//").connect("tls")


# ---------------------------------------------------------------- delivery tags
@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=60))
def test_tags_agree_with_a_plain_set(steps: list[tuple[int, bool]]) -> None:
    tags, opened = Tags(), set(range(1, 31))
    for tag, through in steps:
        if through:
            expected = sorted(one for one in opened if one <= tag)
            assert tags.close_through(tag) == expected
            opened.difference_update(expected)
        else:
            assert tags.close(tag) == (tag in opened)
            opened.discard(tag)
        assert tags.lowest == min(opened, default=31)
