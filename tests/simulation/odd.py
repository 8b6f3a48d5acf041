"""Messages that nobody of this release sends: those of neighbouring releases, and broken ones of every kind.

A message of another release has keys and fields that are not known here, and means the same. A broken one is made of a real one
by a mutator; it speaks of runs and workers that do not exist, so nothing that it does or says may change any other run.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any, Final

from aiki import messages as m
from aiki.broker import CONTROL, HEARTBEAT, Address, Kind, reports, work

KEPT: Final = 8
"""Samples of each kind of message."""
JUNK: Final = (
    *(float("inf"), float("-inf"), float("nan"), 1e308, -1, 0, 2**31, 2**63, 10**40, True, None, "", "x", "\ud800", "é" * 300),
    *([], {}, [[]], {"": {}}, "0" * 32, "z" * 32, [None] * 50, "1970-01-01", "\0", "x" * 20_000),
)


def foreign(body: bytes, rng: random.Random) -> bytes:
    """The message as another release would have sent it: with keys and fields that are not known here."""
    more = rng.choice(("of another release", 17, None, {"a": [1]}))
    try:
        version, kind, header, content = json.loads(body)
        if "s" in header:
            return body  # signed: who adds something signs it, too
        header["zz"] = more
        if kind in (m.REPORTS, m.DISPATCH):
            places = [item[3 if kind == m.REPORTS else 8] for item in content]
        else:
            places = [content[2]]
        for place in places:
            place["zz"] = more
    except (ValueError, TypeError, LookupError):
        return body  # a broken one
    return json.dumps([version, kind, header, content], separators=(",", ":")).encode("ascii")


class Odd:
    """Makes broken messages of those that it has seen."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._seen: dict[str, list[bytes]] = {}

    def see(self, to: Address, body: bytes) -> None:
        """A message was sent."""
        if b'"marker"' in body[:300]:
            return  # whoever says that a marker was taken is believed
        seen = self._seen.setdefault(to.kind.value, [])
        if len(seen) < KEPT:
            seen.append(body)

    def message(self, partitions: int) -> tuple[Address, bytes] | None:
        """A message, and where to send it; None where nothing was seen yet."""
        if not self._seen:
            return None
        rng = self._rng
        to = rng.choice((work("default", "default"), reports(rng.randrange(partitions)), HEARTBEAT, CONTROL))
        kinds = sorted(self._seen)
        kind = to.kind.value if to.kind.value in kinds and rng.random() < 0.8 else rng.choice(kinds)
        data = self._anonymous(json.loads(rng.choice(self._seen[kind])))
        if to.kind is Kind.CONTROL and data[1] == m.CONTROL and data[3][0] not in (m.REVOKE, m.CANCEL, m.CANCEL_SOON, m.ASK):
            data[3][0] = m.REVOKE  # what it would ask of all workers, they would do
            data[3][2] = {}
        for _ in range(rng.choice((1, 1, 2, 4))):
            self._spoil(data)
        if rng.random() < 0.1:
            data[:1] = [2]
        body = json.dumps(data, separators=(",", ":")).encode("ascii")
        if rng.random() < 0.1:
            body = body[: rng.randrange(len(body))] + rng.choice((b"", b"\xff\x00", b"]]", b"1" * 5000))
        return to, body

    def _anonymous(self, data: Any) -> Any:
        """The same with ids of nobody."""
        if isinstance(data, list):
            return [self._anonymous(item) for item in data]
        if isinstance(data, dict):
            return {key: self._anonymous(value) for key, value in data.items()}
        if isinstance(data, str) and len(data) >= 32 and all(char in "0123456789abcdef" for char in data[:32]):
            return f"{self._rng.getrandbits(128):032x}{data[32:]}"
        return data

    def _spoil(self, data: list[Any]) -> None:
        holder, key = self._rng.choice(list(_places(data)))
        if self._rng.random() < 0.25:
            if len(holder) > 1 or holder is not data:
                del holder[key]
        else:
            holder[key] = copy.deepcopy(self._rng.choice(JUNK))


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """All places of a message at which a value stands, but for its version and kind."""
    keys: Any = range(len(data)) if isinstance(data, list) else sorted(data)
    for key in keys:
        yield data, key
        if isinstance(data[key], list | dict):
            yield from _places(data[key])
