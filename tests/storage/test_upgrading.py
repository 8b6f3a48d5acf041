"""Upgrades: from every older state, broken at every statement and repeated, beside an application's own tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from aiki.errors import ConfigurationError, StorageUnavailable
from aiki.storage import Store, upgrade
from aiki.storage.engine import Database
from aiki.storage.migrations import legacy
from aiki.storage.schema import HEAD, finish, status, upgrade_database
from tests.scale import FULL, scaled
from tests.services import MariaServer
from tests.storage.schemas import boundaries, differences, make_unprefixed, shape, tables, unprefixed
from tests.storage.test_creating import new

FOREIGN = ("users", "sessions", "audit", "runs", "queues", "links")


class Interrupted(Exception):
    """The upgrade's process was killed."""


ON_MYSQL9 = ("test_an_old_installation", "test_an_upgrade_that_dies_after_each")
"""The tests of all that MySQL 9 does differently; with AIKI_TEST_FULL=1 all run on it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On which databases a test runs."""
    if "urls" not in metafunc.fixturenames:
        return
    chosen = FULL or metafunc.function.__name__.startswith(ON_MYSQL9)
    kinds = ["sqlite", "maria", *(["mysql9"] if chosen else [])]
    if "start" not in metafunc.fixturenames:
        metafunc.parametrize("urls", kinds, indirect=True)
        return
    starts = {kind: STARTS if FULL or kind != "mysql9" else (start_old,) for kind in kinds}
    cases = [pytest.param(kind, start, id=f"{kind}-{start.__name__}") for kind in kinds for start in starts[kind]]
    metafunc.parametrize(("urls", "start"), cases, indirect=["urls"])


