"""The verbs about what is dead: runs that failed, grouped by their error, and dead letters, the messages nobody could read.

`failures` has a row for each run that is failed or dead, written when it ends so and removed when it goes on (see `applying`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from aiki import ids
from aiki.clock import Clock
from aiki.fingerprint import fingerprint, top_frame
from aiki.lifecycle.effects import Audited
from aiki.model import RunView
from aiki.states import State
from aiki.storage.applying import FAILURE_COLUMNS
from aiki.storage.auditing import Auditing
from aiki.storage.engine import Database
from aiki.storage.rows import VIEW_COLUMNS, run_view

MAX_GROUPS: Final = 200
_ENDS: Final = (State.FAILED, State.DEAD)
_LETTER: Final = "id, source, reason, headers, body, created_at"


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Runs that failed of one error.

    :ivar fingerprint: 32 hex digits; :ivar sample: the newest of the runs, whose error and top frame are told here.
    :ivar names: how many of each name.
    """

    fingerprint: str
    count: int
    error_type: str
    message: str
    frame: str
    first_at: int
    last_at: int
    sample: str
    names: dict[str, int]


class DeadLetter(NamedTuple):
    """A message that nobody could read or place. `source`: kind and key of the queue where it was."""

    id: str
    source: str
    reason: str
    headers: dict[str, Any]
    body: bytes
    created_at: int


class Cursor(NamedTuple):
    """Up to where runs of a state were looked at."""

    state: State
    created_at: int
    id: bytes


