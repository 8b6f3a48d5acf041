"""What passes through the broker: dispatches, reports, control messages and heartbeats.

Every message is ASCII JSON, a list `[version, kind, header, body]`. Dispatches and reports carry **lists** of runs: bulk is
how speed is had. A message that cannot be read raises `MessageError` and belongs in the dead letters.

Run ids are 32 hex digits here. `epoch` fences: it rises with each delivery of a run, and reports of a stale one
change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki.errors import MessageError

VERSION: Final = 1

DISPATCH: Final = "dispatch"
REPORTS: Final = "reports"
CONTROL: Final = "control"
HEARTBEAT: Final = "heartbeat"

_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode


# ---------------------------------------------------------------- dispatches: orchestrator to worker
class Dispatch(NamedTuple):
    """One run to execute. `options` is sparse; its keys are the `OPT_*` names below."""

    run_id: str
    epoch: int
    name: str
    version: str
    attempt: int
    partition: int
    encoding: str
    input: str
    options: dict[str, Any]


OPT_TIME_LIMIT: Final = "tl"
"""Hard limit in seconds: the child is killed."""
OPT_SOFT_TIME_LIMIT: Final = "sl"
"""Soft limit in seconds: `SoftTimeLimitExceeded` is raised in the task."""
OPT_RETRY: Final = "rp"
"""A `RetryPolicy` on the wire that overrides the definition's."""
OPT_BIND_FIRST: Final = "bf"
"""1: an earlier dispatch of the run vanished with its worker. Report `started` and have it confirmed before user code
runs, so that a next crash is charged to it."""
OPT_REFERENCE: Final = "ref"
"""The run's reference id."""
OPT_KIND: Final = "k"
"""The run's kind where it is not `task`."""
OPT_HISTORY: Final = "h"
"""A workflow's history (`aiki.history.History` on the wire); absent where there is none."""
OPT_TRACE: Final = "tp"
"""The W3C `traceparent` of the span that the run belongs to."""
OPT_CANCEL: Final = "cx"
"""1: the workflow is to be cancelled: raised in its function at the next durable point."""


