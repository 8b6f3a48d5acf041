"""Requests that are done once: who asked for what under which key, and what was answered.

A key is claimed before the request is done, and its answer recorded after. What dies in between leaves the claim; after
`CLAIM` seconds the same request may claim it again. Ids that are made for such a request are derived from the key and the time
of the first claim, so that what was done the first time is found and not done again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from aiki.clock import SECOND, Clock
from aiki.storage.engine import Database

CLAIM: Final = 60
"""Seconds for which a request that has not been answered keeps its key."""
KEPT: Final = 24 * 3600
"""Seconds for which an answer is kept."""
_COLUMNS: Final = ("namespace", "id", "request", "created_at", "claimed_at")


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a claim.

    :ivar mine: the request is to be done now; otherwise it has been, or is being, done.
    :ivar same: it is the request that the key was first used for.
    :ivar again: it was claimed before, and may have been done.
    :ivar created_at: when the key was first claimed, microseconds since the Unix epoch.
    :ivar status: of the recorded answer, None while there is none.
    """

    mine: bool
    same: bool
    created_at: int
    status: int | None = None
    headers: str = ""
    body: bytes = b""
    again: bool = False


class Idempotency:
    """The verbs of keys that clients give to their requests."""

    db: Database
    namespace: str
    clock: Clock

    def claim_key(self, key: bytes, request: bytes) -> Claim:
        """Claim a key (32 bytes) for a request (its hash, 32 bytes)."""
        now = self.clock()

        def work(connection: sa.Connection) -> Claim:
            columns = ", ".join(_COLUMNS)
            inserted = self.db.execute(
                connection,
                self.db.dialect.if_new(f"INSERT INTO aiki_idempotency ({columns}) VALUES (?, ?, ?, ?, ?)"),
                (self.namespace, key, request, now, now),
            )
            if inserted.rowcount == 1:
                return Claim(True, True, now)
            row = self.db.execute(
                connection,
                "SELECT request, created_at, claimed_at, status, headers, body FROM aiki_idempotency "
                f"WHERE namespace = ? AND id = ? {self.db.dialect.for_update}",
                (self.namespace, key),
            ).fetchone()
            if row is None:  # cleaned up this moment
                return Claim(False, True, now)
            found, created_at, claimed_at, status, headers, body = row
            same = bytes(found) == request
            if same and claimed_at == now:  # the commit's answer was lost, and this is the second try
                return Claim(True, True, created_at)
            over = created_at < now - KEPT * SECOND
            if over or (same and status is None and claimed_at < now - CLAIM * SECOND):
                created_at = now if over else created_at
                self.db.execute(
                    connection,
                    "UPDATE aiki_idempotency SET request = ?, created_at = ?, claimed_at = ?, status = NULL, headers = NULL, "
                    "body = NULL WHERE namespace = ? AND id = ?",
                    (request, created_at, now, self.namespace, key),
                )
                return Claim(True, True, created_at, again=not over)
            return Claim(False, same, created_at, status, headers or "", bytes(body) if body is not None else b"")

        return self.db.transaction(work, repeatable=True)

    def record_answer(self, key: bytes, status: int, headers: str, body: bytes) -> None:
        """Keep the answer of a claimed request."""
        sql = "UPDATE aiki_idempotency SET status = ?, headers = ?, body = ? WHERE namespace = ? AND id = ?"
        values = (status, headers, body, self.namespace, key)
        self.db.transaction(lambda connection: self.db.execute(connection, sql, values), repeatable=True)

    def release_key(self, key: bytes, *, unknown: bool = False) -> None:
        """Let go of a claim whose request was refused. `unknown`: it may have been done; the same request may come again."""
        sql = "DELETE FROM aiki_idempotency WHERE namespace = ? AND id = ? AND status IS NULL"
        if unknown:
            sql = "UPDATE aiki_idempotency SET claimed_at = 0 WHERE namespace = ? AND id = ? AND status IS NULL"
        self.db.transaction(lambda connection: self.db.execute(connection, sql, (self.namespace, key)), repeatable=True)

    def purge_idempotency(self, limit: int = 500) -> int:
        """Forget at most `limit` answers that need not be kept any more, of all namespaces; returns how many they were."""
        before = self.clock() - KEPT * SECOND

        def work(connection: sa.Connection) -> int:
            sql = "SELECT namespace, id FROM aiki_idempotency WHERE created_at < ? ORDER BY created_at LIMIT ?"
            old = self.db.execute(connection, sql, (before, limit)).fetchall()
            by_namespace: dict[str, list[bytes]] = {}
            for namespace, raw in old:
                by_namespace.setdefault(namespace, []).append(bytes(raw))
            for namespace, raws in by_namespace.items():
                self.db.where_in(
                    connection, "DELETE FROM aiki_idempotency WHERE namespace = ? AND id", (namespace,), sorted(raws)
                )
            return len(old)

        return self.db.transaction(work, repeatable=True)
