"""Rows of the database as objects: `RunRow`, which decisions change under a lock, and the ways to read others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any, Final

from aiki import ids
from aiki.codec import Payload
from aiki.history import History
from aiki.messages import OPT_BIND_FIRST, OPT_CANCEL, OPT_HISTORY, OPT_KIND, OPT_REFERENCE, OPT_UNCOUNTED, Dispatch
from aiki.model import Attempt, RunView
from aiki.states import State

CANCEL_ASKED: Final = 1
CANCEL_MET: Final = 2
"""`cancel_requested` of a workflow: it is to meet its cancel; it has met it, and cleans up as it likes."""
EXPIRY_EPOCH = 0xFFFFFFFF
CHANGED_ERRORS: Final = frozenset({"WorkflowChanged", "TaskChanged"})
"""What stalled runs have as their error whose code does not fit: a workflow's history, or the arguments of either."""
EXPIRED: Final = "Expired"
"""The error type of a run that was not started in time."""


def delivery_id(run_id: bytes, epoch: int) -> bytes:
    """A delivery's primary key: 16 bytes of run id, 4 bytes of epoch."""
    return run_id + epoch.to_bytes(4, "big")


def split_delivery_id(raw: bytes) -> tuple[bytes, int]:
    """The run id and the epoch that a delivery's key is made of."""
    return raw[:16], int.from_bytes(raw[16:], "big")


@dataclass(slots=True)
class RunRow:
    """The part of a run's row that decisions read and change, while it is locked."""

    id: bytes
    kind: str
    name: str
    version: str
    queue: str
    state: str
    epoch: int
    executor: str | None
    worker: bytes | None
    attempt: int
    crashes: int
    idle_dispatches: int
    partition_no: int
    reference_id: str | None
    options: str | None
    waiting_on: str | None
    cancel_requested: int
    cancel_reason: str | None
    progress: float | None
    progress_message: str | None
    error_type: str | None
    error_message: str | None
    due_at: int | None
    dispatched_at: int | None
    started_at: int | None
    finished_at: int | None
    expires_at: int | None
    updated_at: int
    parent_id: bytes | None
    parent_ordinal: int | None
    followers: int
    history: int
    history_from: int
    waits: str | None
    pause_requested: int
    failed_at: str | None
    marker: int | None
    before: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def run_id(self) -> str:
        """The id as messages write it."""
        return self.id.hex()

    @property
    def ended(self) -> bool:
        """Whether the state is terminal."""
        return self.state in _TERMINAL

    @property
    def is_workflow(self) -> bool:
        """Whether its function is replayed."""
        return self.kind == "workflow"

    def option(self, key: str, default: Any = None) -> Any:
        """One of the run's options."""
        return json.loads(self.options).get(key, default) if self.options else default

    def count_anew(self) -> None:
        """Have the retry policy count from the present attempt on: as its first, whatever was before."""
        self._leave_uncounted(self.attempt - 1)

    def skip_attempt(self) -> None:
        """Have the retry policy not count the attempt that was just added: the one before it did not fail by itself."""
        self._leave_uncounted(self.option(OPT_UNCOUNTED, 0) + 1)

    def _leave_uncounted(self, attempts: int) -> None:
        options = own_options(self.options)
        if attempts:
            options[OPT_UNCOUNTED] = attempts
        self.options = json.dumps(options, separators=(",", ":")) if options else None


_TERMINAL = frozenset({State.COMPLETED.value, State.FAILED.value, State.CANCELLED.value, State.DEAD.value})

RUN_FIELDS: tuple[str, ...] = tuple(name for name in RunRow.__slots__ if name != "before")
MUTABLE: tuple[str, ...] = tuple(
    name
    for name in RUN_FIELDS
    if name
    not in (
        "id",
        "kind",
        "name",
        "version",
        "partition_no",
        "reference_id",
        "parent_id",
        "parent_ordinal",
        "followers",
    )
)
_mutable = attrgetter(*MUTABLE)
_mutable_before = itemgetter(*(RUN_FIELDS.index(name) for name in MUTABLE))
SELECT_RUN = ", ".join(RUN_FIELDS)


def run_row(values: Any) -> RunRow:
    """A `RunRow` of a row selected with `SELECT_RUN`, remembering what it was."""
    row = RunRow(*values)
    row.before = tuple(values)
    return row


def changed(row: RunRow) -> tuple[str, ...]:
    """The names of the columns that a decision changed."""
    now, before = _mutable(row), _mutable_before(row.before)
    if now == before:
        return ()
    return tuple(name for name, new, old in zip(MUTABLE, now, before, strict=True) if new != old)


SUSPECT_AFTER = 3


def is_suspect(row: RunRow) -> bool:
    """Whether the run may harm those beside it: it has killed its process, or vanished with its worker time and again."""
    return row.crashes > 0 or row.idle_dispatches >= SUSPECT_AFTER


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


def own_options(recorded: str | None) -> dict[str, Any]:
    """A run's recorded options as it was enqueued with them: without what its attempts have added."""
    options: dict[str, Any] = json.loads(recorded) if recorded else {}
    options.pop(OPT_UNCOUNTED, None)
    return options


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
