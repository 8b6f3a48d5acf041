"""The nouns that clients, storage and the API pass to each other: plain data, and how it is written for the wire.

Times are integers, microseconds since the Unix epoch (UTC), as the database keeps them. Run ids are canonical UUID text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from aiki.codec import Payload
from aiki.messages import Dispatch, RunKey
from aiki.states import TERMINAL, State

OnConflict = Literal["error", "return_existing", "retry_failed"]
"""What an enqueue under a reference id that is known does: with another input it is refused; it gives the run that exists; it
gives that too, and retries it if it has failed, is dead or has expired."""


@dataclass(frozen=True, slots=True)
class DefinitionInfo:
    """A task's or workflow's definition as the server knows it.

    `options` (JSON data): `queue`, `time_limit`, `soft_time_limit`, `expires`, `retry` (a policy on the wire),
    `max_crashes`: what a run gets that does not say otherwise, absent where the definition leaves it open.
    """

    name: str
    version: str = "1"
    kind: str = "task"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class NewRun:
    """A run to be recorded and dispatched.

    :ivar id: made by the caller, so that asking twice is one run.
    :ivar input: encodes `[[*args], {**kwargs}]`.
    :ivar due_at: do not dispatch before this time; None is now.
    :ivar expires_at: cancel it if it has not started by then.
    :ivar options: sparse, by `messages.OPT_*` names, with `mc` for `max_crashes`; carried in each dispatch.
    :ivar reference_id: unique for the name; see `on_conflict`.
    :ivar blind: a taken reference id is refused whatever its run's input is: who asks must not learn of it. Not transported.
    :ivar parent_id: the workflow's run that started it, as its step `parent_ordinal`.
    """

    id: str
    name: str
    input: Payload
    queue: str = "default"
    version: str = "1"
    kind: str = "task"
    due_at: int | None = None
    expires_at: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    reference_id: str | None = None
    on_conflict: OnConflict = "error"
    parent_id: bytes | None = None
    parent_ordinal: int | None = None
    blind: bool = False

    def to_wire(self) -> list[Any]:
        """As JSON data, without the parent: how a step carries the run that it starts."""
        return [
            *(self.id, self.name, self.version, self.kind, self.queue, self.input.encoding, self.input.text),
            *(dict(self.options), self.due_at, self.expires_at, self.reference_id, self.on_conflict),
        ]

    @classmethod
    def from_wire(cls, data: Sequence[Any], parent_id: bytes, parent_ordinal: int) -> NewRun:
        """Read what `to_wire` wrote; raises ValueError for another number of fields."""
        run_id, name, version, kind, queue, encoding, text, options, due_at, expires_at, reference_id, on_conflict = data
        payload = Payload(encoding, text)
        return cls(
            *(run_id, name, payload, queue, version, kind, due_at, expires_at, options, reference_id, on_conflict),
            parent_id=parent_id,
            parent_ordinal=parent_ordinal,
        )


class Accepted(NamedTuple):
    """The answer to a `NewRun`: the run's id (another's, where a reference id led to a run that exists) and its state."""

    id: str
    state: State
    created: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution that did not end in a result; the last one is told by the run itself.

    `outcome`: failed, retried, crashed, timed_out, lost, cancelled.
    """

    number: int
    epoch: int
    outcome: str
    error_type: str
    error_message: str
    traceback: str
    worker: str
    signal: str | None
    exit_code: int | None
    started_at: int | None
    finished_at: int


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as people and clients see it. `waiting_on` says in words why a run that is not running does not move.

    `parent_id` is the workflow's run that started it. `pause_requested`: it is paused, or is to be at its next durable point;
    `cancel_reason`: why it was cancelled, or is to be.
    """

    id: str
    namespace: str
    kind: str
    name: str
    version: str
    queue: str
    state: State
    attempt: int
    crashes: int
    reference_id: str | None
    waiting_on: str | None
    worker: str | None
    cancel_requested: bool
    progress: float | None
    progress_message: str | None
    error_type: str | None
    error_message: str | None
    created_at: int
    due_at: int | None
    started_at: int | None
    finished_at: int | None
    expires_at: int | None
    updated_at: int
    parent_id: str | None = None
    pause_requested: bool = False
    cancel_reason: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the state is terminal."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class WaitView:
    """One thing that a waiting run waits for.

    :ivar kind: `sleep`, `event`, `run` (the end of runs that it has started, or follows) or `retry` (of itself, or of a step).
    :ivar name: the name of the sleep, the event, the step or the task; empty for runs of several names.
    :ivar due_at: when it is over in any case, or None.
    :ivar count: of runs: how many; `run_ids`: the first of those that have not ended.
    """

    kind: str
    name: str
    due_at: int | None = None
    count: int = 0
    run_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a waiting run waits for: any of the items brings it on, or only all of them (`every`).

    :ivar more: how many items there are beside those that are told here.
    """

    every: bool
    items: tuple[WaitView, ...]
    more: int = 0

    def names(self, kind: str) -> list[str]:
        """The names of the items of a kind, each once."""
        return list(dict.fromkeys(item.name for item in self.items if item.kind == kind))