@dataclass(slots=True)
class DispatchList:
    """One message of the work exchange.

    `again` says that an earlier copy may be out: nobody executes it, the worker inquires (see `INQUIRE`).
    `marker` is set on a message without runs that the reconciler sends down a queue; whoever takes it reports it back
    (`MARKER`), which proves that everything published before it has been taken.
    """

    namespace: str
    queue: str
    runs: list[Dispatch]
    again: bool = False
    marker: int | None = None

    def encode(self) -> bytes:
        """The message's bytes."""
        header: dict[str, Any] = {"ns": self.namespace, "q": self.queue}
        if self.again:
            header["again"] = 1
        if self.marker is not None:
            header["marker"] = self.marker
        return _encode([VERSION, DISPATCH, header, self.runs]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> DispatchList:
        """Read a message; raises `MessageError`."""
        header, runs = _open(body, DISPATCH)
        try:
            return cls(
                header["ns"],
                header["q"],
                [Dispatch._make(run) for run in runs],
                bool(header.get("again")),
                header.get("marker"),
            )
        except (KeyError, TypeError) as error:
            raise MessageError(f"a dispatch that cannot be read: {type(error).__name__}: {error}") from None


# ---------------------------------------------------------------- reports: worker to orchestrator
STARTED: Final = "started"
"""Somebody executes the run (sent once it takes longer than a moment). Body: `ms` since it began."""
COMPLETED: Final = "completed"
"""Body: `ms` it took, `e` and `r`: encoding and text of the result (both absent when the result is None)."""
FAILED: Final = "failed"
"""It raised and is not to be retried. Body: `ms`, `type`, `message`, `tb` (traceback text), `outcome` (see attempts); of a
workflow: `at`: ordinals of the steps that it failed at, `undone`: 1 if compensations were run."""
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

    def encode(self) -> bytes:
        """The message's bytes."""
        header = {"ns": self.namespace, "w": self.worker, "x": self.executor}
        return _encode([VERSION, REPORTS, header, self.reports]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> ReportList:
        """Read a message; raises `MessageError`."""
        header, reports = _open(body, REPORTS)
        try:
            return cls(header["ns"], header["w"], header["x"], [_report(item) for item in reports])
        except (KeyError, TypeError, ValueError) as error:
            raise MessageError(f"a report that cannot be read: {type(error).__name__}: {error}") from None


def _report(item: Sequence[Any]) -> Report:
    report = Report._make(item)
    if not isinstance(report.kind, str) or not isinstance(report.epoch, int) or not isinstance(report.body, dict):
        raise TypeError(f"not a report: {str(item)[:200]}")
    if len(bytes.fromhex(report.run_id)) not in (0, 16):
        raise ValueError(f"not a run id: {report.run_id[:64]!r}")
    return report


# ---------------------------------------------------------------- control: orchestrator and server to supervisors
class RunKey(NamedTuple):
    """A run and the epoch of one of its dispatches."""

    run_id: str
    epoch: int


ASK: Final = "ask"
"""Promise never to begin these (run, epoch), then say which of them you hold. Fields: `nonce`, `runs`."""
REVOKE: Final = "revoke"
"""Never begin these; interrupt none. Fields: `runs`."""
CANCEL: Final = "cancel"
"""Never begin these, and interrupt those that run. Fields: `runs`."""
CANCEL_SOON: Final = "cancel_soon"
"""Workflows that are to be cancelled: raised at their next durable point. Fields: `runs`."""
PAUSE_SOON: Final = "pause_soon"
"""Workflows that are to be given back at their next durable point. Fields: `runs`."""
ABORT: Final = "abort"
"""Whoever executes these is stale: stop it, its reports change nothing. Fields: `runs`."""
SNAPSHOT: Final = "snapshot"
"""The answer to a worker's hello: all revocations whose dispatch may be out. Fields: `worker`, the hello's `nonce`, `runs`;
`now`: the server's time (microseconds); `more`: 1 if more such messages follow; `paused` and `number` as `QUEUES` has them."""
RESEND_HELLO: Final = "hello?"
"""Workers the sender does not know should say hello. Fields: none."""
DRAIN: Final = "drain"
"""Finish what runs, give back the rest and stop. Fields: `worker`; `at_once`: 1 to kill what runs and give that back too."""
QUEUES: Final = "queues"
"""Which queues are paused: take nothing from these, begin nothing that was taken from them. Fields: `paused`: all names of the
namespace; `number`: rises with each change, what has a lower one is passed over. A `SNAPSHOT` carries both, too."""


@dataclass(slots=True)
class Control:
    """One message of the control fanout; `fields` as each kind says. `runs` travels as `[[run_id, epoch], …]`."""

    namespace: str
    kind: str
    runs: list[RunKey] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The message's bytes."""
        return _encode([VERSION, CONTROL, {"ns": self.namespace}, [self.kind, self.runs, self.fields]]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> Control:
        """Read a message; raises `MessageError`."""
        header, content = _open(body, CONTROL)
        try:
            kind, runs, fields = content
            return cls(header["ns"], kind, [RunKey._make(run) for run in runs], dict(fields))
        except (KeyError, TypeError, ValueError) as error:
            raise MessageError(f"a control message that cannot be read: {type(error).__name__}: {error}") from None


# ---------------------------------------------------------------- heartbeats: supervisors to orchestrators
HELLO: Final = "hello"
"""A worker is here, or here again: its definitions, its queues, all it holds. It consumes only after the `SNAPSHOT`."""
BEAT: Final = "beat"
"""Every `HEARTBEAT_SECONDS`: what it holds and what its children do."""
ANSWER: Final = "answer"
"""The answer to `ASK`: `nonce`, and `held` is those of the asked runs that it holds."""
BYE: Final = "bye"
"""The worker stops and holds nothing."""

HEARTBEAT_SECONDS: Final = 2.0


class Held(NamedTuple):
    """A run that a worker has begun and whose report is not confirmed. `executor` as in `ReportList`, `ms` since it began."""

    run_id: str
    epoch: int
    executor: str
    ms: int


@dataclass(slots=True)
class Heartbeat:
    """One message of the heartbeat fanout.

    :ivar worker: the incarnation's id, 32 hex digits, new at each start of `aiki-worker`.
    :ivar held: what its children have begun and not seen confirmed, and what dead children left until their crash report is.
    :ivar fields: by kind. hello: `name`, `host`, `pid`, `queues` (list), `concurrency`, `definitions`
        (list of `[name, version, kind]`), `version` (Aiki's). beat: `children` (list of `{slot, pid, run, name, ms, rss}`),
        `digest` (of the definitions), `draining`: 0 or 1, `rss`: KiB of the supervisor and the link, `paused`: those of its
        queues that it holds to be paused. answer: `nonce`.
    """

    namespace: str
    kind: str
    worker: str
    held: list[Held] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The message's bytes."""
        header = {"ns": self.namespace, "w": self.worker}
        return _encode([VERSION, HEARTBEAT, header, [self.kind, self.held, self.fields]]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> Heartbeat:
        """Read a message; raises `MessageError`."""
        header, content = _open(body, HEARTBEAT)
        try:
            kind, held, fields = content
            return cls(header["ns"], kind, header["w"], [Held._make(item) for item in held], dict(fields))
        except (KeyError, TypeError, ValueError) as error:
            raise MessageError(f"a heartbeat that cannot be read: {type(error).__name__}: {error}") from None


def definitions_digest(definitions: Iterable[Sequence[str]]) -> str:
    """A short digest of `[name, version, kind]` triples, whatever their order."""
    import hashlib

    return hashlib.sha256(_encode(sorted(list(item) for item in definitions)).encode("ascii")).hexdigest()[:16]


# ---------------------------------------------------------------- reading
def _open(body: bytes, expected: str) -> tuple[dict[str, Any], Any]:
    try:
        message = json.loads(body)
        version, kind, header, content = message
    except (ValueError, TypeError, RecursionError) as error:
        raise MessageError(f"not an Aiki message: {type(error).__name__}: {error}; it begins {bytes(body[:60])!r}") from None
    if version != VERSION:
        raise MessageError(
            f"message version {version!r} is not known here (this Aiki reads {VERSION}); upgrade the receiver first"
        )
    if kind != expected or not isinstance(header, dict):
        raise MessageError(f"a {kind!r} message where a {expected!r} was expected")
    return header, content
