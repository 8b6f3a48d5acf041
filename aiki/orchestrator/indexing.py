"""Finding failed runs that have no row in `failures`: those that were recorded before it was there, or past the verbs."""

from __future__ import annotations

from aiki.storage import Store
from aiki.storage.dead import FIRST, Cursor


class Indexing:
    """One look at all failed runs, a page at a time, once in the life of an orchestrator."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._left: list[tuple[Store, Cursor]] | None = None

    def run_once(self) -> None:
        """Look at a page, if any is left. Raises `StorageUnavailable`."""
        if self._left is None:
            self._left = [(self._store.of(namespace), FIRST) for namespace in self._store.namespaces()]
        if self._left:
            store, cursor = self._left[-1]
            following = store.index_failures(cursor)
            self._left.pop()
            if following is not None:
                self._left.append((store, following))
