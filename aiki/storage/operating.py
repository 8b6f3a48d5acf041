"""The verbs of people: cancel and retry a run. Each is audited."""

from __future__ import annotations

from collections.abc import Sequence

from aiki import ids
from aiki.errors import RunConflict, RunNotFound
from aiki.messages import RunKey
from aiki.model import Cancelled, Retried
from aiki.states import State
from aiki.storage.applying import Applied, Effects
from aiki.storage.delivering import Delivering
from aiki.storage.reading import Reading
from aiki.storage.rows import RunRow

_RETRYABLE = frozenset({State.FAILED.value, State.DEAD.value, State.CANCELLED.value})


class Operating(Delivering, Reading):
    """What people do to runs."""

    def cancel_run(self, run_id: str, *, reason: str = "", actor: str = "") -> Cancelled:
        """Cancel a run: at once if nobody executes it, else it is to be interrupted. An ended run stays as it is.

        :raises RunNotFound: there is no such run.
        """
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            if row.ended:
                return
            if not row.cancel_requested:
                effects.audit.append((actor, "cancel", run_id, reason[:1000]))
            cancel(row, effects, self.clock(), reason)

        applied = self.apply(self.namespace, [raw], decide)
        return Cancelled(self._view(run_id), applied.revoke, applied.interrupt)

    def retry_run(self, run_id: str, *, actor: str = "") -> Retried:
        """Have a failed, dead or cancelled run go on under the same id.

        :raises RunNotFound: there is no such run.
        :raises RunConflict: it is in another state.
        """
        raw = _raw(run_id)

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            row = _present(rows, raw, run_id)
            if row.state not in _RETRYABLE:
                raise RunConflict(
                    f"run {run_id} is {row.state}; only failed, dead and cancelled runs can be retried"
                    + (" (rerun makes a new run with the same input)" if row.ended else "")
                )
            effects.operator = True
            effects.audit.append((actor, "retry", run_id, f"it was {row.state}"))
            row.state = State.QUEUED.value
            row.attempt += 1
            row.crashes = row.idle_dispatches = row.cancel_requested = 0
            row.error_type = row.error_message = row.waiting_on = row.cancel_reason = None
            row.finished_at = row.expires_at = row.progress = row.progress_message = None
            effects.deliver(row, self.clock())

        applied: Applied = self.apply(self.namespace, [raw], decide)
        return Retried(self._view(run_id), applied.outgoing)


def cancel(row: RunRow, effects: Effects, now: int, reason: str) -> None:
    """Cancel one locked run that has not ended."""
    row.cancel_requested = 1
    row.cancel_reason = reason[:255] or None
    key = RunKey(row.run_id, row.epoch)
    if row.state == State.RUNNING.value:
        effects.revoke.append((key, True))
        return
    if row.state == State.QUEUED.value:
        # Its dispatch may be out, or just begun without our knowing: never begin it, stop it if it runs.
        effects.revoke.append((key, True))
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


__all__: Sequence[str] = ("Operating", "cancel")
