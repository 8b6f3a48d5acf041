"""What a decision asks for beside the changed rows, for storage to write in the same transaction; and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki.codec import Payload
from aiki.history import Arrival, Step
from aiki.lifecycle.record import RunRow, delivery_id
from aiki.lifecycle.run_logs import LogRecord
from aiki.messages import RunKey
from aiki.model import NewRun, Outgoing

ATTEMPT_COLUMNS = (
    "namespace",
    "run_id",
    "epoch",
    "number",
    "outcome",
    "error_type",
    "error_message",
    "traceback",
    "worker",
    "signal_name",
    "exit_code",
    "started_at",
    "finished_at",
)
TRACEBACK_AT: Final = ATTEMPT_COLUMNS.index("traceback") - 1
"""In the rows of `Effects.attempts`, which have no namespace."""
DONE, REFUSED, FAILED = "done", "refused", "failed"


class Audited(NamedTuple):
    """Something that was done, or refused.

    :ivar subject: what it was done to: a run's id, a queue, a user.
    :ivar detail: particulars, never a secret; :ivar reason: why, in the actor's words.
    :ivar affected: how many were changed.
    """

    actor: str
    action: str
    subject: str
    detail: str = ""
    reason: str = ""
    affected: int = 1
    outcome: str = DONE


@dataclass(slots=True)
class Effects:
    """What a decision wants beside the changed rows. Filled by the decision, written in the same transaction."""

    results: list[tuple[bytes, Payload]] = field(default_factory=list)
    error_arguments: dict[bytes, str] = field(default_factory=dict)
    """Of runs that fail: the arguments from which their errors can be made anew, as JSON text."""
    attempts: list[tuple[Any, ...]] = field(default_factory=list)
    """Rows of `ATTEMPT_COLUMNS` without the namespace."""
    turned: dict[bytes, int] = field(default_factory=dict)
    """Workflows that go on as new, and the ordinal at which their present turn begins."""
    forget: set[bytes] = field(default_factory=set)
    """Deliveries that are of no more use."""
    dispatch: dict[bytes, tuple[RunRow, int, bool]] = field(default_factory=dict)
    """Deliveries to make, by run: the row, when it is due, whether it is marked again (and keeps its epoch)."""
    publish: list[tuple[RunRow, bool]] = field(default_factory=list)
    """Runs whose delivery is there and claimed, and that are published now; True: marked again."""
    revoke: list[tuple[RunKey, bool]] = field(default_factory=list)
    """Dispatches that may be out and must not begin; True: interrupt them where they run."""
    unrevoke: list[tuple[bytes, int]] = field(default_factory=list)
    audit: list[Audited] = field(default_factory=list)
    attempts_there: set[tuple[bytes, int]] = field(default_factory=set)
    """Which of the attempts that `apply` was asked about (run, epoch) are recorded already."""
    theirs: bool = False
    """The transaction is a caller's, and may be REPEATABLE READ: only a locking SELECT reads what is committed by now."""
    was_out: set[bytes] = field(default_factory=set)
    """Runs that somebody executes although, as they are on record, no dispatch of theirs is out: they count as queued before.
    A delivery that falls due while it is written, for instance, is published at once."""
    operator: bool = False
    """An operator asked: terminal states may be left."""
    soon: list[RunKey] = field(default_factory=list)
    """Workflows that are to meet their cancel at the next durable point."""
    steps: dict[tuple[bytes, int], tuple[Step, bool]] = field(default_factory=dict)
    """What workflows issued or did, by run and ordinal; True: it is new."""
    children: list[NewRun] = field(default_factory=list)
    """Runs that workflows start."""
    arrived: dict[bytes, list[Arrival]] = field(default_factory=dict)
    """All that came to the runs that `apply` was asked about, without what it carries. Decisions that bind some of it change it
    here, so that later ones see it."""
    fresh: dict[bytes, set[str]] = field(default_factory=dict)
    """Those of them that nobody has looked at before, by run."""
    arrivals: list[tuple[bytes, Arrival, bool]] = field(default_factory=list)
    """What comes to runs: the run, and whether it has been looked at already."""
    bind: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    """Arrivals that steps took: the run, the ordinal, the arrival's id."""
    cancel_children: dict[bytes, int] = field(default_factory=dict)
    """Runs whose children are to be cancelled, those up to this ordinal: compensations start later ones."""
    reset: dict[bytes, list[int]] = field(default_factory=dict)
    """Steps that are to be done again, by run."""
    renew: list[bytes] = field(default_factory=list)
    """Workflows whose open steps are to be tried as often as at first."""
    told_again: list[bytes] = field(default_factory=list)
    """Runs that have ended, and whose parents are to be told once more."""
    followed: list[bytes] = field(default_factory=list)
    """Runs that have ended, and that others than their parents wait for."""
    logs: list[LogRecord] = field(default_factory=list)
    """What runs logged."""
    unsent: set[bytes] = field(default_factory=set)
    """Deliveries of the runs that nobody has claimed yet."""
    ended: list[RunRow] = field(default_factory=list)
    """Runs that end in this transaction; found by `apply`."""

    def deliver(self, row: RunRow, due_at: int) -> None:
        """Have the run dispatched at `due_at`, under its next epoch."""
        self.forget.add(delivery_id(row.id, row.epoch))
        row.epoch += 1
        row.executor = None
        row.worker = None
        row.marker = None
        self.dispatch[row.id] = (row, due_at, False)

    def deliver_again(self, row: RunRow, due_at: int) -> None:
        """Publish the present epoch once more, marked, so that whoever takes it inquires."""
        self.forget.add(delivery_id(row.id, row.epoch))
        row.marker = None
        self.dispatch[row.id] = (row, due_at, True)

    def never_sent(self, row: RunRow) -> bool:
        """Whether the run's present dispatch was surely never published; `apply` is to be asked for it (`unsent`)."""
        return delivery_id(row.id, row.epoch) in self.unsent


@dataclass(slots=True)
class Applied:
    """What came of it: the deliveries to publish now, and what to tell the workers.

    :ivar revoke: never begin; `interrupt`: and stop it where it runs; `soon`: cancel at the next durable point.
    :ivar stirred: runs that something has come to: they are to be looked at (`Effects.arrivals` of others).
    :ivar left: how many deliveries are left to whoever sweeps next, for there was no room for them here.
    """

    outgoing: list[Outgoing] = field(default_factory=list)
    revoke: list[RunKey] = field(default_factory=list)
    interrupt: list[RunKey] = field(default_factory=list)
    soon: list[RunKey] = field(default_factory=list)
    stirred: set[bytes] = field(default_factory=set)
    left: int = 0


Decide = Callable[[dict[bytes, RunRow], Effects], None]
