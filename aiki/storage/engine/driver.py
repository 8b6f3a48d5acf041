"""A cursor of the driver's own, for what SQLAlchemy does not do: several statements at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError


@contextmanager
def driver_cursor(connection: sa.Connection, sql: str) -> Iterator[Any]:
    """A cursor of the driver's; its errors are raised as SQLAlchemy raises those of its own, and undo the transaction.

    :param sql: what the error names as its statement.
    """
    dialect = connection.dialect
    error_type: type[Exception] = dialect.loaded_dbapi.Error
    raw = connection.connection
    cursor = raw.cursor()
    try:
        yield cursor
    except error_type as error:
        gone = dialect.is_disconnect(error, raw.dbapi_connection, cursor)  # type: ignore[arg-type]
        if gone:
            connection.invalidate(error)
        else:
            raw.rollback()
        raise DBAPIError.instance(
            sql, None, error, error_type, connection_invalidated=gone, dialect=dialect, hide_parameters=True
        ) from error
    finally:
        cursor.close()
