"""Rows of the database as objects: what is dispatched and shown of runs. What decisions change is a `RunRow`
(`aiki.lifecycle.record`)."""

from __future__ import annotations

import json
from typing import Any

from aiki import ids
from aiki.codec import Payload
from aiki.history import History
from aiki.lifecycle.record import CANCEL_ASKED, RunRow, is_suspect
from aiki.messages import OPT_BIND_FIRST, OPT_CANCEL, OPT_HISTORY, OPT_KIND, OPT_REFERENCE, Dispatch
from aiki.model import Attempt, RunView
from aiki.states import State


def dispatch_of(row: RunRow, payload: Payload, history: History | None = None) -> Dispatch:
    """The dispatch of a run at its present epoch; a workflow's carries its history."""
    options = dispatch_options(row.options, row.reference_id, row.kind)
    if is_suspect(row):
        options[OPT_BIND_FIRST] = 1
    if history is not None:
        options[OPT_HISTORY] = history.to_wire()
    if row.is_workflow and row.cancel_requested == CANCEL_ASKED:
        options[OPT_CANCEL] = 1
    return Dispatch(
        row.id.hex(), row.epoch, row.name, row.version, row.attempt, row.partition_no, payload.encoding, payload.text, options
    )


def dispatch_options(recorded: str | None, reference_id: str | None, kind: str) -> dict[str, Any]:
    """What a dispatch carries of a run's recorded options, and of what else is sparse."""
    options = json.loads(recorded) if recorded else {}
    options.pop("mc", None)
    if reference_id is not None:
        options[OPT_REFERENCE] = reference_id
    if kind != "task":
        options[OPT_KIND] = kind
    return options


VIEW_COLUMNS = (
    "id, namespace, kind, name, version, queue, state, attempt, crashes, reference_id, waiting_on, worker, cancel_requested, "
    "progress, progress_message, error_type, error_message, created_at, due_at, started_at, finished_at, expires_at, "
    "updated_at, parent_id, pause_requested, cancel_reason"
)


def run_view(values: Any, worker_names: dict[bytes, str] | None = None) -> RunView:
    """A `RunView` of a row selected with `VIEW_COLUMNS`."""
    id_, namespace, kind, name, version, queue, state, attempt, crashes, reference_id, waiting_on, worker, *more = values
    cancel, *rest, parent, pause, cancel_reason = more
    rest.append(None if parent is None else ids.to_text(bytes(parent)))
    worker_name = None
    if worker is not None:
        worker_name = (worker_names or {}).get(bytes(worker), bytes(worker).hex())
    rest += [bool(pause), cancel_reason]
    return RunView(
        ids.to_text(bytes(id_)),
        namespace,
        kind,
        name,
        version,
        queue,
        State(state),
        attempt,
        crashes,
        reference_id,
        waiting_on,
        worker_name,
        bool(cancel),
        *rest,
    )


ATTEMPT_COLUMNS = (
    "number, epoch, outcome, error_type, error_message, traceback, worker, signal_name, exit_code, started_at, finished_at"
)


def attempt_of(values: Any) -> Attempt:
    """An `Attempt` of a row selected with `ATTEMPT_COLUMNS`."""
    return Attempt(*values)


def payload_of(encoding: str, data: bytes | memoryview) -> Payload:
    """A payload as the database keeps it."""
    return Payload(encoding, bytes(data).decode("ascii"))
