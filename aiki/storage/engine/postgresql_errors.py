"""What PostgreSQL's error codes (SQLSTATE) mean.

Only what is named here is an outage, which is waited for. Everything else is the fault of what was to be written or read, and
is raised as it came: whoever waited for that to pass would wait for ever.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError

from aiki.storage.engine.dialect import Meaning

DUPLICATE: Final = "23505"
SERIALIZATION: Final = "40001"
"""A transaction of REPEATABLE READ or SERIALIZABLE met what is newer than its snapshot."""

_REPEATED: Final = frozenset({SERIALIZATION, "40P01", "55P03"})
"""Serialization failure, deadlock, lock time-out."""
_READ_ONLY: Final = frozenset({"25006"})
"""The server is a standby, or its transactions are read-only."""
_TOO_LARGE: Final = frozenset({"22001", "54000"})
"""Over a column's length; over a limit of the program, as entries of an index are."""
_OUTAGES: Final = (
    "08",  # the connection
    "28",  # may not enter
    "3D",  # no such database
    "53",  # no connections, memory, room on the disk
    "57P",  # shutting down, crashed, starting, dropped, idle for too long
    "58",  # files cannot be read or written
    "25P03",  # idle in a transaction for too long
    "42501",  # may not use a table
    "42P01",  # a table that is not there, and
    "42703",  # a column: the tables are another release's
    "XX001",  # a table or an index is broken
    "XX002",
)
"""What the codes of outages begin with."""


def error_code(error: BaseException) -> str | None:
    """The server's code, if there is one."""
    code = getattr(getattr(error, "orig", None), "sqlstate", None)
    return code if isinstance(code, str) else None


def meaning_of(error: DBAPIError) -> Meaning:
    """What an error means."""
    code = error_code(error)
    if code in _REPEATED:
        return Meaning.REPEAT
    if code in _READ_ONLY:
        return Meaning.READ_ONLY
    if code in _TOO_LARGE:
        return Meaning.TOO_LARGE
    if error.connection_invalidated:
        return Meaning.OUTAGE
    if code is None:  # the driver's own: nobody answered, or the connection broke
        return Meaning.OUTAGE if isinstance(error, OperationalError) else Meaning.FAULT
    return Meaning.OUTAGE if code.startswith(_OUTAGES) else Meaning.FAULT
