"""What a database's tables are, to compare with the tables of the code, and the tables of releases before the prefix."""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from aiki.storage.engine import Database
from aiki.storage.migrations import legacy
from aiki.storage.tables import metadata

_VERSIONS = (legacy.VERSION_TABLE, legacy.OLD_VERSION_TABLE)


def differences(db: Database) -> list[Any]:
    """Where the tables with Aiki's prefix differ from those of the code: tables, columns, types, indexes."""
    with db.engine.connect() as connection:
        options = {"include_name": _is_ours, "compare_type": db.dialect.name != "sqlite"}
        found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
        for table in sa.inspect(connection).get_table_names():
            if table in metadata.tables:
                key = sa.inspect(connection).get_pk_constraint(table)["constrained_columns"]
                if key != [column.name for column in metadata.tables[table].primary_key.columns]:
                    found.append(("primary key", table, key))
        return found


def shape(db: Database) -> dict[str, list[str]]:
    """Each of Aiki's tables as the database itself describes it, defaults and collations included."""
    out: dict[str, list[str]] = {}
    with db.engine.connect() as connection:
        for table in sorted(sa.inspect(connection).get_table_names()):
            if not _is_ours(table, "table", None):
                continue
            if db.dialect.name == "sqlite":
                columns = connection.exec_driver_sql(f"PRAGMA table_xinfo({table})").fetchall()
                indexes = sa.inspect(connection).get_indexes(table)
                out[table] = [*map(str, columns), *sorted(f"{item['name']} {item['column_names']}" for item in indexes)]
            else:
                text = str(connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").fetchone()[1])  # type: ignore[index]
                # New tables name the row format that older ones have by default.
                lines = [line.strip().rstrip(",") for line in text.replace(" ROW_FORMAT=DYNAMIC", "").split("\n")]
                out[table] = [
                    *(line for line in lines if not line.startswith("KEY")),
                    *sorted(line for line in lines if line.startswith("KEY")),
                ]
    return out


def tables(db: Database) -> set[str]:
    """The names of all tables, without views."""
    with db.engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names())


def _is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    return kind != "table" or (str(name).startswith(legacy.PREFIX) and name not in _VERSIONS)


# ------------------------------------------------------------ before the prefix
@cache
def unprefixed(dialect: str) -> list[tuple[str, str]]:
    """Migration and statement, in their order, as the last release without the prefix sent them."""
    text = (Path(__file__).parent / "unprefixed" / f"{dialect}.sql").read_text()
    out = []
    for part in re.split(r"^-- (?=\d{4}$)", text, flags=re.M)[1:]:
        number, body = part.split("\n", 1)
        out += [(number, statement.strip()) for statement in body.split(";\n") if statement.strip()]
    return out


def make_unprefixed(db: Database, count: int | None = None) -> str | None:
    """Do the first `count` statements of the old migrations (default: all), as one that was interrupted did; its version."""
    statements = unprefixed(db.dialect.name)
    done = statements[:count]
    following = statements[len(done)][0] if len(done) < len(statements) else None
    with db.engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {legacy.OLD_VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
        for _, statement in done:
            connection.exec_driver_sql(statement)
        whole = [number for number, _ in done if number != following]
        if whole:
            connection.exec_driver_sql(f"INSERT INTO {legacy.OLD_VERSION_TABLE} VALUES ('{whole[-1]}')")
        connection.commit()
    return whole[-1] if whole else None


def boundaries(dialect: str) -> tuple[list[int], list[int]]:
    """How many statements there are up to the end of each migration, and up to its middle."""
    ends, middles, total = [], [], 0
    for _, statements in groupby(unprefixed(dialect), key=lambda item: item[0]):
        count = len(list(statements))
        middles.append(total + count // 2)
        total += count
        ends.append(total)
    return ends, middles
