"""What passes through the broker: dispatches, reports, control messages and heartbeats.

Every message is ASCII JSON, a list `[version, kind, header, body]`. Dispatches and reports carry **lists** of runs: bulk is
how speed is had. A message that cannot be read raises `MessageError`, and nothing else, and belongs in the dead letters.

Here bytes become values, and here alone they are checked: whoever gets a message may rely on the types and ranges that the
tables below state. Fields that no table names are another release's and are passed over. One report or dispatch of a list that
does not pass is set apart (`Refused`), and the others of its message are read.

Run ids are 32 hex digits here. `epoch` fences: it rises with each delivery of a run, and reports of a stale one
change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki import fields as f
from aiki.errors import MessageError
from aiki.history import MAX_STEPS, ValueKey, is_options, is_step, is_value_key, is_waits

VERSION: Final = 1

DISPATCH: Final = "dispatch"
REPORTS: Final = "reports"
CONTROL: Final = "control"
HEARTBEAT: Final = "heartbeat"

_decode: Callable[[str], Any] = json.JSONDecoder().decode
_encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(",", ":")).encode


class Refused(NamedTuple):
    """A part of a message that does not pass. `item` is what came; `run_id`, `epoch` and `partition` tell whose it is, where
    that can be read (else "", 0 and None)."""

    why: str
    run_id: str
    epoch: int
    partition: int | None
    item: Any


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

    @property
    def counted(self) -> int:
        """Which attempt it is as the retry policy counts: 1 for the first, and for the first after an operator's retry."""
        return max(1, self.attempt - int(self.options.get(OPT_UNCOUNTED, 0)))


OPT_TIME_LIMIT: Final = "tl"
"""Hard limit in seconds: the child is killed."""
OPT_SOFT_TIME_LIMIT: Final = "sl"
"""Soft limit in seconds: `SoftTimeLimitExceeded` is raised in the task."""
OPT_RETRY: Final = "rp"
"""A `RetryPolicy` on the wire that overrides the definition's."""
OPT_UNCOUNTED: Final = "un"
"""How many of the run's attempts its retry policy does not count: crashes, and all those before an operator's retry."""
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
OPT_SHAPE: Final = "sg"
"""The digest of the signature that the caller saw (`aiki.arguments.Arguments.digest`); absent where the caller saw none."""
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
    refused: list[Refused] = field(default_factory=list)
    """Found when it is read: runs that do not pass."""

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
        header, runs = _open(body, DISPATCH, _DISPATCH_HEADER)
        if type(runs) is not list:
            raise MessageError(f"a dispatch that cannot be read: its runs are {f.shown(runs)}")
        found = cls(header["ns"], header["q"], [], bool(header.get("again")), header.get("marker"))
        for run in runs:
            wrong = _wrong_dispatch(run)
            if wrong is None:
                found.runs.append(Dispatch._make(run))
            else:
                found.refused.append(Refused(wrong, *_key_of(run, 0), _partition_of(run), run))
        return found


_DISPATCH_HEADER: Final = f.Fields({"ns": f.place, "q": f.place, "again": f.flag, "marker": f.optional(f.large)}, ("ns", "q"))


def _wrong_dispatch(run: Any) -> str | None:
    """What is wrong with a `Dispatch` as it travels, or None."""
    if type(run) is not list or len(run) != len(Dispatch._fields):
        return f"it is no dispatch: {f.shown(run)}"
    run_id, epoch, name, version, attempt, partition, encoding, input_, options = run
    if not (f.hex_id(run_id) and f.epoch(epoch) and f.partition(partition) and f.count(attempt)):
        return f"its run id, epoch, attempt or partition is none: {f.shown([run_id, epoch, attempt, partition])}"
    if not (f.name(name) and f.version(version)):
        return f"its name or version is none: {f.shown([name, version])}"
    if not (f.word(encoding) and f.data(input_)):
        return f"its input is no text of an encoding: {f.shown([encoding, input_])}"
    if type(options) is not dict:
        return f"its options are {f.shown(options)}"
    return is_options.wrong(options) if options else None


def _key_of(item: Any, at: int) -> tuple[str, int]:
    """The run id and the epoch that begin at a place in a list, where they can be read."""
    if type(item) is list and len(item) > at + 1 and f.hex_id(item[at]) and f.epoch(item[at + 1]):
        return item[at], item[at + 1]
    return "", 0


def _partition_of(run: Any) -> int | None:
    at = Dispatch._fields.index("partition")
    return run[at] if type(run) is list and len(run) > at and f.partition(run[at]) else None


