"""Whose a message is: an installation's keys, and signatures by which its processes know each other's messages.

An installation has a secret in its database. Each namespace has a key that is made from it, so that the workers of one
namespace, who have that key alone, can speak for no other. Whoever knows the database signs what it sends, and workers sign
what they send; who gets a message looks at the signature before it parses anything else.

A message is a JSON list `[1,kind,{"ns":…` (see `aiki.messages`). Signed it is `[1,kind,{"s":SIGNATURE,"in":ID,"ns":…`, where
ID is the installation's and SIGNATURE is HMAC-SHA256, in 64 hex digits, over all bytes but for the `"s"` and its value. So it
is made and checked without parsing; receivers that know nothing of it pass over both.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple, Protocol

from aiki.errors import ConfigurationError

SECRET_BYTES: Final = 32
ACCEPT: Final = "accept"
"""Messages without a signature are believed: while processes of a release that does not sign are about."""
REQUIRE: Final = "require"
"""Messages without a signature are refused."""

UNSIGNED: Final = "it is not signed"

_BARE = re.compile(rb'\[1,"[a-z]{1,16}",\{(?="ns":"([A-Za-z0-9._-]{1,64})")')
_SIGNED = re.compile(rb'\[1,"[a-z]{1,16}",\{("s":"([0-9a-f]{64})",)"in":"([0-9a-f]{32})","ns":"([A-Za-z0-9._-]{1,64})"')


class Keys(NamedTuple):
    """What is needed to sign for a namespace and to check what is signed for it.

    :ivar installation: whose they are, 32 hex digits.
    :ivar signing: the key to sign with; `others`: further keys that count (while the secret is being changed).
    """

    installation: str
    signing: bytes
    others: tuple[bytes, ...] = ()


class Ring(Protocol):
    """Knows keys; see `InstallationRing` and `aiki.worker.keys`."""

    def keys(self, namespace: str) -> Keys | None:
        """The keys of a namespace; None: nothing is known of them."""

    def refresh(self) -> bool:
        """Look for newer keys, if that has not been done a moment ago; whether there may be some."""

    @property
    def required(self) -> bool:
        """Whether messages without a signature are refused."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What the database says of itself.

    :ivar id: 32 hex digits, made with the tables.
    :ivar created_at: microseconds since the Unix epoch.
    :ivar partitions: how many report queues new runs are spread over; `reading`: how many are read, the most that there ever
        were.
    :ivar secret: what namespaces' keys are made from; `other`: the one that takes its place at `switch_at` (microseconds).
    :ivar signatures: `ACCEPT` or `REQUIRE`.
    :ivar hands_out: whether orchestrators tell a worker its namespace's key; otherwise it needs AIKI_WORKER_KEY.
    """

    id: str
    created_at: int
    partitions: int
    reading: int
    secret: bytes
    other: bytes | None = None
    switch_at: int = 0
    signatures: str = REQUIRE
    hands_out: bool = True

    def keys(self, namespace: str, now: int) -> Keys:
        """The keys of a namespace at a time (microseconds)."""
        first, second = self.secret, self.other
        if second is not None and now >= self.switch_at:
            first, second = second, first
        return Keys(self.id, namespace_key(first, namespace), (namespace_key(second, namespace),) if second is not None else ())

    def newest_key(self, namespace: str) -> bytes:
        """The key that workers are to sign with: it counts from the moment that it is on record."""
        return namespace_key(self.other or self.secret, namespace)


def namespace_key(secret: bytes, namespace: str) -> bytes:
    """A namespace's key."""
    return hmac.digest(secret, b"aiki namespace " + namespace.encode("ascii"), "sha256")


def key_id(key: bytes) -> str:
    """Names a key without telling it: 16 hex digits."""
    return sha256(b"aiki key id " + key).hexdigest()[:16]


def key_state(key: bytes, required: bool) -> str:
    """Which key a worker signs with, and whether it asks for signatures: what it tells, to be compared."""
    return f"{key_id(key)}:{REQUIRE if required else ACCEPT}"


@lru_cache(maxsize=4096)
def _begun(key: bytes) -> hmac.HMAC:
    """An HMAC to be copied: to begin one takes longer than to sign a message with it."""
    return hmac.new(key, digestmod="sha256")


def _signature(key: bytes, head: bytes, rest: bytes) -> bytes:
    """The signature of a message that is in two parts, in 64 hex digits."""
    made = _begun(key).copy()
    made.update(head)
    made.update(rest)
    return made.hexdigest().encode("ascii")


def sign(body: bytes, ring: Ring) -> bytes:
    """The message with its signature; as it is if it is none of ours, if it is signed already, or if there is no key."""
    found = _BARE.match(body)
    if found is None:
        return body
    keys = ring.keys(found[1].decode("ascii"))
    if keys is None:
        return body
    head, rest = body[: found.end()], b'"in":"%s",%s' % (keys.installation.encode("ascii"), body[found.end() :])
    return b'%s"s":"%s",%s' % (head, _signature(keys.signing, head, rest), rest)


class Checked(NamedTuple):
    """What a signature says. `namespace`: for which it was made, empty if there is none; `refused`: why it is not believed."""

    namespace: str
    refused: str = ""


def check(body: bytes, ring: Ring) -> Checked:
    """Whether a message is believed."""
    found = _SIGNED.match(body)
    if found is None:
        return Checked("", UNSIGNED if ring.required else "")
    namespace, installation = found[4].decode("ascii"), found[3].decode("ascii")
    for _ in range(2):
        keys = ring.keys(namespace)
        if keys is None:
            return Checked(namespace)
        if keys.installation != installation:
            return Checked(namespace, f"it is of installation {installation}, and this one is {keys.installation}")
        start, end = found.span(1)
        head, rest, given = body[:start], body[end:], found[2]
        for key in (keys.signing, *keys.others):
            if hmac.compare_digest(_signature(key, head, rest), given):
                return Checked(namespace)
        if not ring.refresh():
            break
    return Checked(namespace, "its signature is none of this installation's")


# ---------------------------------------------------------------- a worker's key as a setting
def worker_key(installation: str, key: bytes) -> str:
    """A namespace's key as text: what `AIKI_WORKER_KEY` holds."""
    return f"{installation}.{key.hex()}"


def read_worker_key(text: str) -> Keys:
    """Read what `worker_key` made; raises `ConfigurationError`, which does not tell it."""
    installation, dot, key = text.strip().partition(".")
    try:
        if dot and len(bytes.fromhex(installation)) == 16 and len(bytes.fromhex(key)) == SECRET_BYTES:
            return Keys(installation.lower(), bytes.fromhex(key))
    except ValueError:
        pass
    raise ConfigurationError("AIKI_WORKER_KEY cannot be read: it must be what `aiki installation worker-key` prints")
