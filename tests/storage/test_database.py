"""Bulk statements: many rows at once mean the same as each by itself, whatever stands in them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from aiki.storage import Store

AUDIT = ("namespace", "id", "created_at", "actor", "action", "subject", "detail")
NASTY = [
    "",
    "%",
    "100 %s of %(it)s",
    "it's",
    'say "x"',
    "back\\slash",
    "a\nb\0c",
    "ä 漢 😀",
    "?",
    "'); DROP TABLE aiki_runs; -- ",
]


def key(number: int) -> bytes:
    return bytes([0x27, 0x25, 0x5C, 0]) + number.to_bytes(12, "big")


def audit(store: Store) -> dict[bytes, tuple[Any, ...]]:
    sql = f"SELECT {', '.join(AUDIT)} FROM aiki_audit"
    rows = store.db.read(lambda connection: store.db.execute(connection, sql).fetchall())
    return {bytes(row[1]): (row[0], bytes(row[1]), *row[2:]) for row in rows}


def kept(store: Store, text: str) -> str:
    """A text as it comes back: PostgreSQL takes no U+0000."""
    return text.replace("\0", "\N{SYMBOL FOR NULL}") if store.db.dialect.name == "postgresql" else text


@pytest.mark.parametrize("count", [1, 2, 1201])
@pytest.mark.parametrize("text", NASTY)
def test_what_all_rows_share_is_written_as_what_they_do_not(store: Store, count: int, text: str) -> None:
    columns = ("namespace", "name", "version", "kind", "options", "mean_ms", "registered_at")
    rows = [("default", text, f"v{n}", "task", text if n % 2 else "{}", None, 7) for n in range(count)]
    store.db.transaction(lambda connection: store.db.insert(connection, "aiki_definitions", columns, rows))
    sql = f"SELECT {', '.join(columns)} FROM aiki_definitions"
    found = store.db.read(lambda connection: store.db.execute(connection, sql).fetchall())
    assert {tuple(row) for row in found} == {tuple(kept(store, v) if type(v) is str else v for v in row) for row in rows}


def test_an_error_never_shows_what_users_wrote(store: Store) -> None:
    rows = [("default", key(1), "input", "json", b"a secret")] * 2
    columns = ("namespace", "run_id", "role", "encoding", "data")
    with pytest.raises(IntegrityError) as caught:
        store.db.transaction(lambda connection: store.db.insert(connection, "aiki_payloads", columns, rows))
    for shown in (str(caught.value), caught.value.statement or ""):
        assert "secret" not in shown
        assert b"a secret".hex() not in shown.lower()


@pytest.mark.parametrize("text", NASTY)
def test_an_update_of_many_rows_with_and_without_differences(store: Store, text: str) -> None:
    rows = [("default", key(n), 7, "a", "b", "c", "d") for n in range(6)]
    store.db.transaction(lambda connection: store.db.insert(connection, "aiki_audit", AUDIT, rows))

    def work(connection: Any) -> None:
        same = [(key(n), text, 8) for n in (0, 1)]
        mixed = [(key(n), text, n) for n in (2, 3)]
        store.db.update(connection, "aiki_audit", ("detail", "created_at"), "default", same)
        store.db.update(connection, "aiki_audit", ("detail", "created_at"), "default", mixed)
        store.db.update(connection, "aiki_audit", ("detail", "created_at"), "default", [(key(4), text, 9)])
        store.db.update(connection, "aiki_audit", ("detail",), "elsewhere", [(key(5), text), (key(0), text)])

    store.db.transaction(work)
    text = kept(store, text)
    expected = {0: (8, text), 1: (8, text), 2: (2, text), 3: (3, text), 4: (9, text), 5: (7, "d")}
    assert {number: (audit(store)[key(number)][2], audit(store)[key(number)][6]) for number in range(6)} == expected