# ---------------------------------------------------------------- reports: worker to orchestrator
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
        return _encode([VERSION, REPORTS, header, self.reports]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> ReportList:
        """Read a message; raises `MessageError`."""
        header, items = _open(body, REPORTS, _REPORTS_HEADER)
        if type(items) is not list:
            raise MessageError(f"reports that cannot be read: they are {f.shown(items)}")
        found = cls(header["ns"], header["w"], header["x"], [], draining=bool(header.get("dr")))
        for item in items:
            if not _is_report(item):
                found.unreadable.append(Refused(f"it is no report: {f.shown(item)}", *_key_of(item, 1), None, item))
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


# ---------------------------------------------------------------- control: orchestrator and server to supervisors
class RunKey(NamedTuple):
    """A run and the epoch of one of its dispatches."""

    run_id: str
    epoch: int


def _is_key(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and f.hex_id(value[0]) and f.epoch(value[1])


_keys = f.list_of(_is_key, MAX_STEPS)
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
    SYNC: f.Fields({"n": f.large, "runs": _keys, "again": _keys}, ("n", "runs", "again")),
    STEPS: f.Fields({"s": f.list_of(is_step, MAX_STEPS)}),
    SUSPENDED: f.Fields({**_ENDED, **is_waits.checks}, ("all", "w")),
    CONTINUED: f.Fields(_RESULT, ("e", "r")),
    CHANGED: f.Fields(_ENDED),
}
"""What the body of each kind of report holds."""


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
`now`: the server's time (microseconds); `more`: 1 if more such messages follow; `paused` and `number` as `QUEUES` has them;
`hears`: 1 if a beat that asks is answered by `HEARD`."""
RESEND_HELLO: Final = "hello?"
"""Workers the sender does not know should say hello. Fields: none."""
KEYS: Final = "keys"
"""A worker's namespace has another key than it named in its hello, or it named none. Fields: `worker`; `sealed`: the keys,
sealed to the hello's `pk` (see `aiki.sealing`); `proof`: made with the key that the worker named, empty if it is not known."""
DRAIN: Final = "drain"
"""Finish what runs, give back the rest and stop. Fields: `worker`; `at_once`: 1 to kill what runs and give that back too."""
QUEUES: Final = "queues"
"""Which queues are paused: take nothing from these, begin nothing that was taken from them. Fields: `paused`: all names of the
namespace; `number`: rises with each change, what has a lower one is passed over. A `SNAPSHOT` carries both, too."""
HEARD: Final = "heard"
"""The beats of these workers were heard, and asked for an answer. Fields: `workers`, each as `called` has it."""


def called(worker: str) -> str:
    """A worker's id, short: its random end."""
    return worker[-12:]


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
        header, content = _open(body, CONTROL, _CONTROL_HEADER)
        kind, runs, fields = _three(content, "a control message")
        if not _keys(runs):
            raise MessageError(f"a control message of kind {kind!r} that cannot be read: its runs are {f.shown(runs)}")
        wrong = _CONTROL_FIELDS.wrong(fields)
        if wrong is not None:
            raise MessageError(f"a control message of kind {kind!r} that cannot be read: {wrong}")
        return cls(header["ns"], kind, [RunKey._make(run) for run in runs], fields)


_CONTROL_HEADER: Final = f.Fields({"ns": f.place}, ("ns",))
_places = f.list_of(f.place, 10_000)
_CONTROL_FIELDS: Final = f.Fields(
    {
        "nonce": f.large,
        "worker": f.hex_id,
        "now": f.moment,
        "more": f.flag,
        "at_once": f.flag,
        "sealed": f.ascii_text(4096),
        "proof": f.ascii_text(64),
        "paused": _places,
        "number": f.large,
        "hears": f.flag,
        "workers": f.list_of(f.ascii_text(32), 10_000),
    }
)
"""What the fields of control messages hold, whatever their kind."""


def _three(content: Any, what: str) -> tuple[str, Any, dict[str, Any]]:
    """The kind, the list and the fields of a control message or a heartbeat."""
    if type(content) is not list or len(content) != 3 or type(content[2]) is not dict or not f.word(content[0]):
        raise MessageError(f"{what} that cannot be read: {f.shown(content)}")
    return content[0], content[1], content[2]


# ---------------------------------------------------------------- heartbeats: supervisors to orchestrators
HELLO: Final = "hello"
"""A worker is here, or here again: its definitions, its queues, all it holds. It consumes only after the `SNAPSHOT`."""
BEAT: Final = "beat"
"""Every `HEARTBEAT_SECONDS`: what it holds and what its children do. `ask`: 1 for a `HEARD` in answer."""
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
    :ivar fields: all: `at`: the server's time (microseconds) as the worker knows it. hello and beat: `kid`: which key the
        worker has (`aiki.signing.key_state`). hello: `pk`: a public key, `nonce`: rises with each hello of the worker,
        `name`, `host`, `pid`, `queues` (list), `concurrency`, `definitions`
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
        header, content = _open(body, HEARTBEAT, _HEARTBEAT_HEADER)
        kind, held, fields = _three(content, "a heartbeat")
        if not _held(held):
            raise MessageError(f"a heartbeat that cannot be read: what it holds is {f.shown(held)}")
        wrong = _HEARTBEAT_FIELDS.wrong(fields)
        if wrong is not None:
            raise MessageError(f"a heartbeat that cannot be read: {wrong}")
        return cls(header["ns"], kind, header["w"], [Held._make(item) for item in held], fields)


def _is_held(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and _is_key(value[:2]) and f.executor(value[2]) and f.millis(value[3])


def _is_definition(value: Any) -> bool:
    return type(value) is list and 3 <= len(value) <= 10 and f.name(value[0]) and f.version(value[1]) and f.word(value[2])


_held = f.list_of(_is_held, MAX_STEPS)
_HEARTBEAT_HEADER: Final = f.Fields({"ns": f.place, "w": f.hex_id}, ("ns", "w"))
_is_child = f.Fields(
    {
        "slot": f.count,
        "pid": f.count,
        "run": f.optional(f.hex_id),
        "name": f.optional(f.name),
        "ms": f.millis,
        "rss": f.large,
    }
)
_HEARTBEAT_FIELDS: Final = f.Fields(
    {
        "name": f.words(255),
        "host": f.words(255),
        "pid": f.count,
        "queues": _places,
        "concurrency": f.count,
        "definitions": f.list_of(_is_definition, 65_536),
        "version": f.ascii_text(64),
        "nonce": f.large,
        "paused": _places,
        "digest": f.ascii_text(64),
        "at": f.moment,
        "kid": f.ascii_text(64),
        "pk": f.ascii_text(64),
        "draining": f.flag,
        "ask": f.flag,
        "rss": f.large,
        "children": f.list_of(lambda value: _is_child(value) and f.shallow(value, 4), 10_000),
    }
)
"""What the fields of heartbeats hold, whatever their kind."""


# ---------------------------------------------------------------- values: orchestrator to a child that asked
VALUES: Final = "values"
CAN_FETCH: Final = "fetch"
"""In a hello's `can`: this worker's children fetch values (`FETCH`) that a history leaves out."""
CAN_READ_FAILURES: Final = "failures"
"""In a hello's `can`: this worker's children read what is told of a failed run's error (`aiki.failure`)."""
KIND_OUTSIDE: Final = "workflow+"
"""`OPT_KIND` of a workflow whose history leaves values out: earlier releases, which cannot fetch, do not know this kind."""


@dataclass(slots=True)
class Values:
    """The answer to a `FETCH`: texts by key, as many as fit into it, at least one. None: there is no such value."""

    namespace: str
    run_id: str
    number: int
    texts: dict[ValueKey, str | None]

    def encode(self) -> bytes:
        """The message's bytes."""
        content = [self.run_id, self.number, [[*key, text] for key, text in self.texts.items()]]
        return _encode([VERSION, VALUES, {"ns": self.namespace}, content]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> Values:
        """Read a message; raises `MessageError`."""
        header, content = _open(body, VALUES, _VALUES_HEADER)
        run_id, number, items = content if type(content) is list and len(content) == 3 else ("", -1, [])
        if not (f.hex_id(run_id) and f.large(number) and _are_values(items)):
            raise MessageError(f"values that cannot be read: {f.shown(content)}")
        return cls(header["ns"], run_id, number, {ValueKey(*key): text for *key, text in items})


def _is_value(item: Any) -> bool:
    return type(item) is list and len(item) == 4 and is_value_key(item[:3]) and (item[3] is None or type(item[3]) is str)


_are_values: Final = f.list_of(_is_value, MAX_STEPS)
_VALUES_HEADER: Final = f.Fields({"ns": f.place}, ("ns",))


def definitions_digest(definitions: Iterable[Sequence[str]]) -> str:
    """A short digest of `[name, version, kind]` triples, whatever their order."""
    import hashlib

    return hashlib.sha256(_encode(sorted(list(item) for item in definitions)).encode("ascii")).hexdigest()[:16]


# ---------------------------------------------------------------- reading
def _open(body: bytes, expected: str, fields: f.Fields) -> tuple[dict[str, Any], Any]:
    try:
        message = _decode(body.decode("ascii"))
        version, kind, header, content = message
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        why = f"{type(error).__name__}: {error}"[:300]
        raise MessageError(f"not an Aiki message: {why}; it begins {bytes(body[:60])!r}") from None
    if type(version) is not int or version != VERSION:
        raise MessageError(
            f"message version {f.shown(version)} is not known here (this Aiki reads {VERSION}); upgrade the receiver first"
        )
    if kind != expected or type(header) is not dict:
        raise MessageError(f"a {f.shown(kind)} message where a {expected!r} was expected")
    wrong = fields.wrong(header)
    if wrong is not None:
        raise MessageError(f"a {expected} message whose header cannot be read: {wrong}")
    return header, content
