"""Reports: what happened to runs, from a worker to the orchestrator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki import fields as f
from aiki.errors import MessageError
from aiki.history_checks import MAX_STEPS, is_step, is_value_key, is_waits
from aiki.messages.envelope import REPORTS, VERSION, Refused, are_keys, encode, key_of, opened

STARTED: Final = "started"
"""Somebody executes the run (sent once it takes longer than a moment). Body: `ms` since it began."""
COMPLETED: Final = "completed"
"""Body: `ms` it took, `e` and `r`: encoding and text of the result (both absent when the result is None)."""
FAILED: Final = "failed"
"""It raised and is not to be retried. Body: `ms`, `type`, `message`, `tb` (traceback text), `outcome` (see attempts); `a`: the
error's arguments (JSON text), if it can be made anew from them; of a workflow: `at`: ordinals of the steps that it failed at,
`undone`: 1 if compensations were run."""
RETRY: Final = "retry"
"""It raised and is to be executed again. Body: as `failed`, and `delay` in seconds; `asked`: 1 for `RetryLater`."""
CRASHED: Final = "crashed"
"""The process that executed it died. Body: `ms`, `message`, `signal` (a name such as SIGKILL) or `exit` (code), `oom`: 1."""
CANCELLED: Final = "cancelled"
"""It was interrupted by a cancel. Body: `ms`; `met`: 1 where a workflow's function met its cancel and let it pass."""
RETURNED: Final = "returned"
"""It was begun but given up through no fault of its own (cold shutdown): dispatch it again, charge nothing. Body: `ms`."""
INQUIRE: Final = "inquire"
"""A dispatch was redelivered, or marked again, and not executed: is anybody at it? Body: `why`: "redelivered" or "again"."""
UNKNOWN: Final = "unknown"
"""This worker does not have the definition. Body: `name`, `version`."""
DROPPED: Final = "dropped"
"""A revoked dispatch was taken and thrown away. Empty body."""
PROGRESS: Final = "progress"
"""Body: `p` from 0 to 1 or null, `m`: a message."""
LOGS: Final = "logs"
"""What it logged. Body: `l`: a list of `[number, microseconds since the Unix epoch, level, logger, message, step or null]`; the
numbers rise within an executor."""
MARKER: Final = "marker"
"""A marker came out of a work queue. The run id is empty, the epoch is the marker. Body: `q`: the queue."""
SYNC: Final = "sync"
"""From an orchestrator to itself: inquiries that all workers have answered, behind all that was reported until then.
The run id is empty. Body: `n`: the number of the question; `runs`: `[[run_id, epoch], …]`; `again`: those of them of which
another copy of the dispatch may be out."""

REFUSED: Final = "refused"
"""A dispatch that does not pass came in a list whose others do. The run id is empty. Body: `q`: the queue; `why`; `b`: the
dispatch, as a message of its own, perhaps cut. To be kept as a dead letter."""

STEPS: Final = "steps"
"""A workflow's function has issued or done something. Body: `s`: a list of `aiki.history.Step`. The report at the end of a call
of the function has `n`, how many steps the run has by then: so a missing report of steps is noticed."""
SUSPENDED: Final = "suspended"
"""It waits. Body: `ms`, `n` (as every report that ends a call of a workflow's function: how many steps there are in all; if not
all of them are recorded, reports before this one are missing, and it is passed over), and `all`, `w` as `aiki.history.Waits` on
the wire; nothing to wait for: it was asked to pause."""
CONTINUED: Final = "continued"
"""It goes on as new. Body: `ms`, `e` and `r`: the new input."""
CHANGED: Final = "changed"
"""Its code does not fit its history: nothing was started. Body: `ms`, `message`."""

FETCH: Final = "fetch"
"""A workflow looks at values of its history that its dispatch does not carry. Body: `n`: the number of the question; `k`: a
list of `aiki.history.ValueKey`; `at`: the address of the answer, which nobody can guess (else it is the executor's). Answered
with `Values`; it changes nothing."""

ENDS_DISPATCH: Final = frozenset(
    {SUSPENDED, CONTINUED, CHANGED, COMPLETED, FAILED, RETRY, CRASHED, CANCELLED, RETURNED, INQUIRE, UNKNOWN, DROPPED}
)
"""After one of these the executor is done with the dispatch."""


class Report(NamedTuple):
    """What happened to one run. The vocabulary of kinds is open: receivers put unknown kinds in the dead letters."""

    kind: str
    run_id: str
    epoch: int
    body: dict[str, Any]


