"""The embedded client: the database and the broker, from this process.

`enqueue` returns after its commit; publishing follows on the publisher's thread. Nothing here waits for the broker.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiki.client import forks
from aiki.client.publisher import CLAIM, Pending, Publisher
from aiki.client.recording import Recorder
from aiki.client.transactions import connection_of, on_commit
from aiki.client.waiter import Waiter
from aiki.codec import Payload
from aiki.errors import RunNotFound
from aiki.ids import parse_id
from aiki.masks import Mask
from aiki.messages import CANCEL, CANCEL_SOON, DRAIN, QUEUES, REVOKE, Control, RunKey
from aiki.model import Accepted, DefinitionInfo, End, NewRun, Page, RunDetail, RunFilter, RunView, Steered, StepView
from aiki.owning import owned_broker
from aiki.settings import Settings
from aiki.storage import Store, open_store
from aiki.storage.auditing import NOWHERE, Origin
from aiki.storage.batches import BatchView, Operation, Target
from aiki.storage.queues import Pauses
from aiki.storage.roster import Wanted, WorkerRow

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

T = TypeVar("T")

MAX_NAMESPACES: Final = 1000
"""How many namespaces' stores a client keeps at hand."""
PAUSE_HEARD = 2.0
"""Seconds that a pause waits for the workers to confirm it."""


class _Parts:
    """The parts that a process has once: the store, the publisher's thread, the waiter's thread."""

    def __init__(self, store: Store, publisher: Publisher | Recorder) -> None:
        self.store = store
        self.publisher = publisher
        self.waiter = Waiter(store.ends)

    @classmethod
    def open(cls, settings: Settings) -> _Parts:
        """Connect."""
        store = open_store(settings)
        return cls(store, Publisher(owned_broker(settings, store)[0], store) if settings.broker_url else Recorder())


