"""Heartbeats, from supervisors to orchestrators: who is there and what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki import fields as f
from aiki.errors import MessageError
from aiki.history_checks import MAX_STEPS
from aiki.messages.envelope import HEARTBEAT, VERSION, are_places, encode, is_key, opened, three

HELLO: Final = "hello"
"""A worker is here, or here again: its definitions, its queues, all it holds. It consumes only after the `SNAPSHOT`."""
BEAT: Final = "beat"
"""Every `HEARTBEAT_SECONDS`: what it holds and what its children do. `ask`: 1 for a `HEARD` in answer."""
ANSWER: Final = "answer"
"""The answer to `ASK`: `nonce`, and `held` is those of the asked runs that it holds."""
BYE: Final = "bye"
"""The worker stops and holds nothing."""

HEARTBEAT_SECONDS: Final = 2.0


class Held(NamedTuple):
    """A run that a worker has begun and whose report is not confirmed. `executor` as in `ReportList`, `ms` since it began."""

    run_id: str
    epoch: int
    executor: str
    ms: int


@dataclass(slots=True)
class Heartbeat:
    """One message of the heartbeat fanout.

    :ivar worker: the incarnation's id, 32 hex digits, new at each start of `aiki-worker`.
    :ivar held: what its children have begun and not seen confirmed, and what dead children left until their crash report is.
    :ivar fields: all: `at`: the server's time (microseconds) as the worker knows it. hello and beat: `kid`: which key the
        worker has (`aiki.signing.key_state`). hello: `pk`: a public key, `nonce`: rises with each hello of the worker,
        `name`, `host`, `pid`, `queues` (list), `concurrency`, `definitions`
        (list of `[name, version, kind]`), `version` (Aiki's). beat: `children` (list of `{slot, pid, run, name, ms, rss}`),
        `digest` (of the definitions), `draining`: 0 or 1, `rss`: KiB of the supervisor and the link, `paused`: those of its
        queues that it holds to be paused. answer: `nonce`.
    """

    namespace: str
    kind: str
    worker: str
    held: list[Held] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The message's bytes."""
        header = {"ns": self.namespace, "w": self.worker}
        return encode([VERSION, HEARTBEAT, header, [self.kind, self.held, self.fields]]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> Heartbeat:
        """Read a message; raises `MessageError`."""
        header, content = opened(body, HEARTBEAT, _HEARTBEAT_HEADER)
        kind, held, fields = three(content, "a heartbeat")
        if not _held(held):
            raise MessageError(f"a heartbeat that cannot be read: what it holds is {f.shown(held)}")
        wrong = _HEARTBEAT_FIELDS.wrong(fields)
        if wrong is not None:
            raise MessageError(f"a heartbeat that cannot be read: {wrong}")
        return cls(header["ns"], kind, header["w"], [Held._make(item) for item in held], fields)


def _is_held(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and is_key(value[:2]) and f.executor(value[2]) and f.millis(value[3])


def _is_definition(value: Any) -> bool:
    return type(value) is list and 3 <= len(value) <= 10 and f.name(value[0]) and f.version(value[1]) and f.word(value[2])


_held = f.list_of(_is_held, MAX_STEPS)
_HEARTBEAT_HEADER: Final = f.Fields({"ns": f.place, "w": f.hex_id}, ("ns", "w"))
_is_child = f.Fields(
    {
        "slot": f.count,
        "pid": f.count,
        "run": f.optional(f.hex_id),
        "name": f.optional(f.name),
        "ms": f.millis,
        "rss": f.large,
    }
)
_HEARTBEAT_FIELDS: Final = f.Fields(
    {
        "name": f.words(255),
        "host": f.words(255),
        "pid": f.count,
        "queues": are_places,
        "concurrency": f.count,
        "definitions": f.list_of(_is_definition, 65_536),
        "version": f.ascii_text(64),
        "nonce": f.large,
        "paused": are_places,
        "digest": f.ascii_text(64),
        "at": f.moment,
        "kid": f.ascii_text(64),
        "pk": f.ascii_text(64),
        "draining": f.flag,
        "ask": f.flag,
        "rss": f.large,
        "children": f.list_of(lambda value: _is_child(value) and f.shallow(value, 4), 10_000),
    }
)
"""What the fields of heartbeats hold, whatever their kind."""


def definitions_digest(definitions: Iterable[Sequence[str]]) -> str:
    """A short digest of `[name, version, kind]` triples, whatever their order."""
    import hashlib

    return hashlib.sha256(encode(sorted(list(item) for item in definitions)).encode("ascii")).hexdigest()[:16]
