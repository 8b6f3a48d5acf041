"""The verbs of people: cancel and retry a run. Each is audited."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress

import sqlalchemy as sa

from aiki import ids
from aiki.errors import RunConflict, RunNotFound
from aiki.lifecycle.effects import Applied, Audited, Effects
from aiki.lifecycle.record import EXPIRED, RunRow
from aiki.lifecycle.waits import bring_on, go_on, is_out
from aiki.messages import RunKey
from aiki.model import Cancelled, Outgoing, Retried
from aiki.states import State
from aiki.storage.delivering import Delivering
from aiki.storage.reading import Reading
from aiki.storage.telling import FAILED

_RETRYABLE = frozenset({State.FAILED.value, State.DEAD.value, State.CANCELLED.value})
_STALLED = State.STALLED.value


class Operating(Delivering, Reading):
    """What people do to runs."""

    def cancel_run(
        self, run_id: str, *, reason: str = "", actor: str = "", at_once: bool = False, once: bool = False
    ) -> Cancelled:
        """Cancel a run: at once if nobody executes it, else it is to be interrupted. An ended run stays as it is.

        A workflow that has begun meets the cancel in its code; a second cancel, or `at_once`, ends it without.

        :param once: change nothing if a cancel was asked for before: for callers that do not know whether theirs was heard.
        :raises RunNotFound: there is no such run.
        """
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            if row.ended or (once and row.cancel_requested):
                return
            if at_once or not row.cancel_requested or row.is_workflow:
                effects.audit.append(Audited(actor, "terminate" if at_once else "cancel", run_id, reason=reason))
            cancel(row, effects, self.clock(), reason, at_once=at_once)

        applied = self.apply(self.namespace, [raw], decide, verb="terminate" if at_once else "cancel", unsent=True)
        return Cancelled(self._view(run_id), applied.revoke, applied.interrupt, applied.soon, applied.outgoing)

    def retry_run(self, run_id: str, *, reason: str = "", actor: str = "") -> Retried:
        """Have a failed, dead or cancelled run go on under the same id.

        :raises RunNotFound: there is no such run.
        :raises RunConflict: it is in another state.
        """
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            effects.audit.append(Audited(actor, "retry", run_id, f"it was {row.state}", reason))
            retry_row(row, effects, self.clock())

        applied: Applied = self.apply(self.namespace, [raw], decide, verb="retry")
        return Retried(self._view(run_id), applied.outgoing)

    def retry_within(
        self, connection: sa.Connection, namespace: str, runs: Mapping[bytes, str], actor: str, *, leave: bool
    ) -> tuple[dict[str, State], list[Outgoing]]:
        """See `Creating.retry_within`."""
        states: dict[str, State] = {}

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            for row in rows.values():
                before = row.state
                if before in FAILED or (before == State.CANCELLED.value and row.error_type == EXPIRED):
                    with suppress(RunConflict):  # what was compensated stays as it is
                        retry(row, effects, self.clock())
                        told = f"it was {before}, and was enqueued again as {runs[row.id]}"
                        effects.audit.append(Audited(actor or "enqueue", "retry", ids.to_text(row.id), told))
                states[ids.to_text(row.id)] = State(row.state)

        applied = self.apply_within(connection, namespace, runs, decide, leave=leave)
        return states, applied.outgoing


def retry_row(row: RunRow, effects: Effects, now: int) -> None:
    """Have one locked run go on that has failed, is dead, was cancelled, or is stalled by its code. Raises `RunConflict`."""
    if row.state == _STALLED and (row.is_workflow or row.error_type):
        bring_on(row, effects, now)
        return
    if row.state not in _RETRYABLE:
        raise RunConflict(
            f"run {ids.to_text(row.id)} is {row.state}; only failed, dead and cancelled runs can be retried"
            + (" (rerun makes a new run with the same input)" if row.ended else "")
        )
    retry(row, effects, now)


def retry(row: RunRow, effects: Effects, now: int) -> None:
    """Have one locked run that has failed, is dead or was cancelled go on; a workflow from where it failed.

    Its retry policy, and those of a workflow's open steps, begin anew; the attempts that are shown go on. It expires no more.

    :raises RunConflict: what the workflow had done was undone already.
    """
    failed = json.loads(row.failed_at) if row.failed_at else {}
    if failed.get("undone") or (row.is_workflow and row.state == State.CANCELLED.value and row.history):
        raise RunConflict(
            f"run {row.run_id} was {'compensated' if failed.get('undone') else 'cancelled'}: what it had done may be "
            "undone, so it cannot go on from there; rerun makes a new run with the same input"
        )
    effects.operator = True
    if failed.get("at"):
        effects.reset[row.id] = failed["at"]
    row.state = State.QUEUED.value
    row.attempt += 1
    row.count_anew()
    if row.is_workflow:
        effects.renew.append(row.id)
    row.crashes = row.idle_dispatches = row.cancel_requested = row.pause_requested = 0
    row.error_type = row.error_message = row.waiting_on = row.cancel_reason = row.failed_at = None
    row.finished_at = row.expires_at = row.progress = row.progress_message = None
    effects.deliver(row, now)


def cancel(row: RunRow, effects: Effects, now: int, reason: str, *, at_once: bool = False) -> None:
    """Cancel one locked run that has not ended.

    A workflow that has begun meets its cancel in its code, at the next durable point; a second cancel ends it.

    :param at_once: end it whatever it is, without calling its code again.
    """
    again = bool(row.cancel_requested)
    row.cancel_requested = 1
    row.cancel_reason = reason[:255] or row.cancel_reason
    if row.is_workflow:
        effects.cancel_children[row.id] = row.history
        if not (at_once or again):
            _cancel_workflow(row, effects, now)
            return
    key = RunKey(row.run_id, row.epoch)
    if row.state == State.RUNNING.value:
        effects.revoke.append((key, True))
        if not row.is_workflow:
            return
    if is_out(row) and not effects.never_sent(row):
        # Its dispatch may be out, or just begun without our knowing: never begin it, stop it if it runs.
        effects.revoke.append((key, True))
    conclude_cancel(row, now)


def _cancel_workflow(row: RunRow, effects: Effects, now: int) -> None:
    key = RunKey(row.run_id, row.epoch)
    out = is_out(row) and not effects.never_sent(row)
    if not (out and row.state == State.PAUSED.value):
        row.pause_requested = 0
    if row.state == State.RUNNING.value:
        effects.soon.append(key)
    elif out:
        # Its dispatch may be out. If it is begun it meets the cancel; if not, and nothing is recorded, it never begins.
        effects.soon.append(key)
        if not row.history:
            effects.revoke.append((key, False))
        if row.state == State.PAUSED.value:
            go_on(row, effects, now)
    elif row.history == 0 and row.state != State.WAITING.value:
        conclude_cancel(row, now)
    elif row.state != State.STALLED.value:
        bring_on(row, effects, now)


def conclude_cancel(row: RunRow, now: int) -> None:
    """The run has ended, cancelled."""
    row.state = State.CANCELLED.value
    row.waiting_on = None
    row.finished_at = now


def _raw(run_id: str) -> bytes:
    try:
        return ids.to_bytes(run_id)
    except ValueError:
        raise RunNotFound(run_id) from None


def _present(rows: dict[bytes, RunRow], raw: bytes, run_id: str) -> RunRow:
    row = rows.get(raw)
    if row is None:
        raise RunNotFound(run_id)
    return row


__all__: Sequence[str] = ("Operating", "cancel", "conclude_cancel", "retry", "retry_row")
