"""The verbs of the audit: what people and programs did, to what, how often, why, and what became of it."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.lifecycle.effects import DONE, Audited
from aiki.storage.engine import OPERATIONS, AlreadyDone, Database

T = TypeVar("T")

AUDIT_COLUMNS: Final = (
    "namespace",
    "id",
    "created_at",
    "actor",
    "action",
    "subject",
    "detail",
    "reason",
    "affected",
    "outcome",
    "request_id",
    "source",
)
KEPT: Final = 25 * 3600 * SECOND
"""Microseconds for which operations are remembered: longer than clients may send a request again."""
_numbers = itertools.count()


class Origin(NamedTuple):
    """The request that something was done for: its id, and the address that it came from.

    :ivar key: what the same request has again if it is sent again; empty if that cannot be known.
    """

    request_id: str
    source: str
    key: bytes = b""


NOWHERE: Final = Origin("", "")
"""No request: a program that has the database itself."""


@dataclass(frozen=True, slots=True)
class AuditView:
    """An audit record, as it is shown. `id` is what the next page begins after."""

    id: str
    created_at: int
    actor: str
    action: str
    subject: str
    detail: str
    reason: str
    affected: int
    outcome: str
    request_id: str
    source: str


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which records; every field given must match. Times: from `since` on, before `until`."""

    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    since: int | None = None
    until: int | None = None


def audit_rows(namespace: str, now: int, origin: Origin, entries: Iterable[Audited]) -> list[tuple[Any, ...]]:
    """Rows of `AUDIT_COLUMNS`, in the order given, which their ids keep."""
    return [
        (
            namespace,
            _first_id(now)[:8] + (next(_numbers) & 0xFFFFFFFF).to_bytes(4, "big") + secrets.token_bytes(4),
            now,
            entry.actor[:255],
            entry.action[:32],
            entry.subject[:255],
            entry.detail[:4000],
            entry.reason[:1000],
            entry.affected,
            entry.outcome,
            origin.request_id[:64],
            origin.source[:64],
        )
        for entry in entries
    ]


def _first_id(now: int) -> bytes:
    """The least id of a record of that time: ids rise with time, so that a span of time is a span of the primary key."""
    millis, micros = divmod(max(0, now), 1000)
    return millis.to_bytes(6, "big") + (0x7000 | micros).to_bytes(2, "big") + bytes(8)


class Auditing:
    """Recording and looking."""

    db: Database
    namespace: str
    clock: Clock
    origin: Origin

    def audit(
        self,
        actor: str,
        action: str,
        subject: str,
        *,
        detail: str = "",
        reason: str = "",
        affected: int = 1,
        outcome: str = DONE,
    ) -> None:
        """Record one thing in a transaction of its own; verbs record theirs in the transaction that does it."""
        entry = Audited(actor, action, subject, detail, reason, affected, outcome)
        self.db.transaction(lambda connection: self.write_audit(connection, [entry]))

    def operation(self, verb: str, subject: str) -> bytes | None:
        """The id of what the present request does, the same if the request is sent again; None if that cannot be known."""
        if not self.origin.key:
            return None
        told = f"{self.namespace}\n{verb}\n{subject}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(self.origin.key + told).digest()[:16]

    def purge_operations(self, limit: int = 1000) -> int:
        """Forget some operations that nobody can ask for again; how many."""

        def work(connection: sa.Connection) -> int:
            sql = f"SELECT id FROM {OPERATIONS} WHERE created_at < ? ORDER BY created_at LIMIT {int(limit)}"
            old = [bytes(raw) for (raw,) in self.db.execute(connection, sql, (self.clock() - KEPT,)).fetchall()]
            self.db.where_in(connection, f"DELETE FROM {OPERATIONS} WHERE id", (), sorted(old))
            return len(old)

        return self.db.transaction(work, repeatable=True)

    def _do(self, work: Callable[[sa.Connection], T], verb: str, subject: str, before: Callable[[], T]) -> T:
        """Do what somebody asked for, once, however often the request is sent or the commit's answer is lost.

        :param before: makes the answer where the request was sent before and has been done.
        """
        try:
            return self.db.transaction(work, operation=self.operation(verb, subject))
        except AlreadyDone:
            return before()

    def write_audit(self, connection: sa.Connection, entries: Iterable[Audited]) -> None:
        """Record these in the caller's transaction."""
        rows = audit_rows(self.namespace, self.clock(), self.origin, entries)
        self.db.insert(connection, "aiki_audit", AUDIT_COLUMNS, rows)

    def audit_log(self, where: AuditFilter, *, limit: int = 50, after: str | None = None) -> list[AuditView]:
        """Records, newest first; `after`: the id of the last one of the page before. Each filter has its index."""
        conditions, values = ["namespace = ?"], [self.namespace]  # type: list[str], list[Any]
        for column, value in (("actor", where.actor), ("action", where.action), ("subject", where.subject)):
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value)
        bounds = (
            ("id >= ?", None if where.since is None else _first_id(where.since)),
            ("id < ?", None if where.until is None else _first_id(where.until)),
            ("id < ?", None if after is None else ids.to_bytes(after)),
        )
        conditions += [text for text, value in bounds if value is not None]
        values += [value for _, value in bounds if value is not None]
        shown = ", ".join(column for column in AUDIT_COLUMNS if column != "namespace")
        sql = f"SELECT {shown} FROM aiki_audit WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT {int(limit)}"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, values).fetchall())
        return [AuditView(ids.to_text(bytes(row[0])), *row[1:]) for row in rows]