class Dead(Auditing):
    """Failures and dead letters."""

    db: Database
    namespace: str
    clock: Clock

    # ------------------------------------------------------------ failures
    def failure_groups(self, limit: int = MAX_GROUPS) -> list[FailureGroup]:
        """Runs that are failed or dead, by their error, the most frequent first."""
        sql = (
            f"SELECT fingerprint, name, COUNT(*), MIN(failed_at), MAX(failed_at), {self.db.dialect.largest('run_id')} "
            "FROM aiki_failures WHERE namespace = ? GROUP BY fingerprint, name"
        )

        def work(connection: sa.Connection) -> list[FailureGroup]:
            parts: dict[bytes, list[Any]] = {}
            for row in self.db.execute(connection, sql, (self.namespace,)):
                parts.setdefault(bytes(row[0]), []).append(row)
            largest = sorted(parts, key=lambda mark: (-sum(row[2] for row in parts[mark]), mark))[:limit]
            return self._groups(connection, {mark: parts[mark] for mark in largest})

        return self.db.read(work)

    def failure_group(self, mark: bytes) -> FailureGroup | None:
        """One group, or None if no run has failed so."""
        sql = (
            f"SELECT fingerprint, name, COUNT(*), MIN(failed_at), MAX(failed_at), {self.db.dialect.largest('run_id')} "
            "FROM aiki_failures WHERE namespace = ? AND fingerprint = ? GROUP BY fingerprint, name"
        )

        def work(connection: sa.Connection) -> list[FailureGroup]:
            rows = self.db.execute(connection, sql, (self.namespace, mark)).fetchall()
            return self._groups(connection, {mark: rows}) if rows else []

        return next(iter(self.db.read(work)), None)

    def _groups(self, connection: sa.Connection, parts: dict[bytes, list[Any]]) -> list[FailureGroup]:
        samples = {mark: max(bytes(row[5]) for row in rows) for mark, rows in parts.items()}
        told = self._errors(connection, sorted(samples.values()))
        out = []
        for mark, rows in parts.items():
            error_type, message, traceback = told.get(samples[mark], ("", "", ""))
            names = {row[1]: row[2] for row in sorted(rows, key=lambda row: (-row[2], row[1]))}
            first, last = min(row[3] for row in rows), max(row[4] for row in rows)
            head = (mark.hex(), sum(names.values()), error_type, message, top_frame(traceback))
            out.append(FailureGroup(*head, first, last, ids.to_text(samples[mark]), names))
        return out

    def _errors(self, connection: sa.Connection, run_ids: Sequence[bytes]) -> dict[bytes, tuple[str, str, str]]:
        """The error of each run and the traceback of its newest attempt."""
        sql = "SELECT id, error_type, error_message FROM aiki_runs WHERE namespace = ? AND id"
        rows = self.db.where_in(connection, sql, (self.namespace,), run_ids)
        sql = "SELECT run_id, epoch, traceback FROM aiki_attempts WHERE namespace = ? AND run_id"
        newest: dict[bytes, tuple[int, str]] = {}
        for raw, epoch, traceback in self.db.where_in(connection, sql, (self.namespace,), run_ids):
            newest[bytes(raw)] = max(newest.get(bytes(raw), (-1, "")), (epoch, traceback))
        return {bytes(raw): (kind or "", text or "", newest.get(bytes(raw), (0, ""))[1]) for raw, kind, text in rows}

    def failures_of(self, mark: bytes, *, limit: int = 50, after: str | None = None) -> list[RunView]:
        """The runs of a group, newest first; `after`: the id of the last one of the page before."""

        def work(connection: sa.Connection) -> list[RunView]:
            sql = (
                "SELECT run_id FROM aiki_failures WHERE namespace = ? AND fingerprint = ? AND run_id < ? "
                f"ORDER BY run_id DESC LIMIT {int(limit)}"
            )
            key = (self.namespace, mark, ids.to_bytes(after) if after else b"\xff" * 16)
            raws = [bytes(row[0]) for row in self.db.execute(connection, sql, key).fetchall()]
            sql = f"SELECT {VIEW_COLUMNS} FROM aiki_runs WHERE namespace = ? AND id"
            rows = self.db.where_in(connection, sql, (self.namespace,), raws)
            return sorted((run_view(row) for row in rows), key=lambda run: run.id, reverse=True)

        return self.db.read(work)

    def index_failures(self, after: Cursor, limit: int = 1000) -> Cursor | None:
        """See that failed runs of before there were `failures` are in it; returns where to go on (None: that was all)."""
        sql = (
            "SELECT r.created_at, r.id, f.run_id FROM aiki_runs r LEFT JOIN aiki_failures f ON f.namespace = r.namespace "
            "AND f.run_id = r.id WHERE r.namespace = ? AND r.state = ? "
            "AND (r.created_at > ? OR (r.created_at = ? AND r.id > ?)) "
            f"ORDER BY r.created_at, r.id LIMIT {int(limit)}"
        )
        key = (self.namespace, after.state.value, after.created_at, after.created_at, after.id)
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
        missing = sorted(bytes(row[1]) for row in rows if row[2] is None)
        if missing:
            self.db.transaction(lambda connection: self._index(connection, after.state, missing), repeatable=True)
        if len(rows) == limit:
            return Cursor(after.state, rows[-1][0], bytes(rows[-1][1]))
        following = _ENDS.index(after.state) + 1
        return Cursor(_ENDS[following], 0, b"") if following < len(_ENDS) else None

    def _index(self, connection: sa.Connection, state: State, run_ids: Sequence[bytes]) -> None:
        # Locked, for somebody may retry one of them just now.
        sql = "SELECT id, name, finished_at, updated_at FROM aiki_runs WHERE namespace = ? AND state = ? AND id"
        end = f"ORDER BY id {self.db.dialect.for_update}"
        rows = self.db.where_in(connection, sql, (self.namespace, state.value), run_ids, end)
        told = self._errors(connection, [bytes(row[0]) for row in rows])
        new = [
            (self.namespace, fingerprint(*told[bytes(raw)]), bytes(raw), name, finished_at or updated_at)
            for raw, name, finished_at, updated_at in rows
        ]
        self.db.insert_new(connection, "aiki_failures", FAILURE_COLUMNS, new)

    # ------------------------------------------------------------ dead letters
    def dead_letters(self, *, limit: int = 50, after: str | None = None) -> list[DeadLetter]:
        """Dead letters, by id; `after`: the id of the last one of the page before."""
        sql = f"SELECT {_LETTER} FROM aiki_dead_letters WHERE namespace = ? AND id > ? ORDER BY id LIMIT {int(limit)}"
        key = (self.namespace, bytes.fromhex(after) if after else b"")
        return [_letter(row) for row in self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())]

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """The dead letter of this id (32 hex digits), or None."""
        try:
            key = (self.namespace, bytes.fromhex(letter_id))
        except ValueError:
            return None
        sql = f"SELECT {_LETTER} FROM aiki_dead_letters WHERE namespace = ? AND id = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchone())
        return _letter(row) if row else None

    def forget_dead_letters(self, letter_ids: Sequence[str], *, requeued: bool, reason: str = "", actor: str = "") -> int:
        """Delete dead letters that were published again, or that nobody wants; how many there were."""
        raws = sorted(bytes.fromhex(letter_id) for letter_id in set(letter_ids))
        action = "requeue_letters" if requeued else "discard_letters"

        def work(connection: sa.Connection) -> int:
            sql = "SELECT id, source FROM aiki_dead_letters WHERE namespace = ? AND id"
            there = self.db.where_in(connection, sql, (self.namespace,), raws, self.db.dialect.for_update)
            if there:
                found = [bytes(row[0]) for row in there]
                self.db.where_in(
                    connection, "DELETE FROM aiki_dead_letters WHERE namespace = ? AND id", (self.namespace,), found
                )
                sources = sorted({row[1] for row in there})
                subject = f"letter {found[0].hex()}" if len(found) == 1 else f"{len(found)} letters"
                detail = json.dumps({"sources": sources, "letters": [raw.hex() for raw in found[:50]]})
                self.write_audit(connection, [Audited(actor, action, subject, detail, reason, affected=len(found))])
            return len(there)

        return self._do(work, action, "".join(letter_ids), lambda: 0)


FIRST: Final = Cursor(State.FAILED, 0, b"")
"""Where `index_failures` begins."""


def _letter(row: Any) -> DeadLetter:
    raw, source, reason, headers, body, created_at = row
    return DeadLetter(bytes(raw).hex(), source, reason, json.loads(headers), bytes(body), created_at)
