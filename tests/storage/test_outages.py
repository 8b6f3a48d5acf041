"""Which errors of a database are outages, and which the fault of what was to be written."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator

import pymysql
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from aiki.errors import StorageUnavailable
from aiki.storage import RowTooLarge, Store
from aiki.storage.engine import Database
from aiki.storage.engine.dialect import Dialect, Meaning
from aiki.storage.engine.mysql import MySQL
from aiki.storage.engine.sqlite import SQLite
from tests.services import MariaServer

CONTENT = (
    1690,
    1267,
    1292,
    1264,
    1366,
    1406,
    1139,
    3140,
    1153,
    1118,
    1436,
    1365,
    1411,
    1644,
    3141,
    3156,
    4038,
    1210,
    1038,
    1105,
)
OUTAGES = (
    *(1040, 1041, 1044, 1045, 1047, 1049, 1053, 1054, 1114, 1021, 1129, 1130, 1158, 1161, 1203, 1205, 1213, 1223, 1226, 1290),
    *(1317, 1698, 1792, 1836, 1874, 1927, 2003, 2006, 2013, 2026, 3032, 3100, 3101, 3118, 4031, 9001),
)
LARGEST = "CAST(9223372036854775807 AS SIGNED)"
WRONG = {
    "a number out of range": f"SELECT {LARGEST} + {LARGEST}",
    "collations that do not mix": "SELECT _utf8mb4'a' COLLATE utf8mb4_bin = _utf8mb4'b' COLLATE utf8mb4_general_ci",
    "a pattern that is none": "SELECT 'a' REGEXP '('",
    "a message of a trigger": "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'",
    "a number that does not fit its column": "INSERT INTO aiki_operations (id, created_at) VALUES ('x', 1e300)",
}


def is_outage(error: SQLAlchemyError, dialect: Dialect | None = None) -> bool:
    """Whether it is waited for, one way or another."""
    return (dialect or MySQL()).meaning(error) in (Meaning.OUTAGE, Meaning.REPEAT, Meaning.READ_ONLY)


def error_of(code: int, text: str = "words") -> SQLAlchemyError:
    """What SQLAlchemy makes of a server's answer, through the driver."""
    try:
        pymysql.err.raise_mysql_exception(b"\xff" + struct.pack("<H", code) + b"#HY000" + text.encode())
    except pymysql.err.Error as error:
        found = DBAPIError.instance("SELECT 1", None, error, pymysql.err.Error)
        assert isinstance(found, SQLAlchemyError)
        return found
    raise AssertionError


@pytest.mark.parametrize("code", CONTENT)
def test_what_is_wrong_with_a_statement_is_no_outage(code: int) -> None:
    assert not is_outage(error_of(code))


@pytest.mark.parametrize("code", OUTAGES)
def test_what_is_wrong_with_the_server_is_an_outage(code: int) -> None:
    assert is_outage(error_of(code))


def test_errors_without_a_number_of_the_server() -> None:
    assert is_outage(PoolTimeout())
    lost = DBAPIError.instance(
        "SELECT 1", None, pymysql.err.InterfaceError(0, ""), pymysql.err.Error, connection_invalidated=True
    )
    assert isinstance(lost, DBAPIError)
    assert is_outage(lost)
    assert is_outage(error_of(1030, "Got error 28 from storage engine"))
    assert not is_outage(error_of(1030, "Got error 139 from storage engine"))


def test_what_sqlite_says() -> None:
    connection = sqlite3.connect(":memory:")

    def raised(sql: str) -> SQLAlchemyError:
        with pytest.raises(sqlite3.OperationalError) as told:
            connection.execute(sql).fetchall()
        found = DBAPIError.instance(sql, None, told.value, sqlite3.Error)
        assert isinstance(found, SQLAlchemyError)
        return found

    assert not is_outage(raised("SELECT json_extract('{', '$.a')"), SQLite())
    assert not is_outage(raised("SELECT abs(-9223372036854775807 - 1)"), SQLite())
    assert is_outage(raised("SELECT 1 FROM nowhere"), SQLite())
    connection.execute("PRAGMA query_only = 1")
    assert is_outage(raised("CREATE TABLE a (b)"), SQLite())


@pytest.fixture
def maria_store(maria_tables: str) -> Iterator[Store]:
    store = Store(maria_tables)
    yield store
    store.close()


@pytest.mark.parametrize("what", WRONG)
def test_a_server_that_refuses_what_a_statement_says(maria_store: Store, what: str) -> None:
    db = maria_store.db
    with pytest.raises((DBAPIError, RowTooLarge)):
        db.transaction(lambda connection: connection.exec_driver_sql(WRONG[what]).close())
    maria_store.probe()


def test_a_server_that_cannot_serve(maria_store: Store, maria: MariaServer) -> None:
    def read_only(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("DELETE FROM aiki_runs")

    def killed(connection: sa.Connection) -> None:
        connection.exec_driver_sql("KILL CONNECTION_ID()")
        connection.exec_driver_sql("SELECT 1")

    for work in (read_only, killed):
        with pytest.raises(StorageUnavailable):
            maria_store.db.transaction(work, repeatable=True)
    elsewhere = sa.make_url(maria.url).set(database="not_there")
    database = Database(elsewhere.render_as_string(hide_password=False))
    with pytest.raises(StorageUnavailable, match="not_there"):
        database.read(lambda connection: connection.exec_driver_sql("SELECT 1"))
    database.close()