@pytest.fixture
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and gives its URL."""
    made: list[str] = []
    server: MariaServer | None = None if request.param == "sqlite" else request.getfixturevalue(request.param)

    def make() -> str:
        made.append(server.create_database() if server else f"sqlite:///{tmp_path / f'{len(made)}.db'}")
        return made[-1]

    yield make
    for url in made if server else []:
        server.drop_database(url)  # type: ignore[union-attr]


@pytest.fixture(params=["maria", *(["mysql9"] if FULL else [])])
def server_url(request: pytest.FixtureRequest) -> str:
    """An empty database on a server."""
    return str(request.getfixturevalue("mysql_database" if request.param == "maria" else "mysql9_database"))


@contextmanager
def opened(url: str) -> Iterator[Database]:
    db = Database(url, endless=True)
    yield db
    db.close()


class Fresh:
    """The tables of a new installation, as each kind of database describes them."""

    def __init__(self) -> None:
        self._shapes: dict[str, dict[str, list[str]]] = {}

    def shape_beside(self, db: Database) -> dict[str, list[str]]:
        """The tables of a new installation on the server (or in the directory of the file) that `db` is on."""
        kind = db.url.set(database=None).render_as_string()
        if kind not in self._shapes:
            self._shapes[kind] = self._make(db)
        return self._shapes[kind]

    def _make(self, db: Database) -> dict[str, list[str]]:
        name = f"{db.url.database}_fresh"
        if db.dialect.name != "sqlite":
            with db.engine.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        url = db.url.set(database=name).render_as_string(hide_password=False)
        upgrade(url)
        with opened(url) as made:
            assert differences(made) == []
            found = shape(made)
            if db.dialect.name != "sqlite":
                with made.engine.connect() as connection:
                    connection.exec_driver_sql(f"DROP DATABASE {name}")
        return found


@pytest.fixture(scope="module")
def fresh() -> Fresh:
    return Fresh()


def check(db: Database, fresh: Fresh) -> None:
    """The upgrade is complete: nothing is missing, nothing is left over."""
    assert differences(db) == []
    assert shape(db) == fresh.shape_beside(db)
    assert status(str(db.url.render_as_string(hide_password=False))).version == HEAD


# ------------------------------------------------------------ from older states
def test_an_old_installation_keeps_its_rows_and_its_processes(urls: Callable[[], str], fresh: Fresh) -> None:
    url = urls()
    with opened(url) as db:
        make_unprefixed(db)
        columns = "namespace, id, kind, name, version, queue, state, epoch, partition_no, created_at, updated_at"
        row = "'default', {}, 'task', 'a', '1', 'default', 'queued', 1, 0, 5, 5"
        sql = f"INSERT INTO runs ({columns}) VALUES ({row.format('?')})"
        db.transaction(lambda c: db.execute(c, sql, (b"\x01" * 16,)), repeatable=True)
        upgrade_database(db)
        check(db, fresh)
        count = "SELECT COUNT(*) FROM {}"
        assert db.read(lambda c: db.execute(c, count.format("aiki_runs")).fetchone())[0] == 1
        old = "SELECT version_num FROM aiki_schema"
        if db.dialect.name == "sqlite":
            assert "runs" not in tables(db)
            assert db.read(lambda c: db.execute(c, old).fetchone())[0] == "0009", "older releases say that it is newer"
            return
        # A process of the release before goes on, and may be started again, until people say that none is left.
        assert db.read(lambda c: db.execute(c, old).fetchone())[0] == "0008"
        assert set(status(url).views) == set(legacy.OLD_NAMES)
        db.transaction(lambda c: db.execute(c, sql, (b"\x02" * 16,)))
        assert db.read(lambda c: db.execute(c, count.format("aiki_runs")).fetchone())[0] == 2
        upgrade_database(db)
        assert sorted(finish(url)) == sorted(legacy.OLD_NAMES)
        assert finish(url) == []
        assert db.read(lambda c: db.execute(c, old).fetchone())[0] == "0009"
        check(db, fresh)


def test_every_older_state_is_upgraded(urls: Callable[[], str], fresh: Fresh) -> None:
    with opened(urls()) as db:
        dialect = db.dialect.name
    # SQLite's migrations are one transaction: none of its databases stands in the middle of one.
    ends, middles = boundaries(dialect)
    if dialect == "mysql":
        ends = scaled([middles[0], middles[3], middles[4], ends[6]], [*range(1, ends[-1] + 1)])
    for count in ends:
        with opened(urls()) as db:
            make_unprefixed(db, count)
            upgrade_database(db)
            check(db, fresh)


# ------------------------------------------------------------ broken and repeated
@contextmanager
def broken(db: Database, at: int, *, before: bool) -> Iterator[list[str]]:
    """The upgrade's process dies before the `at`-th statement that changes something, or when it is done but not answered."""
    sent: list[str] = []

    def changes(sql: str) -> bool:
        # Rows are committed with the statement that comes next: to die behind their change is to die before it.
        return sql.lstrip().split(None, 1)[0].upper() in ("CREATE", "ALTER", "DROP", "RENAME")

    def die(_connection: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if changes(sql):
            if not before or len(sent) == at:
                sent.append(sql)
            if len(sent) > at:
                raise Interrupted(sql)
            if before:
                sent.append(sql)

    event.listen(db.engine, "before_cursor_execute" if before else "after_cursor_execute", die)
    yield sent
    event.remove(db.engine, "before_cursor_execute" if before else "after_cursor_execute", die)


def start_empty(_db: Database) -> None:
    pass


def start_old(db: Database) -> None:
    make_unprefixed(db)


def start_older(db: Database) -> None:
    make_unprefixed(db, 40)


def _is_maria(db: Database) -> bool:
    with db.engine.connect() as connection:
        return bool(getattr(connection.dialect, "is_mariadb", False))


STARTS = (start_empty, start_old, start_older)


def test_an_upgrade_that_dies_after_each_statement_in_turn_is_repeated_until_it_is_done(
    urls: Callable[[], str], fresh: Fresh, start: Callable[[Database], None]
) -> None:
    """Every attempt gets one statement further than the one before, and dies; on MySQL 9, in CI, it gets 25 further."""
    url = urls()
    with opened(url) as db:
        start(db)
        sqlite = db.dialect.name == "sqlite"
        further = 0 if FULL or sqlite or _is_maria(db) else 24
    step = scaled(7, 1) if sqlite else 1
    for attempt in range(0, 500, step):
        with opened(url) as db, broken(db, attempt if sqlite else further, before=False):
            try:
                upgrade_database(db)
            except Interrupted:
                continue
        break
    assert (3 if further else 30) <= attempt < 500 - step
    with opened(url) as db:
        check(db, fresh)


@pytest.mark.parametrize("before", [True, False])
def test_an_upgrade_that_dies_once_at_any_statement_is_repeated(urls: Callable[[], str], fresh: Fresh, before: bool) -> None:
    for at in range(0, 1000, scaled(29, 1)):
        url = urls()
        died = False
        with opened(url) as db:
            make_unprefixed(db)
            with broken(db, at, before=before):
                try:
                    upgrade_database(db)
                except Interrupted:
                    died = True
        with opened(url) as db:
            upgrade_database(db)
            check(db, fresh)
        if not died:
            return


# ------------------------------------------------------------ in an application's database
def test_an_application_s_tables_are_left_alone(urls: Callable[[], str], fresh: Fresh) -> None:
    url = urls()
    with opened(url) as db:
        with db.engine.connect() as connection:
            for name in FOREIGN:
                connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, name VARCHAR(50))")
                connection.exec_driver_sql(f"INSERT INTO {name} VALUES (1, 'theirs')")
                connection.exec_driver_sql(f"CREATE INDEX ix_{name}_name ON {name} (name)")
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('ae1027a6acf')")
            connection.commit()
        upgrade_database(db)
        check(db, fresh)
    store = Store(url)
    store.check_schema()
    assert store.create_runs([new()]).accepted[0].created
    for name in FOREIGN:
        rows = store.db.read(lambda c, name=name: store.db.execute(c, f"SELECT * FROM {name}").fetchall())
        assert [tuple(row) for row in rows] == [(1, "theirs")]
    store.close()


