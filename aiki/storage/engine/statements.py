"""Statements of many rows: their pieces, and how much a statement may take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

ROWS_A_STATEMENT: Final = 500
BYTES_A_STATEMENT: Final = 512 * 1024
_ESCAPED: Final = ("'", '"', "\\", "\0", "\n", "\r", "\x1a")

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