@dataclass(slots=True)
class ReportList:
    """One message of the report exchange: reports of one executor, in order.

    `executor` is `<worker>/<slot>.<incarnation>`, unique for each child process; the first report binds the run's epoch to it.
    """

    namespace: str
    worker: str
    executor: str
    reports: list[Report]
    refused: dict[int, str] = field(default_factory=dict)
    """Found when it is read: what is wrong with the body of a report, by its place in `reports`, where it is without a body."""
    unreadable: list[Refused] = field(default_factory=list)
    """Found when it is read: what is no report at all."""
    draining: bool = False
    """Whether the worker is about to stop. Unlike its heartbeats this is heard also if no orchestrator runs at the time."""

    def encode(self) -> bytes:
        """The message's bytes."""
        header: dict[str, Any] = {"ns": self.namespace, "w": self.worker, "x": self.executor}
        if self.draining:
            header["dr"] = 1
        return encode([VERSION, REPORTS, header, self.reports]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> ReportList:
        """Read a message; raises `MessageError`."""
        header, items = opened(body, REPORTS, _REPORTS_HEADER)
        if type(items) is not list:
            raise MessageError(f"reports that cannot be read: they are {f.shown(items)}")
        found = cls(header["ns"], header["w"], header["x"], [], draining=bool(header.get("dr")))
        for item in items:
            if not _is_report(item):
                found.unreadable.append(Refused(f"it is no report: {f.shown(item)}", *key_of(item, 1), None, item))
                continue
            kind, run_id, epoch, content = item
            fields = _BODIES.get(kind)
            wrong = fields.wrong(content) if fields is not None else None
            if wrong is not None:
                found.refused[len(found.reports)] = wrong
                content = {}
            found.reports.append(Report(kind, run_id, epoch, content))
        return found


def _is_report(item: Any) -> bool:
    """Whether it has the form of a report; what its body holds is asked elsewhere."""
    if type(item) is not list or len(item) != len(Report._fields):
        return False
    kind, run_id, epoch, content = item
    if type(kind) is not str or len(kind) > _MAX_KIND or type(content) is not dict:
        return False
    if kind in _OF_NO_RUN:
        return run_id == "" and f.large(epoch)
    return f.epoch(epoch) and (f.hex_id(run_id) or (run_id == "" and kind not in _BODIES))


_MAX_KIND: Final = 64
_OF_NO_RUN: Final = frozenset({MARKER, SYNC, REFUSED})
_REPORTS_HEADER: Final = f.Fields(
    {"ns": f.place, "w": lambda value: value == "" or f.hex_id(value), "x": f.executor, "dr": f.flag}, ("ns", "w", "x")
)


_a_prose = f.optional(f.prose)
_ENDED: Final[dict[str, f.Check]] = {"ms": f.millis, "n": f.count, "message": _a_prose}
_RESULT: Final = {**_ENDED, "e": f.word, "r": f.data}
_RAISED: Final = {
    **_ENDED,
    "type": _a_prose,
    "tb": _a_prose,
    "outcome": f.word,
    "signal": _a_prose,
    "exit": f.optional(f.integer(-(2**31), 2**31 - 1)),
    "oom": f.flag,
    "at": f.list_of(f.count, MAX_STEPS),
    "undone": f.flag,
    "asked": f.flag,
}
_are_keys: Final = f.list_of(is_value_key, MAX_STEPS)
_BODIES: Final[dict[str, f.Fields]] = {
    STARTED: f.Fields({"ms": f.millis}),
    COMPLETED: f.Fields(_RESULT),
    FAILED: f.Fields({**_RAISED, "a": f.data}),
    RETRY: f.Fields({**_RAISED, "delay": f.seconds}),
    CRASHED: f.Fields(_RAISED),
    CANCELLED: f.Fields({**_ENDED, "met": f.flag}),
    RETURNED: f.Fields(_ENDED),
    INQUIRE: f.Fields({"why": f.prose}),
    UNKNOWN: f.Fields({"name": f.prose, "version": f.prose}),
    DROPPED: f.Fields({}),
    FETCH: f.Fields({"n": f.large, "k": _are_keys, "at": f.hex_id}, ("n", "k")),
    PROGRESS: f.Fields({"p": f.optional(f.finite), "m": _a_prose}),
    LOGS: f.Fields({}),  # a line that cannot be read is left out, where they are recorded
    MARKER: f.Fields({"q": f.place}),
    REFUSED: f.Fields({"q": f.place, "why": f.prose, "b": f.data}, ("q", "why", "b")),
    SYNC: f.Fields({"n": f.large, "runs": are_keys, "again": are_keys}, ("n", "runs", "again")),
    STEPS: f.Fields({"s": f.list_of(is_step, MAX_STEPS)}),
    SUSPENDED: f.Fields({**_ENDED, **is_waits.checks}, ("all", "w")),
    CONTINUED: f.Fields(_RESULT, ("e", "r")),
    CHANGED: f.Fields(_ENDED),
}
"""What the body of each kind of report holds."""
