"""Processes of the last release without the prefix go on while the tables change, and afterwards, until `--finish`."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa

from aiki.ids import new_id
from aiki.storage.engine import Database
from aiki.storage.schema import finish, upgrade_database
from tests.storage.schemas import make_unprefixed

_RETRIED = (1205, 1213)
"""A lock that was waited for too long, a deadlock: that release does its transaction again after these."""
_NO_SUCH_INDEX, _NO_HINTS_ON_VIEWS, _NO_SUCH_TABLE = 1176, 1221, 1146


@pytest.fixture(params=["maria", "mysql9"])
def db(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An installation of that release."""
    database = Database(
        request.getfixturevalue("mysql_database" if request.param == "maria" else "mysql9_database"), endless=True
    )
    make_unprefixed(database)
    yield database
    database.close()


@cache
def statements() -> dict[str, list[str]]:
    """What a process of that release sends, by what it does."""
    text = (Path(__file__).parent / "unprefixed" / "processes.sql").read_text()
    parts = [part.split("\n", 1) for part in re.split(r"^-- (?=\w+$)", text, flags=re.M)[1:]]
    return {name: [sql.strip() for sql in body.split(";\n") if sql.strip()] for name, body in parts}


class OldProcess:
    """A process of that release."""

    def __init__(self, url: sa.URL) -> None:
        port = url.port or 3306
        self.connection = pymysql.connect(
            host=url.host, port=port, user=url.username, password=url.password or "", database=url.database
        )
        self.done = 0
        with self.connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def do(self, name: str, ids: dict[str, str]) -> list[tuple[object, ...]]:
        """One transaction after the other; the last rows that were read."""
        rows: list[tuple[object, ...]] = []
        transaction: list[str] = []
        for sql in statements()[name]:
            if sql != "COMMIT":
                transaction.append(re.sub(r"\{([abc])\}", lambda found: ids[found[1]], sql))
                continue
            rows = self._transact(transaction) or rows
            transaction = []
        return self._transact(transaction) or rows

    def _transact(self, transaction: list[str]) -> list[tuple[object, ...]]:
        while True:
            rows: list[tuple[object, ...]] = []
            try:
                with self.connection.cursor() as cursor:
                    for sql in transaction:
                        cursor.execute(sql)
                        rows = list(cursor.fetchall()) or rows
                self.connection.commit()
            except pymysql.MySQLError as error:
                self.connection.rollback()
                if error.args[0] not in _RETRIED:
                    raise
            else:
                return rows

    def turn(self) -> None:
        """Two runs are enqueued, claimed, dispatched, ended and read."""
        ids = {letter: new_id().hex for letter in "abc"}
        for name in ("enqueue", "claim", "deliver", "apply"):
            self.do(name, ids)
        assert sorted(state for _, state in self.do("read", ids)) == ["completed", "completed"]
        self.done += 1


def test_processes_of_the_last_release_go_on_beside_an_upgrade(db: Database) -> None:
    old = OldProcess(db.url)
    old.turn()
    over = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            while not over.is_set():
                old.turn()
        except (pymysql.MySQLError, AssertionError) as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        upgrade_database(db)
    finally:
        over.set()
        thread.join()
    assert failed == []
    started_again = OldProcess(db.url)
    started_again.turn()
    total = old.done + started_again.done
    assert old.done > 1
    done = "SELECT COUNT(*) FROM aiki_runs WHERE state = 'completed'"
    assert db.read(lambda c: db.execute(c, done).fetchone())[0] == 2 * total
    assert db.read(lambda c: db.execute(c, "SELECT COUNT(*) FROM aiki_deliveries").fetchone())[0] == 0
    # Views take no index hints: lists of that release are refused, and nothing else is.
    with pytest.raises(pymysql.MySQLError) as refused:
        started_again.do("list", dict.fromkeys("abc", "0" * 32))
    assert refused.value.args[0] in (_NO_SUCH_INDEX, _NO_HINTS_ON_VIEWS)
    started_again.turn()
    finish(db.url.render_as_string(hide_password=False))
    with pytest.raises(pymysql.MySQLError) as ended:
        started_again.turn()
    assert ended.value.args[0] == _NO_SUCH_TABLE
    old.connection.close()
    started_again.connection.close()
