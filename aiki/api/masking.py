"""Secrets in arguments, results and events: hidden by the names of their keys from those who may not see them.

Values are for people and are masked. Payloads as they are, which only programs read, are given to those who may see everything
and to keys that may enqueue: a service that asks for its own run's result gets it, never a masked one. Others are told that
they are withheld (`shows_payloads`). What is not under a named key (a positional argument, the text of an exception) cannot be
told from other text: name it, or encrypt payloads in the SDK.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from flask import current_app

from aiki.api.access import Principal, principal
from aiki.codec import TAG, Payload
from aiki.errors import EncodeError, FilterError
from aiki.filters import Filter, Pattern, parse
from aiki.masks import MASK, Mask, Masked

__all__ = [
    "EXTENSION",
    "MASK",
    "Mask",
    "Masked",
    "check_filter",
    "mask",
    "masked",
    "restored",
    "sees_all",
    "shows_payloads",
    "visible",
    "visible_filter",
    "visible_text",
]

EXTENSION: Final = "aiki_mask"


# ---------------------------------------------------------------- for a request
def mask() -> Mask:
    """The mask of the app that serves this request."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Mask)
    return found


def masked(plain: Any, who: Principal | None = None) -> Masked:
    """A value as the principal may see it."""
    return Masked(plain, 0) if sees_all(who) else mask().apply(plain)


def visible(payload: Payload | None, who: Principal | None = None) -> Payload | None:
    """A payload as the principal may see it: unchanged, with masked values, or None where it cannot be looked through here."""
    if payload is None or sees_all(who):
        return payload
    return mask().apply_to_payload(payload)


def check_filter(where: Filter) -> Filter:
    """The filter itself. Raises `FilterError` if it compares a hidden value, for the matching runs would reveal it."""
    for term in where.of("args"):
        secret = next((key for key in term.path if mask().is_secret(key)), None)
        if secret is not None and not sees_all():
            raise FilterError(f"{secret} is masked for you, so you cannot search by it", term.position, term.length)
    return where


def visible_filter(text: str) -> str:
    """A filter, written by a principal that may see more, without the values that are masked for this one."""
    if sees_all():
        return text
    where = parse(text)
    hidden = [term for term in where.of("args") if any(map(mask().is_secret, term.path))]
    return Filter(tuple(replace(term, values=(Pattern((MASK,)),)) if term in hidden else term for term in where.terms)).text


def visible_text(text: str) -> str:
    """The beginning of a JSON text as the principal may see it."""
    return text if sees_all() else str(mask().apply_to_text(text).value)


def sees_all(who: Principal | None = None) -> bool:
    """Whether the principal sees secrets."""
    return (who or principal()).may("payloads.unmasked")


def shows_payloads(who: Principal | None = None) -> bool:
    """Whether payloads are given as they are: to those who see secrets, and to programs that may enqueue."""
    who = who or principal()
    return sees_all(who) or (who.kind == "key" and who.may("runs.enqueue"))


def restored(edited: Any, original: Any) -> Any:
    """An edited value in which what is still `MASK` is what stood at that place of the original."""
    try:
        return _restored(edited, original)
    except RecursionError:
        raise EncodeError("the arguments are nested too deeply") from None


def _restored(edited: Any, original: Any) -> Any:
    if edited == MASK:
        return original
    if isinstance(edited, dict):
        there = original if isinstance(original, dict) and original.get(TAG) == edited.get(TAG) else {}
        if edited.get(TAG) == "dict":
            # The keys of pairs are values, too: under another key what was hidden would be seen.
            there = {**there, "v": _same_pairs(edited.get("v"), there.get("v"))}
        return {key: _restored(value, there.get(key, value)) for key, value in edited.items()}
    if isinstance(edited, list):
        there_ = original if isinstance(original, list) and len(original) == len(edited) else edited
        return [_restored(value, old) for value, old in zip(edited, there_, strict=True)]
    return edited


def _same_pairs(edited: Any, original: Any) -> Any:
    """The pairs of an original, those whose key was edited as they are edited."""
    if not (isinstance(edited, list) and isinstance(original, list) and len(edited) == len(original)):
        return edited
    return [old if _key(old) == _key(new) else new for new, old in zip(edited, original, strict=True)]


def _key(pair: Any) -> Any:
    return pair[0] if isinstance(pair, list) and len(pair) == 2 else None
