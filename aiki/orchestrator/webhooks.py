"""Delivering webhooks: what `aiki.storage.webhooks` has written down is sent until it is taken, or for about three days.

Runs on a thread of its own, beside the orchestrator's loop. At least once: a delivery is forgotten after the other side has
answered 2xx, so a crash in between sends it again, with the same id. One that is not taken is tried again later and later; what
else is due for the same webhook waits meanwhile, so that one endpoint that is away costs one request and stops nobody else.

The other side is never trusted: the address is resolved here, checked, and that very address is connected to; no redirect is
followed; what is answered is not kept; and everything has an end in time.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from aiki.clock import SECOND, iso
from aiki.errors import AikiError
from aiki.orchestrator.isolation import words
from aiki.settings import Settings
from aiki.storage import Store
from aiki.storage.webhooks import ClaimedDelivery

log = logging.getLogger("aiki.orchestrator.webhooks")

CONNECT: Final = 5.0
ANSWER: Final = 10.0
"""Seconds for the whole request, from the connection on."""
PARALLEL: Final = 8
BACKOFF: Final = (5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 24 * 3600, 24 * 3600)
"""Seconds between tries; after the last one it is given up."""
SIGNATURE: Final = "Aiki-Signature"
EVENT_ID: Final = "Aiki-Event-Id"
_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All that is given out of IPv6 to the public internet."""
_SPECIAL_4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
            *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
            *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
            "168.63.129.16/32",  # the host of each machine at Azure: of the public range, and never public
        ),
    )
)
"""IANA's registry of special-purpose IPv4 addresses, whole blocks of it: what is marked global in them is no web server."""
_SPECIAL_6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "3ffe::/16"),
    )
)
"""The same of IPv6, as far as it lies in `_UNICAST`; 2001::/23 and 2002::/16 lead on to IPv4 addresses."""


class NotDelivered(AikiError):
    """It was not taken; the text is the reason."""


class Refused(NotDelivered):
    """The address may not be asked; trying again is of use only if the name comes to mean another."""


class Sender:
    """Delivers what is due.

    :param private: addresses that are not public may be asked, too.
    """

    def __init__(self, store: Store, settings: Settings, *, private: bool | None = None) -> None:
        self._store = store
        self._private = bool(settings.webhook_private) if private is None else private
        self._link = settings.public_url.rstrip("/")
        self._pool = ThreadPoolExecutor(PARALLEL, "webhook")

    def run_once(self) -> int:
        """Deliver what is due now; how many were tried or put off. Raises `StorageUnavailable`."""
        claimed = self._store.claim_webhooks()
        by_hook: dict[str, list[ClaimedDelivery]] = {}
        for item in claimed:
            by_hook.setdefault(item.delivery.webhook_id, []).append(item)
        for done in self._pool.map(self._deliver_all, by_hook.values()):
            if isinstance(done, AikiError):
                raise done
        return len(claimed)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _deliver_all(self, items: Sequence[ClaimedDelivery]) -> AikiError | None:
        """All that is due of one webhook, until it takes something no more or it has had its time."""
        until = time.monotonic() + 3 * ANSWER
        taken = []
        try:
            for position, item in enumerate(items):
                if time.monotonic() > until:
                    self._put_off(items[position:], 1.0, "it answers slowly")
                    break
                try:
                    send(item, self._body(item), private=self._private)
                except NotDelivered as error:
                    pause = self._refused(item, str(error))
                    self._put_off(items[position + 1 :], pause, str(error))
                    break
                except AikiError:
                    raise
                except Exception as error:  # noqa: BLE001  whatever it is about this one, the others of the webhook go on
                    self._refused(item, words(error))
                    continue
                taken.append(item.delivery)
            self._store.webhook_taken(taken)
        except AikiError as error:
            return error  # the claims run out
        return None

    def _refused(self, item: ClaimedDelivery, why: str) -> float:
        delivery = item.delivery
        pause = BACKOFF[min(delivery.attempts, len(BACKOFF) - 1)] * random.uniform(0.9, 1.1)  # noqa: S311
        last = delivery.attempts + 1 >= len(BACKOFF)
        due = None if last else self._store.clock() + int(pause * SECOND)
        host = urlsplit(item.url).hostname
        how = "it is given up" if last else f"next try in {pause:.0f} s"
        log.warning("webhook %s (%s), event %s: %s; %s", delivery.webhook_id, host, delivery.id, why, how)
        self._store.webhook_refused(delivery, why, due)
        return min(pause, 300.0)

    def _put_off(self, items: Iterable[ClaimedDelivery], seconds: float, why: str) -> None:
        for item in items:
            due = self._store.clock() + int(seconds * SECOND)
            self._store.webhook_refused(item.delivery, why, due, tried=False)

    def _body(self, item: ClaimedDelivery) -> bytes:
        event = dict(item.delivery.event)
        for name in ("created_at", "started_at", "finished_at"):
            at = event.get(name)
            event[name] = None if at is None else iso(at)
        link = f"{self._link}/runs/{event['run_id']}" if self._link else None
        told: dict[str, Any] = {"id": item.delivery.id, "type": "run.ended", "run": event, "link": link}
        return json.dumps(told, separators=(",", ":")).encode("ascii")


