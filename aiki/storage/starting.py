"""The runs that workflows start, or are led to: recorded, followed to their end, and done again where a retry asks for it.

A reference id, or a run id that the workflow gives itself, may name a run that exists already. Then the workflow *follows* it:
a row of `links` has it told of the end. A run that waits for the workflow is refused: neither of the two would ever end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa

from aiki import ids
from aiki.codec import JSON
from aiki.errors import ReferenceConflict, RunConflict
from aiki.failure import Failure
from aiki.history import CHILD_ENDED, FAILED, Arrival
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import own_options
from aiki.model import Accepted, NewRun, Outgoing
from aiki.states import TERMINAL, State
from aiki.storage.creating import Creating
from aiki.storage.engine import Writes
from aiki.storage.rows import payload_of

CLAIM_SECONDS: Final = 10.0
ERROR: Final = "error"
"""The role of the payload that keeps the arguments of a failed run's error."""
MAX_WAITING: Final = 10_000
"""Runs that are looked at to find out whether a run waits for another one."""
MAX_RERUNS: Final = 50


class Starting(Creating):
    """Starting and following runs for workflows.

    :ivar read_failures: whether the workers of a namespace read what is told of a failed run's error. Those of former releases
        do not, and a workflow that goes from one release to the other must meet the same in both. None: all of them do.
    """

    read_failures: Callable[[str], bool] | None = None

    def start_children(
        self, connection: sa.Connection, namespace: str, effects: Effects, claim: float | None = CLAIM_SECONDS
    ) -> list[Outgoing]:
        """Record the runs that workflows start. An id or a reference id may lead to a run that exists, or to a conflict.

        :param claim: see `create_runs`.
        """
        out: list[Outgoing] = []
        plain = [run for run in effects.children if run.reference_id is None]
        for run, accepted in self._start_plain(connection, namespace, plain, effects, out, claim):
            if not accepted.created:
                self._follow_run(connection, namespace, run, ids.to_bytes(accepted.id), effects)
        for run in effects.children:
            if run.reference_id is None:
                continue
            try:
                created = self._create(connection, namespace, [run], claim, None)
            except ReferenceConflict as conflict:
                _refuse(run, conflict, effects)
                continue
            out += created.outgoing
            if not created.accepted[0].created:
                self._follow_run(connection, namespace, run, ids.to_bytes(created.accepted[0].id), effects)
        return out

    def _start_plain(
        self,
        connection: sa.Connection,
        namespace: str,
        runs: list[NewRun],
        effects: Effects,
        out: list[Outgoing],
        claim: float | None,
    ) -> list[tuple[NewRun, Accepted]]:
        """Record runs without a reference id, many at once; those whose id is another's are refused one by one."""
        if not runs:
            return []
        # An id may be given twice: `_create` takes the first of a list for all of them.
        unique = list({run.id: run for run in reversed(runs)}.values())[::-1]
        again = [run for run in runs if all(run is not one for one in unique)]
        try:
            created = self._create(connection, namespace, unique, claim, None)
        except RunConflict as conflict:
            if len(unique) == 1:
                _refuse(unique[0], conflict, effects)
                return self._start_plain(connection, namespace, again, effects, out, claim)
            each = [self._start_plain(connection, namespace, [run], effects, out, claim) for run in [*unique, *again]]
            return [pair for pairs in each for pair in pairs]
        out += created.outgoing
        pairs = list(zip(unique, created.accepted, strict=True))
        return pairs + self._start_plain(connection, namespace, again, effects, out, claim)

    # ------------------------------------------------------------ following
    def _follow_run(self, connection: sa.Connection, namespace: str, run: NewRun, holder: bytes, effects: Effects) -> None:
        """Have a parent told of the end of a run that it did not start; at once if it has ended."""
        parent, ordinal = run.parent_id, run.parent_ordinal or 0
        assert parent is not None
        # First of all, for it locks that run: of two that begin to follow each other, the second sees the first.
        key = (namespace, holder)
        self.db.execute(connection, "UPDATE aiki_runs SET followers = 1 WHERE namespace = ? AND id = ?", key)
        sql = (
            "SELECT r.state, r.error_type, r.error_message, p.encoding, p.data, r.parent_id, r.parent_ordinal FROM aiki_runs r "
            "LEFT JOIN aiki_payloads p ON p.namespace = r.namespace AND p.run_id = r.id AND p.role = 'result' "
            "WHERE r.namespace = ? AND r.id = ?"
        )
        state, error_type, message, encoding, data, started_by, as_step = self.db.execute(connection, sql, key).fetchone()
        if started_by is not None and bytes(started_by) == parent and as_step == ordinal:
            return  # its own child, which tells it anyway
        if State(state) not in TERMINAL and self._waits_for(connection, namespace, holder, parent):
            _refuse(run, _cycle(holder, parent), effects)
            return
        sql = "UPDATE aiki_steps SET child_id = ?, abandon = 1 WHERE namespace = ? AND run_id = ? AND ordinal = ?"
        self.db.execute(connection, sql, (holder, namespace, parent, ordinal))
        row = (namespace, holder, parent, ordinal)
        self.db.insert_new(connection, "aiki_links", ("namespace", "run_id", "parent_id", "ordinal"), [row])
        if State(state) in TERMINAL:
            text = None if encoding is None else payload_of(encoding, data).text
            if text is None and (text := self.failure_of(connection, namespace, holder)) is not None:
                encoding = JSON
            told = (encoding, text, error_type, message)
            arrival = Arrival(sign(holder, ordinal), CHILD_ENDED, run.name, ordinal, state, *told)
            effects.arrivals.append((parent, arrival, False))

    def tells_failures(self, namespace: str) -> bool:
        """Whether the errors of failed runs are told to those who wait for them."""
        return self.read_failures is None or self.read_failures(namespace)

    def failure_of(self, connection: sa.Connection, namespace: str, run_id: bytes) -> str | None:
        """What those who follow a run are told of its error (a `Failure` as text); None: nothing, or it has not failed."""
        if not self.tells_failures(namespace):
            return None
        sql = (
            "SELECT r.state, p.data FROM aiki_runs r LEFT JOIN aiki_payloads p ON p.namespace = r.namespace "
            f"AND p.run_id = r.id AND p.role = '{ERROR}' WHERE r.namespace = ? AND r.id = ?"
        )
        found = self.db.execute(connection, sql, (namespace, run_id)).fetchone()
        if found is None or State(found[0]) not in (State.FAILED, State.DEAD):
            return None
        sql = "SELECT traceback FROM aiki_attempts WHERE namespace = ? AND run_id = ? ORDER BY epoch DESC LIMIT 1"
        attempt = self.db.execute(connection, sql, (namespace, run_id)).fetchone()
        arguments = None if found[1] is None else bytes(found[1]).decode("ascii")
        return Failure(arguments, (attempt[0] or "") if attempt else "").to_text()

    def _waits_for(self, connection: sa.Connection, namespace: str, one: bytes, other: bytes) -> bool:
        """Whether `one` is `other`, or waits for it: has started it or follows it, or a run that does."""
        seen, left = {other}, [other]
        while left and len(seen) < MAX_WAITING:
            if one in seen:
                return True
            waiting: set[bytes] = set()
            sql = (
                "SELECT r.parent_id FROM aiki_runs r JOIN aiki_steps s ON s.namespace = r.namespace AND s.run_id = r.parent_id "
                "AND s.ordinal = r.parent_ordinal AND s.abandon = 0 WHERE r.namespace = ? AND r.id"
            )
            waiting.update(bytes(row[0]) for row in self.db.where_in(connection, sql, (namespace,), left))
            sql = "SELECT parent_id FROM aiki_links WHERE namespace = ? AND run_id"
            waiting.update(bytes(row[0]) for row in self.db.where_in(connection, sql, (namespace,), left))
            left = sorted(waiting - seen)
            seen |= waiting
        return one in seen

    # ------------------------------------------------------------ doing steps again
    def reset_steps(
        self, writes: Writes, namespace: str, run_id: bytes, ordinals: Sequence[int], effects: Effects, now: int
    ) -> None:
        """Have these steps done again: their results are dropped, children that failed are retried."""
        for ordinal in ordinals:
            key = (namespace, run_id, ordinal)
            writes.run("DELETE FROM aiki_steps WHERE namespace = ? AND run_id = ? AND ordinal = ? AND kind = 'choice'", key)
            writes.run(
                "UPDATE aiki_steps SET state = 'open', attempt = 0, encoding = NULL, data = NULL, error_type = "
                "NULL, due_at = NULL, "
                "error_message = NULL, traceback = NULL, error_args = NULL, finished_at = NULL, created_at = ? "
                "WHERE namespace = ? AND run_id = ? AND ordinal = ?",
                (now, *key),
            )
            if self._is_to_be_retried(writes.connection, namespace, run_id, ordinal, effects):
                writes.run("DELETE FROM aiki_inbox WHERE namespace = ? AND run_id = ? AND ordinal = ? AND kind = 'child'", key)
                writes.run(
                    self.db.dialect.if_new(
                        "INSERT INTO aiki_inbox (namespace, run_id, id, kind, name, outcome, created_at, taken) "
                        "SELECT s.namespace, s.child_id, ?, 'retry', s.name, '', ?, 0 FROM aiki_steps s "
                        "WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal = ? AND s.child_id IS NOT NULL"
                    ),
                    (ids.new_id().bytes, now, *key),
                )

    def _is_to_be_retried(
        self, connection: sa.Connection, namespace: str, run_id: bytes, ordinal: int, effects: Effects
    ) -> bool:
        """Whether the step's child is to be retried.

        Not one that was never made, or that may not be followed: its end stays. Not one that was started by the run that this
        one is a rerun of: that would change what the other has done, and tell this one nothing; it gets a child of its own
        in its place. What the other followed, this run follows too.
        """
        sql = (
            "SELECT c.id, c.parent_id, c.parent_ordinal, c.name, c.version, c.kind, c.queue, c.options, p.encoding, p.data, "
            "l.ordinal FROM aiki_steps s JOIN aiki_runs c ON c.namespace = s.namespace AND c.id = s.child_id "
            "LEFT JOIN aiki_payloads p ON p.namespace = c.namespace AND p.run_id = c.id AND p.role = 'input' "
            "LEFT JOIN aiki_links l ON l.namespace = s.namespace AND l.run_id = c.id AND l.parent_id = s.run_id "
            "AND l.ordinal = s.ordinal WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal = ? "
            f"{self.db.dialect.for_share if effects.theirs else ''}"
        )
        found = self.db.execute(connection, sql, (namespace, run_id, ordinal)).fetchone()
        if found is None:
            return False
        holder, started_by, as_step, name, version, kind, queue, options, encoding, data, link = found
        if link is not None or (started_by is not None and bytes(started_by) == run_id and as_step == ordinal):
            return True
        sources = self._rerun_sources(connection, namespace, run_id, effects)
        if not sources:
            return False
        if started_by is None or bytes(started_by) not in sources or as_step != ordinal or encoding is None:
            self.db.execute(
                connection, "UPDATE aiki_runs SET followers = 1 WHERE namespace = ? AND id = ?", (namespace, holder)
            )
            row = (namespace, bytes(holder), run_id, ordinal)
            self.db.insert_new(connection, "aiki_links", ("namespace", "run_id", "parent_id", "ordinal"), [row])
            return True
        own = ids.new_id()
        sql = "UPDATE aiki_steps SET child_id = ? WHERE namespace = ? AND run_id = ? AND ordinal = ?"
        self.db.execute(connection, sql, (own.bytes, namespace, run_id, ordinal))
        effects.children.append(
            NewRun(
                *(str(own), name, payload_of(encoding, data), queue, version, kind),
                options=own_options(options),
                parent_id=run_id,
                parent_ordinal=ordinal,
            )
        )
        sql = "DELETE FROM aiki_inbox WHERE namespace = ? AND run_id = ? AND ordinal = ? AND kind = 'child'"
        self.db.execute(connection, sql, (namespace, run_id, ordinal))
        return False

    def _rerun_sources(self, connection: sa.Connection, namespace: str, run_id: bytes, effects: Effects) -> set[bytes]:
        """The run that this one was made from, the one that that was made from, and so on."""
        out: set[bytes] = set()
        at: Any = run_id
        while len(out) < MAX_RERUNS:
            lock = self.db.dialect.for_share if effects.theirs else ""
            sql = f"SELECT source_id FROM aiki_reruns WHERE namespace = ? AND run_id = ? {lock}"
            row = self.db.execute(connection, sql, (namespace, at)).fetchone()
            if row is None or bytes(row[0]) in out:
                break
            at = bytes(row[0])
            out.add(at)
        return out


def sign(run_id: bytes, ordinal: int) -> str:
    """The id of the arrival that tells a follower of a run's end: one workflow may follow a run with several steps."""
    return hashlib.sha256(run_id + ordinal.to_bytes(4, "big")).hexdigest()[:32]


def _cycle(holder: bytes, parent: bytes) -> RunConflict:
    waits = "it is this workflow's own run" if holder == parent else "that run waits for this one"
    return RunConflict(f"run {ids.to_text(holder)} cannot be waited for: {waits}, so neither would ever end")


def _refuse(run: NewRun, why: Exception, effects: Effects) -> None:
    """The run is not started, and its step fails with the reason."""
    assert run.parent_id is not None
    told = (type(why).__name__, str(why))
    # Not under the id of the run: that may be another's, whose end would be told under it.
    refusal = sign(run.parent_id, run.parent_ordinal or 0)
    arrival = Arrival(refusal, CHILD_ENDED, run.name, run.parent_ordinal, FAILED, None, None, *told)
    effects.arrivals.append((run.parent_id, arrival, False))
