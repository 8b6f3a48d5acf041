"""A run's record as decisions see it: `RunRow`, read and changed while its row is locked, and the constants of its columns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any, Final

from aiki.messages import OPT_UNCOUNTED
from aiki.states import State

CANCEL_ASKED: Final = 1
CANCEL_MET: Final = 2
"""`cancel_requested` of a workflow: it is to meet its cancel; it has met it, and cleans up as it likes."""
PAUSED_OUT: Final = 2
"""`pause_requested` of a run that was paused while its dispatch was out: somebody may execute it, or have reported of it."""
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


def is_out(row: RunRow) -> bool:
    """Whether the dispatch of a run that nobody is known to execute may be out."""
    return row.state == State.QUEUED.value or (row.state == State.PAUSED.value and row.pause_requested == PAUSED_OUT)


def own_options(recorded: str | None) -> dict[str, Any]:
    """A run's recorded options as it was enqueued with them: without what its attempts have added."""
    options: dict[str, Any] = json.loads(recorded) if recorded else {}
    options.pop(OPT_UNCOUNTED, None)
    return options
