"""The database itself, whatever its kind: connections, transactions, statements, and what differs between kinds."""

from aiki.storage.engine.database import OPERATIONS, AlreadyDone, Database, safe_url
from aiki.storage.engine.dialect import Dialect
from aiki.storage.engine.statements import Insert, RowTooLarge
from aiki.storage.engine.writes import Writes

__all__ = ["OPERATIONS", "AlreadyDone", "Database", "Dialect", "Insert", "RowTooLarge", "Writes", "safe_url"]
