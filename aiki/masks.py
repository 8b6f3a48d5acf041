"""Which keys of values are secret, and values without what stands under them."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from aiki.codec import JSON, TAG, Payload, text_within

MASK: Final = "[masked]"
"""What stands for a value that is hidden."""
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
            if isinstance(item, list) and len(item) == 2:
                secret = next((word for word in _words_in(item[0]) if self.is_secret(word)), None)
                return [item[0], walk(item[1]) if secret is None else cover(secret, item[1])]
            return walk(item)

        def cover(key: str, value: Any) -> Any:
            nonlocal hidden
            if value is None or isinstance(value, bool) or not self.is_secret(key):
                return walk(value)
            hidden += 1
            return MASK

        return Masked(walk(plain), hidden)

    def apply_to_payload(self, payload: Payload) -> Payload | None:
        """A payload in the same way; itself where nothing is hidden, None: it cannot be looked through."""
        try:
            text = text_within(payload, MAX_MASKED)
            if text is None:
                return None
            if _PAIRS.search(text):
                found = self.apply(json.loads(text))
                found = Masked(json.dumps(found.value, separators=(",", ":")), found.hidden)
            else:
                found = self.apply_to_text(text)
        except (ValueError, RecursionError):
            return None
        return Payload(JSON, found.value) if found.hidden else payload

    def apply_to_text(self, text: str) -> Masked:
        """A JSON text, or the beginning of one, in the same way; all else stays as it is written.

        What is in a mapping whose keys are not text cannot be told without its end: of a beginning all of it is hidden.
        """
        pairs = _PAIRS.search(text)
        if pairs is not None:
            before = self.apply_to_text(text[: pairs.start()])
            return Masked(f'{before.value}"{MASK}"', before.hidden + 1)
        out, done, at, hidden = [], 0, 0, 0
        # String after string: so a key is never sought inside of a value.
        while (found := _STRING.search(text, at)) is not None:
            at = found.end()
            if found[2] and not text.startswith(_TELLS_NOTHING, at) and self.is_secret(_unescaped(found[1])):
                out += [text[done:at], f'"{MASK}"']
                at = done = _end_of_value(text, at)
                hidden += 1
        return Masked("".join([*out, text[done:]]), hidden)


def _words_in(key: Any) -> Iterator[str]:
    """All text in a key of a mapping: it may be an enum's member, or a tuple."""
    if isinstance(key, str):
        yield key
    elif isinstance(key, list):
        for item in key:
            yield from _words_in(item)
    elif isinstance(key, dict):
        for item in key.values():
            yield from _words_in(item)


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
