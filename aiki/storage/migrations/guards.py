"""Steps of migrations that can be repeated: each looks at what is there and does what is missing.

MySQL commits every statement that changes a table, so a migration that is interrupted stays half done, and is begun again from
its first step by the next `aiki db upgrade`. **Migrations call these functions and nothing of `op`**; what they do to rows goes
through `change`, with a statement that does no harm when it runs again. Tables have their full names (`aiki_runs`). A column
that is added must be nullable or have a server default: processes of the last release go on inserting while the tables change.

    from aiki.storage.migrations import guards

    def upgrade() -> None:
        guards.create_table("aiki_things", sa.Column(…), sa.PrimaryKeyConstraint(…))
        guards.add_column("aiki_runs", sa.Column("weight", sa.Integer, nullable=False, server_default="0"))
        guards.create_index("ix_aiki_runs_weight", "aiki_runs", ["namespace", "weight"])
        guards.change("UPDATE aiki_runs SET weight = 1 WHERE weight = 0 AND queue = ?", "heavy")

Until migration 0009 an older installation's tables have no prefix. A migration before it names `aiki_runs` as well, and the
functions find the table under the name that it has. `tests/storage/test_upgrading.py` breaks every migration at each of its
statements.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, OperationalError

from aiki.storage.migrations import legacy

T = TypeVar("T")

log = logging.getLogger("aiki.storage.schema")

LOCK_TRIES: Final = 60
"""How often a step asks for a table's lock. Each time it waits for `lock_wait_timeout` (10 s), and others wait behind it."""
LOCK_PAUSE: Final = 1.0
"""Seconds between two tries, in which those that waited behind it go on."""
_LOCK_WAIT_TIMEOUT: Final = 1205
_DEADLOCK: Final = 1213

LONGBLOB: Final[sa.types.TypeEngine[bytes]] = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
LONGTEXT: Final[sa.types.TypeEngine[str]] = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
OPTIONS: Final[dict[str, Any]] = {
    "mysql_engine": "InnoDB",
    "mysql_row_format": "DYNAMIC",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_row_format": "DYNAMIC",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "sqlite_with_rowid": False,
}


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    """Text that programs compare: bytes, not words."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    """So many bytes."""
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


# ------------------------------------------------------------ steps
def create_table(table: str, *items: sa.schema.SchemaItem, **options: Any) -> None:
    """Create a table unless it is there. `options` beside those that all tables have."""
    if not exists(table):
        patiently(lambda: op.create_table(name_of(table), *items, **{**OPTIONS, **options}))


def drop_table(table: str) -> None:
    """Drop a table if it is there."""
    if exists(table):
        patiently(lambda: op.drop_table(name_of(table)))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column unless it is there."""
    if column.name not in columns(table):
        patiently(lambda: op.add_column(name_of(table), column))


def drop_column(table: str, column: str) -> None:
    """Drop a column if it is there."""
    if column in columns(table):
        patiently(lambda: op.drop_column(name_of(table), column))


def create_index(index: str, table: str, over: Sequence[str], *, unique: bool = False) -> None:
    """Create an index unless it is there; one of that name over other columns is replaced, on MySQL in one statement."""
    name, index = name_of(table), _index_of(index, table)
    there = indexes(table).get(index)
    if there == list(over):
        return
    if there is None:
        patiently(lambda: op.create_index(index, name, list(over), unique=unique))
    elif is_sqlite():
        op.drop_index(index, name)
        op.create_index(index, name, list(over), unique=unique)
    else:
        kind = "UNIQUE INDEX" if unique else "INDEX"
        execute(f"ALTER TABLE `{name}` DROP INDEX `{index}`, ADD {kind} `{index}` ({', '.join(f'`{at}`' for at in over)})")


def drop_index(index: str, table: str) -> None:
    """Drop an index if it is there."""
    index = _index_of(index, table)
    if index in indexes(table):
        patiently(lambda: op.drop_index(index, name_of(table)))


def change(sql: str, *parameters: Any) -> int:
    """Change rows, with `?` for parameters, and commit; how many. On MySQL it is repeated after a deadlock."""

    def work() -> int:
        count = execute(sql, *parameters).rowcount
        if not is_sqlite():
            op.get_bind().commit()
        return count

    return patiently(work)


def execute(sql: str, *parameters: Any) -> sa.CursorResult[Any]:
    """Run a statement, with `?` for parameters; it waits for locks as all steps do."""
    text = sql if is_sqlite() else sql.replace("?", "%s")
    return patiently(lambda: op.get_bind().exec_driver_sql(text, parameters))


# ------------------------------------------------------------ what is there
def is_sqlite() -> bool:
    """Whether this is SQLite, where all migrations are one transaction."""
    return op.get_bind().dialect.name == "sqlite"


def exists(table: str) -> bool:
    """Whether a table is there, under the name that it has at present."""
    return name_of(table) in tables()


def tables() -> set[str]:
    """The names of all tables (not views) of the database, whoever made them."""
    return set(sa.inspect(op.get_bind()).get_table_names())


def views() -> set[str]:
    """The names of all views of the database."""
    return set(sa.inspect(op.get_bind()).get_view_names())


def columns(table: str) -> set[str]:
    """The names of a table's columns."""
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(name_of(table))}


def indexes(table: str) -> dict[str, list[str]]:
    """The indexes of a table, but for its primary key, and the columns that each is over."""
    found = sa.inspect(op.get_bind()).get_indexes(name_of(table))
    return {str(index["name"]): [str(column) for column in index["column_names"]] for index in found}


def name_of(table: str) -> str:
    """The name that one of Aiki's tables has at present: without the prefix in an installation from before it."""
    old = legacy.old_name(table)
    if old is None:
        return table
    there = tables()
    if table in there or old not in there or legacy.OLD_VERSION_TABLE not in there:
        return table
    found = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(old)}
    return old if legacy.is_ours(old, found) else table


def _index_of(index: str, table: str) -> str:
    return index if name_of(table) == table else index.replace("ix_aiki_", "ix_", 1)


# ------------------------------------------------------------ locks
def patiently(step: Callable[[], T]) -> T:
    """Do a step, which needs the table for itself for a moment, again and again until no transaction of others is in the way.

    :raises OperationalError: somebody has held the lock all the time; the log has said who.
    """
    for tries in range(1, LOCK_TRIES + 1):
        try:
            return step()
        except OperationalError as error:
            code = getattr(error.orig, "args", (0,))[0]
            if is_sqlite() or code not in (_LOCK_WAIT_TIMEOUT, _DEADLOCK) or tries == LOCK_TRIES:
                raise
            log.warning("the upgrade waits for a table that a transaction uses%s; it goes on by itself", _oldest_transaction())
            time.sleep(LOCK_PAUSE)
    raise AssertionError("unreachable")


def _oldest_transaction() -> str:
    """Whose transaction is the oldest, in words; nothing if this account may not see it."""
    sql = (
        "SELECT t.trx_mysql_thread_id, p.user, p.host, TIMESTAMPDIFF(SECOND, t.trx_started, NOW()) "
        "FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id "
        "WHERE p.id <> CONNECTION_ID() ORDER BY t.trx_started LIMIT 1"
    )
    try:
        row = op.get_bind().exec_driver_sql(sql).fetchone()
    except DBAPIError:
        return ""
    return f" (the oldest is of connection {row[0]}, {row[1]}@{row[2]}, open for {row[3]} s)" if row else ""