@dataclass(frozen=True, slots=True)
class RunDetail:
    """A run with what lists leave out. `result` is None where there is none; `traceback` is the last attempt's.
    `withheld`: the server does not give input and result to whoever asks. `waiting`: what it waits for, if it is waiting."""

    run: RunView
    input: Payload | None = None
    result: Payload | None = None
    traceback: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    withheld: bool = False
    waiting: Waiting | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of a workflow as people and clients see it (`aiki.history.Step`).

    `input` is the beginning of its canonical input; `child_id` the run that it started; `millis` how long it took. The state of
    a child is that in which it ended. Kinds: step, task, child, undo, sleep, event, refused, value, choice,
    patch, continue.
    """

    ordinal: int
    kind: str
    name: str
    state: str
    attempt: int
    input: str | None
    result: Payload | None
    error_type: str | None
    error_message: str | None
    traceback: str
    child_id: str | None
    due_at: int | None
    millis: int | None
    worker: str | None
    created_at: int
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class End:
    """How a run ended. `result` is None where there is none, or where the result is None."""

    state: State
    result: Payload | None = None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list holds; every field given must match. `parent_id`: those that this workflow's run started."""

    states: tuple[State, ...] = ()
    name: str | None = None
    queue: str | None = None
    reference_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    kind: str | None = None
    parent_id: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Runs, newest first, and where the next page begins (None on the last)."""

    runs: list[RunView]
    next: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found: runs, newest first.

    :ivar next: where the page of older runs begins, None if there are none; `previous` that of newer ones.
    :ivar looked: how many runs were looked at.
    :ivar complete: False if looking was stopped before the page was full, because it took long: `next` goes on there.
    """

    runs: list[RunView]
    next: str | None = None
    previous: str | None = None
    looked: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Count:
    """How many runs match. `exact` is False where counting stopped: at least so many."""

    number: int
    exact: bool = True

    @property
    def text(self) -> str:
        """For people: `1,234` or `10,000+`."""
        return f"{self.number:,}{'' if self.exact else '+'}"


class Outgoing(NamedTuple):
    """A recorded delivery that is to be published now.

    :ivar delivery_id: 20 bytes, the run's id and its epoch; what `Store.delivered` wants once the publish is confirmed.
    :ivar queue: the user queue.
    :ivar group: runs of equal `(namespace, queue, group)` may share a message.
    :ivar again: an earlier copy may be out; the message must say so.
    """

    delivery_id: bytes
    namespace: str
    queue: str
    group: int
    dispatch: Dispatch
    again: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """The outcome of recording runs: an answer for each, in the order asked, and what is to be published now."""

    accepted: list[Accepted]
    outgoing: list[Outgoing]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The outcome of a cancel: `revoke` must never begin, `interrupt` is to be stopped where it runs, `soon` meets it at its
    next durable point, `outgoing` is dispatched to meet it."""

    run: RunView
    revoke: list[RunKey]
    interrupt: list[RunKey]
    soon: list[RunKey] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Steered:
    """The outcome of another verb on a run: what to publish now, and control messages (kind, runs) for the workers."""

    run: RunView
    outgoing: list[Outgoing]
    controls: list[tuple[str, list[RunKey]]]


@dataclass(frozen=True, slots=True)
class Retried:
    """The outcome of a retry."""

    run: RunView
    outgoing: list[Outgoing]
