"""What the bench itself asks of the database: numbers."""

from __future__ import annotations

import sqlalchemy as sa


class Database:
    """One connection for counting."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        self._connection = self._engine.connect()

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        return int(self._connection.execute(sa.text(query)).scalar_one())

    def close(self) -> None:
        """Leave."""
        self._connection.close()
        self._engine.dispose()
