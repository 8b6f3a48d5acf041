"""Whether the database works at all: asked before one message or run is taken for the cause of an error."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiki.errors import StorageUnavailable
from aiki.storage import tables
from aiki.storage.engine import Database

_EXAMINED = tuple(
    f"SELECT {', '.join(column.name for column in table.columns)} FROM {table.name} WHERE 1 = 0"
    for table in tables.metadata.sorted_tables
)


class Probing:
    """Asking the database whether it works."""

    db: Database

    def probe(self) -> None:
        """See that every table is there with all its columns, and that runs can be written; changes nothing.

        :raises StorageUnavailable: it is away, or in a state in which nothing can be done for anybody.
        """

        def work(connection: sa.Connection) -> None:
            for sql in _EXAMINED:
                connection.exec_driver_sql(sql).fetchall()
            key = ("", b"\0" * 16)
            self.db.execute(
                connection, f"UPDATE {tables.runs.name} SET updated_at = updated_at WHERE namespace = ? AND id = ?", key
            )

        try:
            self.db.transaction(work)
        except DBAPIError as error:
            reason = str(error.orig or error).split("\n")[0][:300]
            raise StorageUnavailable(
                f"the database is not as this Aiki needs it: {reason}; see `aiki doctor`, and `aiki db status`"
            ) from error
