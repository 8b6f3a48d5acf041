"""What all messages have in common: the envelope, how it is read and written, and the key of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from aiki import fields as f
from aiki.errors import MessageError
from aiki.history_checks import MAX_STEPS

VERSION: Final = 1

DISPATCH: Final = "dispatch"
REPORTS: Final = "reports"
CONTROL: Final = "control"
HEARTBEAT: Final = "heartbeat"
VALUES: Final = "values"

_decode: Callable[[str], Any] = json.JSONDecoder().decode
encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode
"""Compact ASCII JSON."""


class Refused(NamedTuple):
    """A part of a message that does not pass. `item` is what came; `run_id`, `epoch` and `partition` tell whose it is, where
    that can be read (else "", 0 and None)."""

    why: str
    run_id: str
    epoch: int
    partition: int | None
    item: Any


class RunKey(NamedTuple):
    """A run and the epoch of one of its dispatches."""

    run_id: str
    epoch: int


def is_key(value: Any) -> bool:
    """A `RunKey` as it travels."""
    return type(value) is list and len(value) == 2 and f.hex_id(value[0]) and f.epoch(value[1])


def key_of(item: Any, at: int) -> tuple[str, int]:
    """The run id and the epoch that begin at a place in a list, where they can be read."""
    if type(item) is list and len(item) > at + 1 and f.hex_id(item[at]) and f.epoch(item[at + 1]):
        return item[at], item[at + 1]
    return "", 0


are_keys: Final = f.list_of(is_key, MAX_STEPS)
are_places: Final = f.list_of(f.place, 10_000)


def three(content: Any, what: str) -> tuple[str, Any, dict[str, Any]]:
    """The kind, the list and the fields of a control message or a heartbeat."""
    if type(content) is not list or len(content) != 3 or type(content[2]) is not dict or not f.word(content[0]):
        raise MessageError(f"{what} that cannot be read: {f.shown(content)}")
    return content[0], content[1], content[2]


def opened(body: bytes, expected: str, fields: f.Fields) -> tuple[dict[str, Any], Any]:
    """The header and the content of a message of the expected kind; raises `MessageError`."""
    try:
        message = _decode(body.decode("ascii"))
        version, kind, header, content = message
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        why = f"{type(error).__name__}: {error}"[:300]
        raise MessageError(f"not an Aiki message: {why}; it begins {bytes(body[:60])!r}") from None
    if type(version) is not int or version != VERSION:
        raise MessageError(
            f"message version {f.shown(version)} is not known here (this Aiki reads {VERSION}); upgrade the receiver first"
        )
    if kind != expected or type(header) is not dict:
        raise MessageError(f"a {f.shown(kind)} message where a {expected!r} was expected")
    wrong = fields.wrong(header)
    if wrong is not None:
        raise MessageError(f"a {expected} message whose header cannot be read: {wrong}")
    return header, content
