"""What is PostgreSQL's own: how a database begins, limits without a session's state, errors, callers' transactions."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiki.errors import ConfigurationError, ReferenceConflict, StorageUnavailable
from aiki.model import NewRun
from aiki.storage import RowTooLarge, Store, schema, upgrade
from aiki.storage.engine import Database
from aiki.storage.engine.dialect import Meaning, dialect_of
from aiki.storage.engine.postgresql import PostgreSQL
from aiki.tls import database_options
from tests.postgres import PostgresServer
from tests.storage.schemas import differences
from tests.storage.test_creating import new
from tests.waiting import wait_until

MEANINGS = {
    Meaning.REPEAT: ("40001", "40P01", "55P03"),
    Meaning.READ_ONLY: ("25006",),
    Meaning.TOO_LARGE: ("22001", "54000"),
    Meaning.OUTAGE: (
        "08006",
        "28P01",
        "3D000",
        "53100",
        "53300",
        "57P01",
        "57P03",
        "58030",
        "42P01",
        "42703",
        "42501",
        "XX001",
    ),
    Meaning.FAULT: ("22003", "22P02", "23502", "42601", "42883", "57014", "21000", "0A000", "P0001", "25P02"),
}


def error_of(code: str) -> DBAPIError:
    """What SQLAlchemy makes of a server's answer, through the driver."""
    made = DBAPIError.instance("SELECT 1", None, psycopg.errors.lookup(code)("words"), psycopg.Error)
    assert isinstance(made, DBAPIError)
    return made


@pytest.mark.parametrize(("meaning", "code"), [(meaning, code) for meaning, codes in MEANINGS.items() for code in codes])
def test_what_a_code_means(meaning: Meaning, code: str) -> None:
    assert PostgreSQL().meaning(error_of(code)) is meaning


def test_errors_of_the_driver_alone() -> None:
    away = DBAPIError.instance("SELECT 1", None, psycopg.OperationalError("no route to the host"), psycopg.Error)
    odd = DBAPIError.instance("SELECT 1", None, psycopg.DataError("cannot be sent"), psycopg.Error)
    assert isinstance(away, DBAPIError)
    assert isinstance(odd, DBAPIError)
    assert PostgreSQL().meaning(away) is Meaning.OUTAGE
    assert PostgreSQL().meaning(odd) is Meaning.FAULT


def test_without_the_driver_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aiki.storage.engine.postgresql", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'aiki\[postgresql\]'"):
        dialect_of(sa.make_url("postgresql://u@h/d"))


def test_settings_of_tls_are_those_of_its_library() -> None:
    url = "postgresql://u@h/d"
    assert database_options(url, "", "", "", "yes") == url
    given = database_options(url, "/ca", "/c", "/k", "yes")
    assert given == f"{url}?sslmode=verify-full&sslrootcert=%2Fca&sslcert=%2Fc&sslkey=%2Fk"
    assert database_options(url, "system", "", "", "yes").endswith("?sslmode=verify-full&sslrootcert=system")
    assert database_options(url, "", "", "", "no").endswith("?sslmode=require")


# ---------------------------------------------------------------- the schema
def test_several_that_make_the_tables_at_once_make_them_once(postgres_database: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(upgrade, [postgres_database] * 3))
    upgrade(postgres_database)
    assert schema.status(postgres_database).current
    with closing(Database(postgres_database)) as db:
        assert differences(db) == []
    assert schema.finish(postgres_database) == []


def test_an_upgrade_waits_for_another_process_and_says_for_which(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(schema, "_LOCK_STEP", 0)
    monkeypatch.setattr(schema, "LOCK_PATIENCE", -1.0)
    with closing(Database(postgres_database)) as db, closing(Database(postgres_database)) as other:
        with other.engine.begin() as holder:
            other.dialect.begin_writing(holder)
            assert other.dialect.take_lock(holder, other.dialect.lock_name(holder), 0) is None
            number = holder.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            with pytest.raises(StorageUnavailable, match=rf"connection {number} of .*pg_terminate_backend\({number}\)"):
                schema.upgrade_database(db)
            monkeypatch.setattr(schema, "LOCK_PATIENCE", 60.0)
            thread = threading.Thread(target=schema.upgrade_database, args=(db,))
            with caplog.at_level("WARNING"):
                thread.start()
                wait_until(lambda: "waiting for it" in caplog.text, 30, "the upgrade to wait")
        thread.join(60)
        assert differences(db) == []


def test_a_database_of_another_encoding_is_refused(postgres: PostgresServer) -> None:
    name = "aiki_odd_encoding"
    postgres.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    url = sa.make_url(postgres.url).set(database=name).render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match=r"SQL_ASCII.*UTF8"):
        upgrade(url)
    postgres.drop_database(url)


# ---------------------------------------------------------------- limits and locks
@pytest.fixture
def store(postgres_tables: str) -> Iterator[Store]:
    made = Store(postgres_tables)
    yield made
    made.close()


