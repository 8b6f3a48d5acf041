"""Ending runs without a worker: what the orchestrator would do with a report."""

from __future__ import annotations

from typing import Any

from aiki import codec, ids
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.states import State
from aiki.storage import Store


def end(
    store: Store, run_id: str, state: State = State.COMPLETED, *, result: Any = None, error: tuple[str, str] | None = None
) -> None:
    """Bring the run into `state`, with a result, or with an error's type and message."""
    raw = ids.to_bytes(run_id)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        row = rows[raw]
        row.state = state.value
        row.finished_at = store.clock()
        if result is not None:
            effects.results.append((raw, codec.encode(result)))
        if error is not None:
            row.error_type, row.error_message = error
            effects.attempts.append(
                (raw, row.epoch, row.attempt, "failed", *error, "Traceback: here", "w1", None, None, None, store.clock())
            )

    store.apply(store.namespace, [raw], decide)