# ---------------------------------------------------------------- one request
def send(item: ClaimedDelivery, body: bytes, *, private: bool = False) -> None:
    """Send one delivery; raises `NotDelivered` unless it is answered with 2xx."""
    url = urlsplit(item.url)
    address, port = resolve(url, private=private)
    stamp = int(time.time())
    headers = {
        "Host": url.netloc.rpartition("@")[2],
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": "aiki-webhook",
        "Connection": "close",
        EVENT_ID: item.delivery.id,
        SIGNATURE: f"t={stamp},v1={sign(item.secret, stamp, body)}",
    }
    try:
        status = _post(url, address, port, headers, body)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}"[:300]) from None
    if not 200 <= status < 300:
        raise NotDelivered(f"it answered {status}" + (" (redirects are not followed)" if 300 <= status < 400 else ""))


def sign(secret: str, stamp: int, body: bytes) -> str:
    """HMAC-SHA256, in hex, of the time (Unix seconds), a dot and the body."""
    return hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


def resolve(url: SplitResult, *, private: bool) -> tuple[str, int]:
    """The address and the port to connect to; raises `Refused` where one of the name's addresses is not public."""
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotDelivered(f"{host} cannot be resolved: {getattr(error, 'strerror', None) or 'it is no name'}") from None
    addresses = [str(item[4][0]) for item in found]
    for text in addresses:
        if not private and not is_public(text):
            # Without the address: it would tell whoever makes webhooks what is where inside.
            raise Refused(f"{host} has an address that is not public; AIKI_WEBHOOK_PRIVATE=1 allows it")
    return addresses[0], port


def is_public(text: str) -> bool:
    """Whether an address is one of the public internet, also through what maps IPv4 into IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        return address in _UNICAST and not any(address in network for network in _SPECIAL_6) and address.is_global
    return not any(address in network for network in _SPECIAL_4) and address.is_global


def _post(url: SplitResult, address: str, port: int, headers: dict[str, str], body: bytes) -> int:
    sock: list[socket.socket] = [socket.create_connection((address, port), timeout=CONNECT)]
    # One end for all of it: each read has a time-out too, but a byte now and then would keep those from running out.
    cut = threading.Timer(ANSWER, _cut, (sock,))
    cut.daemon = True
    cut.start()
    try:
        sock[0].settimeout(ANSWER)
        if url.scheme == "https":
            context = ssl.create_default_context()
            sock[0] = tls = context.wrap_socket(sock[0], server_hostname=url.hostname, do_handshake_on_connect=False)
            tls.do_handshake()
        connection = http.client.HTTPConnection(address, port)
        connection.sock = sock[0]
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        connection.putrequest("POST", target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        return int(connection.getresponse().status)
    finally:
        cut.cancel()
        sock[0].close()


def _cut(sock: list[socket.socket]) -> None:
    try:
        sock[0].shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended
