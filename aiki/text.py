"""Text as databases and sockets take it."""

from __future__ import annotations


def storable(text: str, limit: int | None = None) -> str:
    """`text` as valid UTF-8 of at most `limit` characters: lone surrogates are written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")[:limit]
