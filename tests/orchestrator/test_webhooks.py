"""Delivering webhooks, to a real HTTP server; and whom they may not be delivered to."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from aiki import codec, ids
from aiki.model import NewRun
from aiki.orchestrator import webhooks
from aiki.orchestrator.webhooks import BACKOFF, NotDelivered, Refused, Sender
from aiki.settings import Settings
from aiki.storage import Store, upgrade
from aiki.storage.webhooks import Webhook
from tests.storage.conftest import SetClock

SECRET = "a secret of the test"


class Endpoint:
    """Takes webhooks; `answers` are the statuses of the next requests, 200 afterwards."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:
                    return  # whoever sent it was killed
                here.got.append((dict(self.headers), body))
                status = here.answers.pop(0) if here.answers else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", here.url + "/elsewhere")
                self.end_headers()

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?x=1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Stage:
    def __init__(self, folder: Path, url: str) -> None:
        database = f"sqlite:///{folder / 'aiki.db'}"
        upgrade(database)
        self.clock = SetClock()
        self.store = Store(database, clock=self.clock)
        settings = Settings.load({}, database_url=database, public_url="https://example.com/tools/aiki/")
        self.sender = Sender(self.store, settings, private=True)
        self.hook = self.add(url)

    def add(self, url: str, *names: str) -> Webhook:
        return self.store.create_webhook(url, states=["cancelled"], names=names, secret=SECRET)

    def end(self, name: str = "shop.pay") -> str:
        run = NewRun(str(ids.new_id()), name, codec.encode([["input"], {}]))
        self.store.create_runs([run])
        self.store.cancel_run(run.id)
        return run.id

    def close(self) -> None:
        self.sender.close()
        self.store.close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture
def stage(tmp_path: Path, endpoint: Endpoint) -> Iterator[Stage]:
    made = Stage(tmp_path, endpoint.url)
    yield made
    made.close()


