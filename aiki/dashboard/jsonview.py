"""Payloads as people read them: highlighted, collapsible, exact. Nothing is cut without saying how much.

Numbers are shown as they are written, whatever their size; the codec's tags are shown as what they stand for.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from markupsafe import Markup

from aiki.api import masking, values
from aiki.codec import JSON, JSON_ZLIB, TAG, Payload, text_within
from aiki.text import storable

MAX_READ: Final = 2 << 20
"""Bytes of JSON up to which a payload is taken apart to be shown."""
MAX_NODES: Final = 400
MAX_STRING: Final = 1500
MAX_EDIT: Final = 200_000
OPEN_DEPTH: Final = 2
OPEN_ENTRIES: Final = 30


class Number(str):
    """A number, as it is written."""

    __slots__ = ()


class Shown(NamedTuple):
    """A payload to be shown.

    :ivar html: None if it cannot be read here.
    :ivar size: bytes as stored; `left`: values that are not shown; `why`: why it cannot be read.
    """

    html: Markup | None
    size: int
    left: int = 0
    why: str = ""


def text_of(payload: Payload, limit: int = MAX_READ) -> str | None:
    """The JSON text, secrets masked, or None if it is longer than `limit` or not readable here (encrypted)."""
    seen = masking.visible(payload)
    return None if seen is None else text_within(seen, limit)


def parsed(payload: Payload | None, limit: int = MAX_READ) -> tuple[bool, Any]:
    """Whether it can be read here, and what it is, its numbers as `Number`."""
    if payload is None:
        return True, None
    text = text_of(payload, limit)
    if text is None:
        return False, None
    try:
        plain = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)
    except (ValueError, RecursionError):
        return False, None
    return (False, None) if values.is_deep(plain) else (True, plain)


def shown(payload: Payload | None, *, arguments: bool = False) -> Shown:
    """A payload as HTML.

    :param arguments: it is a run's input, `[args, kwargs]`.
    """
    if payload is None:
        return Shown(Markup('<span class="jw">null</span>'), 0)
    size = len(payload.text)
    can, plain = parsed(payload)
    if not can:
        large = payload.encoding in (JSON, JSON_ZLIB)
        why = (
            "it is too large to be shown here"
            if large
            else f"it is encoded as {payload.encoding}, which only its workers can read"
        )
        return Shown(None, size, why=why)
    if arguments:
        plain = named(plain)
    view = _View()
    return Shown(view.value(plain, 0), size, view.left)


def named(plain: Any) -> Any:
    """An input as people think of it: the one list or object that says something, or both by name."""
    if not (isinstance(plain, list) and len(plain) == 2):
        return plain
    args, kwargs = plain
    if not kwargs:
        return args
    return kwargs if not args else {"args": args, "kwargs": kwargs}


class _View:
    """One rendering; counts what it shows."""

    def __init__(self) -> None:
        self.nodes = 0
        self.left = 0

    def value(self, value: Any, depth: int) -> Markup:
        """Any value."""
        self.nodes += 1
        if isinstance(value, Number):
            return Markup('<span class="jn">{}</span>').format(value)
        if isinstance(value, str):
            return self._string(value)
        if value is None or isinstance(value, bool):
            return Markup('<span class="jw">{}</span>').format(json.dumps(value))
        if isinstance(value, dict) and isinstance(value.get(TAG), str):
            return self._tagged(value, depth)
        return self._container(value, depth)

    def _string(self, value: str) -> Markup:
        text = json.dumps(value[:MAX_STRING], ensure_ascii=False)
        more = len(value) - MAX_STRING
        tail = Markup(' <em class="muted">… {:,} more characters</em>').format(more) if more > 0 else Markup("")
        if more > 0:
            self.left += 1
        return Markup('<span class="js">{}</span>{}').format(storable(text), tail)

    def _tagged(self, value: dict[str, Any], depth: int) -> Markup:
        tag, inner = value[TAG], value.get("v")
        if tag == "int" and isinstance(inner, str):
            return Markup('<span class="jn">{}</span>').format(_decimal(inner))
        label = value.get("t", tag)
        rendered = self._string(inner) if isinstance(inner, str) and not isinstance(inner, Number) else self.value(inner, depth)
        return Markup('<span class="jw">{}</span> {}').format(label, rendered)

    def _container(self, value: Any, depth: int) -> Markup:
        pairs = (
            [(_key(key), item) for key, item in value.items()] if isinstance(value, dict) else [(None, item) for item in value]
        )
        left, right = ("{", "}") if isinstance(value, dict) else ("[", "]")
        if not pairs:
            return Markup("{}{}").format(left, right)
        if self.nodes >= MAX_NODES:
            self.left += len(pairs)
            return Markup('{}<em class="muted"> {:,} not shown </em>{}').format(left, len(pairs), right)
        out = []
        for i, (key, item) in enumerate(pairs):
            if self.nodes >= MAX_NODES:
                self.left += len(pairs) - i
                out.append(Markup('<div><em class="muted">… {:,} more</em></div>').format(len(pairs) - i))
                break
            head = Markup('<span class="jk">{}</span>: ').format(key) if key is not None else Markup("")
            out.append(Markup("<div>{}{}</div>").format(head, self.value(item, depth + 1)))
        is_open = Markup(" open") if depth < OPEN_DEPTH and len(pairs) <= OPEN_ENTRIES else Markup("")
        noun = (
            ("entry" if len(pairs) == 1 else "entries") if isinstance(value, dict) else ("item" if len(pairs) == 1 else "items")
        )
        return Markup('<details{}><summary>{} <small>{:,} {}</small></summary><div class="in">{}</div>{}</details>').format(
            is_open, left, len(pairs), noun, Markup("").join(out), right
        )


def _key(key: str) -> str:
    return storable(json.dumps(key, ensure_ascii=False))


def _decimal(text: str) -> str:
    try:
        number = int(text, 16)
    except ValueError:
        return text
    # Beyond a few thousand digits decimal would take long; the hexadecimal spelling is as exact.
    return str(number) if number.bit_length() <= 8192 else text


# ---------------------------------------------------------------- to edit
def editable(payload: Payload | None) -> tuple[str, str] | None:
    """Positional and named arguments as JSON text that can be changed and read again; None if it cannot be edited here."""
    can, plain = parsed(payload, MAX_EDIT)
    if not can or not (isinstance(plain, list) and len(plain) == 2):
        return None
    return written(plain[0]), written(plain[1])


def written(value: Any, depth: int = 0) -> str:
    """Indented JSON with numbers as they were written, and large integers as plain ones."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict) and value.get(TAG) == "int" and isinstance(value.get("v"), str):
        return _decimal(value["v"]) if not _decimal(value["v"]).startswith(("0x", "-0x")) else json.dumps(value)
    pad, end = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and value:
        lines = [f"{pad}{json.dumps(key, ensure_ascii=False)}: {written(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{end}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"{pad}{written(item, depth + 1)}" for item in value) + f"\n{end}]"
    return storable(json.dumps(value, ensure_ascii=False))


__all__ = ["MAX_READ", "Number", "Shown", "editable", "named", "parsed", "shown", "text_of", "written"]
