"""Histories in the database: steps and arrivals as rows, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from aiki import ids
from aiki.history import CHILD_ENDED, OPEN, Arrival, Step
from aiki.model import StepView
from aiki.storage.engine import Database
from aiki.storage.rows import payload_of
from aiki.text import storable

STEP_COLUMNS: Final = (
    *("namespace", "run_id", "ordinal", "kind", "name", "digest", "state", "attempt", "input", "encoding", "data"),
    *("error_type", "error_message", "traceback", "error_args", "child_id", "abandon", "bound", "due_at", "millis"),
    *("worker", "created_at", "finished_at"),
)
STEP_RESULT: Final = (
    *("state", "attempt", "encoding", "data", "error_type", "error_message", "traceback", "error_args", "bound", "due_at"),
    *("millis", "worker", "finished_at"),
)
"""The columns that a later report of a step sets."""
INBOX_COLUMNS: Final = (
    *("namespace", "run_id", "id", "kind", "name", "ordinal", "outcome", "encoding", "data", "error_type", "error_message"),
    *("created_at", "taken"),
)
MAX_MESSAGE: Final = 4000
MAX_TRACEBACK: Final = 64 * 1024

_SELECT_STEP = (
    "run_id, ordinal, kind, name, digest, state, attempt, input, encoding, data, error_type, error_message, traceback, "
    "error_args, child_id, bound, due_at, created_at"
)
_SELECT_ARRIVAL = "run_id, id, kind, name, ordinal, outcome, encoding, data, error_type, error_message"
SELECT_STEP_OUTLINE = (
    "run_id, ordinal, kind, name, digest, state, attempt, input, encoding, CASE WHEN LENGTH(data) <= {most} THEN data END, "
    "error_type, error_message, CASE WHEN LENGTH(traceback) <= {most} THEN traceback END, error_args, child_id, bound, due_at, "
    "created_at, LENGTH(data), LENGTH(traceback)"
)
"""As `step_of` reads it, with the texts of up to `most` bytes, and behind it the lengths of both."""
SELECT_ARRIVAL_OUTLINE = (
    "run_id, id, kind, name, ordinal, outcome, encoding, CASE WHEN LENGTH(data) <= {most} OR kind = 'wake' THEN data END, "
    "error_type, error_message, LENGTH(data)"
)
"""The same for `arrival_of`."""


# ---------------------------------------------------------------- to rows
def step_values(db: Database, namespace: str, run_id: bytes, step: Step, now: int) -> dict[str, Any]:
    """The columns of a step. `now` is when it was issued, if it is new, and when it was done, if it is done."""
    more = step.more
    return {
        "namespace": namespace,
        "run_id": run_id,
        "ordinal": step.ordinal,
        "kind": step.kind,
        "name": step.name[:200],
        "digest": step.digest,
        "state": step.state,
        "attempt": step.attempt,
        "input": more.get("i"),
        "encoding": more.get("e"),
        "data": db.dialect.blob(more["r"]) if "r" in more else None,
        "error_type": _clean(more.get("t"), 255),
        "error_message": _clean(more.get("m"), MAX_MESSAGE),
        "traceback": _clean(more.get("tb"), MAX_TRACEBACK),
        "error_args": more.get("a"),
        "child_id": bytes.fromhex(more["c"]) if "c" in more else None,
        "abandon": int(bool(more.get("ab"))),
        "bound": bytes.fromhex(more["b"]) if "b" in more else None,
        "due_at": more.get("due"),
        "millis": more.get("ms"),
        "worker": bytes.fromhex(more["w"]) if "w" in more else None,
        "created_at": now,
        "finished_at": None if step.state == OPEN else now,
    }


def arrival_row(
    db: Database, namespace: str, run_id: bytes, arrival: Arrival, now: int, *, taken: bool = False
) -> tuple[Any, ...]:
    """A row of `INBOX_COLUMNS`."""
    data = None if arrival.text is None else db.dialect.blob(arrival.text)
    return (
        *(namespace, run_id, bytes.fromhex(arrival.id), arrival.kind, arrival.name[:200], arrival.ordinal, arrival.outcome),
        *(arrival.encoding, data, _clean(arrival.error_type, 255), _clean(arrival.error_message, MAX_MESSAGE), now, int(taken)),
    )


def _clean(text: str | None, limit: int) -> str | None:
    return None if text is None else storable(text, limit)


# ---------------------------------------------------------------- from rows
def step_of(row: Sequence[Any]) -> Step:
    """A step of a row selected with `_SELECT_STEP`."""
    _, ordinal, kind, name, digest, state, attempt, shown, encoding, data, *rest = row
    error_type, message, trace, arguments, child, bound, due, at = rest
    more: dict[str, Any] = {"at": at}
    if encoding is not None:
        payload = payload_of(encoding, data)
        more["e"], more["r"] = payload
    pairs = (("i", shown), ("t", error_type), ("m", message), ("tb", trace), ("a", arguments), ("due", due))
    for key, value in pairs:
        if value is not None:
            more[key] = value
    if child is not None:
        more["c"] = bytes(child).hex()
    if bound is not None:
        more["b"] = bytes(bound).hex()
    return Step(ordinal, kind, name, digest, state, attempt, more)


def arrival_of(row: Sequence[Any]) -> Arrival:
    """An arrival of a row selected with `_SELECT_ARRIVAL`."""
    _, raw, kind, name, ordinal, outcome, encoding, data, error_type, message = row
    text = None if encoding is None else payload_of(encoding, data).text
    return Arrival(bytes(raw).hex(), kind, name, ordinal, outcome, encoding, text, error_type, message)


def select_arrivals(
    db: Database, connection: sa.Connection, namespace: str, run_ids: Sequence[bytes]
) -> dict[bytes, list[Arrival]]:
    """All arrivals of these runs, by run; events in the order in which they were sent."""
    out: dict[bytes, list[Arrival]] = {}
    found = db.where_in(
        connection,
        f"SELECT {_SELECT_ARRIVAL} FROM aiki_inbox WHERE namespace = ? AND run_id",
        (namespace,),
        run_ids,
        "ORDER BY created_at, id",
    )
    for row in found:
        out.setdefault(bytes(row[0]), []).append(arrival_of(row))
    return out


def select_signs(
    db: Database, connection: sa.Connection, namespace: str, run_ids: Sequence[bytes]
) -> dict[bytes, list[Arrival]]:
    """As `select_arrivals`, without what they carry (but which sleeps a waking names): whether a run is to go on."""
    out: dict[bytes, list[Arrival]] = {}
    sql = (
        "SELECT run_id, id, kind, name, ordinal, outcome, CASE WHEN kind = 'wake' THEN data END FROM aiki_inbox "
        "WHERE namespace = ? AND run_id"
    )
    for run_id, raw, kind, name, ordinal, outcome, data in db.where_in(connection, sql, (namespace,), run_ids):
        text = None if data is None else bytes(data).decode("ascii")
        sign = Arrival(bytes(raw).hex(), kind, name, ordinal, outcome, None, text, None, None)
        out.setdefault(bytes(run_id), []).append(sign)
    return out


def step_view(row: Sequence[Any], end: Arrival | None, workers: dict[bytes, str]) -> StepView:
    """A `StepView` of a row of `STEP_COLUMNS`; of a child with how it ended, if it has."""
    found = dict(zip(STEP_COLUMNS, row, strict=True))
    payload = None if found["encoding"] is None else payload_of(found["encoding"], found["data"])
    state, error_type, message = found["state"], found["error_type"], found["error_message"]
    if end is not None and end.kind == CHILD_ENDED and state == OPEN:
        state, payload, error_type, message = end.outcome, end.payload, end.error_type, end.error_message
    child, worker = found["child_id"], found["worker"]
    return StepView(
        *(found["ordinal"], found["kind"], found["name"], state, found["attempt"], found["input"], payload),
        *(error_type, message, found["traceback"] or "", None if child is None else ids.to_text(bytes(child))),
        *(found["due_at"], found["millis"], None if worker is None else workers.get(bytes(worker), bytes(worker).hex())),
        *(found["created_at"], found["finished_at"]),
    )
