"""The filter language of lists: `status:failed name:mail* since:1h -error:Timeout*`, for the API, the dashboard and the CLI.

    filter  = term*                          every term must hold
    term    = ["-"] [field ":"] values       a minus sign: must not hold; without a field: free text
    values  = value ("," value)*             any of them
    value   = bare | '"' quoted '"'          \\ makes the next character literal; * in a bare value stands for anything
    number, time, duration = x | >x | >=x | <x | <=x | x..y

`parse` reads it and `Filter.text` writes it, in one canonical spelling. What a filter means for a database is
`aiki.storage.searching`'s business; times that are relative (`1h`) are kept as written and reckoned when they are used.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from aiki import spans
from aiki.clock import SECOND
from aiki.errors import FilterError
from aiki.ids import parse_id
from aiki.states import ACTIVE, State
from aiki.zones import moments, since_epoch, wall

MAX_TEXT: Final = 2000
MAX_TERMS: Final = 40
MAX_VALUES: Final = 100

Kind = Literal["state", "kind", "text", "id", "number", "time", "duration", "args"]
FIELDS: Final[dict[str, tuple[Kind, str]]] = {
    "status": ("state", "its state; active: any that is not an end"),
    "name": ("text", "the name of the task or workflow"),
    "queue": ("text", "the queue"),
    "kind": ("kind", "task or workflow"),
    "version": ("text", "the version of the definition"),
    "reference": ("text", "the reference id"),
    "id": ("id", "the run's id, or its beginning and a *"),
    "parent": ("id", "the id of the workflow's run that started it; *: any"),
    "worker": ("text", "the name or id of the worker that has or had it"),
    "error": ("text", "the type of the error"),
    "message": ("text", "the error's message"),
    "attempt": ("number", "which attempt it is at"),
    "crashes": ("number", "how often it has killed its process"),
    "since": ("time", "recorded at that time or later"),
    "until": ("time", "recorded at that time or earlier"),
    "created": ("time", "when it was recorded"),
    "started": ("time", "when its present or last attempt started"),
    "finished": ("time", "when it ended"),
    "duration": ("duration", "from its start to its end, or until now"),
    "args": ("args", "an argument: args.order_id:42, args.0:42, args.order.items.0.sku:a*"),
}
"""The fields: what their values are, and what they mean."""
ALIASES: Final = {"state": "status", "ref": "reference", "reference_id": "reference", "attempts": "attempt", "task": "name"}
TEXT: Final = "text"
"""The field of terms without one: words that are looked for in the name, the reference id, the error and its message."""

_KEY: Final = re.compile(r"([A-Za-z_][^\s:\",\\*]*):")
_BARE: Final = re.compile(r"[\w./@#+=~!?%&$^|;'()\[\]{}<>-]+")
_SPECIAL: Final = re.compile(r'[\s",\\*:]|^-')
_OPERATOR: Final = re.compile(r"(>=|<=|>|<)?(.*)", re.DOTALL)
_NUMBERS: Final = re.compile(r"-?[\d.]*\d\.\.-?\d[\d.]*", re.ASCII)
_KINDS: Final = ("task", "workflow")
_HEX: Final = re.compile(r"[0-9a-f-]{1,36}")
_SHOWN: Final = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\.\d{3}) (?:UTC|([+-]\d\d:\d\d) [\w/+-]{1,40})", re.ASCII)
"""A time as the dashboard writes it."""


# ---------------------------------------------------------------- values
@dataclass(frozen=True, slots=True)
class Pattern:
    """Text, with anything between its parts: `("mail", "")` is `mail*`, `("mail",)` just that."""

    parts: tuple[str, ...]

    @property
    def exact(self) -> str | None:
        """The text, if there is no wildcard."""
        return self.parts[0] if len(self.parts) == 1 else None

    @property
    def prefix(self) -> str | None:
        """The beginning, if a wildcard at the end is all there is."""
        return self.parts[0] if len(self.parts) == 2 and not self.parts[1] else None

    @property
    def anything(self) -> bool:
        """`*` alone: there is a value, whatever it is."""
        return len(self.parts) > 1 and not any(self.parts)

    @property
    def text(self) -> str:
        """As it is written."""
        if self.exact is not None:
            return quoted(self.exact)
        return "*".join(_SPECIAL.sub(r"\\\g<0>", part) for part in self.parts)

    def matches(self, text: str) -> bool:
        """Whether a text is meant, for what no database compares. No regular expression: many wildcards must not take long."""
        first, *between = self.parts
        if not between:
            return text == first
        last, at, end = between.pop(), len(first), len(text)
        if end < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
            return False
        for part in between:
            found = text.find(part, at, end - len(last))
            if found < 0:
                return False
            at = found + len(part)
        return True


@dataclass(frozen=True, slots=True)
class Range:
    """A comparison of numbers, times or durations, as written: `op` is one of `= > >= < <= ..`."""

    op: str
    low: str
    high: str = ""

    @property
    def text(self) -> str:
        """As it is written."""
        text = f"{self.low}..{self.high}" if self.op == ".." else f"{'' if self.op == '=' else self.op}{self.low}"
        return f'"{text}"' if " " in text else text


Value = Pattern | Range


def quoted(text: str) -> str:
    """`text` as a value that means just that, in quotes where it must be."""
    if _BARE.fullmatch(text) and text[0] not in "-<>" and ".." not in text:
        return text
    return '"' + re.sub(r'["\\]', r"\\\g<0>", text) + '"'


@dataclass(frozen=True, slots=True)
class Term:
    """One condition.

    :ivar field: a key of `FIELDS`, or `TEXT`.
    :ivar path: of `args`: where the argument is, `("order", "0")`.
    :ivar values: any of them must match.
    :ivar position: where the term stood in what was parsed, and `length` how long it was; they make no difference.
    """

    field: str
    values: tuple[Value, ...]
    negated: bool = False
    path: tuple[str, ...] = ()
    position: int = dataclasses.field(default=0, compare=False)
    length: int = dataclasses.field(default=0, compare=False)

    @property
    def text(self) -> str:
        """The term in canonical spelling."""
        key = "" if self.field == TEXT else ".".join((self.field, *self.path)) + ":"
        return ("-" if self.negated else "") + key + ",".join(value.text for value in self.values)


@dataclass(frozen=True)
class Filter:
    """Conditions on runs, all of which must hold. Equal filters mean the same and hash the same."""

    terms: tuple[Term, ...] = ()

    @cached_property
    def text(self) -> str:
        """The canonical spelling: `parse(filter.text) == filter`."""
        return " ".join(term.text for term in self.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __hash__(self) -> int:
        return hash(self.terms)

    def of(self, field: str) -> tuple[Term, ...]:
        """The terms of a field."""
        return tuple(term for term in self.terms if term.field == field)

    def without(self, term: Term | str) -> Filter:
        """The filter without this term, or without all terms of this field."""
        if isinstance(term, str):
            return Filter(tuple(item for item in self.terms if item.field != term))
        return Filter(tuple(item for item in self.terms if item != term))

    def with_(self, term: Term | str, *, replace: bool = False) -> Filter:
        """The filter with this term (text: with these) as well.

        :param replace: instead of what there is of the same field, not beside it.
        :raises FilterError: the text is no filter.
        """
        new = parse(term).terms if isinstance(term, str) else (term,)
        places = {(item.field, item.path, item.negated) for item in new} if replace else set()
        kept = (item for item in self.terms if item not in new and (item.field, item.path, item.negated) not in places)
        return Filter((*kept, *new))


# ---------------------------------------------------------------- reading
def parse(text: str) -> Filter:
    """Read a filter; raises `FilterError`, which points at the place."""
    if len(text) > MAX_TEXT:
        raise FilterError(
            f"a filter has at most {MAX_TEXT:,} characters, this one {len(text):,}", MAX_TEXT, len(text) - MAX_TEXT
        )
    for at, char in enumerate(text):
        if "\ud800" <= char <= "\udfff" or char == "\0":
            raise FilterError("this character cannot be searched for", at, 1)
    terms: list[Term] = []
    at = 0
    while (at := _skip(text, at)) < len(text):
        term = _term(text, at)
        if len(terms) >= MAX_TERMS:
            raise FilterError(f"a filter has at most {MAX_TERMS} terms", at, len(text) - at)
        if term not in terms:
            terms.append(term)
        at += term.length
    return Filter(tuple(terms))


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _term(text: str, start: int) -> Term:
    negated = text[start] == "-"
    at = start + negated
    if negated and (at == len(text) or text[at].isspace()):
        raise FilterError(
            'a minus sign stands directly before what must not hold; quote it to look for it: "-"', start, 1, ['"-"']
        )
    key = _KEY.match(text, at)
    name, path = (TEXT, ()) if key is None else _field(key[1], at)
    at = at if key is None else key.end()
    values: list[Value] = []
    while True:
        raw = _raw(text, at)
        if raw.end == at:
            what = f"{name} needs a value, directly after the colon" if key and not values else "a value is missing here"
            raise FilterError(what, start if not values else at, max(1, at - start) if not values else 1)
        value = _value(name, raw, key is not None)
        if value not in values:
            values.append(value)
        at = raw.end
        if len(values) > MAX_VALUES:
            raise FilterError(f"a term has at most {MAX_VALUES} values", start, at - start)
        if at == len(text) or text[at] != ",":
            return Term(name, tuple(values), negated, path, start, at - start)
        at += 1


def _field(key: str, at: int) -> tuple[str, tuple[str, ...]]:
    name, *path = key.split(".")
    name = ALIASES.get(name.lower(), name.lower())
    if name == "args" and (not path or not all(path)):
        raise FilterError("say which argument: args.order_id:42 by its name, args.0:42 by its place", at, len(key) + 1)
    if name in FIELDS and (name == "args" or not path):
        return name, tuple(path)
    close = difflib.get_close_matches(key.lower(), [*FIELDS, *ALIASES], n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(FIELDS)}."
    raise FilterError(f"there is no field {key[:40]!r}; {hint} To look for the text, put it in quotes", at, len(key), close)


@dataclass(slots=True)
class _Raw:
    """A value before its field is looked at: its parts between wildcards, and whether it has neither quotes nor escapes."""

    parts: list[str]
    plain: bool
    start: int
    end: int

    @property
    def text(self) -> str:
        return "*".join(self.parts)


def _raw(text: str, start: int) -> _Raw:
    parts, plain, at = [""], True, start
    while at < len(text) and not text[at].isspace() and text[at] != ",":
        char = text[at]
        if char == '"':
            plain = False
            piece, at = _quoted(text, at)
            parts[-1] += piece
            continue
        if char == "\\":
            plain = False
            at += 1
            if at == len(text):
                raise FilterError("a backslash makes the next character literal, and there is none", at - 1, 1, ["\\\\"])
            parts[-1] += text[at]
        elif char == "*":
            if len(parts) == 1 or parts[-1]:  # several in a row are one
                parts.append("")
        else:
            parts[-1] += char
        at += 1
    return _Raw(parts, plain, start, at)


def _quoted(text: str, start: int) -> tuple[str, int]:
    out: list[str] = []
    at = start + 1
    while at < len(text):
        if text[at] == '"':
            return "".join(out), at + 1
        if text[at] == "\\" and at + 1 < len(text):
            at += 1
        out.append(text[at])
        at += 1
    raise FilterError("this quotation mark has no partner", start, 1)


# ---------------------------------------------------------------- values of fields
def _value(name: str, raw: _Raw, has_key: bool) -> Value:
    kind: Kind = FIELDS[name][0] if has_key else "text"
    if kind == "text":
        if not has_key and not any(raw.parts):
            raise FilterError("there is nothing to look for here", raw.start, raw.end - raw.start)
        return Pattern(tuple(raw.parts))
    return _READERS[kind](name, raw)


def _choice(choices: tuple[str, ...]) -> Callable[[str, _Raw], Value]:
    def read(name: str, raw: _Raw) -> Value:
        word = raw.text.lower()
        if word in choices:
            return Pattern((word,))
        close = difflib.get_close_matches(word, choices, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {', '.join(choices)}"
        raise FilterError(
            f"{raw.text[:40]!r} is no {name}; {hint}", raw.start, raw.end - raw.start, [str(item) for item in close]
        )

    return read


def _id(name: str, raw: _Raw) -> Value:
    pattern = Pattern(tuple(part.lower() for part in raw.parts))
    if name == "parent" and pattern.anything:
        return pattern
    exact, prefix = pattern.exact, pattern.prefix
    parsed = parse_id(exact) if exact is not None else None
    if parsed is not None:
        return Pattern((str(parsed),))
    if name == "id" and prefix is not None and _HEX.fullmatch(prefix):
        return pattern
    more = "; write * after the beginning of one" if name == "id" else ""
    raise FilterError(f"{raw.text[:40]!r} is not a run's id{more}", raw.start, raw.end - raw.start)


def _range(check: Callable[[str], object], what: str) -> Callable[[str, _Raw], Value]:
    def read(name: str, raw: _Raw) -> Value:
        found = _OPERATOR.fullmatch(raw.text)
        assert found is not None
        op, rest = found[1] or "=", found[2]
        low, dots, high = rest.partition("..")
        bounds = [low, high] if dots else [low]
        if dots and op != "=":
            raise FilterError(f"{raw.text[:40]!r}: say either x..y or {op}x", raw.start, raw.end - raw.start)
        for bound in bounds:
            try:
                check(bound)
            except (ValueError, OverflowError):
                raise FilterError(f"{bound[:40]!r} is not {what}", raw.start, raw.end - raw.start) from None
        if op == "=" and not dots and name in ("created", "started", "finished") and spans.is_span(low):
            close = [f">{low}", f"<{low}"]
            raise FilterError(
                f"{name}:{low} is a single moment; say >{low} (since) or <{low}", raw.start, raw.end - raw.start, close
            )
        if name in ("since", "until") and (dots or op != "="):
            raise FilterError(f"{name} takes one time; for a range say created:{raw.text}", raw.start, raw.end - raw.start)
        return Range(".." if dots else op, low, high)

    return read


def _args(_name: str, raw: _Raw) -> Value:
    compared = raw.text[:1] in ("<", ">") or _NUMBERS.fullmatch(raw.text)
    if raw.plain and len(raw.parts) == 1 and compared:
        value = _range(number_of, "a number, such as 42 or 0.5")("args", raw)
        assert isinstance(value, Range)
        return value
    return Pattern(tuple(raw.parts))


def number_of(text: str) -> float:
    """A number of a `Range`; raises ValueError."""
    if not re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", text, re.ASCII):
        raise ValueError(text)
    return float(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(text)
    return int(text)


def span_of(text: str) -> int:
    """Microseconds of a duration such as `90s`, `1h30m` or `2.5` (seconds); raises ValueError."""
    if re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII):
        return round(float(text) * SECOND)
    return spans.parse(text)


def moments_of(text: str, now: int, zone: dt.tzinfo = dt.UTC) -> tuple[int, int]:
    """The first microsecond of a time, and the first one after it: a date is a whole day. Of `zone`, unless it says otherwise.

    Relative times (`15m`, `7d`) are so long before `now`. What clocks show twice, when they are put back, is from the first to
    the last of the two; what they never show is no time at all, at the moment at which they are put ahead. Raises ValueError.
    """
    if text == "now":
        return now, now + 1
    if spans.is_span(text):
        start = max(0, now - spans.parse(text))
        return start, start + 1
    try:
        if text in ("today", "yesterday"):
            return _day(wall(now, zone).date() - dt.timedelta(days=text == "yesterday"), zone)
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            return _day(dt.date.fromisoformat(text), zone)
        shown = _SHOWN.fullmatch(text)
        if shown is not None:
            start = since_epoch(dt.datetime.fromisoformat(shown[1] + (shown[2] or "Z")))
            return start, start + SECOND // 1000
        if not re.match(r"\d{4}-\d\d-\d\d[T ]", text, re.ASCII):
            raise ValueError(text)
        given = dt.datetime.fromisoformat(text)
        start, last = moments(given, zone) if given.tzinfo is None else (since_epoch(given),) * 2
    except OverflowError:
        raise ValueError(text) from None
    if last < start:
        return start, start
    minute = re.fullmatch(r"\S{10}.\d\d:?\d\d(Z|[+-]\S+)?", text)
    return start, last + (60 * SECOND if minute else 1)


def _day(date: dt.date, zone: dt.tzinfo) -> tuple[int, int]:
    start = moments(dt.datetime.combine(date, dt.time()), zone)[0]
    if date == dt.date.max:
        return start, start + 86400 * SECOND
    return start, moments(dt.datetime.combine(date + dt.timedelta(days=1), dt.time()), zone)[0]


_READERS: Final[dict[Kind, Callable[[str, _Raw], Value]]] = {
    "state": _choice((*State, "active")),
    "kind": _choice(_KINDS),
    "id": _id,
    "number": _range(_whole, "a whole number; attempt:3, attempt:>3, attempt:2..4"),
    "time": _range(lambda text: moments_of(text, 0), "a time; say 15m, 24h, 7d (ago), today, 2026-11-01 or 2026-11-01T12:00Z"),
    "duration": _range(span_of, "a duration; say 500ms, 10s, 5m or 1h30m"),
    "args": _args,
}


def states_of(term: Term) -> frozenset[State]:
    """The states that a term of `status` asks for, before its negation."""
    return frozenset(_states(term))


def _states(term: Term) -> Iterator[State]:
    for value in term.values:
        assert isinstance(value, Pattern)
        yield from ACTIVE if value.parts[0] == "active" else [State(value.parts[0])]
