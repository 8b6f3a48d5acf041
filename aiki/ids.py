"""Run ids: UUIDv7 (RFC 9562), made by whoever enqueues, so that a repeated request is the same run.

Ids of one process rise strictly, so a batch's rows are inserted in primary-key order.
"""

from __future__ import annotations

import os
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def new_id() -> uuid.UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, then a value that rises within the millisecond."""
    return uuid.UUID(int=_next())


def new_text() -> str:
    """The canonical text of a new id, without the detour over an object."""
    h = f"{_next():032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def id_at(millis: int, number: int, digest: bytes) -> str:
    """The canonical text of the id that belongs to a time, a number (below 4096) and a digest: always the same one."""
    low = int.from_bytes(digest[:8]) & ((1 << 62) - 1)
    whole = (millis << 80) | (0x7 << 76) | ((number & 0xFFF) << 64) | (0b10 << 62) | low
    return str(uuid.UUID(int=whole))


def _next() -> int:
    global _last
    millis = time.time_ns() // 1_000_000
    # 74 bits under the timestamp: the version and variant are put in below. Stepping by a random amount
    # keeps ids unguessable while they rise.
    fresh = (millis << 74) | (int.from_bytes(os.urandom(9)) << 2)
    with _lock:
        if fresh <= _last:
            fresh = _last + 1 + int.from_bytes(os.urandom(4))
        _last = fresh
    high, low = fresh >> 62, fresh & ((1 << 62) - 1)
    stamp, rand_a = high >> 12, high & 0xFFF
    return (stamp << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | low


def parse_id(text: str) -> uuid.UUID | None:
    """The id that `text` spells, or None when it spells none."""
    try:
        return uuid.UUID(text)
    except (ValueError, AttributeError, TypeError):
        return None


def to_bytes(run_id: str) -> bytes:
    """The 16 bytes of an id written with or without hyphens: how storage keeps it. Raises ValueError."""
    raw = bytes.fromhex(run_id.replace("-", "")) if len(run_id) in (32, 36) else uuid.UUID(run_id).bytes
    if len(raw) != 16:
        raise ValueError(f"{run_id!r} is not a run id")
    return raw


def to_text(raw: bytes) -> str:
    """The canonical text, with hyphens, of 16 bytes: how people and the API see an id."""
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
