"""Tokens that say where the next page of a list begins. They belong to the filter that they were made for."""

from __future__ import annotations

import base64
import binascii
import hashlib

from aiki import ids
from aiki.api.problems import Refused, invalid
from aiki.model import RunFilter

_RUN, _CHECK = 16, 8


def token_of(where: RunFilter | str, run_id: str | None) -> str | None:
    """The token of the page that begins after a run."""
    if run_id is None:
        return None
    raw = ids.to_bytes(run_id)
    return base64.urlsafe_b64encode(raw + _check(where, raw)).decode("ascii")


def place_of(where: RunFilter | str, token: str) -> str:
    """The run after which the page begins; raises `Refused` for a token that is damaged or of another filter."""
    try:
        data = base64.b64decode(token.encode("ascii"), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _wrong("it is not the `next` of an earlier answer") from None
    raw = data[:_RUN]
    if len(data) != _RUN + _CHECK:
        raise _wrong("it is not the `next` of an earlier answer")
    if data[_RUN:] != _check(where, raw):
        raise _wrong("it belongs to a list with other filters; begin again without it")
    return ids.to_text(raw)


def _wrong(why: str) -> Refused:
    return invalid(f"after: {why}", {"after": [why]})


def _check(where: RunFilter | str, raw: bytes) -> bytes:
    if isinstance(where, str):
        return hashlib.sha256(where.encode() + raw).digest()[:_CHECK]
    # A checksum, no secret: a token gives nothing that the filter would not.
    states = sorted({state.value for state in where.states})
    rest = (where.name, where.queue, where.reference_id, where.created_after, where.created_before, where.kind, where.parent_id)
    return hashlib.sha256(repr((states, rest)).encode("utf-8", "surrogatepass") + raw).digest()[:_CHECK]
