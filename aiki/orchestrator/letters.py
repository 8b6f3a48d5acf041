"""Dead letters: messages that cannot be read or placed are kept for people, whole if possible, else cut."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Final

from aiki import fields as f
from aiki.broker import Delivery
from aiki.errors import ConfigurationError
from aiki.orchestrator.isolation import Failed, Isolation
from aiki.settings import check_name
from aiki.storage import Store
from aiki.text import storable

MAX_BODY: Final = 4 * 1024 * 1024
"""Bytes of a body that are kept."""
MAX_HEADER: Final = 2_000
"""Characters of a header's value that are kept."""
MAX_HEADERS: Final = 20
FORGED: Final = 100
"""How many messages that are not believed are kept within `FORGED_SECONDS`; the others are only counted."""
FORGED_SECONDS: Final = 60.0
_HEAD: Final = 64 * 1024
"""Bytes of a message that are looked at to find out its namespace."""
_CUT: Final = 64 * 1024
_decoder: Final = json.JSONDecoder()


class Letters:
    """Keeps dead letters. A letter that the database refuses is cut, and in the end only logged: it never comes back.

    :param namespace: the orchestrator's own.
    :param why_refused: gives the reason why a message is not believed, empty if it is.
    """

    def __init__(
        self,
        store: Store,
        isolation: Isolation,
        namespace: str,
        why_refused: Callable[[bytes], str] = lambda body: "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._why_refused = why_refused
        self._monotonic = monotonic
        self._forged = 0
        self._forged_until = 0.0
        self._store = store
        self._isolation = isolation
        self._namespace = namespace

    def bury(self, delivery: Delivery) -> None:
        """Keep a message that came out of the queue of dead letters."""
        headers = delivery.headers
        reason = _text(headers.get("reason", "unknown"), 255)
        source = _text(headers.get("queue", ""), 255)
        if reason == "rejected" and (refused := self._why_refused(delivery.body)):
            self._keep_forged(delivery, source, f"not believed: {refused}")
            return
        self.keep(self.namespace_of(delivery.body), source, reason, delivery.body, headers)

    def _keep_forged(self, delivery: Delivery, source: str, reason: str) -> None:
        """Keep some of the messages that no process of this installation has sent, and little of each, for there may be very
        many."""
        now = self._monotonic()
        if now >= self._forged_until:
            self._forged_until, self._forged = now + FORGED_SECONDS, 0
        self._forged += 1
        if self._forged > FORGED:
            self._isolation.note("forged", f"a message of {source} is thrown away, one of very many: {reason}")
            return
        body = delivery.body
        cut = {"cut": f"the first {_CUT:,} of {len(body):,} bytes"} if len(body) > _CUT else {}
        self.keep(self.namespace_of(body), source, reason, body[:_CUT], {**cut, **delivery.headers})

    def keep(self, namespace: str, source: str, reason: str, body: bytes, headers: Mapping[str, Any] | None = None) -> None:
        """Keep a message. One that is kept already is not kept twice.

        :param namespace: of whom; the orchestrator's own, where it is none.
        """
        kind = source.partition("/")[0] or "unknown"
        self._isolation.note(kind, f"a message of {source or 'an unknown queue'} is kept as a dead letter: {reason}")
        key = sha256(body + source.encode("utf-8", "backslashreplace")).digest()[:16]
        where = namespace if _is_place(namespace) else self._namespace
        kept, cut = _cut_headers(headers or {}), len(body) > MAX_BODY
        if cut:
            kept["cut"] = f"the first {MAX_BODY:,} of {len(body):,} bytes"
        if self._save(where, source, reason, kept, body[:MAX_BODY], key) is None:
            return
        kept = {"cut": f"the first {min(len(body), _CUT):,} of {len(body):,} bytes, and no header"}
        plain = source.encode("ascii", "backslashreplace").decode("ascii")
        why = self._save(where, plain, reason.encode("ascii", "backslashreplace").decode("ascii"), kept, body[:_CUT], key)
        if why is not None:
            self._isolation.note(
                "dead", f"a dead letter of {plain} cannot be kept and is thrown away: {why}; it was {body[:200]!r}"
            )

    def _save(
        self, namespace: str, source: str, reason: str, headers: Mapping[str, Any], body: bytes, key: bytes
    ) -> str | None:
        found = self._isolation.attempt(self._store.save_dead_letter, namespace, source, reason, headers, body, key)
        return found.why if isinstance(found, Failed) else None

    def namespace_of(self, body: bytes) -> str:
        """The namespace that a message names, as far as it can be read; else the orchestrator's own."""
        head = body[:_HEAD]
        at = head.find(b'"ns":')
        if at < 0:
            return self._namespace
        try:
            found, _ = _decoder.raw_decode(head[at + 5 : at + 5 + 80].decode("ascii", "replace").lstrip())
        except (ValueError, RecursionError):
            return self._namespace
        return found if _is_place(found) else self._namespace


def _is_place(value: Any) -> bool:
    try:
        return f.place(value) and check_name("namespace", value) == value
    except ConfigurationError:
        return False


def _text(value: Any, most: int) -> str:
    """Text that every database takes."""
    return storable(str(value)[:most], most).replace("\0", "\\0")


def _cut_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as JSON data of bounded size."""
    out: dict[str, Any] = {}
    for name, value in list(headers.items())[:MAX_HEADERS]:
        if type(value) in (int, float, bool, type(None)):
            out[_text(name, 100)] = value if f.shallow(value) and math.isfinite(value or 0) else str(value)
            continue
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        out[_text(name, 100)] = _text(text, MAX_HEADER) + (f"… ({len(text):,} characters)" if len(text) > MAX_HEADER else "")
    return out
