"""The verbs of people: cancel and retry a run. Each is audited."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from aiki import ids
from aiki.errors import RunNotFound
from aiki.lifecycle.effects import Applied, Audited, Effects
from aiki.lifecycle.operations import cancel, retry_failed, retry_row
from aiki.lifecycle.record import RunRow
from aiki.model import Cancelled, Outgoing, Retried
from aiki.states import State
from aiki.storage.delivering import Delivering
from aiki.storage.reading import Reading


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
                if retry_failed(row, effects, self.clock()):
                    told = f"it was {before}, and was enqueued again as {runs[row.id]}"
                    effects.audit.append(Audited(actor or "enqueue", "retry", ids.to_text(row.id), told))
                states[ids.to_text(row.id)] = State(row.state)

        applied = self.apply_within(connection, namespace, runs, decide, leave=leave)
        return states, applied.outgoing


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
