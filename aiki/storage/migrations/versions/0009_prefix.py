"""The prefix: tables of an older installation are renamed to `aiki_…`.

On MySQL processes of the last release may go on meanwhile: a view of the old name stands for each table. Table and view change
places in one statement, so no process ever misses the table. `aiki db upgrade --finish` drops the views.
"""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards, legacy

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for old in legacy.OLD_NAMES:
        table = f"{legacy.PREFIX}{old}"
        if _unprefixed(old):
            if guards.is_sqlite():
                guards.execute(f"ALTER TABLE {old} RENAME TO {table}")
            else:
                _change_places(old, table)
        guards.drop_table(_placeholder(old))
        _rename_indexes(old, table)
    _close_old_door()


def _unprefixed(old: str) -> bool:
    """Whether a table of ours still has its old name. That it has the new one as well says nothing: it may be a placeholder."""
    there = guards.tables()
    return legacy.OLD_VERSION_TABLE in there and old in there and legacy.is_ours(old, guards.columns(old))


def _placeholder(old: str) -> str:
    return f"aiki_placeholder_{old}"


def _change_places(old: str, table: str) -> None:
    """Rename a table and leave a view in its place. A view can be made only of a table that is there: hence the placeholder."""
    guards.drop_table(_placeholder(old))
    if table not in guards.tables():
        guards.execute(f"CREATE TABLE `{table}` LIKE `{old}`")
    elif guards.execute(f"SELECT 1 FROM `{table}` LIMIT 1").fetchone():
        raise RuntimeError(
            f"there are rows in both {old} and {table}; see which of them are wanted, and rename the other table"
        )
    view = f"aiki_view_{old}"
    if view not in guards.views():
        guards.execute(f"CREATE ALGORITHM = MERGE SQL SECURITY INVOKER VIEW `{view}` AS SELECT * FROM `{table}`")
    guards.execute(f"RENAME TABLE `{table}` TO `{_placeholder(old)}`, `{old}` TO `{table}`, `{view}` TO `{old}`")


def _rename_indexes(old: str, table: str) -> None:
    there = guards.indexes(table)
    for index, over in there.items():
        if not index.startswith(f"ix_{old}"):
            continue
        name = index.replace("ix_", "ix_aiki_", 1)
        if guards.is_sqlite():
            guards.execute(f"DROP INDEX {index}")
            guards.create_index(name, table, over)
        else:
            guards.execute(f"ALTER TABLE `{table}` RENAME INDEX `{index}` TO `{name}`")


def _close_old_door() -> None:
    """Tell releases from before the prefix that this database is not theirs, unless the views let them go on."""
    guards.create_table(legacy.OLD_VERSION_TABLE, sa.Column("version_num", sa.String(32), nullable=False, primary_key=True))
    row = guards.execute(f"SELECT version_num FROM {legacy.OLD_VERSION_TABLE}").fetchone()
    if row is None:
        guards.change(f"INSERT INTO {legacy.OLD_VERSION_TABLE} (version_num) VALUES (?)", revision)
    elif guards.is_sqlite() or row[0] != legacy.LAST_UNPREFIXED:
        guards.change(f"UPDATE {legacy.OLD_VERSION_TABLE} SET version_num = ?", revision)
