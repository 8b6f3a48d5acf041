"""Pages of a run's inbox and of its attempts."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from aiki import ids
from aiki.codec import Payload
from aiki.errors import ConfigurationError, RunNotFound
from aiki.model import Attempt
from aiki.storage.engine import Database
from aiki.storage.rows import ATTEMPT_COLUMNS, attempt_of, payload_of


class CameIn(NamedTuple):
    """Something that came to a run (`aiki.history.Arrival`), and the ordinal of the step that took it."""

    id: str
    kind: str
    name: str
    ordinal: int | None
    outcome: str
    payload: Payload | None
    error_type: str | None
    error_message: str | None
    created_at: int

    @property
    def place(self) -> str:
        """Where the next page begins."""
        return f"{self.created_at:x}.{self.id}"


class Outside:
    """Parts of runs."""

    db: Database
    namespace: str

    def came_in(self, run_id: str, *, limit: int = 100, after: str | None = None) -> list[CameIn]:
        """What came to a run, oldest first; `after`: the place of the last one of the page before. Raises `RunNotFound`."""
        at, raw = _place(after)
        sql = (
            "SELECT id, kind, name, ordinal, outcome, encoding, data, error_type, error_message, created_at FROM aiki_inbox "
            "WHERE namespace = ? AND run_id = ? AND (created_at > ? OR (created_at = ? AND id > ?)) "
            f"ORDER BY created_at, id LIMIT {int(limit)}"
        )
        rows = self._of_run(run_id, sql, (at, at, raw))
        return [
            CameIn(
                bytes(row[0]).hex(),
                row[1],
                row[2],
                row[3],
                row[4],
                None if row[5] is None else payload_of(row[5], row[6]),
                row[7],
                row[8],
                row[9],
            )
            for row in rows
        ]

    def attempts(self, run_id: str, *, limit: int = 50, after: int = -1) -> list[Attempt]:
        """A run's attempts, oldest first; `after`: the epoch of the last one of the page before. Raises `RunNotFound`."""
        sql = (
            f"SELECT {ATTEMPT_COLUMNS} FROM aiki_attempts WHERE namespace = ? AND run_id = ? AND epoch > ? "
            f"ORDER BY epoch LIMIT {int(limit)}"
        )
        return [attempt_of(row) for row in self._of_run(run_id, sql, (after,))]

    def _of_run(self, run_id: str, sql: str, more: tuple[Any, ...]) -> list[Any]:
        key = (self.namespace, ids.to_bytes(run_id))

        def work(connection: sa.Connection) -> list[Any]:
            rows = list(self.db.execute(connection, sql, (*key, *more)).fetchall())
            there = "SELECT 1 FROM aiki_runs WHERE namespace = ? AND id = ?"
            if not rows and self.db.execute(connection, there, key).fetchone() is None:
                raise RunNotFound(run_id)
            return rows

        return self.db.read(work)


def _place(text: str | None) -> tuple[int, bytes]:
    if text is None:
        return -1, b""
    try:
        at, _, raw = text.partition(".")
        return int(at, 16), bytes.fromhex(raw)
    except ValueError:
        raise ConfigurationError(f"{text[:60]!r} is not the `next` of an earlier page") from None
