"""Secrets in arguments, results and events: hidden by the names of their keys from those who may not see them.

Values are for people and are masked. Payloads as they are, which only programs read, are given to those who may see everything
and to keys that may enqueue: a service that asks for its own run's result gets it, never a masked one. Others are told that
they are withheld (`shows_payloads`). What is not under a named key (a positional argument, the text of an exception) cannot be
told from other text: name it, or encrypt payloads in the SDK.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NamedTuple

from flask import current_app

from aiki.api.access import Principal, principal
from aiki.codec import JSON, JSON_ZLIB, TAG, Payload
from aiki.errors import EncodeError, FilterError
from aiki.filters import Filter, Pattern, parse

MASK: Final = "[masked]"
"""What stands for a value that is hidden."""
EXTENSION: Final = "aiki_mask"
_PAIRS: Final = re.compile(r'"\$aiki"\s*:\s*"dict"')
"""A mapping whose keys are not all text: its pairs are lists, which only who has read the whole can tell."""
MAX_MASKED: Final = 16 << 20
"""Bytes of JSON up to which a payload is looked through; what is larger is withheld."""
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_STRING: Final = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)(?:"(\s*:\s*)?|\\?\Z)', re.DOTALL)
"""A string, also one that is not ended: what begins with a quote always matches, so no text takes long."""
_TELLS_NOTHING: Final = ("null", "true", "false")


class Masked(NamedTuple):
    """A value, and how many values in it were hidden."""

    value: Any
    hidden: int


class Mask:
    """Which keys are secret.

    :param patterns: words, `card` or `api_key`, that a key has as words of its own (`card_number`, `cardNumber`), or patterns
        with `*` that its letters and digits match (`*password*`).
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        wanted = [pattern.strip().lower() for pattern in patterns if pattern.strip()]
        self._globs = [re.sub(r"[^a-z0-9*]", "", pattern) for pattern in wanted if "*" in pattern]
        self._words = [f"_{'_'.join(_words(pattern))}_" for pattern in wanted if "*" not in pattern]
        self.is_secret = lru_cache(maxsize=10_000)(self._is_secret)

    def _is_secret(self, key: str) -> bool:
        key = key[:200]
        squeezed = re.sub(r"[^a-z0-9]", "", key.lower())
        if any(fnmatch.fnmatchcase(squeezed, pattern) for pattern in self._globs):
            return True
        words = f"_{'_'.join(_words(key))}_"
        return any(word in words for word in self._words)

    def apply(self, plain: Any) -> Masked:
        """A copy in which the values of secret keys are `MASK`. Null and booleans tell nothing and stay."""
        hidden = 0

        def walk(value: Any) -> Any:
            nonlocal hidden
            if isinstance(value, list):
                return [walk(item) for item in value]
            if not isinstance(value, dict):
                return value
            if value.get(TAG) == "dict" and isinstance(value.get("v"), list):
                return {**value, "v": [pair(item) for item in value["v"]]}
            return {key: cover(key, item) for key, item in value.items()}

        def pair(item: Any) -> Any:
            if isinstance(item, list) and len(item) == 2 and isinstance(item[0], str):
                return [item[0], cover(item[0], item[1])]
            return walk(item)

        def cover(key: str, value: Any) -> Any:
            nonlocal hidden
            if value is None or isinstance(value, bool) or not self.is_secret(key):
                return walk(value)
            hidden += 1
            return MASK

        return Masked(walk(plain), hidden)

    def apply_to_text(self, text: str) -> Masked:
        """A JSON text, or the beginning of one, in the same way; all else stays as it is written."""
        out, done, at, hidden = [], 0, 0, 0
        # String after string: so a key is never sought inside of a value.
        while (found := _STRING.search(text, at)) is not None:
            at = found.end()
            if found[2] and not text.startswith(_TELLS_NOTHING, at) and self.is_secret(_unescaped(found[1])):
                out += [text[done:at], f'"{MASK}"']
                at = done = _end_of_value(text, at)
                hidden += 1
        return Masked("".join([*out, text[done:]]), hidden)


def _unescaped(key: str) -> str:
    return str(json.loads(f'"{key}"', strict=False)) if "\\" in key else key


def _words(key: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(key)]


def _end_of_value(text: str, at: int) -> int:
    """Where the JSON value that begins at `at` ends, or the text."""
    depth, quoted, position = 0, False, at
    while position < len(text):
        char = text[position]
        if quoted:
            if char == "\\":
                position += 1
            elif char == '"':
                quoted = False
                if depth == 0:
                    return position + 1
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
            if depth <= 0:
                return position + (depth == 0)
        elif char == "," and depth == 0:
            return position
        position += 1
    return len(text)


# ---------------------------------------------------------------- for a request
def mask() -> Mask:
    """The mask of the app that serves this request."""
    found = current_app.extensions[EXTENSION]
    assert isinstance(found, Mask)
    return found


def masked(plain: Any, who: Principal | None = None) -> Masked:
    """A value as whoever asks may see it."""
    return Masked(plain, 0) if sees_all(who) else mask().apply(plain)


def visible(payload: Payload | None, who: Principal | None = None) -> Payload | None:
    """A payload as whoever asks may see it: the same, one with masked values, or None: it cannot be looked through here."""
    if payload is None or sees_all(who):
        return payload
    try:
        text = _text_of(payload)
        if text is None:
            return None
        if _PAIRS.search(text):
            found = mask().apply(json.loads(text))
            found = Masked(json.dumps(found.value, separators=(",", ":")), found.hidden)
        else:
            found = mask().apply_to_text(text)
    except (ValueError, RecursionError, zlib.error):
        return None
    return Payload(JSON, found.value) if found.hidden else payload


def check_filter(where: Filter) -> Filter:
    """The filter itself. Raises `FilterError` if it asks for a value that is hidden: whether runs match would tell it."""
    for term in where.of("args"):
        secret = next((key for key in term.path if mask().is_secret(key)), None)
        if secret is not None and not sees_all():
            raise FilterError(f"{secret} is masked for you, so you cannot search by it", term.position, term.length)
    return where


def visible_filter(text: str) -> str:
    """A filter that somebody wrote who may see more, without the values of what is masked for whoever asks."""
    if sees_all():
        return text
    where = parse(text)
    hidden = [term for term in where.of("args") if any(map(mask().is_secret, term.path))]
    return Filter(tuple(replace(term, values=(Pattern((MASK,)),)) if term in hidden else term for term in where.terms)).text


def visible_text(text: str) -> str:
    """The beginning of a JSON text as whoever asks may see it."""
    return text if sees_all() else str(mask().apply_to_text(text).value)


def sees_all(who: Principal | None = None) -> bool:
    """Whether whoever asks sees secrets."""
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


def _text_of(payload: Payload) -> str | None:
    if payload.encoding == JSON:
        return payload.text if len(payload.text) <= MAX_MASKED else None
    if payload.encoding != JSON_ZLIB:
        return None
    inflate = zlib.decompressobj()
    raw = inflate.decompress(base64.b64decode(payload.text, validate=True), MAX_MASKED)
    return raw.decode("ascii") if inflate.eof else None