def test_what_is_sent_and_how_it_is_signed(stage: Stage, endpoint: Endpoint) -> None:
    run = stage.end()
    assert stage.sender.run_once() == 1
    ((headers, body),) = endpoint.got
    sent = json.loads(body)
    assert sent["id"] == headers["Aiki-Event-Id"]
    assert sent["type"] == "run.ended"
    assert (sent["run"]["run_id"], sent["run"]["name"], sent["run"]["state"]) == (run, "shop.pay", "cancelled")
    assert sent["run"]["finished_at"].endswith("Z")
    assert sent["link"] == f"https://example.com/tools/aiki/runs/{run}"
    assert b"input" not in body
    assert len(body) < 1000
    fields = dict(part.split("=") for part in headers["Aiki-Signature"].split(","))
    expected = hmac.new(SECRET.encode(), fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert fields["v1"] == expected
    assert abs(int(fields["t"]) - time.time()) < 60
    assert headers["Host"] == urlsplit(endpoint.url).netloc
    stage.clock.move(10**6)
    assert stage.sender.run_once() == 0


def test_what_is_not_taken_is_sent_again_with_the_same_id(stage: Stage, endpoint: Endpoint) -> None:
    endpoint.answers = [500, 302, 404]
    stage.end()
    for pause in BACKOFF[:3]:
        assert stage.sender.run_once() == 1
        assert stage.sender.run_once() == 0
        stage.clock.move(pause * 1.2)
    assert stage.sender.run_once() == 1
    assert len(endpoint.got) == 4
    assert len({headers["Aiki-Event-Id"] for headers, _ in endpoint.got}) == 1
    assert stage.store.webhook(stage.hook.id).waiting == 0


def test_it_is_given_up_at_last_and_said_so(stage: Stage, endpoint: Endpoint) -> None:
    endpoint.answers = [500] * 100
    stage.end()
    for pause in BACKOFF:
        stage.sender.run_once()
        stage.clock.move(pause * 1.2)
    assert stage.sender.run_once() == 0
    assert len(endpoint.got) == len(BACKOFF)
    found = stage.store.webhook(stage.hook.id)
    assert (found.waiting, found.given_up, found.error) == (0, 1, "it answered 500")


def test_an_endpoint_that_is_away_costs_one_request_and_stops_nobody(
    stage: Stage, endpoint: Endpoint, free_port: Callable[[], int]
) -> None:
    away = stage.add(f"http://127.0.0.1:{free_port()}/")
    for _ in range(5):
        stage.end()
    stage.clock.move(3)
    assert stage.sender.run_once() == 10
    assert len(endpoint.got) == 5
    waiting = stage.store.webhook_deliveries(away.id)
    assert sorted(item.attempts for item in waiting) == [0, 0, 0, 0, 1]
    assert "ConnectionRefusedError" in (waiting[0].error or "")


@pytest.mark.parametrize("silent", [True, False])
def test_an_endpoint_that_never_finishes_is_cut_off(stage: Stage, monkeypatch: pytest.MonkeyPatch, silent: bool) -> None:
    monkeypatch.setattr(webhooks, "ANSWER", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def drip() -> None:
            other, _ = server.accept()
            with other:
                while not done.wait(0.05):
                    try:
                        if not silent:
                            other.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        hook = stage.add(f"http://127.0.0.1:{server.getsockname()[1]}/", "slow")
        stage.end("slow")
        began = time.monotonic()
        stage.sender.run_once()
        assert time.monotonic() - began < 5
        done.set()
        thread.join()
    assert stage.store.webhook_deliveries(hook.id)[0].attempts == 1


def test_a_crash_between_sending_and_forgetting_sends_it_again(
    stage: Stage, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.end()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "webhook_taken", lambda self, done: None)
        stage.sender.run_once()
    stage.clock.move(121)
    stage.sender.run_once()
    assert len(endpoint.got) == 2
    assert endpoint.got[0][1] == endpoint.got[1][1]


# ---------------------------------------------------------------- whom not
@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("255.255.255.255", "240.0.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1"),
        *("64:ff9b::a00:1", "2002:a00:1::", "2001:0:5ef5:79fd::1", "::ffff:127.0.0.1", "fe80::1%eth0", "2001:db8::1"),
        *("192.0.0.192", "192.0.0.9", "168.63.129.16", "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1"),
        *(
            "3fff::1",
            "100::1",
            "100:0:0:1::1",
            "5f00::1",
            "2001:1::1",
            "2001:20::1",
            "2620:4f:8000::1",
            "64:ff9b:1::1",
            "4000::1",
        ),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not webhooks.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_that_are_public(address: str) -> None:
    assert webhooks.is_public(address)


@pytest.mark.parametrize(
    "url", ["http://localhost/", "http://127.0.0.1:9/", "http://[::1]/", "http://0x7f.1/", "http://2130706433/", "https://0/"]
)
def test_private_endpoints_are_refused_however_they_are_written(url: str) -> None:
    with pytest.raises(Refused, match="not public"):
        webhooks.resolve(urlsplit(url), private=False)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_args: Any, **_more: Any) -> list[Any]:
        return [(2, 1, 6, "", ("1.1.1.1", 80)), (2, 1, 6, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(Refused, match=r"twofaced\.example has an address that is not public") as caught:
        webhooks.resolve(urlsplit("http://twofaced.example/"), private=False)
    assert "10.0.0.1" not in str(caught.value), "what is where inside is not told"


def test_the_address_that_was_checked_is_the_one_that_is_asked(
    stage: Stage, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that means another address the next time (DNS rebinding) is of no use."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, *args: Any, **more: Any) -> list[Any]:
        asked.append(host)
        return real("127.0.0.1" if host == "rebind.example" and asked.count(host) == 1 else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    port = urlsplit(endpoint.url).port
    stage.add(f"http://rebind.example:{port}/", "rebind")
    stage.end("rebind")
    stage.sender.run_once()
    assert asked.count("rebind.example") == 1
    assert any(headers["Host"] == f"rebind.example:{port}" for headers, _ in endpoint.got)


def test_without_the_setting_private_addresses_are_refused(stage: Stage, endpoint: Endpoint) -> None:
    sender = Sender(stage.store, Settings.load({}))
    stage.end()
    sender.run_once()
    sender.close()
    assert endpoint.got == []
    assert "AIKI_WEBHOOK_PRIVATE" in (stage.store.webhook(stage.hook.id).error or "")
    assert bool(Settings.load({"AIKI_WEBHOOK_PRIVATE": "1"}).webhook_private)


def test_a_certificate_is_checked(stage: Stage, endpoint: Endpoint) -> None:
    stage.add(endpoint.url.replace("http:", "https:"), "tls")
    item = None
    stage.end("tls")
    for claimed in stage.store.claim_webhooks():
        item = claimed if claimed.url.startswith("https") else item
    assert item is not None
    with pytest.raises(NotDelivered, match="SSL"):
        webhooks.send(item, b"{}", private=True)
