"""Statements of many rows: their pieces, and how much a statement may take."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import Any, Final, NamedTuple

ROWS_A_STATEMENT: Final = 500
BYTES_A_STATEMENT: Final = 512 * 1024
_ESCAPED: Final = ("'", '"', "\\", "\0", "\n", "\r", "\x1a")

_NAMES: Final = frozenset({"namespace", "kind", "name", "version", "queue", "state", "role", "encoding", "options"})
"""Columns whose text may stand in a statement, as errors and logs show it."""
_PLAIN: Final = re.compile(r'[A-Za-z0-9_.:/@ ,"{}\[\]-]*')

Row = Sequence[Any]
Statement = tuple[str, list[Any]]
"""SQL in the driver's style, and its parameters."""


class Insert(NamedTuple):
    """Rows (tuples in the order of `columns`) for a table."""

    table: str
    columns: Sequence[str]
    rows: Sequence[Row]


class RowTooLarge(Exception):
    """The database refuses a row because of its size; the statement changed nothing."""


def chunks(rows: Sequence[Row]) -> Iterable[Sequence[Row]]:
    """Rows in statements of bounded count and size."""
    start, size = 0, 0
    for index, row in enumerate(rows):
        weight = 60 + weight_of(row)
        if index > start and (index - start >= ROWS_A_STATEMENT or size + weight > BYTES_A_STATEMENT):
            yield rows[start:index]
            start, size = index, 0
        size += weight
    if start < len(rows):
        yield rows[start:]


def weight_of(row: Row) -> int:
    """About how many bytes of a statement a row takes: bytes go as hexadecimal digits, text is escaped."""
    size = 0
    for value in row:  # a plain loop: it runs for every value that is written
        kind = type(value)
        if kind is str:
            size += len(value)
            if len(value) > 65536:
                size += sum(map(value.count, _ESCAPED))
        elif kind is bytes:
            size += 2 * len(value)
    return size


def many_row_insert(table: str, columns: Sequence[str], rows: Sequence[Row]) -> Statement:
    """One INSERT for drivers that take `%s` and bind values themselves, also the caller's.

    To escape each value of each row is most of what it costs: numbers and names that are the same in all rows are written once,
    and what is NULL in all is left out.
    """
    values = list(zip(*rows, strict=True))
    same = [
        _is_plain(column, of_all[0]) and of_all.count(of_all[0]) == len(rows) > 1
        for column, of_all in zip(columns, values, strict=True)
    ]
    used = [at for at, of_all in enumerate(values) if not (same[at] and of_all[0] is None)]
    row = ", ".join(_literal(values[at][0]) if same[at] else "%s" for at in used)
    sql = f"INSERT INTO {table} ({', '.join(columns[at] for at in used)}) VALUES {', '.join([f'({row})'] * len(rows))}"
    varying = [values[at] for at in used if not same[at]]
    return sql, list(itertools.chain.from_iterable(zip(*varying, strict=True)))


def _is_plain(column: str, value: Any) -> bool:
    """Whether a value can stand in a statement as it is: a number, NULL, a name without anything that means something."""
    if type(value) in (int, NoneType):
        return True
    return column in _NAMES and type(value) is str and _PLAIN.fullmatch(value) is not None


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"
