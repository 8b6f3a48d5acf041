"""Passwords, hashed with scrypt. The hash tells its own costs, so that they can be raised later."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from typing import Final, NamedTuple

from aiki.errors import ConfigurationError

MIN_LENGTH: Final = 12
MAX_LENGTH: Final = 1000


class Cost(NamedTuple):
    """scrypt's parameters: 2**`log_n` blocks of 128 × `r` bytes, `p` times over. The default takes 32 MiB and about 0.3 s."""

    log_n: int = 15
    r: int = 8
    p: int = 3


COST = Cost()
"""Of new hashes: as strong as OWASP recommends, with a memory that a small server has."""
_at_once: Final = threading.BoundedSemaphore(2)
"""How many are hashed at a time: whoever tries many must not take the server's memory and processors."""


PATIENCE: Final = 5.0
"""Seconds to wait for one's turn: a flood of sign-ins must not hold all of the server's threads."""


class Busy(Exception):
    """One's turn did not come in time."""


def check_password(password: str) -> str:
    """`password`, if it will do; raises `ConfigurationError`, which does not repeat it."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise ConfigurationError(f"password: it has {len(password)} characters; use {MIN_LENGTH} to {MAX_LENGTH}")
    return password


def hashed(password: str) -> str:
    """What is kept of a password."""
    salt = secrets.token_bytes(16)
    return "$".join(["scrypt", *(str(item) for item in COST), _text(salt), _text(_derive(password, salt, COST))])


def verified(password: str, kept: str) -> bool:
    """Whether `kept` was made of this password."""
    scheme, *cost, salt, digest = kept.split("$")
    if scheme != "scrypt":
        return False
    # One that is too long takes as long as any other, and as long as where there is no such user.
    found = _derive(password[:MAX_LENGTH], base64.b64decode(salt), Cost(*(int(item) for item in cost)))
    return hmac.compare_digest(found, base64.b64decode(digest)) and len(password) <= MAX_LENGTH


def verify_nothing(password: str) -> bool:
    """False, after as long as `verified` takes: nobody can tell by the clock whether there is such a user."""
    _derive(password[:MAX_LENGTH], bytes(16), COST)
    return False


def _derive(password: str, salt: bytes, cost: Cost) -> bytes:
    memory = 128 * cost.r * (2**cost.log_n + cost.p + 2)
    if not _at_once.acquire(timeout=PATIENCE):
        raise Busy("too many passwords are being looked at")
    try:
        return hashlib.scrypt(
            password.encode("utf-8", "surrogatepass"),
            salt=salt,
            n=2**cost.log_n,
            r=cost.r,
            p=cost.p,
            maxmem=2 * memory,
            dklen=32,
        )
    finally:
        _at_once.release()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
