"""What an error of the database means: an outage, a transaction to be repeated, or something wrong with the statement itself.

PyMySQL and sqlite3 raise `OperationalError` for whatever they know no better name for: a server that is gone, and also a number
that is out of range (1690), collations that do not mix (1267) or JSON that is none (3140). Only what is named here is an
outage, which is waited for. Everything else is the fault of what was to be written or read, and is raised as it came: whoever
waited for that to pass would wait for ever.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

CHANGED_SINCE_READ: Final = 1020

REPEATED: Final = frozenset({1213, 1205, CHANGED_SINCE_READ, 1412, 3101})
"""Deadlock, lock wait time-out, record changed since read (MariaDB snapshot), table altered meanwhile, rolled back by group
replication (MySQL)."""

READ_ONLY: Final = frozenset({1290, 1792, 1836, 1874, 3100, 1047})
"""Started with --read-only, in a read-only transaction, read-only mode, InnoDB is read-only, refused by group replication, by
Galera."""

TOO_LARGE: Final = frozenset({1153, 1406, 1301, 1118, 1713})
"""Over max_allowed_packet, over a column's length, over a function's limit, over a row's length, over an undo record's."""

_OUTAGES: Final = frozenset(
    {
        *(1040, 1041, 1135, 1203, 1226, 1461, 1637),  # too many connections, threads, statements, transactions
        *(1042, 1043, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1184),  # the connection
        *(1053, 1077, 1078, 1079, 1317, 1927, 3032, 3168, 3169, 4031),  # shutting down, off-line, killed, idle for too long
        *(1044, 1045, 1049, 1142, 1143, 1227, 1251, 1698, 1820, 1862, 3118, 3159, 4151),  # may not enter, or no such database
        *(1004, 1005, 1016, 1021, 1026, 1030, 1114, 1878),  # the disk is full or fails
        *(1034, 1035, 1194, 1195, 1712, 1814, 1817, 1877),  # a table or an index is broken or put away
        *(1036, 1037, 1206, 1223, 3572),  # no memory, no locks, locked by a backup
        *(1180, 1181),  # COMMIT or ROLLBACK failed
        1054,  # a column that is not there: the tables are another release's
    }
)
"""The server's numbers, of MySQL and MariaDB."""
_FROM_ENGINE: Final = 1030
_ROW_TOO_BIG: Final = "error 139"
"""The one error of the storage engine that a row is to blame for."""

_SQLITE_OUTAGES: Final = frozenset({3, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 17, 23, 26})
"""May not, busy, locked, no memory, read-only, interrupted, I/O error, corrupt, full, cannot open, locking protocol, schema
changed, not allowed, not a database."""


def error_code(error: BaseException) -> int | None:
    """The server's error number, if there is one."""
    args = getattr(getattr(error, "orig", None), "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def sqlite_busy(error: SQLAlchemyError) -> bool:
    """Whether another connection has the file locked."""
    return _sqlite_code(error) in (5, 6)


def is_outage(error: SQLAlchemyError) -> bool:
    """Whether the database cannot be used now by anybody; else the error is the statement's own."""
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error) in _SQLITE_OUTAGES or _lacks_tables(error)
    code = error_code(error)
    if code is None:
        return isinstance(error, OperationalError)  # of the driver's own: it could not read what came
    if code == _FROM_ENGINE and _ROW_TOO_BIG in str(error.orig):
        return False
    # 2000 to 2999 are the client's own numbers; those from 9000 on a proxy's (ProxySQL has no server).
    return code in _OUTAGES or code in REPEATED or code in READ_ONLY or 2000 <= code < 3000 or 9000 <= code < 10_000


def _sqlite_code(error: SQLAlchemyError) -> int:
    original = getattr(error, "orig", None)
    return int(getattr(original, "sqlite_errorcode", 0)) & 0xFF if isinstance(original, sqlite3.OperationalError) else 0


def _lacks_tables(error: DBAPIError) -> bool:
    """SQLite has one number for this and for much else."""
    return isinstance(error.orig, sqlite3.OperationalError) and str(error.orig).startswith(("no such table", "no such column"))