class EmbeddedClient:
    """See `Client`. Connects when it is first used; after a fork the child starts over.

    :param actor: who asks, for audit records.
    """

    def __init__(self, settings: Settings, actor: str = "embedded") -> None:
        self._settings = settings
        self._actor = actor
        self._audited_as = ""
        self._lock = threading.Lock()
        self._parts: _Parts | None = None
        self._namespaces: dict[str, Store] = {}
        forks.register(self)

    def acting(self, actor: str, namespace: str, origin: Origin = NOWHERE) -> EmbeddedClient:
        """This client for another namespace and in somebody's name, whose new runs are audited too.

        It shares the database's connections, the publisher and its thread with this one, costs next to nothing, and is not to
        be closed.
        """
        parts = self._open()
        store = self._namespaces.get(namespace)
        if store is None:
            if len(self._namespaces) >= MAX_NAMESPACES:
                self._namespaces.clear()
            store = self._namespaces[namespace] = parts.store.of(namespace)
        view = copy.copy(self)
        view._actor = actor
        view._audited_as = actor
        view._parts = _Parts(store.of(namespace, origin), parts.publisher)
        return view

    def _open(self) -> _Parts:
        parts = self._parts
        if parts is None:
            with self._lock:
                parts = self._parts
                if parts is None:
                    parts = self._parts = _Parts.open(self._settings)
        return parts

    @property
    def store(self) -> Store:
        """This process's store."""
        return self._open().store

    @property
    def publisher(self) -> Publisher | Recorder:
        """This process's publisher."""
        return self._open().publisher

    # ------------------------------------------------------------ enqueue
    def enqueue(
        self,
        runs: Sequence[NewRun],
        *,
        session: Session | None = None,
        connection: Connection | None = None,
        batch: int | None = None,
    ) -> list[Accepted]:
        """See `Client.enqueue`."""
        self._settings.need("broker_url", what="to enqueue")
        parts = self._open()
        if session is not None or connection is not None:
            return self._enqueue_inside(parts, runs, session, connection, batch)
        publisher = parts.publisher
        claimed_at = time.monotonic()
        created = parts.store.create_runs(
            runs, claim=CLAIM if publisher.accepting() else None, batch=batch, actor=self._audited_as
        )
        publisher.put(created.outgoing, claimed_at)
        return created.accepted

    def _enqueue_inside(
        self,
        parts: _Parts,
        runs: Sequence[NewRun],
        session: Session | None,
        connection: Connection | None,
        batch: int | None,
    ) -> list[Accepted]:
        store, publisher = parts.store, parts.publisher
        theirs = connection_of(session, connection, store.db.url)
        claimed_at = time.monotonic()
        claim = CLAIM if publisher.accepting() else None
        created = store.create_runs(runs, connection=theirs, claim=claim, batch=batch, actor=self._audited_as)
        if created.outgoing and theirs is not None:
            last = created.outgoing[-1].dispatch
            pending = Pending(created.outgoing, claimed_at, partial(_is_there, store, _text(last.run_id), last.epoch))
            on_commit(theirs, pending, publisher.put_pending)
        return created.accepted

    def register(self, definitions: Sequence[DefinitionInfo]) -> None:
        """See `Client.register`."""
        if definitions:
            self._open().store.register_definitions(definitions, actor=self._audited_as)

    # ------------------------------------------------------------ read
    def get(self, run_id: str, *, wait: float = 0.0) -> RunView:
        """See `Client.get`."""
        parts = self._open()
        run = _found(parts.store.get_run(_checked(run_id)), run_id)
        if not run.ended and wait > 0 and parts.waiter.wait(run.id, wait):
            run = _found(parts.store.get_run(run.id), run_id)
        return run

    def detail(self, run_id: str, *, wait: float = 0.0) -> RunDetail:
        """See `Client.detail`."""
        parts = self._open()
        if wait > 0 and not (run := _found(parts.store.get_run(_checked(run_id)), run_id)).ended:
            parts.waiter.wait(run.id, wait)
        return _found(parts.store.detail(_checked(run_id)), run_id)

    def soon(self, run_id: str, timeout: float) -> End | None:
        """See `Client.soon`."""
        return self._open().waiter.wait(_checked(run_id), timeout)

    async def aended(self, run_id: str, timeout: float | None) -> bool:
        """See `Client.aended`."""
        return await self._open().waiter.await_end(_checked(run_id), timeout)

    def list(self, where: RunFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """See `Client.list`."""
        return self._open().store.list_runs(where, limit=limit, after=after)

    def now(self) -> int:
        """See `Client.now`."""
        return self._open().store.clock()

    # ------------------------------------------------------------ change
    def cancel(self, run_id: str, *, reason: str = "", at_once: bool = False, once: bool = False) -> RunView:
        """See `Client.cancel`."""
        parts = self._open()
        parts.publisher.accepting()
        claimed_at = time.monotonic()
        asked = {"reason": reason, "actor": self._actor}
        cancelled = parts.store.cancel_run(_checked(run_id), **asked, at_once=at_once, once=once)
        self._tell(parts, REVOKE, cancelled.revoke)
        self._tell(parts, CANCEL, cancelled.interrupt)
        self._tell(parts, CANCEL_SOON, cancelled.soon)
        parts.publisher.put(cancelled.outgoing, claimed_at)
        return cancelled.run

    def _steer(self, verb: Callable[[Store], Steered]) -> RunView:
        """Call one of the store's verbs, then publish and send to the workers what it asks for."""
        parts = self._open()
        parts.publisher.accepting()  # the store claims for us in any case: have the thread running
        claimed_at = time.monotonic()
        steered = verb(parts.store)
        parts.publisher.put(steered.outgoing, claimed_at)
        for kind, runs in steered.controls:
            self._tell(parts, kind, runs)
        return steered.run

    def pause(self, run_id: str, *, reason: str = "") -> RunView:
        """See `Client.pause`."""
        return self._steer(lambda store: store.pause_run(_checked(run_id), reason=reason, actor=self._actor))

    def resume(self, run_id: str, *, reason: str = "") -> RunView:
        """See `Client.resume`."""
        return self._steer(lambda store: store.resume_run(_checked(run_id), reason=reason, actor=self._actor))

    def wake(self, run_id: str, *, name: str = "", reason: str = "") -> RunView:
        """See `Client.wake`."""
        return self._steer(lambda store: store.wake_run(_checked(run_id), name=name, reason=reason, actor=self._actor))

    def send_event(
        self, run_id: str, name: str, payload: Payload | None, *, reference_id: str | None = None, reason: str = ""
    ) -> RunView:
        """See `Client.send_event`."""
        told = {"reason": reason, "actor": self._actor}
        return self._steer(lambda store: store.send_event(_checked(run_id), name, payload, reference_id=reference_id, **told))

    def history(self, run_id: str, *, after: int = -1, limit: int = 1000) -> Sequence[StepView]:
        """See `Client.history`."""
        return self._open().store.history(_checked(run_id), after=after, limit=limit)

    def _tell(self, parts: _Parts, kind: str, runs: Sequence[RunKey]) -> None:
        if runs:
            parts.publisher.control(Control(parts.store.namespace, kind, [*runs]))

    def retry(self, run_id: str, *, reason: str = "") -> RunView:
        """See `Client.retry`."""
        parts = self._open()
        parts.publisher.accepting()  # the store claims for us in any case: have the thread running
        claimed_at = time.monotonic()
        retried = parts.store.retry_run(_checked(run_id), reason=reason, actor=self._actor)
        parts.publisher.put(retried.outgoing, claimed_at)
        return retried.run

    def rerun(
        self,
        run_id: str,
        *,
        from_step: int | None = None,
        new_id: str | None = None,
        payload: Payload | None = None,
        reason: str = "",
    ) -> Accepted:
        """See `Client.rerun`. `payload`: an input that takes the place of the old run's."""
        parts = self._open()
        claimed_at = time.monotonic()
        claim = CLAIM if parts.publisher.accepting() else None
        created = parts.store.rerun(
            _checked(run_id),
            claim=claim,
            from_step=from_step,
            new_id=new_id,
            payload=payload,
            reason=reason,
            actor=self._actor,
            mask=Mask(self._settings.mask.split(",")),
        )
        parts.publisher.put(created.outgoing, claimed_at)
        return created.accepted[0]

    # ------------------------------------------------------------ queues and workers
    def pause_queue(self, queue: str, *, reason: str = "", wait: float = PAUSE_HEARD) -> Pauses:
        """Have no run of a queue begun until it is resumed. Returns once all workers have confirmed it, or after `wait`
        seconds."""
        until = time.monotonic() + wait
        pauses = self._tell_pauses(lambda store: store.pause_queue(queue, reason=reason, actor=self._actor))
        store = self._open().store
        while time.monotonic() < until and not store.pause_is_heard(queue):
            time.sleep(0.03)
        return pauses

    def resume_queue(self, queue: str, *, reason: str = "") -> Pauses:
        """Have the runs of a paused queue begun again. Raises `RunConflict` if it is not paused."""
        return self._tell_pauses(lambda store: store.resume_queue(queue, reason=reason, actor=self._actor))

    def stop_worker(self, worker_id: str, wanted: Wanted, *, reason: str = "") -> WorkerRow | None:
        """Have a worker drain or stop; None if there is none of that id. Raises `RunConflict` if it is gone."""
        parts = self._open()
        found = parts.store.want_worker(worker_id, wanted, reason=reason, actor=self._actor)
        if found is not None:
            at_once = {"at_once": 1} if found.wanted == Wanted.KILL else {}
            parts.publisher.control(Control(parts.store.namespace, DRAIN, [], {"worker": found.id, **at_once}))
        return found

    # ------------------------------------------------------------ batches
    def begin_batch(
        self, batch_id: str, operation: Operation, target: Target, *, expected: int, reason: str = ""
    ) -> tuple[BatchView, bool]:
        """Have an operation done to many runs by the orchestrators; False: there was a batch of this id."""
        store = self._open().store
        return store.create_batch(batch_id, operation, target, expected=expected, reason=reason, actor=self._actor)

    def forget_letters(self, letter_ids: Sequence[str], *, requeued: bool, reason: str = "") -> int:
        """Delete dead letters that were published again or are not wanted; returns how many there were."""
        return self._open().store.forget_dead_letters(letter_ids, requeued=requeued, reason=reason, actor=self._actor)

    def stop_batch(self, batch_id: str, *, reason: str = "") -> BatchView | None:
        """Have nothing more done of a batch. Raises `RunConflict` if it is over."""
        return self._open().store.stop_batch(batch_id, reason=reason, actor=self._actor)

    def _tell_pauses(self, verb: Callable[[Store], Pauses]) -> Pauses:
        parts = self._open()
        pauses = verb(parts.store)
        fields = {"paused": list(pauses.queues), "number": pauses.number}
        parts.publisher.control(Control(parts.store.namespace, QUEUES, [], fields))
        return pauses

    # ------------------------------------------------------------ end
    def close(self) -> None:
        """See `Client.close`. Using the client again opens it again."""
        with self._lock:
            parts, self._parts = self._parts, None
            self._namespaces.clear()
        if parts is not None:
            parts.waiter.close()
            parts.publisher.close()
            parts.store.close()

    def after_fork(self) -> Any:
        """See `aiki.client.forks`."""
        self._lock = threading.Lock()
        parts, self._parts = self._parts, None
        self._namespaces.clear()
        return parts


def _checked(run_id: str) -> str:
    parsed = parse_id(run_id)
    if parsed is None:
        raise RunNotFound(run_id)
    return str(parsed)


def _found(found: T | None, run_id: str) -> T:
    if found is None:
        raise RunNotFound(run_id)
    return found


def _is_there(store: Store, run_id: str, epoch: int) -> bool:
    """Whether a dispatch of a run is committed: the run, if it is new, or its retry."""
    with store.db.from_primary():
        return store.epoch_of(run_id) >= epoch


def _text(hex_id: str) -> str:
    return str(parse_id(hex_id))
