"""Requests that arrive slowly, or never: they keep nobody waiting."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from aiki.api import connections
from tests.api.live import LiveServer

Live = Callable[..., LiveServer]
HALF = {
    "nothing": b"",
    "half a line": b"GET /hea",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "half a body": b"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{",
    "half a large body": b"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{",
    "half a chunk": b"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "a promise": b"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
}


def _open(server: LiveServer, stack: ExitStack, sent: bytes) -> socket.socket:
    place = urlsplit(server.url)
    made = stack.enter_context(socket.create_connection((place.hostname or "", place.port or 0), 10))
    made.sendall(sent)
    return made


def test_half_sent_requests_hold_nobody(live: Live) -> None:
    """Four times as many as there are threads, of each kind; then as many as the process takes connections."""
    server = live("--threads", "4").wait_ready()
    with ExitStack() as stack:
        for sent in HALF.values():
            for _ in range(16):
                _open(server, stack, sent)
            began = time.monotonic()
            assert server.ask("GET", "/healthz")[0] == 200
            assert time.monotonic() - began < 3, sent
        for _ in range(connections.PER_ADDRESS):
            _open(server, stack, HALF["half a head"])
        began = time.monotonic()
        server.http.clear()  # an address that has many connections open still has new ones
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.ask("POST", "/api/v1/definitions", {"definitions": [{"name": "shop.charge"}]})[0] == 200
        assert time.monotonic() - began < 3
    assert server.stop() == 0


def test_what_does_not_arrive_is_cut_off_and_told(live: Live) -> None:
    server = live().wait_ready()
    with ExitStack() as stack:
        slow = _open(server, stack, HALF["half a head"])
        silent = _open(server, stack, b"")
        slow_body = _open(server, stack, HALF["half a large body"])
        for each in (slow, silent, slow_body):
            each.settimeout(connections.ARRIVAL + 10)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert silent.recv(4096) == b""
        assert slow_body.recv(4096).startswith(b"HTTP/1.1 4")
    too_long = b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000
    with ExitStack() as stack:
        assert _open(server, stack, too_long).recv(4096).startswith(b"HTTP/1.1 431 ")


def test_a_request_may_come_in_pieces_and_others_behind_it(live: Live) -> None:
    server = live().wait_ready()
    with ExitStack() as stack:
        made = _open(server, stack, b"GET /healthz HT")
        made.sendall(b"TP/1.1\r\nHost: 127.0.0.1\r\n")
        made.sendall(b"\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        got = b""
        while more := made.recv(65536):
            got += more
        assert got.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_what_one_customer_has(address: str, network: str) -> None:
    assert connections.network_of(address) == network