def test_an_upgrade_that_broke_off_at_an_application_s_table_goes_on(urls: Callable[[], str], fresh: Fresh) -> None:
    """Before the prefix, `users` of the application ended the upgrade; on MySQL half of the tables were made by then."""
    with opened(urls()) as db:
        dialect = db.dialect.name
        numbers = [number for number, _ in unprefixed(dialect)]
        stop = next(at for at, (_, sql) in enumerate(unprefixed(dialect)) if sql.startswith("CREATE TABLE users"))
        with db.engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(50))")
            connection.commit()
        make_unprefixed(db, numbers.index("0004") if db.dialect.name == "sqlite" else stop)
        upgrade_database(db)
        check(db, fresh)
        assert "users" in tables(db)


# ------------------------------------------------------------ two at once, and locks
def test_two_upgrades_at_once(urls: Callable[[], str], fresh: Fresh) -> None:
    url = urls()
    with opened(url) as db:
        make_unprefixed(db)
    failed: list[Exception] = []

    def work() -> None:
        try:
            with opened(url) as db:
                upgrade_database(db)
        except StorageUnavailable as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with opened(url) as db:
        check(db, fresh)


def test_an_upgrade_waits_for_another_process_and_says_so(
    server_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from aiki.storage import schema

    monkeypatch.setattr(schema, "_LOCK_STEP", 0)
    monkeypatch.setattr(schema, "LOCK_PATIENCE", -1.0)
    with opened(server_url) as db, opened(server_url) as other, other.engine.connect() as holder:
        name = schema._lock_names(other, holder)[0]
        assert holder.exec_driver_sql("SELECT GET_LOCK(%s, 0)", (name,)).scalar() == 1
        number = holder.exec_driver_sql("SELECT CONNECTION_ID()").scalar()
        with pytest.raises(StorageUnavailable, match=f"connection {number} of the database server"):
            upgrade_database(db)
        monkeypatch.setattr(schema, "LOCK_PATIENCE", 60.0)
        thread = threading.Thread(target=upgrade_database, args=(db,))
        with caplog.at_level("WARNING"):
            thread.start()
            while "waiting for it" not in caplog.text:
                assert thread.is_alive()
            holder.exec_driver_sql("SELECT RELEASE_LOCK(%s)", (name,))
            thread.join()
        assert differences(db) == []


def test_an_upgrade_of_another_database_on_the_server_is_not_waited_for(maria: MariaServer) -> None:
    from aiki.storage import schema

    one, two = maria.create_database(), maria.create_database()
    with opened(one) as first, opened(two) as second, first.engine.connect() as a, second.engine.connect() as b:
        assert not set(schema._lock_names(first, a)) & set(schema._lock_names(second, b))


def test_a_transaction_that_uses_a_table_is_waited_for(
    server_url: str, fresh: Fresh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is waited for beyond any time-out of the client's, and others are not held up behind the wait."""
    from aiki.storage.engine import mysql
    from aiki.storage.migrations import guards

    monkeypatch.setattr(guards, "LOCK_PAUSE", 0.0)
    monkeypatch.setattr(mysql, "LOCK_WAIT", 1)
    with opened(server_url) as db:
        make_unprefixed(db)
        with opened(server_url) as other, other.engine.connect() as user, caplog.at_level("WARNING"):
            user.exec_driver_sql("SELECT * FROM runs").fetchall()
            thread = threading.Thread(target=upgrade_database, args=(db,))
            thread.start()
            while "waits for a table" not in caplog.text:
                assert thread.is_alive()
            user.rollback()
            thread.join()
        check(db, fresh)


def test_a_failed_statement_says_what_to_do(server_url: str) -> None:
    with opened(server_url) as db:
        make_unprefixed(db)
        with db.engine.connect() as connection:
            connection.exec_driver_sql("CREATE VIEW aiki_runs AS SELECT 1")
            connection.commit()
        with pytest.raises(StorageUnavailable, match=r"stopped: .*aiki_runs.* repeat: aiki db upgrade"):
            upgrade_database(db)


def test_a_process_that_starts_before_the_upgrade_says_what_to_run(urls: Callable[[], str]) -> None:
    url = urls()
    with opened(url) as db:
        make_unprefixed(db)
        sqlite = db.dialect.name == "sqlite"
    store = Store(url)
    if sqlite:
        store.check_schema()  # the embedded default upgrades its file by itself
        assert store.create_runs([new()]).accepted[0].created
    else:
        with pytest.raises(ConfigurationError, match=r"has schema 0008, and .* is needed; run: aiki db upgrade"):
            store.check_schema()
        with pytest.raises(ConfigurationError, match="run first: aiki db upgrade"):
            finish(url)
    store.close()


def test_the_newest_migration_is_the_head() -> None:
    from alembic.script import ScriptDirectory

    from aiki.storage.schema import _config

    assert ScriptDirectory.from_config(_config()).get_current_head() == HEAD


def test_migrations_call_nothing_but_guards() -> None:
    from aiki.storage import schema

    versions = Path(schema.__file__).parent / "migrations" / "versions"
    for file in versions.glob("*.py"):
        text = file.read_text()
        assert "import op" not in text, f"{file.name} must call aiki.storage.migrations.guards"
        assert "get_bind" not in text, file.name
