"""Terms of a filter (`aiki.filters`) as SQL conditions on a run's row, and as tests of its arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from aiki import ids
from aiki.codec import JSON, JSON_ZLIB, TAG, inflate
from aiki.filters import TEXT, Pattern, Range, Term, moments_of, number_of, span_of, states_of
from aiki.storage.engine import Dialect

MAX_INFLATED: Final = 1 << 20
"""Bytes of JSON up to which compressed arguments are looked into."""
_COLUMNS: Final = {
    "name": "name",
    "queue": "queue",
    "kind": "kind",
    "version": "version",
    "reference": "reference_id",
    "error": "error_type",
    "message": "error_message",
    "parent": "parent_id",
    "attempt": "attempt",
    "crashes": "crashes",
    "created": "created_at",
    "since": "created_at",
    "until": "created_at",
    "started": "started_at",
    "finished": "finished_at",
}
_ASCII: Final = frozenset({"queue", "kind", "state"})
_WORDS_IN: Final = ("name", "reference_id", "error_type", "error_message")

Sql = tuple[str, list[Any]]
_NOTHING: Final[Sql] = ("0 = 1", [])


class Condition(NamedTuple):
    """A condition with its parameters, and the columns that it looks at."""

    sql: str
    parameters: list[Any]
    columns: frozenset[str]


class Window(NamedTuple):
    """Times of recording, microseconds: from `low` on and before `high`."""

    low: int
    high: int

    def __and__(self, other: Window) -> Window:
        return Window(max(self.low, other.low), min(self.high, other.high))


ALWAYS: Final = Window(0, 2**62)


def window_of(term: Term, now: int) -> Window | None:
    """The one window of recording times that a term is about, if it is that."""
    if term.negated or len(term.values) > 1 or _COLUMNS.get(term.field) != "created_at":
        return None
    value = term.values[0]
    assert isinstance(value, Range)
    return _window(term.field, value, now)


def _window(field: str, value: Range, now: int) -> Window:
    op = {"since": ">=", "until": "<="}.get(field, value.op)
    start, end = moments_of(value.low, now)
    if op == "..":
        return Window(start, moments_of(value.high, now)[1])
    return {
        "=": Window(start, end),
        ">=": Window(start, ALWAYS.high),
        ">": Window(end, ALWAYS.high),
        "<": Window(ALWAYS.low, start),
        "<=": Window(ALWAYS.low, end),
    }[op]


class Conditions:
    """Makes SQL of terms.

    :param workers_like: the ids of the workers whose name or id a pattern fits.
    """

    def __init__(self, *, dialect: Dialect, now: int, workers_like: Callable[[Pattern], Sequence[bytes]]) -> None:
        self._dialect = dialect
        self._now = now
        self._workers_like = workers_like

    def of(self, term: Term) -> Condition:
        """The condition that a term is; of `args` there is none in SQL."""
        pieces = [self._value(term, value) for value in term.values]
        sql = " OR ".join(f"({piece})" for piece, _ in pieces)
        parameters = [parameter for _, more in pieces for parameter in more]
        columns = self._columns(term)
        if term.negated:
            # A comparison with NULL is neither true nor false; what has no error does not have this one.
            sql = f"CASE WHEN {sql} THEN 0 ELSE 1 END = 1"
        return Condition(f"({sql})", parameters, columns)

    def _columns(self, term: Term) -> frozenset[str]:
        if term.field == TEXT:
            return frozenset(_WORDS_IN)
        special = {"status": {"state"}, "id": {"id"}, "worker": {"worker"}, "duration": {"started_at", "finished_at"}}
        return frozenset(special.get(term.field) or {_COLUMNS[term.field]})

    def _value(self, term: Term, value: Pattern | Range) -> Sql:
        if isinstance(value, Range):
            return self._range(term.field, value)
        if term.field == "status":
            states = sorted(states_of(Term("status", (value,))))
            return f"state IN ({', '.join('?' * len(states))})", [state.value for state in states]
        if term.field == TEXT:
            return self._words(value)
        if term.field == "id":
            low, high = id_bounds(value)
            return "id >= ? AND id <= ?", [low, high]
        if term.field == "worker":
            if value.anything:
                return "worker IS NOT NULL", []
            found = self._workers_like(value)
            return (f"worker IN ({', '.join('?' * len(found))})", list(found)) if found else _NOTHING
        column = _COLUMNS[term.field]
        if term.field == "parent":
            return ("parent_id IS NOT NULL", []) if value.anything else ("parent_id = ?", [ids.to_bytes(value.parts[0])])
        if term.field == "error" and value.parts[0]:
            # Types are recorded with their module; people write them without.
            own, within = (
                self.matches(column, value),
                self.matches(column, Pattern(("", f".{value.parts[0]}", *value.parts[1:]))),
            )
            return f"{own[0]} OR {within[0]}", [*own[1], *within[1]]
        return self.matches(column, value)

    def matches(self, column: str, pattern: Pattern) -> Sql:
        """A column of text fits a pattern; upper and lower case differ."""
        if pattern.anything:
            return f"{column} IS NOT NULL", []
        if column in _ASCII and not all(part.isascii() for part in pattern.parts):
            return _NOTHING
        if pattern.exact is not None:
            return f"{column} = ?", [pattern.exact]
        sql, parameter = self._dialect.like(column, pattern.parts)
        return sql, [parameter]

    def _words(self, pattern: Pattern) -> Sql:
        """Free text stands anywhere in the text, upper or lower case."""
        within = Pattern(("", *pattern.parts, ""))
        sql = " OR ".join(f"{column} {self._dialect.any_like} ? ESCAPE '!'" for column in _WORDS_IN)
        return sql, [_like(within)] * len(_WORDS_IN)

    def _range(self, field: str, value: Range) -> Sql:
        if field == "duration":
            took = "COALESCE(finished_at, ?) - started_at"
            sql, parameters = _compare(took, value, span_of)
            return sql, [part for bound in parameters for part in (self._now, bound)]
        column = _COLUMNS[field]
        if field in ("attempt", "crashes"):
            return _compare(column, value, int)
        low, high = _window(field, value, self._now)
        return f"{column} >= ? AND {column} < ?", [low, high]


def _compare(left: str, value: Range, number: Callable[[str], Any]) -> Sql:
    if value.op == "..":
        return f"{left} >= ? AND {left} <= ?", [number(value.low), number(value.high)]
    return f"{left} {value.op} ?", [number(value.low)]


def _like(pattern: Pattern) -> str:
    return "%".join(re.sub(r"[%_!]", r"!\g<0>", part) for part in pattern.parts)


def id_bounds(pattern: Pattern) -> tuple[bytes, bytes]:
    """The first and the last id that begin as a pattern of `id` says."""
    digits = pattern.parts[0].replace("-", "")[:32]
    return bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))


# ---------------------------------------------------------------- arguments
class ArgumentTest:
    """Tests the inputs of runs against the `args` terms of a filter."""

    def __init__(self, terms: Sequence[Term]) -> None:
        self._terms = [(term, [_matcher(value) for value in term.values]) for term in terms]

    def needles(self) -> list[str]:
        """Texts that the JSON of every match holds; what lacks one need not be read."""
        found = []
        for term, _ in self._terms:
            pattern = term.values[0]
            if term.negated or len(term.values) > 1 or not isinstance(pattern, Pattern):
                continue
            longest = max(pattern.parts, key=len)
            # Numbers beyond 64 bits are written in another base.
            if longest and not (longest.lstrip("-").isdigit() and len(longest) > 18):
                found.append(json.dumps(longest)[1:-1])
        return found

    def __call__(self, encoding: str, data: bytes) -> bool:
        """Whether a run with this input is meant; one that cannot be read is not."""
        plain = _plain(encoding, data)
        if not isinstance(plain, list) or len(plain) != 2:
            return False
        return all(
            any(match(found) for found in _at(plain, term.path) for match in matchers) != term.negated
            for term, matchers in self._terms
        )


def _plain(encoding: str, data: bytes) -> Any:
    try:
        if encoding == JSON:
            return json.loads(bytes(data))
        if encoding == JSON_ZLIB:
            return json.loads(inflate(bytes(data), MAX_INFLATED))
    except (ValueError, RecursionError):
        pass
    return None


def _at(plain: list[Any], path: tuple[str, ...]) -> list[Any]:
    """What stands at a path: by name in the keywords or in an argument that is an object, by place in the positions."""
    args, kwargs = plain
    roots = [args, kwargs] if path[0].isdecimal() else [kwargs, *(args if isinstance(args, list) else ())]
    found = []
    for root in roots:
        value, there = root, True
        for key in path:
            value, there = _step(_untagged(value), key)
            if not there:
                break
        if there:
            found.append(_untagged(value))
    return found


def _step(value: Any, key: str) -> tuple[Any, bool]:
    if isinstance(value, dict) and key in value:
        return value[key], True
    if isinstance(value, list) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
        return value[int(key)], True
    return None, False


def _untagged(value: Any) -> Any:
    """A value without the codec's tag around it."""
    if not isinstance(value, dict) or TAG not in value:
        return value
    inner = value.get("v")
    if value[TAG] == "dict" and isinstance(inner, list):
        # By their keys alone, as in other objects: by its place, a value would be found whose key is one that is hidden.
        return {str(pair[0]): pair[1] for pair in inner if isinstance(pair, list) and len(pair) == 2}
    if value[TAG] == "int" and isinstance(inner, str):
        try:
            return int(inner, 16)
        except ValueError:
            return inner
    return inner


def _matcher(value: Pattern | Range) -> Callable[[Any], bool]:
    if isinstance(value, Pattern):
        pattern = value
        return lambda found: (text := _as_text(found)) is not None and pattern.matches(text)
    low, high = number_of(value.low), number_of(value.high) if value.high else 0.0
    tests: dict[str, Callable[[float], bool]] = {
        ">": lambda x: x > low,
        ">=": lambda x: x >= low,
        "<": lambda x: x < low,
        "<=": lambda x: x <= low,
        "..": lambda x: low <= x <= high,
    }
    test = tests[value.op]
    return lambda found: isinstance(found, int | float) and not isinstance(found, bool) and test(found)


def _as_text(found: Any) -> str | None:
    if isinstance(found, str):
        return found
    if found is None or isinstance(found, bool):
        return {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, int):
        return str(found) if -(10**1000) < found < 10**1000 else None
    return json.dumps(found) if isinstance(found, float) else None
