"""Storage: the tables and the only verbs that write them."""

from aiki.storage.engine import RowTooLarge
from aiki.storage.schema import upgrade
from aiki.storage.searching import filter_of
from aiki.storage.store import Store, open_store

__all__ = ["RowTooLarge", "Store", "filter_of", "open_store", "upgrade"]
