"""What the numbers of MySQL's and MariaDB's errors mean.

PyMySQL raises `OperationalError` for whatever it knows no better name for: a server that is gone, and also a number that is out
of range (1690), collations that do not mix (1267) or JSON that is none (3140). Only what is named here is an outage, which is
waited for. Everything else is the fault of what was to be written or read, and is raised as it came: whoever waited for that to
pass would wait for ever.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError, OperationalError

from aiki.storage.engine.dialect import Meaning

DUPLICATE: Final = 1062
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


def error_code(error: BaseException) -> int | None:
    """The server's error number, if there is one."""
    args = getattr(getattr(error, "orig", None), "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def meaning_of(error: DBAPIError) -> Meaning:
    """What an error means."""
    code = error_code(error)
    if code in TOO_LARGE:
        return Meaning.TOO_LARGE
    if code in REPEATED:
        return Meaning.REPEAT
    if code in READ_ONLY:
        return Meaning.READ_ONLY
    if error.connection_invalidated:
        return Meaning.OUTAGE
    if code is None:
        # Of the driver's own: it could not read what came.
        return Meaning.OUTAGE if isinstance(error, OperationalError) else Meaning.FAULT
    if code == _FROM_ENGINE and _ROW_TOO_BIG in str(error.orig):
        return Meaning.FAULT
    # 2000 to 2999 are the client's own numbers; those from 9000 on a proxy's (ProxySQL has no server).
    away = code in _OUTAGES or 2000 <= code < 3000 or 9000 <= code < 10_000
    return Meaning.OUTAGE if away else Meaning.FAULT
