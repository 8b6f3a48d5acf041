"""The verb that makes a new run of another: with its input or an edited one, or with what a workflow had done before a step.

The old run stays as it is, whatever it had done: what happened under an input is not rewritten. `reruns` says which run another
was made from, and the audit what was changed.
"""

from __future__ import annotations

import hmac
import json

import sqlalchemy as sa

from aiki import ids
from aiki.codec import Payload
from aiki.errors import DecodeError, RunConflict, RunNotFound
from aiki.lifecycle.effects import Audited
from aiki.lifecycle.record import own_options
from aiki.masks import Mask
from aiki.model import Accepted, Created, NewRun, RunView
from aiki.settings import DEFAULT_MASK
from aiki.states import State
from aiki.storage.history import INBOX_COLUMNS, STEP_COLUMNS
from aiki.storage.installing import Installing
from aiki.storage.operating import _raw
from aiki.storage.steering import Steering


class Rerunning(Steering, Installing):
    """Running again."""

    def rerun(
        self,
        run_id: str,
        *,
        claim: float | None = None,
        from_step: int | None = None,
        new_id: str | None = None,
        payload: Payload | None = None,
        reason: str = "",
        actor: str = "",
        mask: Mask | None = None,
    ) -> Created:
        """A new run of the same name, version, queue and options.

        :param payload: its input; by default that of the old run.
        :param new_id: its id, so that asking again is the same run.
        :param from_step: an ordinal of a workflow's step: those before it, and what came for them, are copied.
        :param actor: who asks, to be audited; empty: it is audited otherwise.
        :param mask: what the audit must not tell of an input, see `Fingerprints`.
        :raises RunNotFound: there is no such run.
        :raises RunConflict: it has no such step, or one before it has no result yet; or both a step and an input are given.
        """
        with self.db.from_primary():
            detail = self.detail(run_id)
            options = self.options_of(run_id)
        if detail is None:
            raise RunNotFound(run_id)
        if detail.input is None and payload is None:
            raise DecodeError(f"run {run_id} has no recorded input")
        if payload is not None and from_step is not None:
            raise RunConflict("steps were done with the recorded input: give an input or from_step, not both")
        copy = _copy(detail.run, payload or detail.input or Payload("json", "[[],{}]"), options, new_id or str(ids.new_id()))

        hashes: dict[str, str] = {}
        if actor and payload is not None:
            with self.db.from_primary():
                secret = self.installation().secret
            hashes = Fingerprints(mask or Mask(DEFAULT_MASK.split(",")), secret).changed(detail.input, payload)

        def work(connection: sa.Connection) -> Created:
            if from_step is None:
                created = self._create(connection, self.namespace, [copy], claim, None)
            else:
                created = self._with_steps(connection, run_id, copy, from_step)
            if created.accepted[0].created:
                row = (self.namespace, ids.to_bytes(copy.id), ids.to_bytes(run_id))
                self.db.insert_new(connection, "aiki_reruns", ("namespace", "run_id", "source_id"), [row])
                if actor:
                    told = json.dumps({"new": copy.id, "from_step": from_step, **hashes})
                    self.write_audit(connection, [Audited(actor, "rerun", run_id, told, reason)])
            return created

        made = Created([Accepted(copy.id, State.QUEUED, False)], [])
        return self._do(work, "rerun", copy.id, lambda: made)

    def options_of(self, run_id: str) -> dict[str, object]:
        """The options that a run was enqueued with, sparse."""
        sql = "SELECT options FROM aiki_runs WHERE namespace = ? AND id = ?"
        row = self.db.read(
            lambda connection: self.db.execute(connection, sql, (self.namespace, ids.to_bytes(run_id))).fetchone()
        )
        return own_options(row[0]) if row else {}

    def rerun_of(self, run_id: str) -> str | None:
        """The run that a run was made from, or None."""
        sql = "SELECT source_id FROM aiki_reruns WHERE namespace = ? AND run_id = ?"
        row = self.db.read(lambda c: self.db.execute(c, sql, (self.namespace, ids.to_bytes(run_id))).fetchone())
        return ids.to_text(bytes(row[0])) if row else None

    def reruns(self, run_id: str, limit: int = 20) -> list[str]:
        """The newest runs that were made from a run."""
        sql = f"SELECT run_id FROM aiki_reruns WHERE namespace = ? AND source_id = ? ORDER BY run_id DESC LIMIT {int(limit)}"
        rows = self.db.read(lambda c: self.db.execute(c, sql, (self.namespace, ids.to_bytes(run_id))).fetchall())
        return [ids.to_text(bytes(row[0])) for row in rows]

    def _with_steps(self, connection: sa.Connection, run_id: str, run: NewRun, from_step: int) -> Created:
        """Record `run`, a copy of another, with the steps of that before `from_step` and what came for them."""
        source, raw = _raw(run_id), ids.to_bytes(run.id)
        sql = "SELECT history, history_from FROM aiki_runs WHERE namespace = ? AND id = ?"
        found = self.db.execute(connection, sql, (self.namespace, source)).fetchone()
        last, first = found or (0, 0)
        if run.kind != "workflow" or first or not 0 <= from_step < last:
            why = "it went on as new" if first else f"it has {last} steps, the first is 0"
            why = why if run.kind == "workflow" else "it is a task"
            raise RunConflict(f"run {run_id} cannot be rerun from step {from_step}: {why}")
        open_ = self.db.execute(
            connection,
            "SELECT s.ordinal, s.name FROM aiki_steps s LEFT JOIN aiki_inbox i ON i.namespace = s.namespace "
            "AND i.run_id = s.run_id "
            "AND i.ordinal = s.ordinal WHERE s.namespace = ? AND s.run_id = ? AND s.ordinal < ? AND s.state = 'open' "
            "AND i.id IS NULL ORDER BY s.ordinal LIMIT 1",
            (self.namespace, source, from_step),
        ).fetchone()
        if open_ is not None:
            raise RunConflict(f"run {run_id} cannot be rerun from step {from_step}: step {open_[0]} ({open_[1]}) has no result")
        created = self._create(connection, self.namespace, [run], None, None)
        if not created.accepted[0].created:
            return created
        self._copy_steps(connection, source, raw, from_step)
        self.db.execute(
            connection,
            "UPDATE aiki_runs SET history = ? WHERE namespace = ? AND id = ?",
            (from_step, self.namespace, raw),
        )
        return created

    def _copy_steps(self, connection: sa.Connection, source: bytes, target: bytes, before: int) -> None:
        for table, columns in (("aiki_steps", STEP_COLUMNS), ("aiki_inbox", INBOX_COLUMNS)):
            rest = ", ".join(column for column in columns if column not in ("namespace", "run_id"))
            sql = f"INSERT INTO {table} (namespace, run_id, {rest}) SELECT namespace, ?, {rest} FROM {table} "
            where = "WHERE namespace = ? AND run_id = ? AND ordinal < ?"
            self.db.execute(connection, sql + where, (target, self.namespace, source, before))


def _copy(run: RunView, payload: Payload, options: dict[str, object], new_id: str) -> NewRun:
    return NewRun(new_id, run.name, payload, queue=run.queue, version=run.version, kind=run.kind, options=options)


class Fingerprints:
    """Tells inputs apart in the audit, and nothing else of them.

    :param mask: hides what not everybody who reads the audit may see: a guess of it has the same hash as what it is.
    :param key: without it nobody can make the hash of a guess.
    """

    def __init__(self, mask: Mask, key: bytes) -> None:
        self._mask = mask
        self._key = key

    def changed(self, before: Payload | None, after: Payload) -> dict[str, str]:
        """Hashes of an edited input, so that what was run can be told from what was there before."""
        found = {"input_before": before, "input_after": after}
        return {name: self._hash(payload) for name, payload in found.items() if payload is not None}

    def _hash(self, payload: Payload) -> str:
        seen = self._mask.apply_to_payload(payload)
        text = "" if seen is None else f"{seen.encoding}\n{seen.text}"
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()
