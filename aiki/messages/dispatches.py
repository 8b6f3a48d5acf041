"""Dispatches: runs to execute, from the orchestrator (or the client that enqueues) to a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from aiki import fields as f
from aiki.errors import MessageError
from aiki.history_checks import is_options
from aiki.messages.envelope import DISPATCH, VERSION, Refused, encode, key_of, opened


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
        return encode([VERSION, DISPATCH, header, self.runs]).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> DispatchList:
        """Read a message; raises `MessageError`."""
        header, runs = opened(body, DISPATCH, _DISPATCH_HEADER)
        if type(runs) is not list:
            raise MessageError(f"a dispatch that cannot be read: its runs are {f.shown(runs)}")
        found = cls(header["ns"], header["q"], [], bool(header.get("again")), header.get("marker"))
        for run in runs:
            wrong = _wrong_dispatch(run)
            if wrong is None:
                found.runs.append(Dispatch._make(run))
            else:
                found.refused.append(Refused(wrong, *key_of(run, 0), _partition_of(run), run))
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


def _partition_of(run: Any) -> int | None:
    at = Dispatch._fields.index("partition")
    return run[at] if type(run) is list and len(run) > at and f.partition(run[at]) else None