def shown(connection: sa.Connection, name: str) -> str:
    return str(connection.exec_driver_sql(f"SHOW {name}").scalar())


def test_limits_are_the_transactions_own_and_leave_nothing_in_the_session(store: Store) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_isolation")
    limited = store.db.transaction(lambda connection: [shown(connection, name) for name in names], repeatable=True)
    assert limited == ["4s", "6s", "1min", "read committed"]
    with store.db.engine.connect() as connection:
        assert [shown(connection, name) for name in names[:3]] == ["0", "0", "0"]


def test_the_server_ends_what_takes_too_long_and_the_rest_goes_on(store: Store) -> None:
    slow = "SELECT pg_sleep(?)"

    def work(connection: sa.Connection) -> tuple[list[Any], str]:
        return store.db.look(connection, "SELECT ?::int", [7], 30.0), shown(connection, "statement_timeout")

    assert store.db.transaction(work, repeatable=True) == ([(7,)], "6s")
    assert store.db.read(work) == ([(7,)], "0")
    with pytest.raises(DBAPIError, match="statement timeout"):
        store.db.read(lambda connection: store.db.look(connection, slow, [30], 0.2))
    assert store.db.read(work)[0] == [(7,)]


def test_a_server_that_says_nothing_is_given_up(postgres_tables: str) -> None:
    with closing(Database(postgres_tables, timeout=2.0)) as db:
        db.now()
        begun = time.monotonic()
        with pytest.raises(StorageUnavailable, match="said nothing for 2 s"):
            db.read(lambda connection: connection.exec_driver_sql("SELECT pg_sleep(60)").close())
        assert time.monotonic() - begun < 40
        assert db.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1


def test_a_deadlock_is_repeated_whole(store: Store) -> None:
    both = threading.Barrier(2)
    tries: list[int] = []

    def add(first: int, second: int) -> None:
        def work(connection: sa.Connection) -> None:
            tries.append(first)
            for at, number in enumerate((first, second)):
                sql = "UPDATE aiki_chores SET until_at = until_at + 1 WHERE namespace = '' AND name = ?"
                store.db.execute(connection, sql, (str(number),))
                if at == 0 and len(tries) <= 2:
                    both.wait(30)

        store.db.transaction(work, deadline=time.monotonic() + 60)

    rows = [("", name, "nobody", 0) for name in ("1", "2")]
    columns = ("namespace", "name", "holder", "until_at")
    store.db.transaction(lambda connection: store.db.insert(connection, "aiki_chores", columns, rows))
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(add, 1, 2), pool.submit(add, 2, 1)]:
            done.result(60)
    found = store.db.read(lambda connection: store.db.execute(connection, "SELECT until_at FROM aiki_chores").fetchall())
    assert [row[0] for row in found] == [2, 2]
    assert len(tries) > 2


def test_a_value_that_is_too_long_is_refused_and_is_no_outage(store: Store) -> None:
    row = ("", "x" * 65, "nobody", 0)
    columns = ("namespace", "name", "holder", "until_at")
    with pytest.raises(RowTooLarge):
        store.db.transaction(lambda connection: store.db.insert(connection, "aiki_chores", columns, [row]))


# ---------------------------------------------------------------- callers' transactions
def named(reference: str, *args: object, **more: object) -> NewRun:
    return replace(new("shop.charge", *args), reference_id=reference, **more)  # type: ignore[arg-type]


def test_a_callers_transaction_goes_on_after_what_is_there_already(store: Store) -> None:
    there = store.create_runs([named("r-1", 1)]).accepted[0]
    plain = store.create_runs([new()]).accepted[0]
    engine = sa.create_engine(store.db.url)
    with engine.begin() as connection:
        assert store.create_runs([named("r-1", 1)], connection=connection).accepted[0].id == there.id
        with pytest.raises(ReferenceConflict):
            store.create_runs([named("r-1", 2)], connection=connection)
        again = store.create_runs([replace(new(), id=plain.id), new()], connection=connection).accepted
        assert [item.created for item in again] == [False, True]
    engine.dispose()
    assert store.get_run(again[1].id).id == again[1].id


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_that_is_older_is_told(store: Store, level: str) -> None:
    engine = sa.create_engine(store.db.url, isolation_level=level)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM aiki_runs LIMIT 1").fetchall()
        made = store.create_runs([new()]).accepted[0]
        store.create_runs([named("r-2", 1)])
        with pytest.raises(StorageUnavailable, match="READ COMMITTED"):
            store.create_runs([named("r-2", 1)], connection=connection)
        connection.rollback()
        connection.exec_driver_sql("SELECT * FROM aiki_runs LIMIT 1").fetchall()
        late = store.create_runs([new()]).accepted[0]
        with pytest.raises(StorageUnavailable, match="READ COMMITTED"):
            store.create_runs([replace(new(), id=late.id)], connection=connection)
        connection.rollback()
        assert store.create_runs([replace(new(), id=made.id)], connection=connection).accepted[0].created is False
        connection.rollback()
    engine.dispose()
